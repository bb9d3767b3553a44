//! Snapshots: file systems that are stacked on each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::LabelMask;
use crate::db::{Durability, Transaction};
use crate::filter::{Filterable, Filters};
use crate::{Context, Error, Labels, Mount, Result, Timestamp};

/// Table of the snapshots of all snapshotters. Key: name of the snapshotter,
/// `\x01`, key or name of the snapshot.
pub const TABLE: &str = "snapshots";

/// Snapshotters by name, as the daemon opened them.
#[derive(Clone, Default)]
pub struct Snapshotters {
    /// Name (`overlayfs`, `native`) to snapshotter.
    pub by_name: BTreeMap<String, Arc<dyn Snapshotter>>,
    /// The name that an empty one stands for.
    pub default: String,
}

impl Snapshotters {
    /// The snapshotter of this name; the default for the empty name.
    ///
    /// # Errors
    /// `InvalidArgument`: `snapshotter not loaded: NAME: invalid argument`.
    pub fn get(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        let name = self.resolve(name);
        self.by_name.get(name).cloned().ok_or_else(|| {
            Error::invalid_argument(format!("snapshotter not loaded: {name}: invalid argument"))
        })
    }

    /// The name itself, or the default's for the empty one.
    pub fn resolve<'a>(&'a self, name: &'a str) -> &'a str {
        if name.is_empty() { &self.default } else { name }
    }
}

/// What a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Read-only, never committed.
    View,
    /// Writable, to be committed or removed.
    Active,
    /// Finished: may be a parent.
    Committed,
}

/// A snapshot as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// View, active or committed.
    pub kind: Kind,
    /// Key of a view or active snapshot, name of a committed one.
    pub name: String,
    /// Name of the committed snapshot below; `None` at the bottom.
    pub parent: Option<String>,
    /// When it was prepared or committed.
    pub created_at: Timestamp,
    /// When labels changed.
    pub updated_at: Timestamp,
    /// Labels.
    pub labels: Labels,
}

impl Filterable for Info {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["kind"] => Some(
                match self.kind {
                    Kind::View => "view",
                    Kind::Active => "active",
                    Kind::Committed => "committed",
                }
                .into(),
            ),
            ["name"] => Some(self.name.clone()),
            ["parent"] => Some(self.parent.clone().unwrap_or_default()),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// Space that a snapshot itself takes, without its parents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes; a hard-linked file counts once.
    pub inodes: u64,
    /// Allocated bytes; a hard-linked file counts once.
    pub size: u64,
}

/// A snapshot with the space that it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotUsage {
    /// The snapshot.
    pub info: Info,
    /// Of a committed one, what it takes without its parents. `None` for others, which have to
    /// be measured.
    pub usage: Option<Usage>,
}

/// Snapshots of one kind of storage.
///
/// Vocabulary: a *key* names a view or an active snapshot, a *name* a
/// committed one; both share one name space per containerd namespace. A
/// *parent* is always the name of a committed snapshot.
///
/// A layer becomes a snapshot so:
/// ```text
/// let mounts = s.prepare(ctx, "extract-1 sha256:…", Some(parent), labels)?;
/// // … mount them, write the layer …
/// s.commit(ctx, "sha256:chain", "extract-1 sha256:…", labels, None)?;
/// ```
/// A container's file system is `prepare(key, Some(top))`, ended by
/// `remove(key)`. Mounts are not made by the snapshotter: it only tells what
/// to mount, and `mounts` tells it again.
#[async_trait]
pub trait Snapshotter: Send + Sync {
    /// What is known of a snapshot.
    ///
    /// # Errors
    /// `NotFound`: `snapshot NAME does not exist: not found`.
    async fn stat(&self, ctx: &Context, key: &str) -> Result<Info>;

