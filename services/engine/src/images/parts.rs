//! What of an image lies on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use gantry_core::{Context, Digest, chain_id};

use super::{MANY, insert_within};
use crate::Engine;
use crate::image_config::ImageConfig;

/// What an image consists of, for all platforms that are here.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Its documents, and its layers as they were transported.
    pub(crate) blobs: Vec<Digest>,
    /// Names of the snapshots of its layers, those that are not unpacked included.
    pub(crate) chains: Vec<Digest>,
    /// Documents that were not here: one that comes may name more.
    pub(crate) missing: Vec<Digest>,
}

impl Engine {
    /// What the image that is described by this manifest or index consists of. `here` has the
    /// blobs that are here, by their digests. Damage shows as parts that are not found.
    pub(crate) async fn parts(
        &self,
        ctx: &Context,
        target: &Digest,
        here: &HashMap<Digest, u64>,
    ) -> Arc<Parts> {
        let complete = |parts: &Arc<Parts>| !parts.missing.iter().any(|m| here.contains_key(m));
        if let Some(known) = self.cache.parts(ctx, target).filter(complete) {
            return known;
        }
        let mut parts = Parts::default();
        let mut todo = vec![target.clone()];
        while let Some(digest) = todo.pop() {
            if parts.blobs.contains(&digest) {
                continue;
            }
            if !here.contains_key(&digest) {
                parts.missing.push(digest);
                continue;
            }
            let document = self.parse(ctx, &digest).await;
            parts.blobs.push(digest);
            let Ok(document) = document else { continue };
            todo.extend(document.manifests.into_iter().map(|manifest| manifest.digest));
            parts.blobs.extend(document.layers.into_iter().map(|layer| layer.digest));
            let Some(config) = document.config else { continue };
            match self.document(ctx, &config.digest).await {
                Ok(json) => {
                    // What is no configuration of an image has no layers to unpack.
                    let parsed = ImageConfig::parse(&json).unwrap_or_default();
                    parts.chains.extend(chain_id(&parsed.rootfs.diff_ids));
                    parts.blobs.push(config.digest);
                }
                Err(_) => parts.missing.push(config.digest),
            }
        }
        let parts = Arc::new(parts);
        insert_within(MANY, &self.cache.parts, ctx, target, &parts);
        parts
    }
}
