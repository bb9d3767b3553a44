use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::db::{self, Database};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::images::{IMAGES, Image, Images};
use gantry_core::{Context, Digest, Error, Result, Timestamp, labels, leases};
use gantry_grpc::containerd::services::images::v1 as messages;

use crate::{stage, write_and_tell};

/// The records of images. Their content is not looked at here.
pub struct ImageRecords {
    db: Arc<dyn Database>,
    events: Arc<dyn Events>,
}

impl ImageRecords {
    /// Keeps them in this store.
    pub fn new(db: Arc<dyn Database>, events: Arc<dyn Events>) -> Self {
        Self { db, events }
    }

    /// Gives the records that match, one by one, to `add`, which puts them together.
    ///
    /// # Errors
    /// The store's.
    pub async fn gather<R: Default + Send + 'static>(
        &self,
        ctx: &Context,
        filters: &Filters,
        mut add: impl FnMut(&mut R, Image) + Send + 'static,
    ) -> Result<R> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let filters = filters.clone();
        db::blocking(move || {
            let mut gathered = R::default();
            IMAGES.each(&*db, namespace.as_str(), |image| {
                if filters.matches(&image) {
                    add(&mut gathered, image);
                }
            })?;
            Ok(gathered)
        })
        .await
    }

    /// Removes a record, if it points at `target` when one is given.
    ///
    /// # Errors
    /// `NotFound`, also when it points elsewhere.
    pub async fn delete_target(
        &self,
        ctx: &Context,
        name: &str,
        target: Option<Digest>,
    ) -> Result<()> {
        let (ctx, key) = (ctx.clone(), name.to_owned());
        write_and_tell(&self.db, &self.events, move |tx| {
            let namespace = ctx.namespace.as_str();
            let stored = IMAGES.lock(tx, namespace, &key)?;
            let stored = stored.ok_or_else(|| not_found(&key))?;
            if let Some(target) = target.as_ref().filter(|t| **t != stored.target.digest) {
                let found = stored.target.digest;
                return Err(Error::not_found(format!(
                    "image {key:?} has target {found}, not {target}: not found"
                )));
            }
            IMAGES.delete(tx, namespace, &key)?;
            let message = messages::ImageDelete { name: key.clone() };
            Ok(((), stage(tx, &ctx, "/images/delete", &message)?))
        })
        .await
    }
}

#[async_trait]
impl Images for ImageRecords {
    async fn get(&self, ctx: &Context, name: &str) -> Result<Image> {
        let (db, namespace) = (Arc::clone(&self.db), ctx.namespace.clone());
        let name = name.to_owned();
        db::blocking(move || {
            IMAGES.get(&*db, namespace.as_str(), &name)?.ok_or_else(|| not_found(&name))
        })
        .await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Image>> {
        self.gather(ctx, filters, Vec::push).await
    }

    async fn create(&self, ctx: &Context, mut image: Image) -> Result<Image> {
        validate(&image)?;
        image.created_at = Timestamp::now();
        image.updated_at = image.created_at;
        let txn_ctx = ctx.clone();
        write_and_tell(&self.db, &self.events, move |tx| {
            let (namespace, name) = (txn_ctx.namespace.as_str(), &image.name);
            if IMAGES.lock(tx, namespace, name)?.is_some() {
                return Err(Error::already_exists(format!("image {name:?}: already exists")));
            }
            leases::hold(tx, &txn_ctx, "images", name)?;
            IMAGES.put(tx, namespace, name, &image)?;
            let labels = image.labels.clone();
            let message = messages::ImageCreate { name: name.clone(), labels };
            let staged = stage(tx, &txn_ctx, "/images/create", &message)?;
            Ok((image.clone(), staged))
        })
        .await
    }

    async fn update(&self, ctx: &Context, image: Image, paths: &[String]) -> Result<Image> {
        if image.name.is_empty() {
            return Err(Error::invalid_argument(
                "image name is required for update: invalid argument",
            ));
        }
        let (ctx, paths) = (ctx.clone(), paths.to_vec());
        write_and_tell(&self.db, &self.events, move |tx| {
            let namespace = ctx.namespace.as_str();
            let stored = IMAGES.lock(tx, namespace, &image.name)?;
            let stored = stored.ok_or_else(|| not_found(&image.name))?;
            let mut updated = apply(stored, &image, &paths)?;
            validate(&updated)?;
            updated.updated_at = Timestamp::now();
            IMAGES.put(tx, namespace, &updated.name, &updated)?;
            let (name, labels) = (updated.name.clone(), updated.labels.clone());
            let message = messages::ImageUpdate { name, labels };
            let staged = stage(tx, &ctx, "/images/update", &message)?;
            Ok((updated, staged))
        })
        .await
    }

    async fn delete(&self, ctx: &Context, name: &str) -> Result<()> {
        self.delete_target(ctx, name, None).await
    }
}

fn not_found(name: &str) -> Error {
    Error::not_found(format!("image {name:?}: not found"))
}

fn validate(image: &Image) -> Result<()> {
    let invalid = |why: &str| Err(Error::invalid_argument(format!("{why}: invalid argument")));
    if image.name.is_empty() {
        return invalid("image name must not be empty");
    }
    labels::validate_all(&image.labels).map_err(|err| err.context("image.Labels"))?;
    if image.target.size == 0 {
        return invalid("Target.Size must be greater than zero");
    }
    if image.target.media_type.is_empty() {
        return invalid("Target.MediaType must be set");
    }
    Ok(())
}

/// The stored record with the fields at `paths` taken from `wanted`.
fn apply(mut stored: Image, wanted: &Image, paths: &[String]) -> Result<Image> {
    if paths.is_empty() {
        return Ok(Image { created_at: stored.created_at, ..wanted.clone() });
    }
    for path in paths {
        if let Some(key) = path.strip_prefix("labels.") {
            labels::update_one(&mut stored.labels, &wanted.labels, key);
            continue;
        }
        if let Some(key) = path.strip_prefix("annotations.") {
            let wanted = &wanted.target.annotations;
            labels::update_one(&mut stored.target.annotations, wanted, key);
            continue;
        }
        match path.as_str() {
            "labels" => stored.labels.clone_from(&wanted.labels),
            // Its parts belong together, so it changes as a whole.
            "target" => stored.target.clone_from(&wanted.target),
            "annotations" => stored.target.annotations.clone_from(&wanted.target.annotations),
            _ => {
                return Err(Error::invalid_argument(format!(
                    "cannot update {path:?} field on image {:?}: invalid argument",
                    wanted.name
                )));
            }
        }
    }
    Ok(stored)
}
