//! Content of an image: from the store, or from the registry into the store.

mod body;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gantry_core::content::{BlobStream, ContentStore, Writer};
use gantry_core::leases::{Leases, Resource};
use gantry_core::locks::{KeyGuard, KeyLocks};
use gantry_core::{Context, Descriptor, Digest, Error, Kind, LabelMask, Labels, Result};
use tokio::time::Instant;

use crate::config::Config;
use crate::document::Document;
use crate::feed::Feed;
use crate::hosts::Operation;
use crate::progress::LayerProgress;
use crate::remote::{self, Remote};

/// How often to look whether somebody else's ingest moves.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What references of layers' ingests begin with.
const LAYER: &str = "layer";

/// The reference of a layer's ingest.
pub(crate) fn layer_reference(digest: &Digest) -> String {
    reference_of(LAYER, digest)
}

/// The error, if it says that bytes are not what they should be.
fn damage(result: &Result<()>) -> Option<&Error> {
    result.as_ref().err().filter(|err| err.kind() == Kind::DataLoss)
}

fn reference_of(prefix: &str, digest: &Digest) -> String {
    format!("{prefix}-{digest}")
}

/// Fetches the content of one image.
pub(crate) struct Fetcher {
    pub(crate) ctx: Context,
    pub(crate) content: Arc<dyn ContentStore>,
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) config: Arc<Config>,
    /// Single flight: what several requests want is done by one of them.
    pub(crate) flights: KeyLocks<String>,
    /// Where to fetch from; `None` when everything has to be here.
    pub(crate) remote: Option<Remote>,
}

/// A layer's blob.
pub(crate) enum Opened {
    /// It is in the store.
    Here,
    /// It is not, or not wholly; nobody else fetches it meanwhile.
    Ingest(Ingest),
}

/// A blob on its way into the store.
pub(crate) struct Ingest {
    writer: Box<dyn Writer>,
    reference: String,
    _flight: KeyGuard<String>,
}

/// The hosts of a layer, by their places in the order in which they are tried.
struct Hosts {
    count: usize,
    /// Those that may have sent other bytes than the layer's.
    left_out: BTreeSet<usize>,
    /// Who sent the first of the bytes that are here.
    first: Option<usize>,
}

impl Hosts {
    fn of(remote: &Remote) -> Self {
        let count = remote.sessions(Operation::Pull).count();
        Self { count, left_out: BTreeSet::new(), first: None }
    }

    /// Does without the host that sent the first of damaged bytes. Whether another is left:
    /// when several sent some, which of them did wrong shows only without the one or the other.
    fn leave_out(&mut self) -> bool {
        let new = self.first.take().is_some_and(|first| self.left_out.insert(first));
        new && self.left_out.len() < self.count
    }
}

impl Ingest {
    /// Whether nothing of it is here yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.writer.status().offset == 0
    }
}

impl Fetcher {
    /// A manifest or index with its kind of label, parsed.
    pub(crate) async fn document(
        &self,
        target: &Descriptor,
        known: Option<Bytes>,
    ) -> Result<Document> {
        if let Some(bytes) = self.stored(target).await? {
            let document = Document::parse(&target.media_type, &bytes)?;
            if self.remote.is_none() {
                return Ok(document);
            }
            self.hold("content", target.digest.as_str()).await?;
            match self.label(&target.digest, document.reference_labels()).await {
                // It was collected between the look and the hold.
                Err(err) if err.is_not_found() => {}
                labelled => return labelled.map(|()| document),
            }
        }
        let remote = self.remote(target)?;
        let bytes = match known {
            Some(bytes) => remote::verified(target, bytes)?,
            None => remote.manifest(target).await?,
        };
        let document = Document::parse(&target.media_type, &bytes)?;
        self.store("manifest", target, bytes, document.reference_labels()).await?;
        Ok(document)
    }

    /// An image's configuration.
    pub(crate) async fn configuration(&self, target: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = self.stored(target).await? {
            return Ok(bytes);
        }
        let bytes = self.remote(target)?.small_blob(target).await?;
        self.store("config", target, bytes.clone(), Labels::new()).await?;
        Ok(bytes)
    }

    /// A layer's bytes from the store.
    pub(crate) async fn read(&self, blob: &Descriptor) -> Result<BlobStream> {
        self.content.read(&self.ctx, &blob.digest, 0, None).await
    }

    /// Looks for a layer in the store, and opens an ingest where it is not.
    pub(crate) async fn open(&self, blob: &Descriptor) -> Result<Opened> {
        if self.has(&blob.digest).await? {
            if self.remote.is_some() {
                self.label(&blob.digest, Labels::new()).await?;
            }
            return Ok(Opened::Here);
        }
        self.remote(blob)?;
        self.ingest(LAYER, blob).await
    }

