//! The services over a real store, by their traits and over the wire.

mod collector;
mod containers;
mod images;
mod leases;
mod namespaces;
mod sandboxes;
mod wire;

use std::sync::Arc;

use futures::{FutureExt, StreamExt};
use gantry_core::db::{Database, Durability};
use gantry_core::events::{EventStream, Events};
use gantry_core::filter::Filters;
use gantry_core::{Context, Digest, Error, Kind, Labels, Namespace};
use gantry_events::Exchange;

use crate::{ContainerService, ImageRecords, LeaseService, NamespaceService, RocksDatabase};

/// All services over one store.
struct Host {
    db: Arc<dyn Database>,
    events: EventStream,
    containers: Arc<ContainerService>,
    images: Arc<ImageRecords>,
    leases: Arc<LeaseService>,
    namespaces: Arc<NamespaceService>,
    // Goes last.
    _dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db: Arc<dyn Database> = Arc::new(RocksDatabase::open(dir.path()).unwrap());
        let exchange = Arc::new(Exchange::new());
        Self {
            events: exchange.subscribe(Filters::all()),
            containers: Arc::new(ContainerService::new(db.clone(), exchange.clone())),
            images: Arc::new(ImageRecords::new(db.clone(), exchange.clone())),
            leases: Arc::new(LeaseService::new(db.clone())),
            namespaces: Arc::new(NamespaceService::new(db.clone(), exchange)),
            db,
            _dir: dir,
        }
    }

    /// Topics and namespaces of the events since the last call.
    fn topics(&mut self) -> Vec<String> {
        let mut topics = Vec::new();
        while let Some(Some(event)) = self.events.next().now_or_never() {
            let event = event.unwrap();
            topics.push(format!("{} {} {}", event.namespace, event.topic, event.event.type_url));
        }
        topics
    }

    fn put(&self, table: &str, namespace: &str, key: &str) {
        self.db
            .transact(Durability::Buffered, &mut |tx| tx.put(table, namespace, key, b"null"))
            .unwrap();
    }

    fn delete(&self, table: &str, namespace: &str, key: &str) {
        self.db.transact(Durability::Buffered, &mut |tx| tx.delete(table, namespace, key)).unwrap();
    }
}

fn context(namespace: &str) -> Context {
    Context::new(Namespace::new(namespace).unwrap())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn paths(paths: &[&str]) -> Vec<String> {
    paths.iter().map(|p| (*p).to_owned()).collect()
}

#[track_caller]
fn refused<T>(result: Result<T, Error>, kind: Kind) -> String {
    let err = result.err().expect("refused");
    assert_eq!(err.kind(), kind, "{err}");
    err.to_string()
}
