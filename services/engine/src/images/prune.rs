//! Images by filters, and removing those that nobody uses.

use std::collections::HashSet;

use gantry_core::images::Image;
use gantry_core::{Context, Error, Result};

use super::{ImageFilter, ImageSummary};
use crate::Engine;
use crate::usage::Named;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrunedImages {
    /// Names that are gone, as they are shown.
    pub untagged: Vec<String>,
    /// IDs of images that are gone.
    pub deleted: Vec<String>,
    /// Bytes that they took.
    pub reclaimed: u64,
}

impl Engine {
    /// The images that are meant, newest first.
    ///
    /// # Errors
    /// The store's; `NotFound` for an image in the filter.
    pub async fn select_images(
        &self,
        ctx: &Context,
        filter: &ImageFilter,
    ) -> Result<Vec<ImageSummary>> {
        let mut found = self.images(ctx).await?;
        for (names, newer) in [(&filter.before, false), (&filter.since, true)] {
            for name in names {
                let other = self.inspect_image(ctx, name).await?.0.created_at;
                found.retain(|i| if newer { i.created_at > other } else { i.created_at < other });
            }
        }
        if let Some(dangling) = filter.dangling {
            let tagged = found.iter().filter(|image| is_tagged(image));
            let tagged: HashSet<_> = tagged.filter_map(|image| image.id.clone()).collect();
            found.retain(|image| {
                let other = image.id.as_ref().is_some_and(|id| tagged.contains(id));
                (!is_tagged(image) && !other) == dangling
            });
        }
        found.retain(|image| filter.matches(image));
        Ok(found)
    }

    /// Removes the images that are meant and that no container was made from. What only they
    /// kept is collected within seconds.
    ///
    /// # Errors
    /// The store's. One that can't be removed is logged, and stays.
    pub async fn prune_images(&self, ctx: &Context, filter: &ImageFilter) -> Result<PrunedImages> {
        let containers = self.list(ctx, true).await?;
        let all = Named::all(self.images(ctx).await?, &containers);
        let disk = self.disk(ctx).await?;
        let (doomed, kept): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|image| is_doomed(image, filter));
        if doomed.is_empty() {
            self.tell_images_pruned(ctx, 0);
            return Ok(PrunedImages::default());
        }
        // Before their documents go.
        let mut remaining = self.holders(ctx, &disk, &kept).await;
        let kept = remaining.len();
        remaining.extend(self.holders(ctx, &disk, &doomed).await);
        let before = disk.held(&remaining).total;
        let mut pruned = PrunedImages::default();
        let mut gone = Vec::with_capacity(doomed.len());
        for image in &doomed {
            let removed = self.remove_names(ctx, image, &mut pruned).await;
            if let Err(err) = &removed {
                tracing::warn!(image = image.names[0].name, error = %err, "remove an unused image");
            }
            gone.push(removed.is_ok());
        }
        let mut gone = std::iter::repeat_n(false, kept).chain(gone);
        remaining.retain(|_| !gone.next().unwrap_or(false));
        pruned.reclaimed = before.saturating_sub(disk.held(&remaining).total);
        self.tell_images_pruned(ctx, pruned.reclaimed);
        Ok(pruned)
    }

    /// Removes all names of an image, those without a tag last: they are what is left of it.
    async fn remove_names(
        &self,
        ctx: &Context,
        image: &Named,
        pruned: &mut PrunedImages,
    ) -> Result<()> {
        for name in &image.names {
            let record = match self.parts.images.get(ctx, &name.name).await {
                Err(err) if err.is_not_found() => continue,
                other => other?,
            };
            // It names another image by now.
            if record.target.digest != name.digest {
                return Err(changed(&record));
            }
            pruned.untagged.extend(self.untag(ctx, vec![record]).await?.untagged);
        }
        let id = image.names[0].id.as_ref().map(ToString::to_string);
        id.iter().for_each(|id| self.tell_deleted(ctx, id.clone()));
        pruned.deleted.extend(id);
        Ok(())
    }
}

fn changed(record: &Image) -> Error {
    Error::failed_precondition(format!("image {}: it was pulled meanwhile", record.name))
}

/// Whether a name has a tag. Other clients name images as they like; only what is named by a
/// digest has none.
fn is_tagged(image: &ImageSummary) -> bool {
    !image.name.contains('@') && !image.name.starts_with("sha256:")
}

fn is_doomed(image: &Named, filter: &ImageFilter) -> bool {
    let dangling = !image.names.iter().any(is_tagged);
    let wanted = dangling || filter.dangling == Some(false);
    wanted && image.containers.is_empty() && image.names.iter().all(|name| filter.matches(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::{Digest, Labels, Timestamp};

    fn image(names: &[&str]) -> Named {
        let name = |name: &&str| ImageSummary {
            id: Some(Digest::of(b"1")),
            name: (*name).to_owned(),
            repository: String::new(),
            tag: String::new(),
            digest: Digest::of(b"2"),
            created_at: Timestamp { seconds: 100, nanos: 0 },
            size: 0,
            labels: Labels::new(),
            damage: String::new(),
        };
        Named { names: names.iter().map(name).collect(), containers: Vec::new() }
    }

    #[test]
    fn what_goes() {
        let digest = format!("localhost/a@sha256:{}", "0".repeat(64));
        let filter = |text: &str| ImageFilter::prune(&[text.to_owned()]).unwrap();
        let dangling = ImageFilter::prune(&[]).unwrap();
        assert!(is_doomed(&image(&[&digest]), &dangling));
        assert!(!is_doomed(&image(&[&digest, "localhost/a:1"]), &dangling));
        assert!(!is_doomed(&image(&["of-another-client"]), &dangling));
        let all = filter("dangling=false");
        assert!(is_doomed(&image(&[&digest]), &all));
        assert!(is_doomed(&image(&["localhost/a:1", "localhost/b:1"]), &all));
        let used = Named { containers: vec!["c1".to_owned()], ..image(&["localhost/a:1"]) };
        assert!(!is_doomed(&used, &all));
        assert!(!is_doomed(&image(&[&digest]), &filter("until=50")));
    }
}
