//! Container records: what a task is started from.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::db::Table;
use crate::filter::{Filterable, Filters};
use crate::{Any, Context, Labels, Result, Timestamp};

/// Containers by ID.
pub const CONTAINERS: Table<Container> = Table::new("containers");

/// A container's record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Container {
    /// Its ID, an identifier.
    pub id: String,
    /// Labels.
    pub labels: Labels,
    /// The image it came from; may be empty.
    pub image: String,
    /// How it is run.
    pub runtime: Runtime,
    /// OCI runtime specification.
    pub spec: Option<Any>,
    /// Snapshotter of its root file system; may be empty.
    pub snapshotter: String,
    /// Key of its root file system; may be empty.
    pub snapshot_key: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Values of clients by name.
    pub extensions: BTreeMap<String, Any>,
    /// The sandbox it belongs to; may be empty.
    pub sandbox: String,
}

/// Which shim runs a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// `io.containerd.runc.v2`, or an absolute path of a shim.
    pub name: String,
    /// Options that the shim understands.
    pub options: Option<Any>,
}

impl Filterable for Container {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.clone()),
            ["image"] => (!self.image.is_empty()).then(|| self.image.clone()),
            ["runtime", "name"] => {
                (!self.runtime.name.is_empty()).then(|| self.runtime.name.clone())
            }
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// The containers service.
#[async_trait]
pub trait Containers: Send + Sync {
    /// One record.
    ///
    /// # Errors
    /// `NotFound`: `container "x" in namespace "ns": not found`.
    async fn get(&self, ctx: &Context, id: &str) -> Result<Container>;

    /// All records of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Container>>;

    /// Stores a new record; times are set here.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    async fn create(&self, ctx: &Context, container: Container) -> Result<Container>;

    /// Changes the fields named by `paths` (field-mask paths such as
    /// `labels.KEY`, `spec`, `extensions.NAME`), or all that may change when
    /// there are none. ID and time of creation never change, and neither do snapshotter and
    /// runtime unless named.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(
        &self,
        ctx: &Context,
        container: Container,
        paths: &[String],
    ) -> Result<Container>;

    /// Removes a record.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, ctx: &Context, id: &str) -> Result<()>;
}
