//! Images that are here: what they consist of, and their files.

use std::sync::Arc;

use gantry_core::images::Image;
use gantry_core::{Context, Error, Platform, Result};

use super::{RegistryPuller, snapshot_key};
use crate::document::{Document, ImageParts};
use crate::platform;
use crate::unpack::Unpacker;

impl RegistryPuller {
    /// What is here of an image: for this machine, or else for any platform,
    /// as when it was pulled for another one.
    pub(super) async fn local_parts(
        &self,
        ctx: &Context,
        image: &Image,
    ) -> Result<Arc<ImageParts>> {
        let namespace = ctx.namespace.as_str();
        if let Some(parts) = self.parsed.get(namespace, &image.target.digest) {
            return Ok(parts);
        }
        let fetcher = self.fetcher(ctx, None);
        let missing = match self.parts(&fetcher, &image.target, None, &self.host).await {
            Ok(parts) => {
                let parts = Arc::new(parts);
                self.parsed.put(namespace, &image.target.digest, Arc::clone(&parts));
                return Ok(parts);
            }
            Err(err) if err.is_not_found() => err,
            Err(err) => return Err(err),
        };
        if let Ok(Document::Index(entries)) = fetcher.document(&image.target, None).await {
            for entry in platform::images(&entries) {
                let found = self.parts(&fetcher, entry, None, &self.host).await;
                if let Ok(parts) = found {
                    return Ok(Arc::new(parts));
                }
            }
        }
        Err(missing.context(format!("image {:?}", image.name)))
    }

    /// What is here of an image for this platform.
    pub(super) async fn local_parts_for(
        &self,
        ctx: &Context,
        image: &Image,
        wanted: &Platform,
    ) -> Result<Arc<ImageParts>> {
        let fetcher = self.fetcher(ctx, None);
        match self.parts(&fetcher, &image.target, None, wanted).await {
            Ok(parts) if platform::runs(wanted, &parts.platform) => return Ok(Arc::new(parts)),
            Ok(_) => {}
            Err(err) if err.is_not_found() => {}
            Err(err) => return Err(err),
        }
        let actual = self.local_parts(ctx, image).await?;
        Err(Error::not_found(format!(
            "image with reference {} was found but does not match the specified platform: wanted \
             {}, actual: {}",
            image.name,
            platform::describe(wanted),
            platform::describe(&actual.platform)
        )))
    }

    /// Unpacks what is not, and lets the image keep its files.
    pub(crate) async fn unpack_parts(
        &self,
        ctx: &Context,
        name: &str,
        unpacker: Unpacker,
        parts: &ImageParts,
    ) -> Result<()> {
        if self.is_unpacked(ctx, &unpacker, parts).await? {
            return Ok(());
        }
        let held = self.leasing.hold(ctx, name).await?;
        let ctx = held.context();
        let unpacker = Unpacker { ctx: ctx.clone(), ..unpacker };
        self.layers(self.fetcher(ctx, None), unpacker, parts, None)
            .await
            .map_err(|err| err.context(format!("failed to unpack image {name:?}")))?;
        held.release().await;
        Ok(())
    }

    /// Whether the layers are unpacked, and this image keeps them: those that only
    /// another one keeps go with it.
    async fn is_unpacked(
        &self,
        ctx: &Context,
        unpacker: &Unpacker,
        parts: &ImageParts,
    ) -> Result<bool> {
        let Some(chain) = parts.chain_id() else { return Ok(true) };
        let config = self.services.content.info(ctx, &parts.config_descriptor.digest).await?;
        let keeps = config.labels.get(&snapshot_key(unpacker)).map(String::as_str);
        Ok(keeps == Some(chain.as_str()) && unpacker.has(chain).await?)
    }
}
