//! Image records, and how images come here.

use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::db::Table;
use crate::filter::{Filterable, Filters};
use crate::{Context, Descriptor, Digest, Labels, Platform, Result, Timestamp};

/// Images by name.
pub const IMAGES: Table<Image> = Table::new("images");

/// An image's record: a name for a manifest or index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Full reference, `docker.io/library/nginx:latest`.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The manifest or index.
    pub target: Descriptor,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl Filterable for Image {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.name.clone()),
            ["target", "digest"] => Some(self.target.digest.to_string()),
            ["target", "mediatype"] => Some(self.target.media_type.clone()),
            ["annotations", rest @ ..] => self.target.annotations.get(&rest.join(".")).cloned(),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// The image records.
#[async_trait]
pub trait Images: Send + Sync {
    /// One record.
    ///
    /// # Errors
    /// `NotFound`: `image "x": not found`.
    async fn get(&self, ctx: &Context, name: &str) -> Result<Image>;

    /// All records of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Image>>;

    /// Stores a new record; times are set here.
    ///
    /// # Errors
    /// `AlreadyExists`, `InvalidArgument`.
    async fn create(&self, ctx: &Context, image: Image) -> Result<Image>;

    /// Changes the fields named by `paths` (`target`, `labels`,
    /// `labels.KEY`, `annotations`), or all when there are none.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(&self, ctx: &Context, image: Image, paths: &[String]) -> Result<Image>;

    /// Removes a record; content stays until it is collected.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, ctx: &Context, name: &str) -> Result<()>;
}

/// What a container needs to know of an unpacked image.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The record.
    pub image: Image,
    /// The manifest chosen for the platform.
    pub manifest: Descriptor,
    /// The image's configuration as JSON (OCI image spec, config.md).
    pub config: Arc<Vec<u8>>,
    /// Digest of the configuration: Docker's image ID.
    pub config_digest: Digest,
    /// Name of the committed snapshot of the top layer; `None` without layers.
    pub chain_id: Option<Digest>,
    /// Length of all layers and documents in bytes, as transported.
    pub size: u64,
    /// Whether this machine runs it.
    pub native: bool,
}

/// How a pull is to be done.
#[derive(Clone, Debug, Default)]
pub struct PullRequest {
    /// Reference as a user writes it.
    pub reference: String,
    /// For which platform; this machine's when `None`.
    pub platform: Option<Platform>,
    /// Snapshotter to unpack into; the namespace's default when empty.
    pub snapshotter: String,
    /// User name and password; when `None`, Docker's configuration file and then
    /// nobody.
    pub credentials: Option<(String, String)>,
    /// Speak HTTP to this registry.
    pub plain_http: bool,
    /// Name of the record; the full reference when empty.
    pub name: String,
    /// Labels of the record, beside those that it has.
    pub labels: Labels,
    /// Fetch only: unpack nothing.
    pub packed: bool,
}

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The reference was resolved to this manifest or index.
    Resolved {
        /// Full reference.
        name: String,
        /// What it points at.
        target: Descriptor,
    },
    /// A layer's state; sent at its beginning, while it moves and at its end.
    Layer {
        /// The layer's blob.
        digest: Digest,
        /// What happens with it.
        phase: LayerPhase,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// The image record exists.
    Done {
        /// The record.
        image: Box<Image>,
        /// Whether it pointed there before.
        up_to_date: bool,
    },
}

/// What happens with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPhase {
    /// It waits for its turn.
    Waiting,
    /// It comes from the registry (and is unpacked on the way).
    Downloading,
    /// It is unpacked from the content store.
    Extracting,
    /// It was here already.
    Exists,
    /// It is complete.
    Complete,
}

/// Takes progress. Called often: must not block.
pub type ProgressSink = Arc<dyn Fn(Progress) + Send + Sync>;

/// Brings images here.
#[async_trait]
pub trait Puller: Send + Sync {
    /// The full reference for what a user writes: `nginx` becomes
    /// `docker.io/library/nginx:latest`.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong with it.
    fn normalize(&self, reference: &str) -> Result<String>;

    /// Pulls and unpacks. Everything fetched is held by a lease until the
    /// record exists.
    ///
    /// # Errors
    /// `NotFound` when the registry has no such image, `Unauthenticated`,
    /// `Unavailable` when it can't be reached, `DataLoss` for content that does not match its digest.
    async fn pull(
        &self,
        ctx: &Context,
        request: PullRequest,
        progress: ProgressSink,
    ) -> Result<Image>;

    /// Makes sure that an image that is here is unpacked, and tells what a
    /// container needs of it. Without a platform it is the image for this
    /// machine, or else for whatever platform is here.
    ///
    /// # Errors
    /// `NotFound` when content is missing, or what is here is for another
    /// platform than the one that is asked for.
    async fn unpack(
        &self,
        ctx: &Context,
        image: &Image,
        snapshotter: &str,
        platform: Option<&Platform>,
    ) -> Result<Unpacked>;
}
