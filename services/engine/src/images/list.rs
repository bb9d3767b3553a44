//! Images as they are listed.

use gantry_core::filter::Filters;
use gantry_core::images::Image;
use gantry_core::{Context, Digest, Error, Labels, Result, Timestamp};

use super::known::Known;
use super::reference::split;
use crate::Engine;

/// An image in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSummary {
    /// Digest of its configuration; `None` when the manifest can't be read.
    pub id: Option<Digest>,
    /// Full reference.
    pub name: String,
    /// Repository as it is shown.
    pub repository: String,
    /// Tag; empty when it is named by digest.
    pub tag: String,
    /// Digest of the manifest or index.
    pub digest: Digest,
    /// When it was built.
    pub created_at: Timestamp,
    /// Bytes of its unpacked layers.
    pub size: u64,
    /// Labels of its configuration.
    pub labels: Labels,
    /// Why it can't be used; empty when it can.
    pub damage: String,
}

impl ImageSummary {
    pub(super) fn of(image: Image, known: &Known) -> Self {
        let (repository, tag) = split(&image.name);
        Self {
            id: Some(known.id.clone()),
            name: image.name,
            repository,
            tag,
            digest: image.target.digest,
            created_at: known.created_at,
            size: known.size,
            labels: known.labels.clone(),
            damage: String::new(),
        }
    }

    /// One that can't be used, with what is still known of it.
    fn damaged(image: &Image, id: Option<Digest>, size: u64, why: &Error) -> Self {
        let (repository, tag) = split(&image.name);
        Self {
            id,
            name: image.name.clone(),
            repository,
            tag,
            digest: image.target.digest.clone(),
            created_at: Timestamp::default(),
            size,
            labels: Labels::new(),
            damage: why.to_string(),
        }
    }
}

impl Engine {
    /// The images, newest first; those whose documents are not here, or
    /// damaged, with what is known of them.
    ///
    /// # Errors
    /// The store's.
    pub async fn images(&self, ctx: &Context) -> Result<Vec<ImageSummary>> {
        let all = self.parts.images.list(ctx, &Filters::all()).await?;
        let known = self.known(ctx, &all).await;
        let mut found = Vec::with_capacity(all.len());
        for (image, known) in all.into_iter().zip(known) {
            match known {
                Ok(known) => found.push(ImageSummary::of(image, &known)),
                Err(err) => {
                    let (id, size) = self.outline(ctx, &image).await;
                    found.push(ImageSummary::damaged(&image, id, size, &err));
                }
            }
        }
        found.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
        Ok(found)
    }
}
