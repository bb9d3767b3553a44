use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::containers::{CONTAINERS, Container, Containers};
use gantry_core::db::{self, Database};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::{Context, Error, Result, Timestamp, labels, validate_identifier};
use gantry_grpc::convert;
use gantry_ttrpc::containerd::events as messages;

use crate::{stage, update_extension, write_and_tell};

/// What an update without paths replaces.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

/// The records of containers.
pub struct ContainerService {
    db: Arc<dyn Database>,
    events: Arc<dyn Events>,
}

impl ContainerService {
    /// Keeps them in this store.
    pub fn new(db: Arc<dyn Database>, events: Arc<dyn Events>) -> Self {
        Self { db, events }
    }
}

#[async_trait]
impl Containers for ContainerService {
    async fn get(&self, ctx: &Context, id: &str) -> Result<Container> {
        let (db, ctx, id) = (Arc::clone(&self.db), ctx.clone(), id.to_owned());
        db::blocking(move || {
            let found = CONTAINERS.get(&*db, ctx.namespace.as_str(), &id)?;
            found.ok_or_else(|| not_found(&ctx, &id))
        })
        .await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Container>> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let filters = filters.clone();
        db::blocking(move || {
            let rows = CONTAINERS.list(&*db, namespace.as_str())?;
            Ok(rows.into_iter().map(|(_, c)| c).filter(|c| filters.matches(c)).collect())
        })
        .await
    }

    async fn create(&self, ctx: &Context, mut container: Container) -> Result<Container> {
        validate(&container).map_err(|err| err.context("create container failed validation"))?;
        container.created_at = Timestamp::now();
        container.updated_at = container.created_at;
        let txn_ctx = ctx.clone();
        write_and_tell(&self.db, &self.events, move |tx| {
            let (namespace, id) = (txn_ctx.namespace.as_str(), &container.id);
            if CONTAINERS.lock(tx, namespace, id)?.is_some() {
                return Err(Error::already_exists(format!("container {id:?}: already exists")));
            }
            CONTAINERS.put(tx, namespace, id, &container)?;
            let staged = stage(tx, &txn_ctx, "/containers/create", &told(&container))?;
            Ok((container.clone(), staged))
        })
        .await
    }

    async fn update(
        &self,
        ctx: &Context,
        container: Container,
        paths: &[String],
    ) -> Result<Container> {
        if container.id.is_empty() {
            return Err(Error::invalid_argument("must specify a container id: invalid argument"));
        }
        let (txn_ctx, paths) = (ctx.clone(), paths.to_vec());
        write_and_tell(&self.db, &self.events, move |tx| {
            let namespace = txn_ctx.namespace.as_str();
            let stored = CONTAINERS.lock(tx, namespace, &container.id)?;
            let stored = stored.ok_or_else(|| not_found(&txn_ctx, &container.id))?;
            let mut updated = apply(stored, &container, &paths)?;
            validate(&updated)?;
            updated.updated_at = Timestamp::now();
            CONTAINERS.put(tx, namespace, &updated.id, &updated)?;
            let message = messages::ContainerUpdate {
                id: updated.id.clone(),
                image: updated.image.clone(),
                labels: updated.labels.clone(),
                snapshot_key: updated.snapshot_key.clone(),
            };
            let staged = stage(tx, &txn_ctx, "/containers/update", &message)?;
            Ok((updated, staged))
        })
        .await
    }

    async fn delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (txn_ctx, key) = (ctx.clone(), id.to_owned());
        write_and_tell(&self.db, &self.events, move |tx| {
            let namespace = txn_ctx.namespace.as_str();
            if tx.get(CONTAINERS.name(), namespace, &key)?.is_none() {
                return Err(not_found(&txn_ctx, &key));
            }
            CONTAINERS.delete(tx, namespace, &key)?;
            let message = messages::ContainerDelete { id: key.clone() };
            Ok(((), stage(tx, &txn_ctx, "/containers/delete", &message)?))
        })
        .await
    }
}

/// What is told of a new container.
fn told(container: &Container) -> messages::ContainerCreate {
    let runtime = messages::container_create::Runtime {
        name: container.runtime.name.clone(),
        options: container.runtime.options.clone().map(convert::any),
    };
    messages::ContainerCreate {
        id: container.id.clone(),
        image: container.image.clone(),
        runtime: Some(runtime),
    }
}

fn not_found(ctx: &Context, id: &str) -> Error {
    let namespace = ctx.namespace.as_str();
    Error::not_found(format!("container {id:?} in namespace {namespace:?}: not found"))
}

fn validate(container: &Container) -> Result<()> {
    let invalid = |why: &str| Err(Error::invalid_argument(format!("{why}: invalid argument")));
    validate_identifier(&container.id).map_err(|err| err.context("container.ID"))?;
    if container.extensions.contains_key("") {
        return invalid("container.Extension keys must not be zero-length");
    }
    labels::validate_all(&container.labels).map_err(|err| err.context("container.Labels"))?;
    if container.runtime.name.is_empty() {
        return invalid("container.Runtime.Name must be set");
    }
    if container.spec.is_none() {
        return invalid("container.Spec must be set");
    }
    if !container.snapshot_key.is_empty() && container.snapshotter.is_empty() {
        return invalid("container.Snapshotter must be set if container.SnapshotKey is set");
    }
    Ok(())
}

/// The stored record with the fields at `paths` taken from `wanted`.
fn apply(mut stored: Container, wanted: &Container, paths: &[String]) -> Result<Container> {
    if paths.is_empty() {
        let immutable = |field: &str| {
            Err(Error::invalid_argument(format!("{field} field is immutable: invalid argument")))
        };
        if stored.snapshotter != wanted.snapshotter {
            return immutable("container.Snapshotter");
        }
        if stored.runtime.name != wanted.runtime.name {
            return immutable("container.Runtime.Name");
        }
        for path in MUTABLE {
            apply_path(&mut stored, wanted, path)?;
        }
    }
    for path in paths {
        apply_path(&mut stored, wanted, path)?;
    }
    Ok(stored)
}

fn apply_path(stored: &mut Container, wanted: &Container, path: &str) -> Result<()> {
    if let Some(key) = path.strip_prefix("labels.") {
        labels::update_one(&mut stored.labels, &wanted.labels, key);
        return Ok(());
    }
    if let Some(name) = path.strip_prefix("extensions.") {
        update_extension(&mut stored.extensions, &wanted.extensions, name);
        return Ok(());
    }
    match path {
        "labels" => stored.labels.clone_from(&wanted.labels),
        "spec" => stored.spec.clone_from(&wanted.spec),
        "extensions" => stored.extensions.clone_from(&wanted.extensions),
        "image" => stored.image.clone_from(&wanted.image),
        "snapshotkey" | "snapshot_key" => stored.snapshot_key.clone_from(&wanted.snapshot_key),
        "sandbox" => stored.sandbox.clone_from(&wanted.sandbox),
        _ => {
            return Err(Error::invalid_argument(format!(
                "cannot update {path:?} field on {:?}: invalid argument",
                wanted.id
            )));
        }
    }
    Ok(())
}
