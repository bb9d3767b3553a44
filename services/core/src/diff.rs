use async_trait::async_trait;

use crate::content::BlobStream;
use crate::{Context, Descriptor, Digest, Error, Labels, Mount, Result, Timestamp};

/// Source of the `FailedPrecondition` with which [`Applier::apply_detached`]
/// says that a layer can't be applied without the layers below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedsParent {
    /// The first path in the archive that needs something from below.
    pub path: String,
}

impl NeedsParent {
    /// The error for this path.
    pub fn error(path: impl Into<String>) -> Error {
        let path = path.into();
        Error::failed_precondition(format!("apply {path:?} without the layers below"))
            .with_source(Self { path })
    }

    /// Whether an error is of this sort: the same layer can then be applied
    /// with [`Applier::apply`] to a snapshot that has its parent.
    pub fn is(err: &Error) -> bool {
        std::error::Error::source(err).is_some_and(|source| source.is::<Self>())
    }
}

impl std::fmt::Display for NeedsParent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it refers to a file or directory that is not in this layer")
    }
}

impl std::error::Error for NeedsParent {}

/// What came of applying a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Digest of the uncompressed archive: the layer's diff ID.
    pub diff_id: Digest,
    /// Length of the uncompressed archive in bytes.
    pub size: u64,
}

/// Applies layer archives (OCI image spec, layer.md) onto mounts of a
/// snapshot.
///
/// The stream is a tar archive, plain or compressed with gzip or zstd (told
/// by its first bytes, the media type is only a hint). Nothing in it reaches
/// outside the mounts' root. The result is whole or the call fails; a failed
/// call leaves files behind in the mounts, which the caller throws away with
/// the snapshot it never committed.
#[async_trait]
pub trait Applier: Send + Sync {
    /// Applies one layer.
    ///
    /// # Errors
    /// `InvalidArgument` for a broken or hostile archive, `ResourceExhausted`
    /// for a full disk or an archive over the configured bound.
    async fn apply(&self, layer: BlobStream, media_type: &str, mounts: &[Mount])
    -> Result<Applied>;

    /// Applies a layer to an active snapshot without parent that gets its
    /// parent when it is committed, so that layers can be unpacked side by
    /// side: what the layer deletes is marked in the way the overlay file
    /// system reads, instead of being deleted.
    ///
    /// # Errors
    /// As [`Applier::apply`]; `FailedPrecondition` that [`NeedsParent::is`]
    /// knows when the layer refers to what lies below: a hard link to a file
    /// or an entry in a directory or behind a link that the layer lacks.
    async fn apply_detached(
        &self,
        layer: BlobStream,
        media_type: &str,
        mounts: &[Mount],
    ) -> Result<Applied> {
        let _ = (layer, media_type, mounts);
        Err(NeedsParent::error("."))
    }
}

/// How a layer is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// Its media type, which says how it is compressed; gzip when empty.
    pub media_type: String,
    /// The ingest that it is written by; one of our own when empty.
    pub reference: String,
    /// Labels of its blob.
    pub labels: Labels,
    /// Later times are written as this one.
    pub newest: Option<Timestamp>,
}

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileChangeKind {
    /// Its content or attributes are others, or something in it differs.
    Modified,
    /// It is new.
    Added,
    /// It is gone.
    Deleted,
}

/// A path that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// How.
    pub kind: FileChangeKind,
    /// Absolute path in the snapshot.
    pub path: Vec<u8>,
}

/// Compares snapshots, as their mounts would show them, without mounting them: makes layer
/// archives (OCI image spec, layer.md) of what is different between two, and tells of it.
/// Containers may write to what is compared meanwhile.
#[async_trait]
pub trait Differ: Send + Sync {
    /// Writes the layer that turns `left` into `right` into the content store.
    ///
    /// # Errors
    /// `Unimplemented` for other media types, and for mounts that are neither one
    /// bind nor one overlay.
    async fn diff(
        &self,
        ctx: &Context,
        left: &[Mount],
        right: &[Mount],
        options: DiffOptions,
    ) -> Result<Descriptor>;

    /// What is different in `right`, in the order of its paths; directories above it are
    /// modified. Paths in `hidden`, absolute ones, and all that is below them count as the same.
    ///
    /// # Errors
    /// As [`Differ::diff`].
    async fn changes(
        &self,
        left: &[Mount],
        right: &[Mount],
        hidden: &[&str],
    ) -> Result<Vec<FileChange>>;

    /// All files of a snapshot as an uncompressed archive. Its failure is the last item.
    ///
    /// # Errors
    /// As [`Differ::diff`].
    async fn archive(&self, mounts: &[Mount]) -> Result<BlobStream>;
}
