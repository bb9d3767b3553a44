//! containerd's transfer service: images go from a source to a destination.

mod resolver;
mod unpacks;

use std::sync::Arc;

use gantry_core::images::{Image, Images};
use gantry_core::{Context, Error, Kind, Platform, Result, Timestamp};
use gantry_grpc::any;
use gantry_grpc::containerd::types as common;
use gantry_grpc::containerd::types::transfer as types;
use prost_types::Any;

use crate::archive::export::Export;
use crate::archive::import::Import;
use crate::gather::Gather;
use crate::names;
use crate::pieces::{Incoming, Outgoing};
use crate::platform;
use crate::puller::RegistryPuller;
use crate::reference::Reference;
use crate::streams::Streams;
use crate::telling::{Event, Teller, telling};
use crate::tree::Selection;

/// From what to what is transferred, as messages of `containerd.types.transfer`.
pub const TRANSFERS: [(&str, &str); 5] = [
    ("OCIRegistry", "ImageStore"),
    ("ImageStore", "OCIRegistry"),
    ("ImageImportStream", "ImageStore"),
    ("ImageStore", "ImageExportStream"),
    ("ImageStore", "ImageStore"),
];

/// Moves images.
pub struct Transfer {
    puller: Arc<RegistryPuller>,
    images: Arc<dyn Images>,
    streams: Streams,
}

/// A request whose messages have been read.
enum Request {
    Pull(types::OciRegistry, types::ImageStore),
    Push(types::ImageStore, types::OciRegistry),
    Import(types::ImageImportStream, types::ImageStore),
    Export(types::ImageStore, types::ImageExportStream),
    Tag(types::ImageStore, types::ImageStore),
}

impl Request {
    fn parse(source: &Any, destination: &Any) -> Result<Self> {
        let (from, to) = (any::type_name(&source.type_url), any::type_name(&destination.type_url));
        Ok(match (short(from), short(to)) {
            ("OCIRegistry", "ImageStore") => Self::Pull(decode(source)?, decode(destination)?),
            ("ImageStore", "OCIRegistry") => Self::Push(decode(source)?, decode(destination)?),
            ("ImageImportStream", "ImageStore") => {
                Self::Import(decode(source)?, decode(destination)?)
            }
            ("ImageStore", "ImageExportStream") => {
                Self::Export(decode(source)?, decode(destination)?)
            }
            ("ImageStore", "ImageStore") => Self::Tag(decode(source)?, decode(destination)?),
            _ => {
                return Err(Error::unimplemented(format!(
                    "transfer from {from} to {to} is not supported: not implemented"
                )));
            }
        })
    }
}

impl Transfer {
    /// Transfers by this puller and these records; `streams` are those that clients open.
    pub fn new(puller: Arc<RegistryPuller>, images: Arc<dyn Images>, streams: Streams) -> Self {
        Self { puller, images, streams }
    }

    /// Transfers, and tells on the stream of this name how far it is; on none without one.
    ///
    /// # Errors
    /// `Unimplemented` for a pair of types that is not in [`TRANSFERS`]; `NotFound` for
    /// images, content and streams; those of pulls, pushes and archives.
    pub async fn transfer(
        &self,
        ctx: &Context,
        source: &Any,
        destination: &Any,
        progress: &str,
    ) -> Result<()> {
        let progress = match progress {
            "" => None,
            id => Some(self.streams.take(ctx, id)?),
        };
        let request = Request::parse(source, destination)?;
        let (teller, told) = telling(progress);
        let done = match request {
            Request::Pull(from, to) => self.pull(ctx, from, to, &teller).await,
            Request::Push(from, to) => self.push(ctx, from, to, &teller).await,
            Request::Import(from, to) => self.import(ctx, from, to, &teller).await,
            Request::Export(from, to) => self.export(ctx, from, to, &teller).await,
            Request::Tag(from, to) => self.tag(ctx, from, to, &teller).await,
        };
        // What was said before is told before the answer.
        drop(teller);
        told.await;
        done
    }

    async fn pull(
        &self,
        ctx: &Context,
        from: types::OciRegistry,
        to: types::ImageStore,
        teller: &Teller,
    ) -> Result<()> {
        let reference = Reference::parse(&from.reference)?;
        let resolver = from.resolver.unwrap_or_default();
        let access = resolver::access(resolver, &reference, &self.streams, ctx)?;
        let selection = selection(&to);
        let gather = Gather { reference, store: to, selection };
        self.puller.gather(ctx, gather, &access, teller).await
    }

