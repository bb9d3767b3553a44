//! All layers of an image side by side: fetched, unpacked while they arrive,
//! and committed in order.

use std::sync::Arc;

use gantry_core::images::{LayerPhase, ProgressSink};
use gantry_core::{Error, Labels, NeedsParent, Result, labels};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::document::Layer;
use crate::feed;
use crate::fetch::{Fetcher, Opened};
use crate::progress::LayerProgress;
use crate::unpack::{Base, Committed, Extraction, Running, Unpacker};

/// The work on one image's layers.
///
/// Order of waiting, which keeps it free of circles: the flight of the chain,
/// then a permit, then the flight of the blob; permits and blobs are given
/// back before a layer waits for the one below it.
pub(crate) struct LayerWork {
    pub(crate) fetcher: Fetcher,
    pub(crate) unpacker: Unpacker,
    pub(crate) permits: Semaphore,
    pub(crate) sink: Option<ProgressSink>,
}

/// How often a layer is extracted whose files other clients make and remove.
const ATTEMPTS: u32 = 3;

/// Whether the layer below is committed.
type Below = Option<watch::Receiver<bool>>;

impl LayerWork {
    /// Fetches what is missing, and unpacks nothing.
    pub(crate) async fn fetch(self: &Arc<Self>, layers: &[Layer]) -> Result<()> {
        let fetches = layers.iter().map(|layer| {
            let work = Arc::clone(self);
            async move {
                let mut progress = LayerProgress::new(work.sink.clone(), &layer.blob);
                progress.report(LayerPhase::Waiting, 0);
                work.fetch_alone(layer, &mut progress).await
            }
        });
        futures::future::try_join_all(fetches).await.map(drop)
    }

    /// Fetches and unpacks what is missing. When this fails, everything it
    /// began has been cleaned up; when it is dropped, that happens behind it.
    pub(crate) async fn run(self: &Arc<Self>, layers: &[Layer]) -> Result<()> {
        let first = self.hold_unpacked(layers).await?;
        let mut tasks = JoinSet::new();
        let mut below: Below = None;
        for (i, layer) in layers.iter().enumerate() {
            let (done, watched) = watch::channel(i < first);
            let (work, layer) = (Arc::clone(self), layer.clone());
            let under = below.replace(watched);
            tasks.spawn(async move {
                let mut progress = LayerProgress::new(work.sink.clone(), &layer.blob);
                progress.report(LayerPhase::Waiting, 0);
                if i < first {
                    work.fetch_alone(&layer, &mut progress).await
                } else {
                    work.fetch_and_unpack(&layer, under, &mut progress).await?;
                    // Nobody above may be waiting.
                    let _ = done.send(true);
                    Ok(())
                }
            });
        }
        let mut result = Ok(());
        while let Some(ended) = tasks.join_next().await {
            result = ended.unwrap_or_else(|err| Err(defect(err)));
            if result.is_err() {
                break;
            }
        }
        tasks.shutdown().await;
        self.unpacker.tasks.close();
        self.unpacker.tasks.wait().await;
        result
    }

    /// Holds the layers that are unpacked; returns the lowest that is not.
    async fn hold_unpacked(&self, layers: &[Layer]) -> Result<usize> {
        loop {
            let first = self.first_missing(layers).await?;
            let Some(unpacked) = first.checked_sub(1).and_then(|i| layers.get(i)) else {
                return Ok(0);
            };
            if self.hold(unpacked).await? {
                return Ok(first);
            }
        }
    }

    /// Holds a layer's files, with those below, if they are there.
    async fn hold(&self, layer: &Layer) -> Result<bool> {
        if !self.unpacker.has(&layer.chain).await? {
            return Ok(false);
        }
        let kind = format!("snapshots/{}", self.unpacker.name);
        self.fetcher.hold(&kind, layer.chain.as_str()).await?;
        // What nothing held may have been collected between the look and the hold.
        self.unpacker.has(&layer.chain).await
    }

    /// The lowest layer that is not unpacked. A snapshot's parents are there
    /// as long as it is.
    async fn first_missing(&self, layers: &[Layer]) -> Result<usize> {
        for (i, layer) in layers.iter().enumerate().rev() {
            if self.unpacker.has(&layer.chain).await? {
                return Ok(i + 1);
            }
        }
        Ok(0)
    }

