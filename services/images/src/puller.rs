//! Pull and unpack, from the reference to the record.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::ContentStore;
use gantry_core::images::{Image, Images, Progress, ProgressSink, PullRequest, Puller, Unpacked};
use gantry_core::leases::Leases;
use gantry_core::namespaces::Namespaces;
use gantry_core::snapshots::Snapshotters;
use gantry_core::{
    Applier, Context, Descriptor, Error, Kind, Labels, Platform, Result, Timestamp, labels,
};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::credentials::{self, Credentials};
use crate::document::{self, Document, ImageParts, PartsCache};
use crate::fetch::{self, Fetcher, Remote};
use crate::flights::Flights;
use crate::layers::LayerWork;
use crate::leasing::Leasing;
use crate::platform;
use crate::reference::{Reference, Target};
use crate::registry::{Registries, Resolved};
use crate::unpack::Unpacker;

/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 4;
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
    flights: Arc<Flights>,
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
            flights: Arc::default(),
            parsed: PartsCache::default(),
            host: platform::host(),
        })
    }

    async fn credentials(
        &self,
        reference: &Reference,
        request: &PullRequest,
    ) -> Result<Credentials> {
        if let Some((user, password)) = &request.credentials {
            return Ok(Credentials::Basic(user.clone(), password.clone()));
        }
        let Some(dir) = &self.config.docker_config else { return Ok(Credentials::Anonymous) };
        credentials::lookup(dir, reference.domain(), self.config.helper_timeout).await
    }

    fn fetcher(&self, ctx: &Context, remote: Option<Remote>) -> Fetcher {
        Fetcher {
            ctx: ctx.clone(),
            content: Arc::clone(&self.services.content),
            leases: Arc::clone(&self.services.leases),
            config: Arc::clone(&self.config),
            flights: Arc::clone(&self.flights),
            remote,
        }
    }

    /// The snapshotter of this name; for the empty one the namespace's
    /// default, then the daemon's.
    async fn unpacker(&self, ctx: &Context, snapshotter: &str) -> Result<Unpacker> {
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
            flights: Arc::clone(&self.flights),
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
    async fn parts(
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

    /// The layers, and the label that keeps them.
    async fn layers(
        &self,
        fetcher: Fetcher,
        unpacker: Unpacker,
        parts: &ImageParts,
        sink: Option<ProgressSink>,
    ) -> Result<()> {
        let permits = Semaphore::new(self.config.concurrency.max(1));
        let work = Arc::new(LayerWork { fetcher, unpacker, permits, sink });
        work.run(&parts.layers).await?;
        let Some(chain) = parts.chain_id() else { return Ok(()) };
        let key = format!("{}{}", labels::GC_REF_SNAPSHOT, work.unpacker.name);
        let kept = Labels::from([(key, chain.to_string())]);
        work.fetcher.label(&parts.config_descriptor.digest, kept).await
    }

    /// Throws away what has come of unfinished layers.
    async fn abort_layers(&self, ctx: &Context, parts: &ImageParts) {
        let end = Instant::now() + LETTING_GO;
        for layer in &parts.layers {
            let reference = fetch::layer_reference(&layer.blob.digest);
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
    }

    async fn resolve(&self, remote: &Remote) -> Result<Resolved> {
        let reference = &remote.reference;
        let resolved = remote.session.resolve(reference.target_text()).await.map_err(|err| {
            let err = if err.is_not_found() { err.context(reference) } else { err };
            err.context(format!("failed to resolve reference \"{reference}\""))
        })?;
        if let Target::Digest(wanted) = reference.target()
            && *wanted != resolved.target.digest
        {
            return Err(Error::data_loss(format!(
                "registry {} answers with {} for {wanted}",
                remote.session.host(),
                resolved.target.digest
            )));
        }
        Ok(resolved)
    }

    /// Makes the record, or lets it point at `target`.
    async fn record(&self, ctx: &Context, name: &str, target: Descriptor) -> Result<(Image, bool)> {
        let images = &self.services.images;
        let new = Image {
            name: name.to_owned(),
            labels: Labels::new(),
            target,
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        // Somebody else may make or remove the record in between.
        for _ in 0..3 {
            match images.get(ctx, name).await {
                Ok(image) if image.target.digest == new.target.digest => return Ok((image, true)),
                Ok(_) => match images.update(ctx, new.clone(), &["target".to_owned()]).await {
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

    /// What is here of an image: for this machine, or else for any platform,
    /// as when it was pulled for another one.
    async fn local_parts(&self, ctx: &Context, image: &Image) -> Result<Arc<ImageParts>> {
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
    async fn local_parts_for(
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
        let name = reference.to_string();
        let credentials = self.credentials(&reference, &request).await?;
        let session = self.registries.session(&reference, request.plain_http, credentials)?;
        let unpacker = self.unpacker(ctx, &request.snapshotter).await?;
        let remote = Remote { session, reference };
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
        let layers = self.layers(fetcher, unpacker, &parts, Some(Arc::clone(&progress))).await;
        if let Err(err) = layers {
            if !is_out_of_space(&err) {
                return Err(on_pull(err));
            }
            self.abort_layers(ctx, &parts).await;
            let why = "its unfinished layers were removed to free their space";
            return Err(err.context(format!("failed to pull image \"{name}\" ({why})")));
        }

        let (image, up_to_date) = self.record(ctx, &name, target).await?;
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
        let chain_id = parts.chain_id().cloned();
        let done = match &chain_id {
            None => true,
            Some(chain) => unpacker.has(chain).await?,
        };
        if !done {
            let held = self.leasing.hold(ctx, &image.name).await?;
            let ctx = held.context();
            let unpacker = Unpacker { ctx: ctx.clone(), ..unpacker };
            self.layers(self.fetcher(ctx, None), unpacker, &parts, None)
                .await
                .map_err(|err| err.context(format!("failed to unpack image \"{}\"", image.name)))?;
            held.release().await;
        }
        Ok(Unpacked {
            image: image.clone(),
            manifest: parts.manifest.clone(),
            config: Arc::clone(&parts.config),
            config_digest: parts.config_descriptor.digest.clone(),
            chain_id,
            size: parts.size,
            native: platform::runs(&self.host, &parts.platform),
        })
    }
}
