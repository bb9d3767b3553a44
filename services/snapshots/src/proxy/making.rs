//! What another program makes first and a record tells of then.

use std::sync::Arc;

use gantry_core::db::{Durability, blocking, write};
use gantry_core::snapshots::{Info, Kind};
use gantry_core::{Context, Error, Kind as ErrorKind, Labels, Mount, Namespace, Result, labels};
use gantry_ttrpc::any;
use gantry_ttrpc::containerd::events::{SnapshotCommit, SnapshotPrepare};

use super::claims::Guard;
use super::{Inner, ROOT, inherited, lost};
use crate::SNAPSHOT_REF;
use crate::store::{self, Backing, Commit, Committing, Record};

/// A name that is used, swept for when it is dropped before it is recorded: also when
/// the client goes away in the middle.
struct Making<'a> {
    inner: &'a Inner,
    namespace: &'a Namespace,
    claim: Option<Guard>,
    recorded: bool,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        // First, so that the sweep finds it free.
        self.claim = None;
        if !self.recorded {
            self.inner.soil(self.namespace.as_str());
        }
    }
}

impl Inner {
    async fn next_number(self: &Arc<Self>) -> Result<u64> {
        let inner = Arc::clone(self);
        blocking(move || inner.numbers.next(&*inner.db)).await
    }

    /// The name of a snapshot there.
    fn backing_name(ctx: &Context, number: u64, key: &str) -> String {
        format!("{}/{number}/{key}", ctx.namespace)
    }

    fn claim(&self, backing: &str) -> Result<Guard> {
        self.claims.using(backing).ok_or_else(|| {
            Error::unavailable(format!("{backing} is being removed: try again: unavailable"))
        })
    }

    fn using<'a>(&'a self, ctx: &'a Context, backing: &str) -> Result<Making<'a>> {
        let claim = Some(self.claim(backing)?);
        Ok(Making { inner: self, namespace: &ctx.namespace, claim, recorded: false })
    }

    /// Makes a view or an active snapshot. One that is prepared to become what the
    /// program has already (label `containerd.io/snapshot.ref`) is not made: what is
    /// there gets a record instead, and the client is told that it exists.
    pub(super) async fn make(
        self: &Arc<Self>,
        ctx: &Context,
        kind: Kind,
        (key, parent): (&str, Option<&str>),
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        store::validate_name(key)?;
        labels::validate_all(&labels)?;
        let target = labels.get(SNAPSHOT_REF).cloned();
        target.as_deref().map_or(Ok(()), store::validate_name)?;
        self.check_free(ctx, key, target.as_deref()).await?;
        let parent = match parent {
            Some(name) => Some(self.get(ctx, name).await?),
            None => None,
        };
        let below = parent.as_ref().map(|(record, _)| store::committed(record)).transpose()?;
        let theirs = parent.as_ref().map(|(_, backing)| backing.name.as_str()).unwrap_or_default();
        self.use_namespace(&ctx.namespace).await?;
        let number = self.next_number().await?;
        let backing = Self::backing_name(ctx, number, key);
        let mut making = self.using(ctx, &backing)?;
        // What the program makes of it usually has the target's name.
        let _target = target.as_deref().map(|target| self.claim(target)).transpose()?;
        let to = inherited(&labels);
        let made = self.client.make(&ctx.namespace, kind, (&backing, theirs), to).await;
        let mounts = match (made, target) {
            (Err(err), Some(target)) if err.is_already_exists() => {
                self.adopt(ctx, &target, below, theirs, labels).await?;
                return Err(store::target_exists(&target).with_source(err));
            }
            // The name never repeats, so this is no answer to what was asked.
            (Err(err), None) if err.is_already_exists() => {
                return Err(err.with_kind(ErrorKind::Internal));
            }
            (made, _) => made?,
        };
        let mut record = Record::new(kind, key, number, below, labels);
        record.backing = Some(Backing::new(backing));
        let parent = record.info.parent.clone().unwrap_or_default();
        self.insert(ctx, record).await?;
        making.recorded = true;
        if kind == Kind::Active {
            let (key, snapshotter) = (key.to_owned(), self.name.clone());
            let event = SnapshotPrepare { key, parent, snapshotter };
            self.publish(ctx, "/snapshot/prepare", any::pack(&event));
        }
        Ok(mounts)
    }

