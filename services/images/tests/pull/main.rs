//! Transfers over the real store, snapshotters and records: from and to a real
//! registry, ones that misbehave, and archives.

mod archive;
mod auth;
mod client;
mod collect;
mod content;
mod fake;
mod faults;
mod image;
mod mirrors;
mod push;
mod real;
mod world;
