//! Removing names of images.

use gantry_core::images::Image;
use gantry_core::{Context, Error, Result};

use super::reference::familiar;
use crate::Engine;
use crate::lifecycle::current;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone, as they are shown.
    pub untagged: Vec<String>,
    /// ID of an image whose last name is gone.
    pub deleted: Option<String>,
}

impl Engine {
    /// Removes a name of an image, or, by ID, all of its names. What only they kept is
    /// collected within seconds.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while a container that runs was made
    /// from it, and, without `force`, when one that does not run was, or an ID has several names.
    pub async fn remove_image(&self, ctx: &Context, text: &str, force: bool) -> Result<Removed> {
        let image = self.named_image(ctx, text).await?;
        let normalized = self.parts.puller.normalize(text);
        let by_name =
            normalized.is_ok_and(|name| name == image.name || familiar(&name) == image.name);
        let id = match self.image_info(ctx, &image).await {
            Ok(info) => info.id.clone(),
            // Without its content nothing can have been made from it here.
            Err(_) => return self.untag(ctx, vec![image]).await,
        };
        let names: Vec<Image> =
            self.images_by_id(ctx, id.hex()).await?.into_iter().map(|(_, i)| i).collect();
        let short = &id.hex()[..12];
        let last = names.len() <= 1;
        if !by_name && !last && !force {
            return Err(Error::failed_precondition(format!(
                "conflict: unable to delete {short} (must be forced) - image is referenced in \
                 multiple repositories"
            ))
            .about("image", text));
        }
        if last || !by_name {
            self.check_unused(ctx, text, id.as_str(), force).await?;
        }
        let mut removed = self.untag(ctx, if by_name { vec![image] } else { names }).await?;
        if last || !by_name {
            self.tell_deleted(ctx, id.to_string());
            removed.deleted = Some(id.to_string());
        }
        Ok(removed)
    }

    async fn check_unused(&self, ctx: &Context, text: &str, id: &str, force: bool) -> Result<()> {
        let tasks = self.parts.tasks.list(ctx).await?;
        for (container, meta) in self.store.list(ctx).await? {
            if meta.image_id != id {
                continue;
            }
            let task = tasks.iter().find(|task| task.container_id == container.id);
            let known = self.live.state(&ctx.namespace, &container.id);
            let running = current(&meta, known, task).phase.is_running();
            let who = &container.id[..container.id.len().min(12)];
            if running {
                return Err(Error::failed_precondition(format!(
                    "conflict: unable to remove image {text} (cannot be forced) - image is being \
                     used by running container {who}"
                ))
                .about("image", text));
            }
            if !force {
                return Err(Error::failed_precondition(format!(
                    "conflict: unable to remove image {text} (must be forced) - container {who} \
                     is using it"
                ))
                .about("image", text));
            }
        }
        Ok(())
    }

    /// Takes names away, and tells that.
    pub(super) async fn untag(&self, ctx: &Context, images: Vec<Image>) -> Result<Removed> {
        let mut removed = Removed::default();
        for image in images {
            let in_hand = self.told.take(ctx, &image.name);
            let event = self.event_of(ctx, &image).await;
            match self.parts.images.delete(ctx, &image.name).await {
                Ok(()) => {
                    self.tell_of_image(ctx, "untag", &event);
                    in_hand.gone();
                }
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
            self.cache.forget(ctx, &image.target.digest);
            removed.untagged.push(familiar(&image.name));
        }
        Ok(removed)
    }
}
