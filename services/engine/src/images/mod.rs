//! Images as Docker's users address and see them.

mod filter;
mod glob;
mod info;
mod inspect;
mod known;
mod list;
mod parts;
mod prune;
mod reference;
mod remove;
mod shown;
mod told;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::images::{Image, Progress, ProgressSink, PullRequest, Unpacked};
use gantry_core::{Context, Digest, Error, Namespace, Platform, Result};

use crate::Engine;
use crate::image_config::ImageConfig;
use crate::options::Pull;

pub use filter::ImageFilter;
pub(crate) use info::ImageInfo;
use known::Known;
pub use list::ImageSummary;
pub(crate) use parts::Parts;
pub use prune::PrunedImages;
pub(crate) use reference::familiar;
pub use remove::Removed;
pub(crate) use told::Told;

/// Entries of the large parts; a part that is full begins anew.
const CAPACITY: usize = 512;
/// Entries of the small one.
const MANY: usize = 16 * 1024;

/// An image that a container can be made from.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) unpacked: Unpacked,
    pub(crate) config: ImageConfig,
    /// The platform that was asked for.
    pub(crate) platform: Option<Platform>,
}

type Key = (Namespace, Digest);

/// What is known of images by the digest they point at. Content never
/// changes, so only its removal makes an entry wrong.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// Images that were unpacked into the default snapshotter.
    ready: Mutex<HashMap<Key, Arc<Ready>>>,
    /// Manifests and configurations.
    infos: Mutex<HashMap<Key, Arc<ImageInfo>>>,
    /// The little of these that listings show.
    known: Mutex<HashMap<Key, Arc<Known>>>,
    /// What they consist of, once somebody wanted to know what takes the disk.
    parts: Mutex<HashMap<Key, Arc<Parts>>>,
}

/// Nothing panics under these locks; they are held for single map operations.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn insert<T>(map: &Mutex<HashMap<Key, Arc<T>>>, ctx: &Context, digest: &Digest, value: &Arc<T>) {
    insert_within(CAPACITY, map, ctx, digest, value);
}

fn insert_within<T>(
    capacity: usize,
    map: &Mutex<HashMap<Key, Arc<T>>>,
    ctx: &Context,
    digest: &Digest,
    value: &Arc<T>,
) {
    let mut map = lock(map);
    if map.len() >= capacity {
        map.clear();
    }
    map.insert((ctx.namespace.clone(), digest.clone()), Arc::clone(value));
}

impl Cache {
    fn ready(&self, ctx: &Context, digest: &Digest) -> Option<Arc<Ready>> {
        lock(&self.ready).get(&(ctx.namespace.clone(), digest.clone())).cloned()
    }

    fn info(&self, ctx: &Context, digest: &Digest) -> Option<Arc<ImageInfo>> {
        lock(&self.infos).get(&(ctx.namespace.clone(), digest.clone())).cloned()
    }

    fn parts(&self, ctx: &Context, digest: &Digest) -> Option<Arc<Parts>> {
        lock(&self.parts).get(&(ctx.namespace.clone(), digest.clone())).cloned()
    }

    /// Of each of these images, in their order, but not of those for other machines.
    fn known(&self, ctx: &Context, images: &[Image]) -> Vec<Option<Arc<Known>>> {
        let map = lock(&self.known);
        let key = |image: &Image| (ctx.namespace.clone(), image.target.digest.clone());
        let known = images.iter().map(|image| map.get(&key(image)));
        known.map(|known| known.filter(|known| known.native).cloned()).collect()
    }

    /// What was known turned out to be wrong.
    pub(crate) fn forget(&self, ctx: &Context, digest: &Digest) {
        let key = (ctx.namespace.clone(), digest.clone());
        lock(&self.ready).remove(&key);
        lock(&self.infos).remove(&key);
        lock(&self.known).remove(&key);
        lock(&self.parts).remove(&key);
    }
}

impl Engine {
    /// Brings an image here, and tells that.
    ///
    /// # Errors
    /// As [`gantry_core::images::Puller::pull`].
    pub async fn pull(
        &self,
        ctx: &Context,
        request: PullRequest,
        progress: ProgressSink,
    ) -> Result<Image> {
        let name = match request.name.as_str() {
            "" => self.parts.puller.normalize(&request.reference)?,
            name => name.to_owned(),
        };
        let in_hand = self.told.take(ctx, &name);
        // Whoever sees its end may leave: it is shown once it is told.
        let end = Arc::new(Mutex::new(None));
        let shown: ProgressSink = {
            let (end, progress) = (Arc::clone(&end), Arc::clone(&progress));
            Arc::new(move |step: Progress| match step {
                Progress::Done { .. } => *lock(&end) = Some(step),
                step => progress(step),
            })
        };
        let image = self.parts.puller.pull(ctx, request, shown).await?;
        self.tell_of_name(ctx, "pull", &image).await;
        in_hand.stands_for(&image.target);
        let end = lock(&end).take();
        if let Some(end) = end {
            progress(end);
        }
        Ok(image)
    }

