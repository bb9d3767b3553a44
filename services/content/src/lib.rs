//! Blobs by digest on a local disk, and the ingests that they grow from.
//!
//! [`LocalStore`] implements [`gantry_core::content::ContentStore`], and
//! [`grpc`] serves one to clients.
//!
//! # On the disk
//!
//! ```text
//! <root>/io.containerd.content.v1.content/
//!   blobs/sha256/<hex>            a blob: complete, synced, read-only
//!   ingest/<hex>/data             bytes so far
//!   ingest/<hex>/status.json      whose it is, and what it is to become
//! ```
//!
//! A file below `blobs` is complete and has the digest in its name, since it
//! comes there by a link after its digest was checked. Which namespace has which
//! blob is recorded in the table [`gantry_core::content::BLOBS`]. A blob is linked before it is
//! recorded, its ingest removed after that, and its record removed before its file: after a crash in between there
//! is a file without a record, or an ingest that became a blob, which the next opening removes.
#![forbid(unsafe_code)]

pub mod grpc;
mod ingest;
mod layout;
mod locks;
mod read;
mod store;
mod writer;

pub use store::LocalStore;

#[cfg(test)]
mod tests;
