//! A layer's files: extracted beside each other, committed on each other.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use gantry_core::content::BlobStream;
use gantry_core::db::Durability;
use gantry_core::locks::{KeyGuard, KeyLocks};
use gantry_core::snapshots::Snapshotter;
use gantry_core::{Applier, Context, Digest, Error, Labels, NeedsParent, Result};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use crate::document::Layer;

/// Label of a snapshot that was made of a layer: its own chain ID.
const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";

/// Unpacks layers into one snapshotter.
#[derive(Clone)]
pub(crate) struct Unpacker {
    pub(crate) ctx: Context,
    pub(crate) name: String,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) applier: Arc<dyn Applier>,
    pub(crate) flights: KeyLocks<String>,
    /// Knows the extractions that still run.
    pub(crate) tasks: TaskTracker,
}

/// What a layer is extracted onto.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    /// The layers below it, or nothing for the lowest.
    Parent,
    /// Nothing yet: they come below it at the commit.
    Detached,
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Committed {
    /// The layer is unpacked, and the request's lease holds it.
    Done,
    /// Another client unpacked the same layer meanwhile; nothing of this one holds it.
    Taken,
    /// It has to be extracted again, onto the layers below.
    NeedsParent,
}

/// Files of a layer in a snapshot that nobody sees, removed when it is
/// dropped before [`Unpacker::commit`].
pub(crate) struct Extraction {
    unpacker: Unpacker,
    key: String,
    base: Base,
    kept: bool,
}

/// An extraction that goes on when its caller is dropped, which ends its
/// input and so itself, and cleans up.
pub(crate) type Running = oneshot::Receiver<Result<Extraction>>;

impl Unpacker {
    /// The right to unpack this chain, which one task has at a time.
    pub(crate) async fn enter(&self, chain: &Digest) -> KeyGuard<String> {
        let key = format!("snapshot {} {} {chain}", self.ctx.namespace, self.name);
        self.flights.lock(key).await
    }

    /// Whether the layers up to this one are unpacked.
    pub(crate) async fn has(&self, chain: &Digest) -> Result<bool> {
        match self.snapshotter.stat(&self.ctx, chain.as_str()).await {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// What the layer can be extracted onto at once, if onto anything.
    pub(crate) async fn base(&self, layer: &Layer) -> Result<Option<Base>> {
        let ready = match &layer.parent {
            None => true,
            Some(parent) => self.has(parent).await?,
        };
        Ok(match ready {
            true => Some(Base::Parent),
            false => self.snapshotter.supports_late_parent().then_some(Base::Detached),
        })
    }

    /// Begins to extract.
    pub(crate) fn start(&self, layer: &Layer, base: Base, bytes: BlobStream) -> Running {
        let (unpacker, layer) = (self.clone(), layer.clone());
        let (result, running) = oneshot::channel();
        self.tasks.spawn(async move {
            let unsent = result.send(unpacker.extract(&layer, base, bytes).await);
            // Within the task, so that who waits for it finds nothing left.
            if let Err(Ok(extraction)) = unsent {
                extraction.discard().await;
            }
        });
        running
    }

    async fn extract(self, layer: &Layer, base: Base, bytes: BlobStream) -> Result<Extraction> {
        let key = extraction_key(&layer.chain);
        let parent = match base {
            Base::Parent => layer.parent.as_ref().map(Digest::as_str),
            Base::Detached => None,
        };
        let snapshotter = Arc::clone(&self.snapshotter);
        let labels = snapshot_labels(layer);
        let mounts =
            snapshotter.prepare_with(&self.ctx, &key, parent, labels, Durability::Buffered).await?;
        let extraction = Extraction { unpacker: self, key, base, kept: false };
        let (applier, kind) = (&extraction.unpacker.applier, &layer.blob.media_type);
        let applied = match base {
            Base::Parent => applier.apply(bytes, kind, &mounts).await,
            Base::Detached => applier.apply_detached(bytes, kind, &mounts).await,
        };
        let error = match applied {
            Ok(applied) if applied.diff_id == layer.diff_id => return Ok(extraction),
            Ok(applied) => Error::data_loss(format!(
                "layer {} holds {}, but the image's configuration says {}",
                layer.blob.digest, applied.diff_id, layer.diff_id
            )),
            Err(err) if NeedsParent::is(&err) => err,
            Err(err) => err.context(format!("unpack layer {}", layer.blob.digest)),
        };
        extraction.discard().await;
        Err(error)
    }

    /// Makes an extraction the snapshot of its chain; the layers below must
    /// be committed.
    pub(crate) async fn commit(
        &self,
        layer: &Layer,
        mut extraction: Extraction,
    ) -> Result<Committed> {
        let parent = match extraction.base {
            Base::Parent => None,
            Base::Detached => layer.parent.as_ref().map(Digest::as_str),
        };
        let (name, labels) = (layer.chain.as_str(), snapshot_labels(layer));
        let done = self.snapshotter.commit(&self.ctx, name, &extraction.key, labels, parent).await;
        match done {
            Ok(()) => {
                extraction.kept = true;
                Ok(Committed::Done)
            }
            Err(err) if err.is_already_exists() => {
                extraction.discard().await;
                Ok(Committed::Taken)
            }
            Err(err) => {
                let refused = err.kind() == gantry_core::Kind::FailedPrecondition;
                let detached = extraction.base == Base::Detached;
                extraction.discard().await;
                if refused && detached { Ok(Committed::NeedsParent) } else { Err(err) }
            }
        }
    }
}

impl Extraction {
    /// Removes the snapshot.
    async fn discard(mut self) {
        self.kept = true;
        self.unpacker.remove(&self.key).await;
    }
}

impl Unpacker {
    async fn remove(&self, key: &str) {
        let removed = self.snapshotter.remove_with(&self.ctx, key, Durability::Buffered).await;
        if let Err(err) = removed
            && !err.is_not_found()
        {
            tracing::warn!(error = %err, key, "could not remove an unfinished snapshot");
        }
    }
}

impl Drop for Extraction {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (unpacker, key) = (self.unpacker.clone(), std::mem::take(&mut self.key));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                let tasks = unpacker.tasks.clone();
                tasks.spawn_on(async move { unpacker.remove(&key).await }, &runtime);
            }
            Err(_) => tracing::warn!(key, "an unfinished snapshot is left for the next start"),
        }
    }
}

/// containerd's form, by which clients recognise leftovers: a time and a
/// random part in front of the chain ID.
fn extraction_key(chain: &Digest) -> String {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    format!("extract-{nanos}-{:08x} {chain}", rand::random::<u32>())
}

fn snapshot_labels(layer: &Layer) -> Labels {
    Labels::from([(SNAPSHOT_REF.to_owned(), layer.chain.to_string())])
}
