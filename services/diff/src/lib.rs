//! Applies layer archives (OCI image spec, layer.md) to snapshots, and makes them
//! ([`LayerDiffer`]) of what is different between two.
//!
//! [`LayerApplier`] takes a layer as it comes, plain or compressed, and works
//! on it with three threads: one decompresses, one computes the digest, one
//! makes the files. Nothing in an archive is believed: every path is walked
//! directory by directory beneath the root of the snapshot, links are
//! followed as if that root were `/`, and numbers, names and sizes are
//! bounded before they are used.
#![forbid(unsafe_code)]

mod compare;
mod copy_up;
mod differ;
pub mod grpc;
mod hard_links;
mod layer;
mod lower;
mod merged;
mod pipeline;
mod target;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod whiteouts;

use async_trait::async_trait;
use gantry_core::content::BlobStream;
use gantry_core::{Applied, Applier, Mount, Result};

pub use differ::LayerDiffer;
pub use gantry_archive::Limits;
use target::Target;

/// Applies layers to overlay and bind mounts without mounting them: it
/// writes into the directories that would be mounted.
#[derive(Clone, Debug, Default)]
pub struct LayerApplier {
    limits: Limits,
}

impl LayerApplier {
    /// An applier with these bounds.
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }
}

#[async_trait]
impl Applier for LayerApplier {
    async fn apply(
        &self,
        layer: BlobStream,
        media_type: &str,
        mounts: &[Mount],
    ) -> Result<Applied> {
        let target = Target::of_mounts(mounts)?;
        pipeline::run(layer, media_type, target, self.limits).await
    }

    async fn apply_detached(
        &self,
        layer: BlobStream,
        media_type: &str,
        mounts: &[Mount],
    ) -> Result<Applied> {
        let target = Target::of_mounts(mounts)?.detached()?;
        pipeline::run(layer, media_type, target, self.limits).await
    }
}