    /// Refuses a key that is taken, and the making of a `target` that is there. Either is
    /// held by the request's lease from then on.
    async fn check_free(
        self: &Arc<Self>,
        ctx: &Context,
        key: &str,
        target: Option<&str>,
    ) -> Result<()> {
        if let Some(target) = target
            && self.is_whole(ctx, target).await? == Some(true)
        {
            self.refuse(ctx, target, store::target_exists(target)).await?;
        }
        match self.get(ctx, key).await {
            Ok(_) => self.refuse(ctx, key, store::taken(key)).await,
            Err(err) if err.is_not_found() => Ok(()),
            Err(err) => Err(err),
        }
    }

    async fn refuse(self: &Arc<Self>, ctx: &Context, name: &str, err: Error) -> Result<()> {
        let (inner, ctx, name) = (Arc::clone(self), ctx.clone(), name.to_owned());
        let found = write(&self.db, Durability::Sync, move |tx| {
            inner.store().refuse(tx, &ctx, &name).map(|found| found.is_some())
        });
        if found.await? { Err(err) } else { Ok(()) }
    }

    /// Whether the files of a committed snapshot are there; `None` when nothing committed
    /// has the name.
    async fn is_whole(self: &Arc<Self>, ctx: &Context, name: &str) -> Result<Option<bool>> {
        let (record, backing) = match self.get(ctx, name).await {
            Err(err) if err.is_not_found() => return Ok(None),
            found => found?,
        };
        if record.info.kind != Kind::Committed {
            return Ok(None);
        }
        match self.client.stat(&ctx.namespace, &backing.name).await {
            Err(err) if err.is_not_found() => {
                tracing::warn!(snapshot = name, snapshotter = self.name, "its files are missing");
                Ok(Some(false))
            }
            found => found.map(|_| Some(true)),
        }
    }

    async fn insert(self: &Arc<Self>, ctx: &Context, record: Record) -> Result<()> {
        let (inner, ctx) = (Arc::clone(self), ctx.clone());
        write(&self.db, Durability::Sync, move |tx| inner.store().insert(tx, &ctx, &record)).await
    }

    /// Records a committed snapshot that the program has, under the name that a client
    /// wanted to give it.
    async fn adopt(
        self: &Arc<Self>,
        ctx: &Context,
        target: &str,
        parent: Option<&Record>,
        theirs: &str,
        labels: Labels,
    ) -> Result<()> {
        let filter = format!("labels.{SNAPSHOT_REF:?}=={target:?}");
        let fits = |info: &Info| {
            info.kind == Kind::Committed
                && info.labels.get(SNAPSHOT_REF).is_some_and(|of| of == target)
                && info.parent.as_deref().unwrap_or_default() == theirs
        };
        // Not every program reads filters.
        let listed = self.client.list(&ctx.namespace, vec![filter]).await?;
        let found = listed.into_iter().find(fits).ok_or_else(|| {
            Error::not_found(format!("target snapshot {target:?} in {}: not found", self.name))
        })?;
        let mut making = self.using(ctx, &found.name)?;
        // The sweep may have removed it before it was claimed.
        let mut all = self.client.stat(&ctx.namespace, &found.name).await?.labels;
        all.remove(ROOT.0);
        all.extend(labels);
        let number = self.next_number().await?;
        let backing = Backing::new(found.name);
        let mut record = Record::new(Kind::Committed, target, number, parent, all);
        record.backing = Some(backing.clone());
        match self.insert(ctx, record).await {
            // Another request was faster, or what had the name has lost its files.
            Err(err) if err.is_already_exists() => {
                if self.is_whole(ctx, target).await? == Some(false) {
                    self.back(ctx, target, backing).await?;
                }
            }
            inserted => inserted?,
        }
        making.recorded = true;
        Ok(())
    }

