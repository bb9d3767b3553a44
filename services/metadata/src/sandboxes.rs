use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::db::{self, Database, Durability};
use gantry_core::filter::Filters;
use gantry_core::sandboxes::{SANDBOXES, Sandbox, Sandboxes};
use gantry_core::{Context, Error, Result, Timestamp, labels, validate_identifier};

use crate::update_extension;

/// What an update without paths replaces.
const MUTABLE: [&str; 4] = ["labels", "extensions", "spec", "runtime"];

/// The records of sandboxes.
pub struct SandboxService {
    db: Arc<dyn Database>,
}

impl SandboxService {
    /// Keeps them in this store.
    pub fn new(db: Arc<dyn Database>) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Sandboxes for SandboxService {
    async fn get(&self, ctx: &Context, id: &str) -> Result<Sandbox> {
        let (db, namespace, id) = (Arc::clone(&self.db), ctx.namespace.clone(), id.to_owned());
        db::blocking(move || {
            SANDBOXES.get(&*db, namespace.as_str(), &id)?.ok_or_else(|| not_found(&id))
        })
        .await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Sandbox>> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let filters = filters.clone();
        db::blocking(move || {
            let rows = SANDBOXES.list(&*db, namespace.as_str())?;
            Ok(rows.into_iter().map(|(_, s)| s).filter(|s| filters.matches(s)).collect())
        })
        .await
    }

    async fn create(&self, ctx: &Context, mut sandbox: Sandbox) -> Result<Sandbox> {
        validate(&sandbox)?;
        sandbox.created_at = Timestamp::now();
        sandbox.updated_at = sandbox.created_at;
        let namespace = ctx.namespace.clone();
        db::write(&self.db, Durability::Sync, move |tx| {
            let id = &sandbox.id;
            if SANDBOXES.lock(tx, namespace.as_str(), id)?.is_some() {
                return Err(Error::already_exists(format!("sandbox {id:?}: already exists")));
            }
            SANDBOXES.put(tx, namespace.as_str(), id, &sandbox)?;
            Ok(sandbox.clone())
        })
        .await
    }

    async fn update(&self, ctx: &Context, sandbox: Sandbox, paths: &[String]) -> Result<Sandbox> {
        if sandbox.id.is_empty() {
            return Err(Error::invalid_argument("must specify a sandbox id: invalid argument"));
        }
        let namespace = ctx.namespace.clone();
        let mut paths = paths.to_vec();
        if paths.is_empty() {
            paths = MUTABLE.map(str::to_owned).to_vec();
        }
        db::write(&self.db, Durability::Sync, move |tx| {
            let stored = SANDBOXES.lock(tx, namespace.as_str(), &sandbox.id)?;
            let mut updated = stored.ok_or_else(|| not_found(&sandbox.id))?;
            paths.iter().try_for_each(|path| apply_path(&mut updated, &sandbox, path))?;
            validate(&updated)?;
            updated.updated_at = Timestamp::now();
            SANDBOXES.put(tx, namespace.as_str(), &updated.id, &updated)?;
            Ok(updated)
        })
        .await
    }

    async fn delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (namespace, id) = (ctx.namespace.clone(), id.to_owned());
        db::write(&self.db, Durability::Sync, move |tx| {
            if tx.get(SANDBOXES.name(), namespace.as_str(), &id)?.is_none() {
                return Err(not_found(&id));
            }
            SANDBOXES.delete(tx, namespace.as_str(), &id)
        })
        .await
    }
}

fn not_found(id: &str) -> Error {
    Error::not_found(format!("sandbox {id:?}: not found"))
}

fn validate(sandbox: &Sandbox) -> Result<()> {
    let invalid = |why: &str| Err(Error::invalid_argument(format!("{why}: invalid argument")));
    validate_identifier(&sandbox.id).map_err(|err| err.context("sandbox.ID"))?;
    if sandbox.extensions.contains_key("") {
        return invalid("sandbox.Extension keys must not be zero-length");
    }
    labels::validate_all(&sandbox.labels).map_err(|err| err.context("sandbox.Labels"))?;
    if sandbox.runtime.name.is_empty() {
        return invalid("sandbox.Runtime.Name must be set");
    }
    Ok(())
}

fn apply_path(stored: &mut Sandbox, wanted: &Sandbox, path: &str) -> Result<()> {
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
        "extensions" => stored.extensions.clone_from(&wanted.extensions),
        "spec" => stored.spec.clone_from(&wanted.spec),
        "runtime" => stored.runtime.clone_from(&wanted.runtime),
        _ => {
            return Err(Error::invalid_argument(format!(
                "cannot update {path:?} field on sandbox {:?}: invalid argument",
                wanted.id
            )));
        }
    }
    Ok(())
}
