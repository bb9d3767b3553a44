//! Images of containers as listings show them.

use std::collections::{BTreeSet, HashMap};

use gantry_core::{Context, Digest, Result};

use crate::{Engine, Summary};

/// Hex digits of a short ID.
const SHORT: usize = 12;

/// IDs of images by the names that stand for them: all those for which a name may stand, none
/// when it stands for no image. What can't be found out is left out.
type Ids = HashMap<String, Vec<Digest>>;

impl Engine {
    /// Puts the short ID of a container's image in the place of a name that stands for another
    /// one by now, or for none, as Docker does. Each name is looked up once.
    pub(crate) async fn show_images(&self, ctx: &Context, containers: &mut [Summary]) {
        let made = containers.iter().filter(|container| !container.image_id.is_empty());
        let names: BTreeSet<_> = made.map(|container| container.image.clone()).collect();
        let mut ids = Ids::new();
        let mut there = Vec::new();
        let mut images = Vec::new();
        for name in names {
            match self.resolve_image(ctx, &name).await {
                Ok(image) => {
                    there.push(name);
                    images.push(image);
                }
                Err(err) if err.is_not_found() => {
                    ids.insert(name, Vec::new());
                }
                Err(err) => tracing::debug!(name, error = %err, "look an image up by its name"),
            }
        }
        let known = self.known(ctx, &images).await;
        for ((name, image), known) in there.into_iter().zip(&images).zip(known) {
            // An image whose content is not here has no ID.
            let Ok(known) = known else { continue };
            let other = |c: &Summary| c.image == name && c.image_id != known.id.as_str();
            if !containers.iter().any(other) {
                ids.insert(name, vec![known.id.clone()]);
                continue;
            }
            // It may be the one for another platform.
            match self.all_ids(ctx, &image.target.digest).await {
                Ok(all) => {
                    ids.insert(name, all);
                }
                Err(err) => tracing::debug!(name, error = %err, "look at an image"),
            }
        }
        for container in containers {
            show(container, &ids);
        }
    }

    /// IDs of an image for all platforms that are here.
    async fn all_ids(&self, ctx: &Context, target: &Digest) -> Result<Vec<Digest>> {
        let document = self.parse(ctx, target).await?;
        let mut ids: Vec<_> = document.config.into_iter().map(|config| config.digest).collect();
        for manifest in document.manifests {
            match self.parse(ctx, &manifest.digest).await {
                Ok(manifest) => ids.extend(manifest.config.map(|config| config.digest)),
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(ids)
    }
}

fn show(container: &mut Summary, ids: &Ids) {
    let Some(ids) = ids.get(&container.image) else { return };
    let id = container.image_id.as_str();
    if !id.is_empty() && !ids.iter().any(|known| known.as_str() == id) {
        let hex = id.split_once(':').map_or(id, |(_, hex)| hex);
        container.image = hex.chars().take(SHORT).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Meta, State};
    use gantry_core::containers::Container;

    #[test]
    fn names_that_stand_for_others_are_ids() {
        let id = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let shown = |image_id: &str, ids: &Ids| {
            let meta = Meta { image: "web:1".into(), image_id: image_id.into(), ..Meta::default() };
            let mut summary = Summary::of(&Container::default(), meta, State::default());
            show(&mut summary, ids);
            summary.image
        };
        let ids = |known: &[&str]| {
            let known = known.iter().map(|digit| id(digit).parse().unwrap()).collect();
            Ids::from([("web:1".to_owned(), known)])
        };
        assert_eq!(shown(&id("a"), &ids(&["a"])), "web:1");
        assert_eq!(shown(&id("a"), &ids(&["b", "a"])), "web:1", "for another platform");
        assert_eq!(shown(&id("a"), &ids(&["b"])), "a".repeat(12));
        assert_eq!(shown(&id("a"), &ids(&[])), "a".repeat(12), "the name is gone");
        assert_eq!(shown("", &ids(&[])), "web:1", "another client made it");
        assert_eq!(shown(&id("a"), &Ids::new()), "web:1", "nobody knows");
    }
}