    /// Brings the rest of a layer here, and hands every byte to `feed` as well. Whether
    /// what `feed` got is the layer: not so after a host sent other bytes.
    pub(crate) async fn fill(
        &self,
        blob: &Descriptor,
        mut ingest: Ingest,
        mut feed: Option<Feed>,
        progress: &mut LayerProgress,
    ) -> Result<bool> {
        let mut resumed = !ingest.is_fresh();
        if ingest.writer.status().offset > blob.size {
            ingest.writer.truncate(0).await?;
        }
        let (mut hosts, mut fed) = (Hosts::of(self.remote(blob)?), true);
        let result = loop {
            let result = self.complete(blob, &mut ingest, &mut feed, &mut hosts, progress).await;
            let Some(err) = damage(&result) else { break result };
            // What an earlier attempt left may be what is wrong, or else what a host sent.
            if !std::mem::take(&mut resumed) && !hosts.leave_out() {
                break result;
            }
            tracing::warn!(error = %err, "fetching the layer from its beginning");
            ingest.writer.truncate(0).await?;
            (feed, fed) = (None, false);
        };
        // Nothing to go on with: neither damaged bytes nor none.
        let nothing = result.is_err() && ingest.writer.status().offset == 0;
        if damage(&result).is_some() || nothing {
            self.abort(ingest).await;
        }
        result.map(|()| fed)
    }

    async fn complete(
        &self,
        blob: &Descriptor,
        ingest: &mut Ingest,
        feed: &mut Option<Feed>,
        hosts: &mut Hosts,
        progress: &mut LayerProgress,
    ) -> Result<()> {
        self.transfer(blob, &mut *ingest.writer, feed, hosts, progress).await?;
        if let Some(feed) = feed.take() {
            feed.finish().await;
        }
        self.commit(blob, ingest, Labels::new()).await
    }

    /// Adds labels to a blob, and where it comes from.
    pub(crate) async fn label(&self, digest: &Digest, mut wanted: Labels) -> Result<()> {
        let info = self.content.info(&self.ctx, digest).await?;
        wanted.extend(self.source_label(&info.labels));
        wanted.retain(|key, value| info.labels.get(key) != Some(value));
        if wanted.is_empty() {
            return Ok(());
        }
        let mask = LabelMask::Keys(wanted.keys().cloned().collect());
        self.content.update(&self.ctx, digest, wanted, mask).await.map(drop)
    }

    /// Lets the lease hold something that was here before; what this request
    /// makes it holds anyway. Documents hold what they point at.
    pub(crate) async fn hold(&self, kind: &str, id: &str) -> Result<()> {
        let Some(lease) = &self.ctx.lease else { return Ok(()) };
        let resource = Resource { kind: kind.to_owned(), id: id.to_owned() };
        self.leases.add_resources(&self.ctx, lease, vec![resource]).await
    }

    fn remote(&self, target: &Descriptor) -> Result<&Remote> {
        self.remote.as_ref().ok_or_else(|| {
            Error::not_found(format!(
                "content {} of the image is missing: not found; pull the image again",
                target.digest
            ))
        })
    }

    /// The label that names the repository, next to those that are there.
    fn source_label(&self, present: &Labels) -> Option<(String, String)> {
        self.remote.as_ref()?.reference.source_label(present)
    }

