//! Pull and unpack, from the reference to the record.

mod local;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::ContentStore;
use gantry_core::images::{Image, Images, Progress, ProgressSink, PullRequest, Puller, Unpacked};
use gantry_core::leases::Leases;
use gantry_core::locks::KeyLocks;
use gantry_core::namespaces::Namespaces;
use gantry_core::snapshots::Snapshotters;
use gantry_core::{
    Applier, Context, Descriptor, Digest, Error, Kind, Labels, Platform, Result, Timestamp, labels,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::document::{self, Document, ImageParts, PartsCache};
use crate::fetch::{self, Fetcher};
use crate::hosts::Operation;
use crate::layers::LayerWork;
use crate::leasing::Leasing;
use crate::platform;
use crate::reference::Reference;
use crate::registry::{Registries, Resolved, Secrets};
use crate::remote::{Access, Remote};
use crate::tree::MAX_DEPTH;
use crate::unpack::Unpacker;

/// How long ingests that were given up may be held still.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What a [`RegistryPuller`] works with.
pub struct Services {
    /// Where blobs go.
    pub content: Arc<dyn ContentStore>,
    /// Where records go.
    pub images: Arc<dyn Images>,
    /// Hold what has no record yet.
    pub leases: Arc<dyn Leases>,
    /// Know each namespace's default snapshotter.
    pub namespaces: Arc<dyn Namespaces>,
    /// Where layers are unpacked to.
    pub snapshotters: Snapshotters,
    /// Unpacks them.
    pub applier: Arc<dyn Applier>,
}

/// [`Puller`] from registries.
pub struct RegistryPuller {
    services: Services,
    config: Arc<Config>,
    registries: Registries,
    flights: KeyLocks<String>,
    leasing: Leasing,
    parsed: PartsCache,
    host: Platform,
}

impl RegistryPuller {
    /// Puts a puller together.
    ///
    /// # Errors
    /// `Internal` when the system's trusted certificates can't be used.
    pub fn new(services: Services, config: Config) -> Result<Self> {
        let config = Arc::new(config);
        Ok(Self {
            registries: Registries::new(Arc::clone(&config))?,
            leasing: Leasing::new(Arc::clone(&services.leases), config.keep_partial),
            services,
            config,
            flights: KeyLocks::default(),
            parsed: PartsCache::default(),
            host: platform::host(),
        })
    }

    /// Makes the leases that hold what has no record yet.
    pub(crate) fn leasing(&self) -> &Leasing {
        &self.leasing
    }

    /// How transfers are done.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// What brings or reads content of images.
    pub(crate) fn fetcher(&self, ctx: &Context, remote: Option<Remote>) -> Fetcher {
        Fetcher {
            ctx: ctx.clone(),
            content: Arc::clone(&self.services.content),
            leases: Arc::clone(&self.services.leases),
            config: Arc::clone(&self.config),
            flights: self.flights.clone(),
            remote,
        }
    }

    /// The snapshotter of this name; for the empty one the namespace's
    /// default, then the daemon's.
    pub(crate) async fn unpacker(&self, ctx: &Context, snapshotter: &str) -> Result<Unpacker> {
        let mut name = snapshotter.to_owned();
        if name.is_empty() {
            name = match self.services.namespaces.get(&ctx.namespace).await {
                Ok(mut record) => {
                    record.labels.remove(labels::DEFAULT_SNAPSHOTTER).unwrap_or_default()
                }
                Err(err) if err.is_not_found() => String::new(),
                Err(err) => return Err(err),
            };
        }
        let snapshotters = &self.services.snapshotters;
        Ok(Unpacker {
            ctx: ctx.clone(),
            snapshotter: snapshotters.get(&name)?,
            name: snapshotters.resolve(&name).to_owned(),
            applier: Arc::clone(&self.services.applier),
            flights: self.flights.clone(),
            tasks: TaskTracker::new(),
        })
    }

    /// Descends from a manifest or index to the manifest for a platform.
    async fn choose(
        &self,
        fetcher: &Fetcher,
        target: &Descriptor,
        mut known: Option<Bytes>,
        wanted: &Platform,
    ) -> Result<(Descriptor, Descriptor, Vec<Descriptor>)> {
        let mut next = target.clone();
        for _ in 0..MAX_DEPTH {
            match fetcher.document(&next, known.take()).await? {
                Document::Manifest { config, layers } => {
                    document::check_manifest(&config, &layers, self.config.max_layers)?;
                    return Ok((next, *config, layers));
                }
                Document::Index(entries) => next = platform::choose(&entries, wanted)?.clone(),
            }
        }
        Err(Error::invalid_argument(format!(
            "index {} lies more than {MAX_DEPTH} deep",
            target.digest
        )))
    }

    /// Everything but the layers.
    pub(crate) async fn parts(
        &self,
        fetcher: &Fetcher,
        target: &Descriptor,
        known: Option<Bytes>,
        wanted: &Platform,
    ) -> Result<ImageParts> {
        let (manifest, config, layers) = self.choose(fetcher, target, known, wanted).await?;
        let bytes = fetcher.configuration(&config).await?;
        let parts = ImageParts::new(manifest, config, layers, bytes.to_vec())?;
        if fetcher.remote.is_some() {
            fetcher.label(&parts.config_descriptor.digest, Labels::new()).await?;
        }
        Ok(parts)
    }

    fn work(
        &self,
        fetcher: Fetcher,
        unpacker: Unpacker,
        sink: Option<ProgressSink>,
    ) -> Arc<LayerWork> {
        let permits = Semaphore::new(self.config.concurrency.max(1));
        Arc::new(LayerWork { fetcher, unpacker, permits, sink })
    }

    /// The layers, and the label that keeps them.
    async fn layers(
        &self,
        fetcher: Fetcher,
        unpacker: Unpacker,
        parts: &ImageParts,
        sink: Option<ProgressSink>,
    ) -> Result<()> {
        let work = self.work(fetcher, unpacker, sink);
        work.run(&parts.layers).await?;
        let Some(chain) = parts.chain_id() else { return Ok(()) };
        let kept = Labels::from([(snapshot_key(&work.unpacker), chain.to_string())]);
        work.fetcher.label(&parts.config_descriptor.digest, kept).await
    }

    /// Says what ended a pull. When it was a lack of space, what has come of
    /// unfinished blobs is thrown away.
    pub(crate) async fn give_up(
        &self,
        ctx: &Context,
        name: &str,
        blobs: impl Iterator<Item = &Digest>,
        err: Error,
    ) -> Error {
        if !is_out_of_space(&err) {
            return err.context(format!("failed to pull image \"{name}\""));
        }
        let end = Instant::now() + LETTING_GO;
        for digest in blobs {
            let reference = fetch::layer_reference(digest);
            loop {
                match self.services.content.abort(ctx, &reference).await {
                    // What was given up is let go in a moment; another pull's is not.
                    Err(err) if err.kind() == Kind::Unavailable && Instant::now() < end => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Err(err) if !err.is_not_found() => {
                        tracing::warn!(error = %err, reference, "an unfinished layer stays");
                        break;
                    }
                    _ => break,
                }
            }
        }
        let why = "its unfinished layers were removed to free their space";
        err.context(format!("failed to pull image \"{name}\" ({why})"))
    }

    /// Asks what a remote's reference points at.
    pub(crate) async fn resolve(&self, remote: &Remote) -> Result<Resolved> {
        let reference = &remote.reference;
        remote.resolve().await.map_err(|err| {
            let err = if err.is_not_found() { err.context(reference) } else { err };
            err.context(format!("failed to resolve reference \"{reference}\""))
        })
    }

    /// The repository of a reference at the hosts that serve it.
    pub(crate) async fn remote(
        &self,
        reference: Reference,
        access: &Access,
        operation: Operation,
        sources: &[String],
    ) -> Result<Remote> {
        let (registries, config) = (&self.registries, &self.config);
        Remote::open(registries, config, reference, access, operation, sources).await
    }

    /// Makes the record, or lets it point at `target`.
    pub(crate) async fn record(
        &self,
        ctx: &Context,
        name: &str,
        target: Descriptor,
        labels: Labels,
    ) -> Result<(Image, bool)> {
        let images = &self.services.images;
        let paths: Vec<String> = std::iter::once("target".to_owned())
            .chain(labels.keys().map(|key| format!("labels.{key}")))
            .collect();
        let new = Image {
            name: name.to_owned(),
            labels,
            target,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        // Somebody else may make or remove the record in between.
        for _ in 0..3 {
            match images.get(ctx, name).await {
                Ok(image)
                    if image.target.digest == new.target.digest
                        && new.labels.iter().all(|(k, v)| image.labels.get(k) == Some(v)) =>
                {
                    return Ok((image, true));
                }
                Ok(_) => match images.update(ctx, new.clone(), &paths).await {
                    Err(err) if err.is_not_found() => {}
                    done => return done.map(|image| (image, false)),
                },
                Err(err) if err.is_not_found() => match images.create(ctx, new.clone()).await {
                    Err(err) if err.is_already_exists() => {}
                    done => return done.map(|image| (image, false)),
                },
                Err(err) => return Err(err),
            }
        }
        Err(Error::new(
            Kind::Aborted,
            format!("record of image {name:?} keeps changing; try again"),
        ))
    }

    fn remember(&self, ctx: &Context, target: &Descriptor, parts: Arc<ImageParts>, own: bool) {
        let namespace = ctx.namespace.as_str();
        if own {
            self.parsed.put(namespace, &target.digest, parts);
        } else {
            self.parsed.forget(namespace, &target.digest);
        }
    }

    /// Forgets what was known of what is here of an image.
    pub(crate) fn forget(&self, ctx: &Context, target: &Descriptor) {
        self.parsed.forget(ctx.namespace.as_str(), &target.digest);
    }
}

/// Label of a configuration that keeps the image's files in a snapshotter.
fn snapshot_key(unpacker: &Unpacker) -> String {
    format!("{}{}", labels::GC_REF_SNAPSHOT, unpacker.name)
}

/// Whether it was a disk or a quota that ended something.
fn is_out_of_space(err: &Error) -> bool {
    let full = |err: &std::io::Error| {
        matches!(err.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    };
    let mut chain = std::iter::successors(Some(err as &dyn std::error::Error), |e| e.source());
    chain.any(|err| err.downcast_ref().is_some_and(full))
}

#[async_trait]
impl Puller for RegistryPuller {
    fn normalize(&self, reference: &str) -> Result<String> {
        Reference::parse(reference).map(|reference| reference.to_string())
    }

    async fn pull(
        &self,
        ctx: &Context,
        request: PullRequest,
        progress: ProgressSink,
    ) -> Result<Image> {
        let reference = Reference::parse(&request.reference)?;
        let name = match request.name.as_str() {
            "" => reference.to_string(),
            name => name.to_owned(),
        };
        let unpacker = self.unpacker(ctx, &request.snapshotter).await?;
        let secrets = request
            .credentials
            .clone()
            .map(|(user, password)| Secrets::Given(Credentials::Basic(user, password)));
        let plain = request.plain_http.then_some(true);
        let access = Access { secrets, plain, ..Access::default() };
        let remote = self.remote(reference, &access, Operation::Pull, &[]).await?;
        let Resolved { target, bytes } = self.resolve(&remote).await?;
        progress(Progress::Resolved { name: name.clone(), target: target.clone() });

        let held = self.leasing.hold(ctx, &name).await?;
        let ctx = held.context();
        let unpacker = Unpacker { ctx: ctx.clone(), ..unpacker };
        let fetcher = self.fetcher(ctx, Some(remote));
        let wanted = request.platform.as_ref().unwrap_or(&self.host);
        let on_pull = |err: Error| err.context(format!("failed to pull image \"{name}\""));
        let parts = self.parts(&fetcher, &target, bytes, wanted).await.map_err(on_pull)?;
        let parts = Arc::new(parts);
        let sink = Some(Arc::clone(&progress));
        let layers = match request.packed {
            true => self.work(fetcher, unpacker, sink).fetch(&parts.layers).await,
            false => self.layers(fetcher, unpacker, &parts, sink).await,
        };
        if let Err(err) = layers {
            let digests = parts.layers.iter().map(|layer| &layer.blob.digest);
            return Err(self.give_up(ctx, &name, digests, err).await);
        }

        let (image, up_to_date) = self.record(ctx, &name, target, request.labels).await?;
        self.remember(ctx, &image.target, parts, *wanted == self.host);
        held.release().await;
        progress(Progress::Done { image: Box::new(image.clone()), up_to_date });
        Ok(image)
    }

    async fn unpack(
        &self,
        ctx: &Context,
        image: &Image,
        snapshotter: &str,
        platform: Option<&Platform>,
    ) -> Result<Unpacked> {
        let unpacker = self.unpacker(ctx, snapshotter).await?;
        let parts = match platform {
            None => self.local_parts(ctx, image).await?,
            Some(wanted) => self.local_parts_for(ctx, image, wanted).await?,
        };
        self.unpack_parts(ctx, &image.name, unpacker, &parts).await?;
        Ok(Unpacked {
            image: image.clone(),
            manifest: parts.manifest.clone(),
            config: Arc::clone(&parts.config),
            config_digest: parts.config_descriptor.digest.clone(),
            chain_id: parts.chain_id().cloned(),
            size: parts.size,
            native: platform::runs(&self.host, &parts.platform),
        })
    }
}
