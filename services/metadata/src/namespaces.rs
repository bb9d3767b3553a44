use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::containers::CONTAINERS;
use gantry_core::content::BLOBS;
use gantry_core::db::{self, Database};
use gantry_core::events::Events;
use gantry_core::images::IMAGES;
use gantry_core::leases::LEASES;
use gantry_core::namespaces::{NAMESPACES, Namespaces, Record, TABLE_NAMESPACE};
use gantry_core::sandboxes::SANDBOXES;
use gantry_core::{
    Context, Error, LabelMask, Labels, Namespace, Result, labels, networks, snapshots, volumes,
};
use gantry_ttrpc::containerd::events as messages;

use crate::database::any_row;
use crate::{leases, stage, write_and_tell};

/// Tables whose rows bring a namespace about.
const OBJECTS: [&str; 8] = [
    IMAGES.name(),
    BLOBS.name(),
    snapshots::TABLE,
    CONTAINERS.name(),
    SANDBOXES.name(),
    volumes::TABLE,
    networks::TABLE,
    LEASES.name(),
];

/// The namespaces.
///
/// A namespace comes to be with its first object, as clients expect it; a
/// record is only needed for labels. It is listed while it has a record or an
/// object. Reading the labels of one that is not there gives none: clients ask for
/// defaults in namespaces that they are about to use first.
pub struct NamespaceService {
    db: Arc<dyn Database>,
    events: Arc<dyn Events>,
}

impl NamespaceService {
    /// Keeps them in this store.
    pub fn new(db: Arc<dyn Database>, events: Arc<dyn Events>) -> Self {
        Self { db, events }
    }
}

/// Whether something is in the namespace.
fn is_used(db: &dyn Database, namespace: &Namespace) -> Result<bool> {
    for table in OBJECTS {
        if any_row(db, table, namespace.as_str())? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What keeps a namespace from being deleted, in the words for its error.
fn inhabitants(db: &dyn Database, namespace: &Namespace) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for table in [IMAGES.name(), BLOBS.name()] {
        if any_row(db, table, namespace.as_str())? {
            found.push(table.to_owned());
        }
    }
    for name in snapshotters(db, namespace)? {
        found.push(format!("snapshots on {name:?} snapshotter"));
    }
    for table in [CONTAINERS.name(), SANDBOXES.name(), volumes::TABLE, networks::TABLE] {
        if any_row(db, table, namespace.as_str())? {
            found.push(table.to_owned());
        }
    }
    Ok(found)
}

/// The snapshotters that have snapshots in the namespace.
fn snapshotters(db: &dyn Database, namespace: &Namespace) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    db.scan(snapshots::TABLE, namespace.as_str(), "", &mut |key, _| {
        let name = key.split('\x01').next().unwrap_or_default();
        if !names.contains(name) {
            names.insert(name.to_owned());
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(names)
}

#[async_trait]
impl Namespaces for NamespaceService {
    async fn get(&self, name: &Namespace) -> Result<Record> {
        let (db, name) = (Arc::clone(&self.db), name.clone());
        db::blocking(move || {
            Ok(NAMESPACES.get(&*db, TABLE_NAMESPACE, name.as_str())?.unwrap_or_default())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<(Namespace, Record)>> {
        let db = Arc::clone(&self.db);
        db::blocking(move || {
            let mut all: BTreeMap<_, _> =
                NAMESPACES.list(&*db, TABLE_NAMESPACE)?.into_iter().collect();
            for table in OBJECTS {
                for name in db.namespaces(table)? {
                    all.entry(name).or_default();
                }
            }
            all.into_iter().map(|(name, record)| Ok((Namespace::new(name)?, record))).collect()
        })
        .await
    }

    async fn create(&self, name: &Namespace, labels: Labels) -> Result<Record> {
        labels::validate_all(&labels)?;
        let db = Arc::clone(&self.db);
        let (key, record) = (name.clone(), Record { labels });
        write_and_tell(&self.db, &self.events, move |tx| {
            let taken = NAMESPACES.lock(tx, TABLE_NAMESPACE, key.as_str())?.is_some()
                || is_used(&*db, &key)?;
            let name = key.as_str();
            if taken {
                return Err(Error::already_exists(format!("namespace {name:?}: already exists")));
            }
            NAMESPACES.put(tx, TABLE_NAMESPACE, name, &record)?;
            let (name, labels) = (name.to_owned(), record.labels.clone());
            let message = messages::NamespaceCreate { name, labels };
            let staged = stage(tx, &Context::new(key.clone()), "/namespaces/create", &message)?;
            Ok((record.clone(), staged))
        })
        .await
    }

    async fn update(&self, name: &Namespace, labels: Labels, mask: LabelMask) -> Result<Record> {
        labels::validate_all(&labels)?;
        let key = name.clone();
        write_and_tell(&self.db, &self.events, move |tx| {
            // Whoever prepares a namespace before its first use makes it so.
            let found = NAMESPACES.lock(tx, TABLE_NAMESPACE, key.as_str())?;
            let there = found.is_some();
            let mut record = found.unwrap_or_default();
            mask.apply(&mut record.labels, &labels);
            if there || !record.labels.is_empty() {
                NAMESPACES.put(tx, TABLE_NAMESPACE, key.as_str(), &record)?;
            }
            let (name, labels) = (key.as_str().to_owned(), record.labels.clone());
            let message = messages::NamespaceUpdate { name, labels };
            let staged = stage(tx, &Context::new(key.clone()), "/namespaces/update", &message)?;
            Ok((record, staged))
        })
        .await
    }

    async fn delete(&self, name: &Namespace) -> Result<()> {
        let db = Arc::clone(&self.db);
        let key = name.clone();
        write_and_tell(&self.db, &self.events, move |tx| {
            let record = NAMESPACES.lock(tx, TABLE_NAMESPACE, key.as_str())?;
            let left = inhabitants(&*db, &key)?;
            if !left.is_empty() {
                return Err(Error::failed_precondition(format!(
                    "namespace {:?} must be empty, but it still has {}: failed precondition",
                    key.as_str(),
                    left.join(", ")
                )));
            }
            let leases = LEASES.list_in(tx, key.as_str(), "")?;
            if record.is_none() && leases.is_empty() {
                return Err(not_found(&key));
            }
            for (id, _) in leases {
                LEASES.lock(tx, key.as_str(), &id)?;
                leases::remove(tx, key.as_str(), &id)?;
            }
            NAMESPACES.delete(tx, TABLE_NAMESPACE, key.as_str())?;
            let message = messages::NamespaceDelete { name: key.as_str().to_owned() };
            let staged = stage(tx, &Context::new(key.clone()), "/namespaces/delete", &message)?;
            Ok(((), staged))
        })
        .await
    }
}

fn not_found(name: &Namespace) -> Error {
    Error::not_found(format!("namespace {:?}: not found", name.as_str()))
}
