//! What a transfer unpacks.

use gantry_core::{Context, Descriptor, Platform, Result};
use gantry_grpc::containerd::types::transfer as types;

use crate::document::ImageParts;
use crate::platform;
use crate::puller::RegistryPuller;
use crate::telling::{Event, Teller};
use crate::unfit::Unfit;

impl RegistryPuller {
    /// Unpacks what is here of an image as a client asks. What is for another
    /// platform, or no image, stays as it is.
    ///
    /// # Errors
    /// `NotFound` for content that is missing; those of malformed images and of layers.
    pub(crate) async fn unpack_as_asked(
        &self,
        ctx: &Context,
        name: &str,
        target: &Descriptor,
        unpacks: &[types::UnpackConfiguration],
        teller: &Teller,
    ) -> Result<()> {
        for unpack in unpacks {
            let wanted = unpack.platform.clone().map(Platform::from);
            let wanted = wanted.filter(|platform| !platform.architecture.is_empty());
            let wanted = wanted.unwrap_or_else(platform::host);
            let Some(parts) = self.parts_to_unpack(ctx, target, &wanted).await? else {
                let wanted = platform::describe(&wanted);
                tracing::info!(image = name, wanted, "there is nothing to unpack");
                continue;
            };
            teller.say(Event::new("unpacking", name).about(target));
            let unpacker = self.unpacker(ctx, &unpack.snapshotter).await?;
            self.unpack_parts(ctx, name, unpacker, &parts).await?;
            teller.say(Event::new("unpacked", name).about(target));
        }
        Ok(())
    }

    async fn parts_to_unpack(
        &self,
        ctx: &Context,
        target: &Descriptor,
        wanted: &Platform,
    ) -> Result<Option<ImageParts>> {
        match self.parts(&self.fetcher(ctx, None), target, None, wanted).await {
            Ok(parts) => Ok(platform::runs(wanted, &parts.platform).then_some(parts)),
            Err(err) if Unfit::is(&err) => Ok(None),
            Err(err) => Err(err),
        }
    }
}