    /// Commits there, then here. What is going to be done is written down first, so that
    /// the sweep can finish it.
    pub(super) async fn commit(
        self: &Arc<Self>,
        ctx: &Context,
        (name, key): (&str, &str),
        labels: Labels,
        parent: Option<&str>,
    ) -> Result<()> {
        store::validate_name(name)?;
        labels::validate_all(&labels)?;
        let found = self.get(ctx, key).await;
        let own = found.as_ref().ok().and_then(|(active, _)| active.info.parent.clone());
        let below = parent.map(str::to_owned).or_else(|| own.clone());
        let restores = self.restores(ctx, name, &below).await?;
        let (active, mut backing) = found?;
        store::require_active(&active)?;
        let own = own.as_deref();
        let rebase = match (parent, own) {
            (Some(given), None) if self.late_parent => Some(self.get(ctx, given).await?),
            (Some(given), own) if own != Some(given) => {
                return Err(store::wrong_parent(key, given, own));
            }
            _ => None,
        };
        if let Some(before) = backing.committing.clone()
            && before.name == name
            && self.client.stat(&ctx.namespace, &before.backing).await.is_ok()
        {
            return self.finish(ctx, key, &before).await;
        }
        if let Some((record, _)) = &rebase {
            store::committed(record)?;
        }
        let number = self.next_number().await?;
        let committing = Committing {
            backing: Self::backing_name(ctx, number, name),
            name: name.to_owned(),
            parent: below,
            labels,
            restores,
        };
        let mut making = self.using(ctx, &committing.backing)?;
        backing.committing = Some(committing.clone());
        self.back(ctx, key, backing.clone()).await?;
        let (names, to) =
            ((committing.backing.as_str(), backing.name.as_str()), &committing.labels);
        let late = rebase.map(|(_, backing)| backing.name);
        let done = self.client.commit(&ctx.namespace, names, inherited(to), late).await;
        done.map_err(|err| lost(key, err))?;
        self.finish(ctx, key, &committing).await?;
        making.recorded = true;
        Ok(())
    }

    /// Whether a commit to this name restores a snapshot that has lost its files. Any
    /// other one that is there is in the way.
    async fn restores(
        self: &Arc<Self>,
        ctx: &Context,
        name: &str,
        parent: &Option<String>,
    ) -> Result<bool> {
        match self.get(ctx, name).await {
            Err(err) if err.is_not_found() => Ok(false),
            found => {
                let (record, _) = found?;
                let lost = self.is_whole(ctx, name).await? == Some(false);
                if lost && record.info.parent == *parent {
                    Ok(true)
                } else {
                    Err(store::taken(name))
                }
            }
        }
    }

    async fn back(self: &Arc<Self>, ctx: &Context, key: &str, backing: Backing) -> Result<()> {
        let (inner, ctx, key) = (Arc::clone(self), ctx.clone(), key.to_owned());
        write(&self.db, Durability::Sync, move |tx| inner.store().back(tx, &ctx, &key, &backing))
            .await
    }

    /// Writes down a commit that the program has done.
    pub(super) async fn finish(&self, ctx: &Context, key: &str, done: &Committing) -> Result<()> {
        let usage = self.client.usage(&ctx.namespace, &done.backing).await.unwrap_or_default();
        let (snapshotter, within, by, done) =
            (self.name.clone(), ctx.clone(), key.to_owned(), done.clone());
        let name = done.name.clone();
        write(&self.db, Durability::Sync, move |tx| {
            let store = store::Store { snapshotter: &snapshotter };
            let backing = Backing::new(done.backing.clone());
            if done.restores {
                store.remove(tx, &within, &by)?;
                return store.back(tx, &within, &done.name, &backing);
            }
            let commit = Commit {
                key: &by,
                name: &done.name,
                parent: done.parent.as_deref(),
                labels: &done.labels,
                usage,
                backing: Some(backing),
            };
            store.commit(tx, &within, &commit)
        })
        .await?;
        let (key, snapshotter) = (key.to_owned(), self.name.clone());
        let event = SnapshotCommit { key, name, snapshotter };
        self.publish(ctx, "/snapshot/commit", any::pack(&event));
        Ok(())
    }
}
