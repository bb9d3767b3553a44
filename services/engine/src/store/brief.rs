//! Little of many containers, without decoding their records.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::{Context, Result};

use super::{NAMES, Store, keys};

impl Store {
    /// Names by ID. Containers that other clients made have none.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn names(&self, ctx: &Context) -> Result<HashMap<String, String>> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let rows = blocking(move || NAMES.list(&*database, namespace.as_str())).await?;
        Ok(rows.into_iter().map(|(name, id)| (id, name)).collect())
    }

    /// IDs of all containers that there are records of.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn ids(&self, ctx: &Context) -> Result<Vec<String>> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        blocking(move || keys(&*database, namespace.as_str(), "")).await
    }
}
