//! The little that listings need, kept for thousands of images.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::{StreamExt, stream};
use gantry_core::filter::Filters;
use gantry_core::images::Image;
use gantry_core::{Context, Digest, Labels, Result, Timestamp, chain_id};

use super::info::ImageInfo;
use super::{MANY, insert_within};
use crate::Engine;

/// What listings show of an image.
#[derive(Debug)]
pub(crate) struct Known {
    /// Digest of the configuration.
    pub(crate) id: Digest,
    /// When it was built.
    pub(crate) created_at: Timestamp,
    /// As [`ImageInfo::size`].
    pub(crate) size: u64,
    /// Labels of its configuration.
    pub(crate) labels: Labels,
    /// The snapshot of all its layers.
    top: Option<Digest>,
    /// As [`ImageInfo::unpacked`].
    unpacked: bool,
    /// As [`ImageInfo::native`].
    pub(super) native: bool,
}

impl Known {
    pub(crate) fn of(info: &ImageInfo) -> Self {
        let built = info.config.created.as_deref().and_then(Timestamp::parse_rfc3339);
        Self {
            id: info.id.clone(),
            created_at: built.unwrap_or_default(),
            size: info.size,
            labels: info.config.runtime().labels.unwrap_or_default(),
            top: chain_id(&info.config.rootfs.diff_ids).pop(),
            unpacked: info.unpacked,
            native: info.native,
        }
    }
}

/// So many images are looked at side by side: each asks the disk several times.
const SIDE_BY_SIDE: usize = 32;

impl Engine {
    /// What listings show of these images, in their order. Of one that was not unpacked it is
    /// found out again once it is, and of one for another machine each time.
    pub(crate) async fn known(&self, ctx: &Context, images: &[Image]) -> Vec<Result<Arc<Known>>> {
        let mut known = self.cache.known(ctx, images);
        if known.iter().flatten().any(|known| !known.unpacked) {
            let names = self.unpacked_names(ctx).await;
            let is_now =
                |known: &Known| known.top.as_ref().is_some_and(|t| names.contains(t.as_str()));
            for entry in &mut known {
                entry.take_if(|known| !known.unpacked && is_now(known));
            }
        }
        let missing = known.iter().enumerate().filter(|(_, known)| known.is_none());
        let missing: Vec<_> = missing.map(|(n, _)| n).collect();
        let look = async |n: usize| (n, self.find_out(ctx, &images[n]).await);
        let mut found: HashMap<_, _> =
            stream::iter(missing).map(look).buffer_unordered(SIDE_BY_SIDE).collect().await;
        let each = known.into_iter().enumerate();
        each.filter_map(|(n, known)| known.map(Ok).or_else(|| found.remove(&n))).collect()
    }

    async fn find_out(&self, ctx: &Context, image: &Image) -> Result<Arc<Known>> {
        let known = Arc::new(Known::of(&*self.image_info(ctx, image).await?));
        insert_within(MANY, &self.cache.known, ctx, &image.target.digest, &known);
        Ok(known)
    }

    /// Names of the default snapshotter's snapshots.
    async fn unpacked_names(&self, ctx: &Context) -> HashSet<String> {
        let Ok(snapshotter) = self.parts.snapshotters.get("") else { return HashSet::new() };
        let all = snapshotter.list(ctx, &Filters::all()).await.unwrap_or_default();
        all.into_iter().map(|info| info.name).collect()
    }
}
