//! Blobs by digest, and the ingests they grow from.

use std::collections::BTreeSet;
use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::db::Table;
use crate::filter::{Filterable, Filters};
use crate::{Context, Digest, LabelMask, Labels, Namespace, Result, Timestamp};

/// Bytes of a blob, in pieces of at most 1 MiB.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a namespace knows of a blob. Key: the digest.
pub const BLOBS: Table<Info> = Table::new("blobs");

/// A blob as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Names the bytes.
    pub digest: Digest,
    /// Length in bytes.
    pub size: u64,
    /// When this namespace got it.
    pub created_at: Timestamp,
    /// When its labels changed.
    pub updated_at: Timestamp,
    /// This namespace's labels.
    pub labels: Labels,
}

impl Filterable for Info {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["digest"] => Some(self.digest.to_string()),
            ["size"] => Some(self.size.to_string()),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// An ingest: a blob that is still being written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestStatus {
    /// The writer's name for it, unique in its namespace.
    pub reference: String,
    /// Bytes written so far.
    pub offset: u64,
    /// Bytes expected; 0 when unknown.
    pub total: u64,
    /// Digest expected.
    pub expected: Option<Digest>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it last grew.
    pub updated_at: Timestamp,
    /// Whether it is written within a lease: then nothing else keeps it.
    pub leased: bool,
}

impl Filterable for IngestStatus {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["ref"] => Some(self.reference.clone()),
            _ => None,
        }
    }
}

/// The content store. Bytes are shared by all namespaces; whether a blob is
/// there, and its labels, is each namespace's own.
///
/// Life of a blob: [`ContentStore::writer`] opens an ingest under a reference
/// that only one writer holds at a time. Bytes are appended. A writer that is
/// dropped leaves the ingest, and the next writer of the same reference goes
/// on at its offset, after a restart as well. [`Writer::commit`] checks size
/// and digest and makes the bytes a blob; a mismatch leaves the ingest as it
/// is. [`ContentStore::abort`] throws an ingest away.
#[async_trait]
pub trait ContentStore: Send + Sync {
    /// What is known of a blob.
    ///
    /// # Errors
    /// `NotFound`: `content sha256:…: not found`.
    async fn info(&self, ctx: &Context, digest: &Digest) -> Result<Info>;

    /// All blobs of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Info>>;

    /// Changes labels.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long.
    async fn update(
        &self,
        ctx: &Context,
        digest: &Digest,
        labels: Labels,
        mask: LabelMask,
    ) -> Result<Info>;

    /// Takes a blob out of the namespace. The bytes go when no namespace
    /// has it any more.
    ///
    /// # Errors
    /// `NotFound`.
    async fn delete(&self, ctx: &Context, digest: &Digest) -> Result<()>;

    /// Lets the bytes of blobs go that no namespace has any more, after their
    /// records were removed.
    ///
    /// # Errors
    /// The store's.
    async fn release(&self, ctx: &Context, digests: Vec<Digest>) -> Result<()>;

    /// Reads from `offset`, at most `len` bytes (to the end when `None`).
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` for an offset behind the end.
    async fn read(
        &self,
        ctx: &Context,
        digest: &Digest,
        offset: u64,
        len: Option<u64>,
    ) -> Result<BlobStream>;

    /// Opens or resumes an ingest.
    ///
    /// # Errors
    /// `AlreadyExists` when this namespace has the expected blob;
    /// `Unavailable` while another writer holds the reference.
    async fn writer(
        &self,
        ctx: &Context,
        reference: &str,
        total: u64,
        expected: Option<&Digest>,
    ) -> Result<Box<dyn Writer>>;

    /// How far an ingest is.
    ///
    /// # Errors
    /// `NotFound`.
    async fn status(&self, ctx: &Context, reference: &str) -> Result<IngestStatus>;

    /// All ingests of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn statuses(&self, ctx: &Context, filters: &Filters) -> Result<Vec<IngestStatus>>;

    /// The namespaces that have ingests.
    ///
    /// # Errors
    /// The store's.
    async fn ingest_namespaces(&self) -> Result<BTreeSet<Namespace>>;

    /// Throws an ingest away.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable` while a writer holds it.
    async fn abort(&self, ctx: &Context, reference: &str) -> Result<()>;

    /// Throws an ingest away, also one that is being written: its writer gets `Cancelled`
    /// from then on, and holds the reference until it is dropped.
    ///
    /// # Errors
    /// `NotFound`.
    async fn cancel(&self, ctx: &Context, reference: &str) -> Result<()>;
}

/// An open ingest.
#[async_trait]
pub trait Writer: Send {
    /// How far it is.
    fn status(&self) -> IngestStatus;

    /// The digest of the bytes written so far.
    fn digest(&self) -> Digest;

    /// Appends bytes.
    ///
    /// # Errors
    /// `ResourceExhausted` for a full disk; the offset then stays as it was.
    async fn write(&mut self, bytes: Bytes) -> Result<()>;

    /// Goes back to `offset`.
    ///
    /// # Errors
    /// `OutOfRange` for an offset behind what is written.
    async fn truncate(&mut self, offset: u64) -> Result<()>;

    /// Makes the bytes a blob of the namespace, with these labels.
    ///
    /// # Errors
    /// `FailedPrecondition` when size or digest are not as expected (the
    /// ingest stays); `AlreadyExists` when the namespace has the blob (the
    /// ingest goes).
    async fn commit(
        &mut self,
        size: Option<u64>,
        expected: Option<&Digest>,
        labels: Labels,
    ) -> Result<Digest>;
}
