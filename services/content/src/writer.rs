//! The writer of an ingest.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gantry_core::content::{BLOBS, Info, IngestStatus, Writer};
use gantry_core::db::{self, Durability, Transaction};
use gantry_core::{
    Context, Digest, Error, Kind, Labels, Result, Timestamp, faults, labels, leases,
};

use crate::ingest::Ingest;
use crate::layout::remove_file;
use crate::store::Shared;

/// Writes an ingest, on threads that may block.
///
/// The ingest moves to such a thread and back. When the caller gives up in
/// between, it stays there until what was begun is done, and is let go.
pub(crate) struct LocalWriter {
    shared: Arc<Shared>,
    ctx: Context,
    ingest: Option<Ingest>,
    /// What to tell while there is no ingest.
    last: (IngestStatus, Digest),
}

impl LocalWriter {
    pub(crate) fn new(shared: Arc<Shared>, ctx: Context, ingest: Ingest) -> Self {
        let last = (status_of(&ingest), ingest.digest());
        Self { shared, ctx, ingest: Some(ingest), last }
    }

    fn ended(&self) -> Error {
        let reference = &self.last.0.reference;
        Error::failed_precondition(format!(
            "ref {reference}: the writer was committed or interrupted: open it again: \
             failed precondition"
        ))
    }

    fn ingest(&mut self) -> Result<&mut Ingest> {
        let ended = self.ended();
        self.ingest.as_mut().ok_or(ended)
    }

    /// Runs something that blocks on the ingest.
    async fn blocking<R, F>(&mut self, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&mut Ingest) -> Result<R> + Send + 'static,
    {
        let mut ingest = self.ingest.take().ok_or_else(|| self.ended())?;
        self.last.0 = status_of(&ingest);
        let (ingest, result) = db::blocking(move || {
            let held = ingest.held();
            let cancelled = held.step();
            if *cancelled {
                let reference = &ingest.status.reference;
                let words = format!("ref {reference}: the ingest was aborted: cancelled");
                return Err(Error::new(Kind::Cancelled, words));
            }
            let result = body(&mut ingest);
            Ok((ingest, result))
        })
        .await?;
        self.ingest = Some(ingest);
        result
    }
}

fn status_of(ingest: &Ingest) -> IngestStatus {
    IngestStatus {
        reference: ingest.status.reference.clone(),
        offset: ingest.offset(),
        total: ingest.status.total,
        expected: ingest.status.expected.clone(),
        started_at: ingest.status.started_at,
        updated_at: ingest.updated_at,
        leased: ingest.status.leased,
    }
}

#[async_trait]
impl Writer for LocalWriter {
    fn status(&self) -> IngestStatus {
        self.ingest.as_ref().map_or_else(|| self.last.0.clone(), status_of)
    }

    fn digest(&self) -> Digest {
        self.ingest.as_ref().map_or_else(|| self.last.1.clone(), Ingest::digest)
    }

    async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let ingest = self.ingest()?;
        if bytes.is_empty() {
            return Ok(());
        }
        if ingest.is_shared() {
            self.blocking(Ingest::unshare).await?;
        }
        if !self.ingest()?.push(bytes) {
            return Ok(());
        }
        self.blocking(|ingest| {
            ingest.flush().or_else(|err| {
                ingest.pop()?;
                Err(err)
            })
        })
        .await
    }

    async fn truncate(&mut self, offset: u64) -> Result<()> {
        self.blocking(move |ingest| ingest.truncate(offset)).await
    }

    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest> {
        labels::validate_all(&labels)?;
        let expected = expected.cloned();
        let (shared, ctx) = (Arc::clone(&self.shared), self.ctx.clone());
        let done = self
            .blocking(move |ingest| {
                let digest = verify(ingest, size, expected)?;
                let commit = Commit { shared: &shared, ctx: &ctx, digest: &digest, labels };
                let info = commit.run(ingest)?;
                if let Some(info) = &info {
                    shared.publish_create(&ctx, info);
                }
                Ok((digest, info))
            })
            .await?;
        // It is a blob now, or was one before.
        self.last = (self.status(), done.0.clone());
        self.ingest = None;
        let (digest, info) = done;
        match info {
            None => Err(Error::already_exists(format!("content {digest}: already exists"))),
            Some(_) => Ok(digest),
        }
    }
}

