//! Leases: they hold resources that nothing references yet.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::db::Table;
use crate::filter::{Filterable, Filters};
use crate::{Context, Labels, Result, Timestamp};

/// Leases by ID.
pub const LEASES: Table<Lease> = Table::new("leases");
/// What leases hold. Key: lease ID, `\x01`, resource type, `\x01`, resource ID.
pub const LEASE_RESOURCES: Table<Resource> = Table::new("lease-resources");

/// The key of a resource in [`LEASE_RESOURCES`].
pub fn resource_key(lease: &str, resource: &Resource) -> String {
    format!("{lease}\x01{}\x01{}", resource.kind, resource.id)
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its ID.
    pub id: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Labels; `containerd.io/gc.expire` ends it.
    pub labels: Labels,
}

impl Filterable for Lease {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// Something a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// `content`, `ingests`, `snapshots/NAME` or `images`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digest, ingest reference, snapshot key or image name.
    pub id: String,
}

/// The leases service.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Makes a lease; a random ID when `id` is `None`.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    async fn create(&self, ctx: &Context, id: Option<&str>, labels: Labels) -> Result<Lease>;

    /// Ends a lease. What only it held goes at the next collection.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, ctx: &Context, id: &str) -> Result<()>;

    /// All leases of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Lease>>;

    /// Holds resources, whether they are there or not.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Unimplemented` for an unknown type.
    async fn add_resources(&self, ctx: &Context, id: &str, resources: Vec<Resource>) -> Result<()>;

    /// Lets a resource go.
    ///
    /// # Errors
    /// `NotFound` for the lease.
    async fn delete_resource(&self, ctx: &Context, id: &str, resource: &Resource) -> Result<()>;

    /// What a lease holds.
    ///
    /// # Errors
    /// `NotFound`.
    async fn resources(&self, ctx: &Context, id: &str) -> Result<Vec<Resource>>;
}

/// Adds a resource to the request's lease, if it has one, in the
/// transaction that makes the resource.
///
/// # Errors
/// `NotFound` when the lease is gone.
pub fn hold(
    tx: &mut dyn crate::db::Transaction,
    ctx: &Context,
    kind: &str,
    id: &str,
) -> Result<()> {
    let Some(lease) = &ctx.lease else { return Ok(()) };
    let namespace = ctx.namespace.as_str();
    if LEASES.lock(tx, namespace, lease)?.is_none() {
        return Err(crate::Error::not_found(format!("lease {lease:?}: not found")));
    }
    let resource = Resource { kind: kind.to_owned(), id: id.to_owned() };
    LEASE_RESOURCES.put(tx, namespace, &resource_key(lease, &resource), &resource)
}

/// Takes a resource from the request's lease again, in the transaction that ends the
/// resource.
///
/// # Errors
/// The store's.
pub fn let_go(
    tx: &mut dyn crate::db::Transaction,
    ctx: &Context,
    kind: &str,
    id: &str,
) -> Result<()> {
    let Some(lease) = &ctx.lease else { return Ok(()) };
    let resource = Resource { kind: kind.to_owned(), id: id.to_owned() };
    LEASE_RESOURCES.delete(tx, ctx.namespace.as_str(), &resource_key(lease, &resource))
}
