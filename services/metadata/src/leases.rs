use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::db::{self, Database, Durability, Transaction};
use gantry_core::filter::Filters;
use gantry_core::leases::{LEASE_RESOURCES, LEASES, Lease, Leases, Resource, resource_key};
use gantry_core::{Context, Digest, Error, Labels, Namespace, Result, Timestamp, labels};

/// The leases.
pub struct LeaseService {
    db: Arc<dyn Database>,
}

impl LeaseService {
    /// Keeps them in this store.
    pub fn new(db: Arc<dyn Database>) -> Self {
        Self { db }
    }
}

#[async_trait]
impl Leases for LeaseService {
    async fn create(&self, ctx: &Context, id: Option<&str>, labels: Labels) -> Result<Lease> {
        let id = id.filter(|id| !id.is_empty()).map_or_else(random_id, str::to_owned);
        validate(&id, &labels)?;
        let lease = Lease { id, created_at: Timestamp::now(), labels };
        let namespace = ctx.namespace.clone();
        db::write(&self.db, Durability::Sync, move |tx| {
            let id = &lease.id;
            if LEASES.lock(tx, namespace.as_str(), id)?.is_some() {
                return Err(Error::already_exists(format!("lease {id:?}: already exists")));
            }
            LEASES.put(tx, namespace.as_str(), id, &lease)?;
            Ok(lease.clone())
        })
        .await
    }

    // A lease that comes back after a power loss ends at its expiry.
    async fn delete(&self, ctx: &Context, id: &str) -> Result<()> {
        let (namespace, id) = (ctx.namespace.clone(), id.to_owned());
        db::write(&self.db, Durability::Buffered, move |tx| {
            lock(tx, &namespace, &id)?;
            remove(tx, namespace.as_str(), &id)
        })
        .await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Lease>> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let filters = filters.clone();
        db::blocking(move || {
            let rows = LEASES.list(&*db, namespace.as_str())?;
            Ok(rows.into_iter().map(|(_, l)| l).filter(|l| filters.matches(l)).collect())
        })
        .await
    }

    async fn add_resources(&self, ctx: &Context, id: &str, resources: Vec<Resource>) -> Result<()> {
        resources.iter().try_for_each(check_resource)?;
        let (namespace, id) = (ctx.namespace.clone(), id.to_owned());
        db::write(&self.db, Durability::Sync, move |tx| {
            lock(tx, &namespace, &id)?;
            resources.iter().try_for_each(|resource| {
                let key = resource_key(&id, resource);
                LEASE_RESOURCES.put(tx, namespace.as_str(), &key, resource)
            })
        })
        .await
    }

    async fn delete_resource(&self, ctx: &Context, id: &str, resource: &Resource) -> Result<()> {
        check_resource(resource)?;
        let (namespace, id) = (ctx.namespace.clone(), id.to_owned());
        let resource = resource.clone();
        db::write(&self.db, Durability::Buffered, move |tx| {
            lock(tx, &namespace, &id)?;
            LEASE_RESOURCES.delete(tx, namespace.as_str(), &resource_key(&id, &resource))
        })
        .await
    }

    async fn resources(&self, ctx: &Context, id: &str) -> Result<Vec<Resource>> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let id = id.to_owned();
        db::blocking(move || {
            let namespace = namespace.as_str();
            if LEASES.get(&*db, namespace, &id)?.is_none() {
                return Err(not_found(&id));
            }
            let rows = LEASE_RESOURCES.list_prefix(&*db, namespace, &held_by(&id))?;
            Ok(rows.into_iter().map(|(_, resource)| resource).collect())
        })
        .await
    }
}

/// Removes a lease with what it holds. The caller has locked it.
pub(crate) fn remove(tx: &mut dyn Transaction, namespace: &str, id: &str) -> Result<()> {
    for (key, _) in LEASE_RESOURCES.list_in(tx, namespace, &held_by(id))? {
        LEASE_RESOURCES.delete(tx, namespace, &key)?;
    }
    LEASES.delete(tx, namespace, id)
}

fn lock(tx: &mut dyn Transaction, namespace: &Namespace, id: &str) -> Result<Lease> {
    LEASES.lock(tx, namespace.as_str(), id)?.ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> Error {
    Error::not_found(format!("lease {id:?}: not found"))
}

/// What the keys of a lease's resources start with.
fn held_by(id: &str) -> String {
    format!("{id}\x01")
}

fn random_id() -> String {
    format!("{}-{:08x}", Timestamp::now().nanos, rand::random::<u32>())
}

fn validate(id: &str, labels: &Labels) -> Result<()> {
    if id.chars().any(char::is_control) {
        return Err(Error::invalid_argument(format!(
            "lease ID {id:?} must not hold control characters: invalid argument"
        )));
    }
    labels::validate_all(labels).map_err(|err| err.context(format!("lease {id:?}")))?;
    match labels.get(labels::GC_EXPIRE) {
        Some(time) if Timestamp::parse_rfc3339(time).is_none() => {
            Err(Error::invalid_argument(format!(
                "lease {id:?}: label {} is {time:?}, which is no RFC 3339 time: invalid argument",
                labels::GC_EXPIRE
            )))
        }
        _ => Ok(()),
    }
}

fn check_resource(resource: &Resource) -> Result<()> {
    let Resource { kind, id } = resource;
    let snapshotter = kind.strip_prefix("snapshots/");
    let known = matches!(kind.as_str(), "content" | "ingests" | "images")
        || snapshotter.is_some_and(|name| !name.is_empty() && !name.contains(['/', '\x01']));
    if kind.starts_with("snapshots") && !known {
        return Err(Error::invalid_argument(format!(
            "invalid snapshot resource type {kind}: invalid argument"
        )));
    }
    if !known {
        return Err(Error::unimplemented(format!("lease type {kind:?}: not implemented")));
    }
    if id.is_empty() {
        return Err(Error::invalid_argument(format!(
            "a resource of type {kind} needs an ID: invalid argument"
        )));
    }
    if kind == "content" {
        Digest::parse(id).map_err(|err| err.context("lease resource"))?;
    }
    Ok(())
}
