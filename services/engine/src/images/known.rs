//! The little that listings need, kept for thousands of images.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use gantry_core::filter::Filters;
use gantry_core::images::Image;
use gantry_core::{Context, Digest, Labels, Result, Timestamp, chain_id};
use tokio::sync::OnceCell;

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
    native: bool,
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

/// Names of the snapshots, asked for once when many images are looked at.
type Snapshots = OnceCell<HashSet<String>>;

impl Engine {
    /// What listings show of these images, in their order. Of one that was not unpacked it is
    /// found out again once it is, and of one for another machine each time.
    pub(crate) fn known(
        &self,
        ctx: &Context,
        images: Vec<Image>,
    ) -> impl Stream<Item = (Image, Result<Arc<Known>>)> {
        let snapshots = Arc::new(Snapshots::new());
        let look = move |image| {
            let snapshots = Arc::clone(&snapshots);
            async move {
                let known = self.known_of(ctx, &image, &snapshots).await;
                (image, known)
            }
        };
        futures::stream::iter(images).map(look).buffered(SIDE_BY_SIDE)
    }

    async fn known_of(
        &self,
        ctx: &Context,
        image: &Image,
        snapshots: &Snapshots,
    ) -> Result<Arc<Known>> {
        let digest = &image.target.digest;
        if let Some(known) = self.cache.known(ctx, digest).filter(|known| known.native)
            && (known.unpacked || !self.is_unpacked(ctx, &known, snapshots).await)
        {
            return Ok(known);
        }
        let known = Arc::new(Known::of(&*self.image_info(ctx, image).await?));
        insert_within(MANY, &self.cache.known, ctx, digest, &known);
        Ok(known)
    }

    async fn is_unpacked(&self, ctx: &Context, known: &Known, snapshots: &Snapshots) -> bool {
        let Some(top) = &known.top else { return false };
        let names = async || {
            let Ok(snapshotter) = self.parts.snapshotters.get("") else { return HashSet::new() };
            let all = snapshotter.list(ctx, &Filters::all()).await.unwrap_or_default();
            all.into_iter().map(|info| info.name).collect()
        };
        snapshots.get_or_init(names).await.contains(top.as_str())
    }
}
