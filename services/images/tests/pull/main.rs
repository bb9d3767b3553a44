//! Pulls over the real store, snapshotters and records: from a real
//! registry, and from ones that misbehave.

mod auth;
mod content;
mod fake;
mod faults;
mod image;
mod real;
mod world;
