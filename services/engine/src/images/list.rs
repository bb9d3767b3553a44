//! Images as they are listed and inspected.

use gantry_core::filter::Filters;
use gantry_core::images::Image;
use gantry_core::{Context, Digest, Error, Labels, Result, Timestamp};
use serde_json::{Value, json};

use super::info::ImageInfo;
use super::known::Known;
use super::reference::{familiar, split};
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
    fn of(image: Image, known: &Known) -> Self {
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

    /// One image, with all that is known of it as JSON with Docker's field names.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    pub async fn inspect_image(&self, ctx: &Context, text: &str) -> Result<(ImageSummary, String)> {
        let image = self.resolve_image(ctx, text).await?;
        let info = self.image_info(ctx, &image).await?;
        let names = self.images_by_id(ctx, info.id.hex()).await?;
        let summary = ImageSummary::of(image, &Known::of(&info));
        let json = inspect(&summary, &info, &names, &self.parts.snapshotters.default);
        Ok((summary, json.to_string()))
    }
}

fn inspect(
    summary: &ImageSummary,
    info: &ImageInfo,
    names: &[(Digest, Image)],
    driver: &str,
) -> Value {
    let tags = names.iter().filter(|(_, image)| !image.name.contains('@'));
    let tags: Vec<_> = tags.map(|(_, image)| familiar(&image.name)).collect();
    let mut digests: Vec<_> = names
        .iter()
        .map(|(_, image)| format!("{}@{}", split(&image.name).0, image.target.digest))
        .collect();
    digests.sort();
    digests.dedup();
    json!({
        "Id": summary.id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": "",
        "Created": info.config.created,
        "Author": info.config.author,
        "Architecture": info.config.architecture,
        "Variant": info.config.variant,
        "Os": info.config.os,
        "Size": info.size,
        "GraphDriver": {"Name": driver, "Data": null},
        "RootFS": {"Type": "layers", "Layers": info.config.rootfs.diff_ids},
        "Config": info.config.runtime(),
        "Metadata": {},
    })
}
