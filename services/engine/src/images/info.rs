//! What an image's documents say, without unpacking it.

use std::sync::Arc;

use futures::StreamExt;
use gantry_core::images::Image;
use gantry_core::{Context, Descriptor, Digest, Error, Result, chain_id, media_type};
use serde::Deserialize;

use super::insert;
use crate::Engine;
use crate::image_config::ImageConfig;

/// Documents of images are small; a larger one is none.
const MAX_DOCUMENT: u64 = 8 << 20;

/// What is known of an image for this machine's platform.
#[derive(Debug)]
pub(crate) struct ImageInfo {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    /// The configuration.
    pub(crate) config: ImageConfig,
    /// Bytes of the unpacked layers; of the compressed ones while they are not unpacked.
    pub(crate) size: u64,
    /// Whether it was unpacked when this was found out.
    pub(super) unpacked: bool,
    /// Whether it is what an index has for this machine: another stands in for what is not
    /// here yet.
    pub(super) native: bool,
}

/// Index or manifest (OCI image spec, image-index.md and manifest.md).
#[derive(Deserialize)]
pub(super) struct Document {
    #[serde(default)]
    pub(super) manifests: Vec<Descriptor>,
    pub(super) config: Option<Descriptor>,
    #[serde(default)]
    pub(super) layers: Vec<Descriptor>,
}

impl Engine {
    /// Reads an image's documents, or knows them already.
    ///
    /// # Errors
    /// `NotFound` when they are not here, `DataLoss` when they make no sense.
    pub(crate) async fn image_info(&self, ctx: &Context, image: &Image) -> Result<Arc<ImageInfo>> {
        let digest = &image.target.digest;
        if let Some(info) = self.cache.info(ctx, digest).filter(|i| i.unpacked && i.native) {
            return Ok(info);
        }
        let (manifest, native) = self.manifest(ctx, &image.target).await?;
        let config = manifest.config.ok_or_else(|| {
            Error::data_loss(format!("image {}: its manifest has no configuration", image.name))
        })?;
        let json = self.document(ctx, &config.digest).await?;
        let parsed = ImageConfig::parse(&json)?;
        let unpacked = self.unpacked_size(ctx, &parsed).await;
        let info = Arc::new(ImageInfo {
            id: config.digest,
            config: parsed,
            size: unpacked.unwrap_or_else(|| manifest.layers.iter().map(|l| l.size).sum()),
            unpacked: unpacked.is_some(),
            native,
        });
        insert(&self.cache.infos, ctx, digest, &info);
        Ok(info)
    }

    /// What the manifest alone says: the ID, and the bytes of the layers as
    /// they are transported.
    pub(crate) async fn outline(&self, ctx: &Context, image: &Image) -> (Option<Digest>, u64) {
        match self.manifest(ctx, &image.target).await {
            Ok((manifest, _)) => {
                let size = manifest.layers.iter().map(|layer| layer.size).sum();
                (manifest.config.map(|config| config.digest), size)
            }
            Err(_) => (None, 0),
        }
    }

    /// The manifest itself, or the one of an index that fits this machine;
    /// failing that, the first that is here, and `false`.
    async fn manifest(&self, ctx: &Context, target: &Descriptor) -> Result<(Document, bool)> {
        let document = self.parse(ctx, &target.digest).await?;
        if document.manifests.is_empty() || media_type::is_manifest(&target.media_type) {
            return Ok((document, true));
        }
        let arch = gantry_core::architecture();
        let fits = |d: &Descriptor| {
            d.platform.as_ref().is_some_and(|p| p.architecture == arch && p.os == "linux")
        };
        let (mine, others): (Vec<_>, Vec<_>) = document.manifests.into_iter().partition(fits);
        let mine = mine.into_iter().map(|candidate| (candidate, true));
        for (candidate, native) in mine.chain(others.into_iter().map(|c| (c, false))) {
            match self.parse(ctx, &candidate.digest).await {
                Err(err) if err.is_not_found() => {}
                other => return other.map(|document| (document, native)),
            }
        }
        Err(Error::not_found(format!("content of index {}: not found", target.digest)))
    }

    pub(super) async fn parse(&self, ctx: &Context, digest: &Digest) -> Result<Document> {
        let json = self.document(ctx, digest).await?;
        serde_json::from_slice(&json)
            .map_err(|err| Error::data_loss(format!("read manifest {digest}")).with_source(err))
    }

    pub(super) async fn document(&self, ctx: &Context, digest: &Digest) -> Result<Vec<u8>> {
        let content = &self.parts.content;
        let mut pieces = content.read(ctx, digest, 0, Some(MAX_DOCUMENT)).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes)
    }

    async fn unpacked_size(&self, ctx: &Context, config: &ImageConfig) -> Option<u64> {
        let snapshotter = self.parts.snapshotters.get("").ok()?;
        let mut size = 0;
        for chain in chain_id(&config.rootfs.diff_ids) {
            size += snapshotter.usage(ctx, chain.as_str()).await.ok()?.size;
        }
        Some(size)
    }
}