/// Checks that the bytes are what the client means them to be.
fn verify(ingest: &mut Ingest, size: Option<u64>, expected: Option<Digest>) -> Result<Digest> {
    ingest.flush()?;
    let total = ingest.status.total;
    let (found, size) = (ingest.offset(), size.or((total > 0).then_some(total)));
    if let Some(size) = size.filter(|size| *size != found) {
        return Err(Error::failed_precondition(format!(
            "ref {}: unexpected commit size {found}, expected {size}: failed precondition",
            ingest.status.reference
        )));
    }
    let Some(expected) = expected.or_else(|| ingest.status.expected.clone()) else {
        return Ok(ingest.digest());
    };
    let found = ingest.digest_by(expected.algorithm())?;
    if found != expected {
        return Err(Error::failed_precondition(format!(
            "ref {}: unexpected commit digest {found}, expected {expected}: failed precondition",
            ingest.status.reference
        )));
    }
    Ok(found)
}

struct Commit<'a> {
    shared: &'a Shared,
    ctx: &'a Context,
    digest: &'a Digest,
    labels: Labels,
}

impl Commit<'_> {
    /// Makes the ingest a blob and removes it. `None` when the namespace has
    /// the blob already. When it fails, the ingest is as it was.
    fn run(self, ingest: &Ingest) -> Result<Option<Info>> {
        let blob = self.shared.layout.blob(self.digest);
        // A file that became shorter is replaced.
        let there = || self.shared.layout.has_blob(self.digest, ingest.offset());
        if !there() {
            ingest.seal()?;
        }
        let _holding = self.shared.digests.lock(self.digest);
        let new = !there();
        if new {
            // For the case that it went since the first look.
            ingest.seal()?;
            remove_file(&blob)?;
            // Under both names until it is recorded, so that a crash costs no byte.
            let link = || fs::hard_link(ingest.data(), &blob);
            faults::around("make a blob", link).map_err(|err| {
                Error::io(format!("bring content {} into place", self.digest), err)
            })?;
        }
        let durable = || self.shared.layout.sync_blobs(self.digest.algorithm());
        let synced = if new { durable() } else { Ok(()) };
        let recorded = synced.and_then(|()| self.record(ingest, new));
        if let Err(err) = recorded {
            let remove = || fs::remove_file(&blob);
            if new && let Err(err) = faults::around("undo a blob", remove) {
                tracing::warn!(blob = %blob.display(), %err, "content stays without a record");
            }
            return Err(err);
        }
        if let Err(err) = ingest.remove() {
            tracing::warn!(%err, "an ingest stays behind its blob");
        }
        recorded
    }

    /// Records the blob. `None` when it is recorded already and its file was
    /// there as well; a record that had lost its file gets it back.
    fn record(&self, ingest: &Ingest, file_is_new: bool) -> Result<Option<Info>> {
        let namespace = self.ctx.namespace.as_str();
        let (size, now) = (ingest.offset(), Timestamp::now());
        let mut body = |tx: &mut dyn Transaction| {
            leases::hold(tx, self.ctx, "content", self.digest.as_str())?;
            leases::let_go(tx, self.ctx, "ingests", &ingest.status.reference)?;
            let before = BLOBS.lock(tx, namespace, self.digest.as_str())?;
            if before.is_some() && !file_is_new {
                return Ok(None);
            }
            let mut labels = before.map(|before| before.labels).unwrap_or_default();
            labels.extend(self.labels.clone());
            let digest = self.digest.clone();
            let info = Info { digest, size, created_at: now, updated_at: now, labels };
            BLOBS.put(tx, namespace, self.digest.as_str(), &info)?;
            Ok(Some(info))
        };
        db::write_blocking(&*self.shared.db, Durability::Sync, &mut body)
    }
}