    /// Changes labels; nothing else can be changed.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(
        &self,
        ctx: &Context,
        key: &str,
        labels: Labels,
        mask: LabelMask,
    ) -> Result<Info>;

    /// Space used: measured for active snapshots, as recorded at commit for
    /// committed ones.
    ///
    /// # Errors
    /// `NotFound`.
    async fn usage(&self, ctx: &Context, key: &str) -> Result<Usage>;

    /// What to mount for a view or active snapshot.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one.
    async fn mounts(&self, ctx: &Context, key: &str) -> Result<Vec<Mount>>;

    /// Makes an active snapshot on `parent`.
    ///
    /// # Errors
    /// `AlreadyExists`; `NotFound` for the parent; `InvalidArgument` when the
    /// parent is not committed.
    async fn prepare(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;

    /// [`Snapshotter::prepare`] for a caller that chooses when the snapshot
    /// counts as made: with `Buffered` a power loss may take the snapshot
    /// away again, for callers who make it anew then and whom no client
    /// depends on yet.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    async fn prepare_with(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
        durability: Durability,
    ) -> Result<Vec<Mount>> {
        let _ = durability;
        self.prepare(ctx, key, parent, labels).await
    }

    /// Makes a read-only snapshot on `parent`.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    async fn view(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>>;

    /// Turns the active snapshot `key` into the committed snapshot `name`,
    /// durably. `parent` gives an active snapshot that was prepared without
    /// one its place in the stack: layers can be unpacked side by side.
    ///
    /// # Errors
    /// `AlreadyExists` when `name` is taken, `NotFound`,
    /// `FailedPrecondition` when `key` is not active, has another parent, or
    /// gets one late and [`Snapshotter::supports_late_parent`] says no.
    async fn commit(
        &self,
        ctx: &Context,
        name: &str,
        key: &str,
        labels: Labels,
        parent: Option<&str>,
    ) -> Result<()>;

    /// Removes a snapshot. The files go behind the reply.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it has children.
    async fn remove(&self, ctx: &Context, key: &str) -> Result<()>;

    /// [`Snapshotter::remove`] for a caller that chooses when it counts as
    /// done: with `Buffered` a power loss may bring the snapshot back, empty.
    ///
    /// # Errors
    /// As [`Snapshotter::remove`].
    async fn remove_with(&self, ctx: &Context, key: &str, durability: Durability) -> Result<()> {
        let _ = durability;
        self.remove(ctx, key).await
    }

    /// Removes a snapshot's record in a transaction of the caller's. What is returned
    /// is for [`Snapshotter::release`].
    ///
    /// # Errors
    /// As [`Snapshotter::remove`].
    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, key: &str) -> Result<u64>;

    /// Lets the files of forgotten snapshots go: their keys, and what
    /// [`Snapshotter::forget`] returned. Called when that is durable.
    async fn release(&self, ctx: &Context, forgotten: Vec<(String, u64)>);

    /// Whether [`Snapshotter::commit`] takes a parent for a snapshot that
    /// was prepared without one. Where it does not, layers are applied one
    /// after the other.
    fn supports_late_parent(&self) -> bool {
        false
    }

    /// All snapshots of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Info>>;

    /// All snapshots of the namespace, with what is known of their space. Nothing is measured.
    ///
    /// # Errors
    /// The store's.
    async fn list_usage(&self, ctx: &Context) -> Result<Vec<SnapshotUsage>> {
        let mut all = Vec::new();
        for info in self.list(ctx, &Filters::all()).await? {
            let usage = match info.kind {
                // One that has gone since takes nothing.
                Kind::Committed => match self.usage(ctx, &info.name).await {
                    Err(err) if err.is_not_found() => continue,
                    other => Some(other?),
                },
                Kind::View | Kind::Active => None,
            };
            all.push(SnapshotUsage { info, usage });
        }
        Ok(all)
    }

    /// Waits until the files of removed snapshots are gone.
    ///
    /// # Errors
    /// The first failure to remove something.
    async fn cleanup(&self) -> Result<()>;
}
