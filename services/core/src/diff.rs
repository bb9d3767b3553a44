use async_trait::async_trait;

use crate::content::BlobStream;
use crate::{Digest, Mount, Result};

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
}
