//! Images: references, pull and unpack, push, archives, and containerd's transfer
//! service over them.
//!
//! A pull goes so: the reference is completed as Docker does it
//! ([`mod@reference`]), the registry says what it points at, the manifest for the
//! machine is chosen ([`mod@platform`]) and stored with its configuration. The
//! layers come side by side. Each goes into the content store, where an
//! ingest that broke off is taken up again, and on the way through the
//! unpacker into a snapshot that nobody sees. Snapshots are committed in
//! order, each when its blob's digest and its diff ID have been found right.
//! A lease holds all this until the image has a record.
//!
//! A push sends what the registry lacks: layers first, then what points at them.
//! Archives come and go in pieces on streams of the client, as fast as their reader
//! allows. Everything that moves between stores is walked as a tree, of which a
//! request selects platforms. Which hosts serve a registry is in files by registry,
//! in containerd's form.
//!
//! Several pulls share work: a blob is fetched, and a chain of layers is
//! unpacked, by one of them.
#![forbid(unsafe_code)]

mod archive;
mod config;
mod credentials;
mod document;
mod feed;
mod fetch;
mod gather;
pub mod grpc;
mod hosts;
mod layers;
mod leasing;
mod names;
mod pieces;
pub mod platform;
mod progress;
mod puller;
mod push;
pub mod reference;
mod registry;
mod remote;
mod streams;
mod telling;
mod transfer;
mod tree;
mod unfit;
mod unpack;

pub use config::Config;
pub use puller::{RegistryPuller, Services};
pub use streams::{Answers, ClientEnd, Stream, Streams};
pub use transfer::{TRANSFERS, Transfer};