    /// The image that a container is to be made from, pulled if need be: also
    /// when what is here is for another platform than the one that is wanted.
    pub(crate) async fn image_for(
        &self,
        ctx: &Context,
        text: &str,
        pull: Pull,
        platform: Option<Platform>,
        progress: Option<ProgressSink>,
    ) -> Result<Arc<Ready>> {
        if text.is_empty() {
            return Err(Error::invalid_argument("no image is named"));
        }
        let fetch = async || {
            let (reference, platform) = (text.to_owned(), platform.clone());
            let request = PullRequest { reference, platform, ..PullRequest::default() };
            let progress = progress.clone().unwrap_or_else(|| Arc::new(|_| {}));
            self.pull(ctx, request, progress).await
        };
        let found = match pull {
            Pull::Always => Err(Error::not_found("to be pulled")),
            Pull::Missing => self.resolve_image(ctx, text).await,
            Pull::Never => self.named_image(ctx, text).await,
        };
        let image = match found {
            Err(err) if err.is_not_found() && pull != Pull::Never => {
                let image = fetch().await?;
                return self.ready(ctx, image, platform.as_ref()).await;
            }
            other => other?,
        };
        // What was named by its ID can't be asked for at a registry.
        let by_name = self.parts.puller.normalize(text).is_ok_and(|name| name == image.name);
        match self.ready(ctx, image, platform.as_ref()).await {
            Err(other)
                if other.is_not_found()
                    && platform.is_some()
                    && by_name
                    && pull == Pull::Missing =>
            {
                match fetch().await {
                    Ok(image) => self.ready(ctx, image, platform.as_ref()).await,
                    Err(err) => Err(other.with_source(err)),
                }
            }
            ready => ready,
        }
    }

    async fn ready(
        &self,
        ctx: &Context,
        image: Image,
        platform: Option<&Platform>,
    ) -> Result<Arc<Ready>> {
        let digest = image.target.digest.clone();
        // What is known is what fits this machine.
        let known = if platform.is_none() { self.cache.ready(ctx, &digest) } else { None };
        if let Some(ready) = known {
            if ready.unpacked.image == image {
                return Ok(ready);
            }
            // The same content under another name.
            let unpacked = Unpacked { image, ..ready.unpacked.clone() };
            return Ok(Arc::new(Ready { unpacked, config: ready.config.clone(), platform: None }));
        }
        let unpacked = self.parts.puller.unpack(ctx, &image, "", platform).await?;
        let config = ImageConfig::parse(&unpacked.config)?;
        let ready = Arc::new(Ready { unpacked, config, platform: platform.cloned() });
        if platform.is_none() {
            insert(&self.cache.ready, ctx, &digest, &ready);
        }
        Ok(ready)
    }

    /// An image by reference, or by a unique beginning of its ID.
    ///
    /// # Errors
    /// `NotFound`: `No such image: x`; `InvalidArgument` when several IDs
    /// begin so, or for what is no reference.
    pub(crate) async fn resolve_image(&self, ctx: &Context, text: &str) -> Result<Image> {
        let prefix = reference::id_prefix(text);
        let name = self.parts.puller.normalize(text);
        match (&name, prefix) {
            (Ok(name), _) => match self.parts.images.get(ctx, name).await {
                Err(err) if err.is_not_found() => {
                    if let Some(image) = self.image_by_other_name(ctx, name).await? {
                        return Ok(image);
                    }
                }
                other => return other,
            },
            (Err(_), Some(_)) => {}
            (Err(err), None) => return Err(err.duplicate()),
        }
        let shown = name.as_deref().map_or_else(|_| text.to_owned(), familiar);
        let Some(prefix) = prefix else {
            return Err(no_such(&shown));
        };
        let mut found = self.images_by_id(ctx, prefix).await?;
        match found.pop() {
            Some((_, image)) => Ok(image),
            None => Err(no_such(&shown)),
        }
    }

    /// An image that is kept under another name: by a tag of the repository, where its digest is
    /// asked for, or by the short form of a name, as other clients may keep it.
    ///
    /// # Errors
    /// The store's.
    async fn image_by_other_name(&self, ctx: &Context, name: &str) -> Result<Option<Image>> {
        let Some((_, digest)) = name.split_once('@') else {
            return match self.parts.images.get(ctx, &familiar(name)).await {
                Err(err) if err.is_not_found() => Ok(None),
                other => other.map(Some),
            };
        };
        let (repository, _) = reference::split(name);
        let all = self.parts.images.list(ctx, &gantry_core::filter::Filters::all()).await?;
        Ok(all.into_iter().find(|image| {
            image.target.digest.as_str() == digest && reference::split(&image.name).0 == repository
        }))
    }

    /// All names of the one image whose ID begins so, with that ID.
    ///
    /// # Errors
    /// `InvalidArgument` when several begin so.
    async fn images_by_id(&self, ctx: &Context, prefix: &str) -> Result<Vec<(Digest, Image)>> {
        let mut found: Vec<(Digest, Image)> = Vec::new();
        let all = self.parts.images.list(ctx, &gantry_core::filter::Filters::all()).await?;
        let known = self.known(ctx, &all).await;
        for (image, known) in all.into_iter().zip(known) {
            // An image whose content is not here has no ID.
            let Ok(known) = known else { continue };
            if known.id.hex().starts_with(prefix) {
                found.push((known.id.clone(), image));
            }
        }
        if found.windows(2).any(|w| w[0].0 != w[1].0) {
            return Err(Error::invalid_argument(format!(
                "several images have an ID that begins with {prefix}: write more of it"
            ))
            .about("image", prefix));
        }
        Ok(found)
    }
}

fn no_such(shown: &str) -> Error {
    Error::not_found(format!("No such image: {shown}")).about("image", shown)
}
