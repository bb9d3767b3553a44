use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::content::{BLOBS, BlobStream, ContentStore, Info, IngestStatus, Writer};
use gantry_core::db::{self, Database, Durability, Transaction};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::{Context, Digest, Error, Kind, LabelMask, Labels, Namespace, Result, Timestamp};
use gantry_core::{labels, leases};
use gantry_grpc::{any, convert};
use gantry_ttrpc::containerd::events as messages;

use crate::ingest::{self, Ingest, Status};
use crate::layout::{Layout, entries, ingest_id, remove_file, remove_tree};
use crate::locks::{Digests, Ingests};
use crate::read;
use crate::writer::LocalWriter;

/// Longest reference of an ingest, in bytes.
const MAX_REFERENCE: usize = 4096;

/// Blobs and ingests in a directory.
///
/// A blob that another namespace has is shared: a writer that names its digest
/// from the beginning finds all bytes written, and only commits.
///
/// When the file of a recorded blob is lost or short, reading it is a `DataLoss`.
/// For everybody else it is not there: [`ContentStore::info`] says `NotFound`, and
/// it can be written again, so that a client which fetches what it misses heals
/// the store.
#[derive(Clone)]
pub struct LocalStore {
    shared: Arc<Shared>,
}

/// What the store and its writers have in common.
pub(crate) struct Shared {
    pub(crate) layout: Layout,
    pub(crate) db: Arc<dyn Database>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) digests: Digests,
    pub(crate) ingests: Ingests,
}

impl LocalStore {
    /// Opens the store below this root, or makes it, and removes what a crash
    /// left. The database must be the only one that is used with this root, and
    /// be open in this process only.
    ///
    /// # Errors
    /// What the file system or the database answered.
    pub fn open(
        root: impl AsRef<Path>,
        db: Arc<dyn Database>,
        events: Arc<dyn Events>,
    ) -> Result<Self> {
        let layout = Layout::open(root.as_ref())?;
        let mut recorded = HashSet::new();
        for namespace in db.namespaces(BLOBS.name())? {
            db.scan(BLOBS.name(), &namespace, "", &mut |key, _| {
                recorded.insert(Digest::parse(key)?);
                Ok(std::ops::ControlFlow::Continue(()))
            })?;
        }
        layout.sweep(&recorded, |namespace, digest| {
            BLOBS.get(&*db, namespace.as_str(), digest.as_str()).is_ok_and(|row| row.is_some())
        })?;
        let (digests, ingests) = (Digests::default(), Ingests::default());
        Ok(Self { shared: Arc::new(Shared { layout, db, events, digests, ingests }) })
    }

    /// What tests look at behind the trait.
    #[cfg(test)]
    pub(crate) fn shared_for_tests(&self) -> &Shared {
        &self.shared
    }

    /// Runs something that blocks with the store.
    async fn blocking<R, F>(&self, ctx: &Context, body: F) -> Result<R>
    where
        R: Send + 'static,
        F: FnOnce(&Arc<Shared>, &Context) -> Result<R> + Send + 'static,
    {
        let (shared, ctx) = (Arc::clone(&self.shared), ctx.clone());
        db::blocking(move || body(&shared, &ctx)).await
    }
}

impl Shared {
    fn record(&self, namespace: &Namespace, digest: &Digest) -> Result<Info> {
        let found = BLOBS.get(&*self.db, namespace.as_str(), digest.as_str())?;
        found.ok_or_else(|| not_found(digest))
    }

    /// The record of a blob whose file is there in its full length.
    fn whole(&self, namespace: &Namespace, digest: &Digest) -> Result<Info> {
        let info = self.record(namespace, digest)?;
        if !self.layout.has_blob(digest, info.size) {
            tracing::warn!(%digest, "the file of a recorded blob is gone or short");
            return Err(not_found(digest));
        }
        Ok(info)
    }

    /// The length of a blob that any namespace has.
    fn size_of(&self, digest: &Digest) -> Result<Option<u64>> {
        for namespace in self.db.namespaces(BLOBS.name())? {
            // Another's damaged record is not this caller's business.
            if let Ok(Some(info)) = BLOBS.get(&*self.db, &namespace, digest.as_str()) {
                return Ok(Some(info.size));
            }
        }
        Ok(None)
    }

    /// Refuses to write a blob that the namespace has; its lease holds it
    /// all the same.
    fn refuse_existing(&self, ctx: &Context, digest: &Digest) -> Result<()> {
        match self.whole(&ctx.namespace, digest) {
            Err(err) if err.is_not_found() => return Ok(()),
            Err(err) => return Err(err),
            Ok(_) => {}
        }
        if ctx.lease.is_some() {
            let held = db::write_blocking(&*self.db, Durability::Sync, &mut |tx| {
                let there = BLOBS.lock(tx, ctx.namespace.as_str(), digest.as_str())?.is_some();
                if there {
                    leases::hold(tx, ctx, "content", digest.as_str())?;
                }
                Ok(there)
            })?;
            if !held {
                // It was collected since the look.
                return Ok(());
            }
        }
        Err(Error::already_exists(format!("content {digest}: already exists")))
    }

