//! Namespaces as records.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::LabelMask;
use crate::db::{GLOBAL, Table};
use crate::{Labels, Namespace, Result};

/// Namespaces by name, in [`GLOBAL`]. A namespace without a record works as
/// one with an empty record.
pub const NAMESPACES: Table<Record> = Table::new("namespaces");

/// Where [`NAMESPACES`] lie.
pub const TABLE_NAMESPACE: &str = GLOBAL;

/// What is stored of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its labels.
    pub labels: Labels,
}

/// The namespaces service.
#[async_trait]
pub trait Namespaces: Send + Sync {
    /// Labels of a namespace; none for one that is not there, since clients
    /// ask for defaults in namespaces that they are about to use first.
    ///
    /// # Errors
    /// The store's.
    async fn get(&self, name: &Namespace) -> Result<Record>;

    /// All namespaces, by name.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self) -> Result<Vec<(Namespace, Record)>>;

    /// Makes one.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    async fn create(&self, name: &Namespace, labels: Labels) -> Result<Record>;

    /// Changes labels.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(&self, name: &Namespace, labels: Labels, mask: LabelMask) -> Result<Record>;

    /// Removes an empty one.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition`, saying what is still in it.
    async fn delete(&self, name: &Namespace) -> Result<()>;
}