    async fn push(
        &self,
        ctx: &Context,
        from: types::ImageStore,
        to: types::OciRegistry,
        teller: &Teller,
    ) -> Result<()> {
        let reference = Reference::parse(&to.reference)?;
        let image = self.images.get(ctx, &from.name).await?;
        let resolver = to.resolver.unwrap_or_default();
        let access = resolver::access(resolver, &reference, &self.streams, ctx)?;
        let selection = selection(&from);
        self.puller.push(ctx, &image, reference, &access, &selection, teller).await
    }

    async fn import(
        &self,
        ctx: &Context,
        from: types::ImageImportStream,
        to: types::ImageStore,
        teller: &Teller,
    ) -> Result<()> {
        let incoming = Incoming::new(self.streams.take(ctx, &from.stream)?);
        let import = Import {
            store: &to,
            selection: selection(&to),
            media_type: from.media_type,
            compress: from.force_compress,
        };
        self.puller.import(ctx, import, incoming, teller).await
    }

    async fn export(
        &self,
        ctx: &Context,
        from: types::ImageStore,
        to: types::ImageExportStream,
        teller: &Teller,
    ) -> Result<()> {
        let outgoing = Outgoing::new(self.streams.take(ctx, &to.stream)?);
        if from.extra_references.iter().any(|reference| reference.is_prefix) {
            return Err(Error::unimplemented(
                "export by the beginning of names is not supported: not implemented",
            ));
        }
        let mut images = Vec::new();
        let extra = from.extra_references.iter().map(|reference| &reference.name);
        let own = Some(&from.name).filter(|name| !name.is_empty());
        for name in own.into_iter().chain(extra) {
            images.push(self.images.get(ctx, name).await?);
        }
        if images.is_empty() {
            return Err(Error::invalid_argument("no image is named: invalid argument"));
        }
        let platforms = match (to.all_platforms, to.platforms.is_empty()) {
            (true, _) => Vec::new(),
            (false, false) => platforms(to.platforms),
            (false, true) => match from.platforms.is_empty() {
                true => vec![platform::host()],
                false => platforms(from.platforms),
            },
        };
        let export = Export {
            images,
            selection: Selection { platforms, ..Selection::default() },
            only_oci: to.skip_compatibility_manifest,
            without_foreign: to.skip_non_distributable,
        };
        self.puller.export(ctx, &export, outgoing, teller).await
    }

    /// Lets other names point at the same, once it is unpacked where that is asked for.
    async fn tag(
        &self,
        ctx: &Context,
        from: types::ImageStore,
        to: types::ImageStore,
        teller: &Teller,
    ) -> Result<()> {
        let source = self.images.get(ctx, &from.name).await?;
        let names = names::of_target(&to, &source.target);
        let only_unpack = to.labels.is_empty() && !to.unpacks.is_empty();
        let unchanged = only_unpack && names.iter().all(|name| *name == source.name);
        if names.is_empty() && !unchanged {
            return Err(Error::not_found("no image name found: not found"));
        }
        let (name, target) = (&source.name, &source.target);
        self.puller.unpack_as_asked(ctx, name, target, &to.unpacks, teller).await?;
        for name in names.into_iter().filter(|_| !unchanged) {
            let labels = to.labels.clone().into_iter().collect();
            let (created_at, updated_at) = (Timestamp::default(), Timestamp::default());
            let target = source.target.clone();
            let image = Image { name, labels, target, created_at, updated_at };
            let image = self.replace(ctx, image).await?;
            teller.say(Event::new("saved", &image.name).about(&image.target));
        }
        Ok(())
    }

    /// Makes a record, or makes one that is there all this.
    async fn replace(&self, ctx: &Context, image: Image) -> Result<Image> {
        // Somebody else may make or remove it in between.
        for _ in 0..3 {
            match self.images.create(ctx, image.clone()).await {
                Err(err) if err.is_already_exists() => {}
                done => return done,
            }
            match self.images.update(ctx, image.clone(), &[]).await {
                Err(err) if err.is_not_found() => {}
                done => return done,
            }
        }
        let words = format!("record of image {:?} keeps changing; try again", image.name);
        Err(Error::new(Kind::Aborted, words))
    }
}

fn selection(store: &types::ImageStore) -> Selection {
    Selection {
        platforms: platforms(store.platforms.clone()),
        all_metadata: store.all_metadata,
        limit: usize::try_from(store.manifest_limit).unwrap_or(usize::MAX),
    }
}

fn platforms(listed: Vec<common::Platform>) -> Vec<Platform> {
    listed.into_iter().map(Platform::from).collect()
}

/// The name of a message without its package.
fn short(name: &str) -> &str {
    name.strip_prefix("containerd.types.transfer.").unwrap_or(name)
}

fn decode<M: prost::Message + Default>(any: &Any) -> Result<M> {
    M::decode(any.value.as_slice()).map_err(|err| {
        Error::invalid_argument(format!("malformed {}: invalid argument", any.type_url))
            .with_source(err)
    })
}