    fn open_writer(
        self: &Arc<Self>,
        ctx: &Context,
        reference: &str,
        total: u64,
        expected: Option<Digest>,
    ) -> Result<LocalWriter> {
        check_reference(reference)?;
        if let Some(digest) = &expected {
            self.refuse_existing(ctx, digest)?;
        }
        let guard = self
            .ingests
            .try_lock(&ingest_id(&ctx.namespace, reference))
            .ok_or_else(|| locked(reference))?;
        let status = Status {
            namespace: ctx.namespace.clone(),
            reference: reference.to_owned(),
            total,
            expected,
            started_at: Timestamp::now(),
            leased: ctx.lease.is_some(),
        };
        let size = match &status.expected {
            Some(digest) => self.size_of(digest)?,
            None => None,
        };
        if ctx.lease.is_some() {
            // What a power loss takes from the lease, it takes from the ingest as well.
            db::write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
                leases::hold(tx, ctx, "ingests", reference)
            })?;
        }
        let ingest = Ingest::open(&self.layout, status, size, guard)?;
        Ok(LocalWriter::new(Arc::clone(self), ctx.clone(), ingest))
    }

    /// Removes an ingest that nobody writes to meanwhile.
    fn remove_ingest(&self, id: &str, reference: &str) -> Result<()> {
        let dir = self.layout.ingest(id);
        ingest::read_status(&dir).map_err(|err| no_ingest(reference, err))?;
        remove_tree(&dir)
    }

    fn delete(&self, ctx: &Context, digest: &Digest) -> Result<()> {
        let namespace = ctx.namespace.as_str();
        let _holding = self.digests.lock(digest);
        db::write_blocking(&*self.db, Durability::Sync, &mut |tx| {
            if tx.get(BLOBS.name(), namespace, digest.as_str())?.is_none() {
                return Err(not_found(digest));
            }
            BLOBS.delete(tx, namespace, digest.as_str())
        })?;
        self.release(digest)
    }

    /// Deletes a file whose blob no namespace has. The caller holds the digest.
    fn release(&self, digest: &Digest) -> Result<()> {
        for other in self.db.namespaces(BLOBS.name())? {
            if self.db.get(BLOBS.name(), &other, digest.as_str())?.is_some() {
                return Ok(());
            }
        }
        // The blob is deleted whether this works or not: the next opening
        // tries again.
        if let Err(err) = remove_file(&self.layout.blob(digest)) {
            tracing::warn!(%digest, %err, "the file of a deleted blob stays");
        }
        Ok(())
    }

    fn statuses(&self, ctx: &Context, filters: &Filters) -> Result<Vec<IngestStatus>> {
        let mut found = Vec::new();
        for dir in entries(self.layout.ingests())? {
            // It may end while we look.
            let Ok(status) = ingest::read_status(&dir) else { continue };
            if status.namespace != ctx.namespace {
                continue;
            }
            let id = ingest_id(&status.namespace, &status.reference);
            match ingest::describe(&dir, status, self.ingests.offset(&id)) {
                Ok(status) if filters.matches(&status) => found.push(status),
                Ok(_) => {}
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        found.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(found)
    }

    fn ingest_namespaces(&self) -> Result<BTreeSet<Namespace>> {
        let dirs = entries(self.layout.ingests())?;
        let statuses = dirs.iter().filter_map(|dir| ingest::read_status(dir).ok());
        Ok(statuses.map(|status| status.namespace).collect())
    }

    fn publish<M: prost::Name>(&self, ctx: &Context, topic: &str, message: &M) {
        let event = convert::from_any(any::pack(message));
        if let Err(err) = self.events.publish(ctx, topic, event) {
            tracing::warn!(topic, %err, "could not publish an event");
        }
    }

    fn publish_delete(&self, ctx: &Context, digest: &Digest) {
        let message = messages::ContentDelete { digest: digest.to_string() };
        self.publish(ctx, "/content/delete", &message);
    }

    /// Tells that a namespace has a new blob.
    pub(crate) fn publish_create(&self, ctx: &Context, info: &Info) {
        let message = messages::ContentCreate {
            digest: info.digest.to_string(),
            size: i64::try_from(info.size).unwrap_or(i64::MAX),
            ..Default::default()
        };
        self.publish(ctx, "/content/create", &message);
    }
}

fn not_found(digest: &Digest) -> Error {
    Error::not_found(format!("content digest {digest}: not found"))
}

fn locked(reference: &str) -> Error {
    Error::unavailable(format!("ref {reference} locked: unavailable"))
}

fn check_reference(reference: &str) -> Result<()> {
    if reference.is_empty() || reference.len() > MAX_REFERENCE {
        return Err(Error::invalid_argument(format!(
            "the reference of an ingest must have 1 to {MAX_REFERENCE} bytes: invalid argument"
        )));
    }
    Ok(())
}

#[async_trait]
impl ContentStore for LocalStore {
    async fn info(&self, ctx: &Context, digest: &Digest) -> Result<Info> {
        let digest = digest.clone();
        self.blocking(ctx, move |shared, ctx| shared.whole(&ctx.namespace, &digest)).await
    }

    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Info>> {
        let filters = filters.clone();
        self.blocking(ctx, move |shared, ctx| {
            let rows = BLOBS.list(&*shared.db, ctx.namespace.as_str())?;
            Ok(rows.into_iter().map(|(_, info)| info).filter(|i| filters.matches(i)).collect())
        })
        .await
    }

    async fn update(
        &self,
        ctx: &Context,
        digest: &Digest,
        labels: Labels,
        mask: LabelMask,
    ) -> Result<Info> {
        labels::validate_all(&labels)?;
        let digest = digest.clone();
        self.blocking(ctx, move |shared, ctx| {
            let namespace = ctx.namespace.as_str();
            let mut body = |tx: &mut dyn Transaction| {
                let found = BLOBS.lock(tx, namespace, digest.as_str())?;
                let mut info = found.ok_or_else(|| not_found(&digest))?;
                mask.apply(&mut info.labels, &labels);
                info.updated_at = Timestamp::now();
                BLOBS.put(tx, namespace, digest.as_str(), &info)?;
                Ok(info)
            };
            db::write_blocking(&*shared.db, Durability::Sync, &mut body)
        })
        .await
    }

    async fn delete(&self, ctx: &Context, digest: &Digest) -> Result<()> {
        let key = digest.clone();
        self.blocking(ctx, move |shared, ctx| {
            shared.delete(ctx, &key)?;
            shared.publish_delete(ctx, &key);
            Ok(())
        })
        .await
    }

    async fn release(&self, ctx: &Context, digests: Vec<Digest>) -> Result<()> {
        self.blocking(ctx, move |shared, ctx| {
            for digest in &digests {
                let _holding = shared.digests.lock(digest);
                shared.release(digest)?;
                shared.publish_delete(ctx, digest);
            }
            Ok(())
        })
        .await
    }

    async fn read(
        &self,
        ctx: &Context,
        digest: &Digest,
        offset: u64,
        len: Option<u64>,
    ) -> Result<BlobStream> {
        let digest = digest.clone();
        let reader = self.blocking(ctx, move |shared, ctx| {
            let info = shared.record(&ctx.namespace, &digest)?;
            read::open(&shared.layout.blob(&digest), &info, offset, len)
        });
        Ok(reader.await?.stream())
    }

    async fn writer(
        &self,
        ctx: &Context,
        reference: &str,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn Writer>> {
        let (reference, expected) = (reference.to_owned(), expected.cloned());
        let writer = self
            .blocking(ctx, move |shared, ctx| shared.open_writer(ctx, &reference, total, expected));
        Ok(Box::new(writer.await?))
    }

    async fn status(&self, ctx: &Context, reference: &str) -> Result<IngestStatus> {
        let reference = reference.to_owned();
        self.blocking(ctx, move |shared, ctx| {
            let id = ingest_id(&ctx.namespace, &reference);
            let dir = shared.layout.ingest(&id);
            ingest::read_status(&dir)
                .and_then(|status| ingest::describe(&dir, status, shared.ingests.offset(&id)))
                .map_err(|err| no_ingest(&reference, err))
        })
        .await
    }

    async fn statuses(&self, ctx: &Context, filters: &Filters) -> Result<Vec<IngestStatus>> {
        let filters = filters.clone();
        self.blocking(ctx, move |shared, ctx| shared.statuses(ctx, &filters)).await
    }

    async fn ingest_namespaces(&self) -> Result<BTreeSet<Namespace>> {
        let shared = Arc::clone(&self.shared);
        db::blocking(move || shared.ingest_namespaces()).await
    }

    async fn abort(&self, ctx: &Context, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.blocking(ctx, move |shared, ctx| {
            let id = ingest_id(&ctx.namespace, &reference);
            let _guard = shared.ingests.try_lock(&id).ok_or_else(|| locked(&reference))?;
            shared.remove_ingest(&id, &reference)
        })
        .await
    }

    async fn cancel(&self, ctx: &Context, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        self.blocking(ctx, move |shared, ctx| {
            let id = ingest_id(&ctx.namespace, &reference);
            let Some(held) = shared.ingests.held(&id) else {
                let _guard = shared.ingests.try_lock(&id).ok_or_else(|| locked(&reference))?;
                return shared.remove_ingest(&id, &reference);
            };
            // Its writer does nothing until this is done.
            let _cancelled = held.cancel();
            shared.remove_ingest(&id, &reference)
        })
        .await
    }
}

/// The words for an ingest that is not there.
fn no_ingest(reference: &str, err: Error) -> Error {
    match err.kind() {
        Kind::NotFound => Error::not_found(format!("reference {reference}: not found")),
        _ => err,
    }
}