    async fn has(&self, digest: &Digest) -> Result<bool> {
        match self.content.info(&self.ctx, digest).await {
            Ok(_) => Ok(true),
            Err(err) if err.is_not_found() => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// The bytes of a document that has to be here.
    pub(crate) async fn bytes_of_document(&self, target: &Descriptor) -> Result<Bytes> {
        match self.read_document(target).await? {
            Some(bytes) => Ok(bytes),
            None => Err(Error::not_found(format!("content {}: not found", target.digest))),
        }
    }

    /// A document from the store, if it is there in its full length.
    async fn stored(&self, target: &Descriptor) -> Result<Option<Bytes>> {
        match self.read_document(target).await {
            Err(err) if err.kind() == Kind::DataLoss => {
                tracing::warn!(error = %err, "a document of an image is damaged");
                Ok(None)
            }
            other => other,
        }
    }

    async fn read_document(&self, target: &Descriptor) -> Result<Option<Bytes>> {
        let limit = self.config.max_document;
        let mut stream =
            match self.content.read(&self.ctx, &target.digest, 0, Some(limit + 1)).await {
                Ok(stream) => stream,
                Err(err) if err.is_not_found() => return Ok(None),
                Err(err) => return Err(err),
            };
        let mut all = BytesMut::new();
        while let Some(piece) = stream.next().await {
            all.extend_from_slice(&piece?);
        }
        if all.len() as u64 > limit {
            return Err(Error::resource_exhausted(format!(
                "document {} is longer than the {limit} bytes that are accepted",
                target.digest
            )));
        }
        Ok(Some(all.freeze()))
    }

    /// Stores a document of ours.
    pub(crate) async fn store_json(
        &self,
        prefix: &str,
        media_type: &str,
        document: &impl serde::Serialize,
    ) -> Result<Descriptor> {
        let bytes = serde_json::to_vec(document)
            .map_err(|err| Error::internal("write JSON").with_source(err))?;
        self.store_document(prefix, media_type, &bytes).await
    }

    /// Stores a document, and lets it keep what it points at.
    pub(crate) async fn store_document(
        &self,
        prefix: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<Descriptor> {
        let document = Document::parse(media_type, bytes)?;
        let target = Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        };
        let labels = document.reference_labels();
        self.store(prefix, &target, Bytes::copy_from_slice(bytes), labels).await?;
        self.hold("content", target.digest.as_str()).await?;
        Ok(target)
    }

    async fn store(
        &self,
        prefix: &str,
        target: &Descriptor,
        bytes: Bytes,
        labels: Labels,
    ) -> Result<()> {
        let Opened::Ingest(mut ingest) = self.ingest(prefix, target).await? else {
            return self.label(&target.digest, labels).await;
        };
        if !ingest.is_fresh() {
            ingest.writer.truncate(0).await?;
        }
        ingest.writer.write(bytes).await?;
        self.commit(target, &mut ingest, labels).await
    }

    /// Opens the ingest of a blob, and waits while another client has it.
    async fn ingest(&self, prefix: &str, blob: &Descriptor) -> Result<Opened> {
        let key = format!("content {} {}", self.ctx.namespace, blob.digest);
        let flight = self.flights.lock(key).await;
        let reference = reference_of(prefix, &blob.digest);
        let (mut seen, mut moved) = (None, Instant::now());
        loop {
            let opened =
                self.content.writer(&self.ctx, &reference, blob.size, Some(&blob.digest)).await;
            match opened {
                Ok(writer) => {
                    return Ok(Opened::Ingest(Ingest { writer, reference, _flight: flight }));
                }
                Err(err) if err.is_already_exists() => return Ok(Opened::Here),
                Err(err) if err.kind() != Kind::Unavailable => return Err(err),
                Err(err) if moved.elapsed() > self.config.read_timeout => return Err(err),
                Err(_) => {}
            }
            let status = self.content.status(&self.ctx, &reference).await;
            let offset = status.ok().map(|status| status.offset);
            if offset != seen {
                (seen, moved) = (offset, Instant::now());
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn commit(&self, blob: &Descriptor, ingest: &mut Ingest, labels: Labels) -> Result<()> {
        let mut all = labels.clone();
        all.extend(self.source_label(&Labels::new()));
        let found = ingest.writer.commit(Some(blob.size), Some(&blob.digest), all).await;
        match found {
            Ok(_) => Ok(()),
            Err(err) if err.is_already_exists() => self.label(&blob.digest, labels).await,
            Err(err) if err.kind() == Kind::FailedPrecondition => Err(Error::data_loss(format!(
                "content from {} does not match its digest {}",
                self.remote.as_ref().map_or("the store", Remote::host),
                blob.digest
            ))
            .with_source(err)),
            Err(err) => Err(err),
        }
    }

    async fn abort(&self, ingest: Ingest) {
        let Ingest { writer, reference, _flight } = ingest;
        drop(writer);
        if let Err(err) = self.content.abort(&self.ctx, &reference).await {
            tracing::warn!(error = %err, reference, "could not throw the ingest away");
        }
    }

    /// Fetches until the ingest is as long as the blob, from one host after the other.
    async fn transfer(
        &self,
        blob: &Descriptor,
        writer: &mut dyn Writer,
        feed: &mut Option<Feed>,
        hosts: &mut Hosts,
        progress: &mut LayerProgress,
    ) -> Result<()> {
        let remote = self.remote(blob)?;
        let mut result = Err(remote.unable(Operation::Pull));
        hosts.first = None;
        for (i, session) in remote.sessions(Operation::Pull).enumerate() {
            if hosts.left_out.contains(&i) {
                continue;
            }
            let before = writer.status().offset;
            result = body::fetch(session, blob, writer, feed, progress).await;
            if writer.status().offset > before {
                hosts.first.get_or_insert(i);
            }
            let Err(err) = &result else { return Ok(()) };
            // The disk's failures are the same whoever sends.
            if err.kind() == Kind::ResourceExhausted {
                break;
            }
            remote::skip(session, err);
        }
        result
    }
}
