//! Records: the store on RocksDB, and the services whose state is records
//! alone: namespaces, containers, sandboxes, images and leases.
//!
//! Every service takes the store as `Arc<dyn Database>`, tells what it changed
//! through `Arc<dyn Events>`, and is served to clients by its adapter in [`grpc`].
#![forbid(unsafe_code)]

mod collector;
mod containers;
mod database;
pub mod grpc;
mod images;
mod leases;
mod namespaces;
mod sandboxes;

pub use collector::{GarbageCollector, GuardedDatabase};
pub use containers::ContainerService;
pub use database::{RocksDatabase, lock_directory};
pub use images::ImageRecords;
pub use leases::LeaseService;
pub use namespaces::NamespaceService;
pub use sandboxes::SandboxService;

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_core::db::{self, Database, Durability, Transaction};
use gantry_core::events::Events;
use gantry_core::history::Staged;
use gantry_core::{Any, Context, Result};
use gantry_grpc::{any, convert};

/// Publishes a message. What it tells of has happened, so a failure is only
/// logged.
fn publish<M: prost::Name>(events: &dyn Events, ctx: &Context, topic: &str, message: &M) {
    if let Err(err) = events.publish(ctx, topic, convert::from_any(any::pack(message))) {
        tracing::warn!(topic, %err, "could not publish an event");
    }
}

/// Stores a message with the change that it tells of, to be released when that is
/// committed.
fn stage<M: prost::Name>(
    tx: &mut dyn Transaction,
    ctx: &Context,
    topic: &str,
    message: &M,
) -> Result<Staged> {
    let staged = Staged::new(ctx, topic, convert::from_any(any::pack(message)));
    staged.put(tx)?;
    Ok(staged)
}

/// Runs a transaction that stages an event, and tells of it.
#[track_caller]
fn write_and_tell<R, F>(
    db: &Arc<dyn Database>,
    events: &Arc<dyn Events>,
    body: F,
) -> impl Future<Output = Result<R>> + Send + use<R, F>
where
    R: Send + 'static,
    F: FnMut(&mut dyn Transaction) -> Result<(R, Staged)> + Send + 'static,
{
    let events = Arc::clone(events);
    db::write_then(db, Durability::Sync, body, move |(result, staged)| {
        if let Err(err) = events.release(staged) {
            tracing::warn!(%err, "could not publish an event");
        }
        result
    })
}

/// Applies a field-mask path `extensions.NAME`: the name takes `from`'s value, or goes
/// when `from` lacks it.
fn update_extension(to: &mut BTreeMap<String, Any>, from: &BTreeMap<String, Any>, name: &str) {
    match from.get(name) {
        Some(value) => to.insert(name.to_owned(), value.clone()),
        None => to.remove(name),
    };
}

#[cfg(test)]
mod tests;