    /// A layer that is unpacked: its blob is wanted all the same, for pushes.
    async fn fetch_alone(&self, layer: &Layer, progress: &mut LayerProgress) -> Result<()> {
        if self.fetcher.remote.is_none() {
            return Ok(());
        }
        let _permit = self.permit().await?;
        match self.fetcher.open(&layer.blob).await.map_err(|e| on(layer, e))? {
            Opened::Here => progress.end(LayerPhase::Exists),
            Opened::Ingest(ingest) => {
                let filled = self.fetcher.fill(&layer.blob, ingest, None, progress).await;
                filled.map_err(|e| on(layer, e))?;
                progress.end(LayerPhase::Complete);
            }
        }
        self.fetcher.label(&layer.blob.digest, diff_label(layer)).await
    }

    async fn fetch_and_unpack(
        &self,
        layer: &Layer,
        below: Below,
        progress: &mut LayerProgress,
    ) -> Result<()> {
        let _flight = self.unpacker.enter(&layer.chain).await;
        if self.hold(layer).await? {
            return self.fetch_alone(layer, progress).await;
        }
        let early = self.fetch_and_extract(layer, progress).await?;
        wait_for(below).await;
        let mut committed = match early {
            Some(extraction) => self.unpacker.commit(layer, extraction).await?,
            None => Committed::NeedsParent,
        };
        let mut attempts = 0;
        while committed != Committed::Done {
            if committed == Committed::Taken && self.hold(layer).await? {
                break;
            }
            if attempts == ATTEMPTS {
                return Err(Error::internal(format!("snapshot {} was not committed", layer.chain)));
            }
            attempts += 1;
            progress.report(LayerPhase::Extracting, 0);
            let bytes = self.fetcher.read(&layer.blob).await?;
            let running = self.unpacker.start(layer, Base::Parent, bytes);
            committed = match join(running).await {
                // The snapshotter has it, and said so when it was to be prepared.
                Err(err) if err.is_already_exists() => Committed::Taken,
                extracted => self.unpacker.commit(layer, extracted?).await?,
            };
        }
        self.fetcher.label(&layer.blob.digest, diff_label(layer)).await?;
        progress.end(LayerPhase::Complete);
        Ok(())
    }

    /// Brings a layer into the store and extracts it on the way where that
    /// is possible; `None` when it needs the layers below first.
    async fn fetch_and_extract(
        &self,
        layer: &Layer,
        progress: &mut LayerProgress,
    ) -> Result<Option<Extraction>> {
        let _permit = self.permit().await?;
        let base = self.unpacker.base(layer).await?;
        let mut running = None;
        match self.fetcher.open(&layer.blob).await.map_err(|e| on(layer, e))? {
            Opened::Here => {}
            Opened::Ingest(ingest) => {
                // What is here of it already would be missing in a feed.
                let feed = base.filter(|_| ingest.is_fresh()).map(|base| {
                    let (feed, bytes) = feed::feed();
                    running = Some(self.unpacker.start(layer, base, bytes));
                    feed
                });
                let filled = self.fetcher.fill(&layer.blob, ingest, feed, progress).await;
                // Bytes that are not the layer's explain why it can't be unpacked.
                if !filled.map_err(|e| on(layer, e))? {
                    // It cleans up by itself, and the layer is unpacked from the store.
                    running = None;
                }
            }
        }
        let running = match (running, base) {
            (Some(running), _) => running,
            (None, None) => return Ok(None),
            (None, Some(base)) => {
                progress.report(LayerPhase::Extracting, 0);
                self.unpacker.start(layer, base, self.fetcher.read(&layer.blob).await?)
            }
        };
        match join(running).await {
            Ok(extraction) => Ok(Some(extraction)),
            Err(err) if NeedsParent::is(&err) || err.is_already_exists() => Ok(None),
            Err(err) => Err(err),
        }
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        let permit = self.permits.acquire().await;
        permit.map_err(|err| Error::internal("wait for a turn").with_source(err))
    }
}

/// Waits until the layer below is committed. When it fails, its own task
/// says so and ends this one.
async fn wait_for(below: Below) {
    if let Some(mut below) = below
        && below.wait_for(|committed| *committed).await.is_err()
    {
        std::future::pending::<()>().await;
    }
}

async fn join(running: Running) -> Result<Extraction> {
    running.await.unwrap_or_else(|err| Err(defect(err)))
}

fn defect(err: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::internal("the work on a layer ended unexpectedly").with_source(err)
}

fn on(layer: &Layer, err: Error) -> Error {
    err.context(format!("layer {}", layer.blob.digest))
}

fn diff_label(layer: &Layer) -> Labels {
    Labels::from([(labels::UNCOMPRESSED.to_owned(), layer.diff_id.to_string())])
}
