//! Images from registries: references, pull and unpack.
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
//! Several pulls share work: a blob is fetched, and a chain of layers is
//! unpacked, by one of them.
#![forbid(unsafe_code)]

mod config;
mod credentials;
mod document;
mod feed;
mod fetch;
mod flights;
mod layers;
mod leasing;
pub mod platform;
mod progress;
mod puller;
pub mod reference;
mod registry;
mod unpack;

pub use config::Config;
pub use puller::{RegistryPuller, Services};
