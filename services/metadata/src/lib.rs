//! Records: the store on RocksDB, and the services whose state is records
//! alone: namespaces, containers, images and leases.
//!
//! Every service takes the store as `Arc<dyn Database>`, tells what it changed
//! through `Arc<dyn Events>`, and is served to clients by its adapter in [`grpc`].
#![forbid(unsafe_code)]

mod containers;
mod database;
pub mod grpc;
mod images;
mod leases;
mod namespaces;

pub use containers::ContainerService;
pub use database::{RocksDatabase, lock_directory};
pub use images::ImageRecords;
pub use leases::LeaseService;
pub use namespaces::NamespaceService;

use gantry_core::Context;
use gantry_core::events::Events;
use gantry_grpc::{any, convert};

/// Publishes a message. What it tells of has happened, so a failure is only
/// logged.
fn publish<M: prost::Name>(events: &dyn Events, ctx: &Context, topic: &str, message: &M) {
    if let Err(err) = events.publish(ctx, topic, convert::from_any(any::pack(message))) {
        tracing::warn!(topic, %err, "could not publish an event");
    }
}

#[cfg(test)]
mod tests;
