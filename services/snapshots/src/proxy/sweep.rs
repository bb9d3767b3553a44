//! Removing what the other program keeps without a record here.
//!
//! A snapshot is removed by its record; the other program is told later, here and
//! nowhere else. So whatever a crash leaves there goes the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use gantry_core::db::{Durability, GLOBAL, Table, blocking, write};
use gantry_core::snapshots::{Info, Kind};
use gantry_core::{Context, Error, Kind as ErrorKind, Namespace, Result};
use tokio::sync::Notify;

use super::claims::Guard;
use super::{Inner, ROOT};
use crate::SNAPSHOT_REF;

/// Namespaces that were ever used. Key: snapshotter, `\x01`, namespace.
const NAMESPACES: Table<()> = Table::new("snapshot-proxy-namespaces");

/// Until a program that did not answer is asked again.
const RETRY: Duration = Duration::from_secs(30);
/// The same when there is more to remove.
const SOON: Duration = Duration::from_secs(1);

impl Inner {
    /// Makes sure that this namespace is swept after the next start.
    pub(super) async fn use_namespace(&self, namespace: &Namespace) -> Result<()> {
        if self.namespaces().contains(namespace.as_str()) {
            return Ok(());
        }
        let row = format!("{}\x01{namespace}", self.name);
        write(&self.db, Durability::Sync, move |tx| NAMESPACES.put(tx, GLOBAL, &row, &())).await?;
        self.namespaces().insert(namespace.as_str().to_owned());
        Ok(())
    }

    /// Namespaces that were used before this start.
    pub(super) fn used_before(&self) -> Result<BTreeSet<String>> {
        let prefix = format!("{}\x01", self.name);
        let rows = NAMESPACES.list_prefix(&*self.db, GLOBAL, &prefix)?;
        Ok(rows.into_iter().map(|(row, ())| row[prefix.len()..].to_owned()).collect())
    }

    /// Has a namespace swept soon.
    pub(super) fn soil(&self, namespace: &str) {
        self.dirty().insert(namespace.to_owned());
        self.wake.notify_one();
    }

    /// Sweeps what is dirty. What fails stays so.
    async fn sweep_dirty(&self) -> Result<()> {
        let dirty = std::mem::take(&mut *self.dirty());
        let mut failed = Ok(());
        for namespace in dirty {
            if let Err(err) = self.sweep(&namespace).await {
                self.dirty().insert(namespace);
                failed = Err(err);
            }
        }
        failed
    }

    /// Sweeps one namespace.
    pub(super) async fn sweep(&self, namespace: &str) -> Result<()> {
        let ctx = Context::new(Namespace::new(namespace)?);
        let _alone = self.sweeping.lock().await;
        let listed = self.client.list(&ctx.namespace, Vec::new()).await?;
        self.finish_commits(&ctx, &listed).await?;
        let mine = |info: &&Info| is_ours(namespace, &info.name) || was_made_for_us(info);
        let known = self.referenced().await?;
        let unknown = listed.iter().filter(mine).filter(|info| !known.contains(&info.name));
        let claims: Vec<Guard> =
            unknown.filter_map(|info| self.claims.removing(&info.name)).collect();
        // A request may have recorded one just before it was claimed.
        let known = self.referenced().await?;
        let depths = depths(&listed);
        let mut orphans: Vec<&Guard> =
            claims.iter().filter(|claim| !known.contains(claim.name())).collect();
        orphans.sort_by_key(|claim| std::cmp::Reverse(depths.get(claim.name()).copied()));
        for orphan in orphans {
            match self.client.remove(&ctx.namespace, orphan.name()).await {
                Ok(()) => tracing::debug!(snapshotter = self.name, key = orphan.name(), "removed"),
                Err(err) if err.is_not_found() => {}
                // Something lies on it, of which the list did not tell.
                Err(err) if err.kind() == ErrorKind::FailedPrecondition => {
                    tracing::debug!(snapshotter = self.name, error = %err, "a snapshot stays");
                }
                Err(err) => return Err(err),
            }
        }
        drop(claims);
        match self.client.cleanup(&ctx.namespace).await {
            Err(err) if err.kind() == ErrorKind::Unimplemented => Ok(()),
            cleaned => cleaned,
        }
    }

    /// Names in the other program that records of any namespace hold.
    async fn referenced(&self) -> Result<BTreeSet<String>> {
        let (db, name) = (Arc::clone(&self.db), self.name.clone());
        let all = blocking(move || crate::store::Store { snapshotter: &name }.everything(&*db));
        let mut names = BTreeSet::new();
        for backing in all.await?.into_iter().filter_map(|record| record.backing) {
            names.extend(backing.committing.map(|committing| committing.backing));
            names.insert(backing.name);
        }
        Ok(names)
    }

    /// Finishes commits that the other program has done and nobody wrote down.
    async fn finish_commits(&self, ctx: &Context, listed: &[Info]) -> Result<()> {
        let done: BTreeSet<&str> = listed
            .iter()
            .filter(|info| info.kind == Kind::Committed)
            .map(|info| info.name.as_str())
            .collect();
        let (db, name, namespace) =
            (Arc::clone(&self.db), self.name.clone(), ctx.namespace.clone());
        let records = blocking(move || {
            crate::store::Store { snapshotter: &name }.list(&*db, namespace.as_str())
        });
        for record in records.await? {
            let Some(backing) = record.backing else { continue };
            let Some(committing) = backing.committing else { continue };
            if !done.contains(committing.backing.as_str()) {
                continue;
            }
            // Otherwise a request is at it.
            let Some(_claim) = self.claims.removing(&committing.backing) else { continue };
            match self.finish(ctx, &record.info.name, &committing).await {
                Err(err) if err.is_already_exists() || err.is_not_found() => {
                    tracing::warn!(snapshotter = self.name, error = %err, "a commit is lost");
                }
                finished => finished?,
            }
        }
        Ok(())
    }
}

/// Whether a name there is one that [`Inner::backing_name`] makes for this namespace.
pub(super) fn is_ours(namespace: &str, name: &str) -> bool {
    let rest = name.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('/'));
    let number = rest.and_then(|rest| rest.split_once('/')).map(|(number, _)| number);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether it is one that the program had already when we asked for it: its name is the
/// target's, its labels are those that it was asked for with.
fn was_made_for_us(info: &Info) -> bool {
    info.kind == Kind::Committed
        && info.labels.get(ROOT.0).is_some_and(|by| by == ROOT.1)
        && info.labels.contains_key(SNAPSHOT_REF)
}

/// How many snapshots are below each.
fn depths(listed: &[Info]) -> BTreeMap<String, usize> {
    let parents: BTreeMap<&str, &str> = listed
        .iter()
        .filter_map(|info| Some((info.name.as_str(), info.parent.as_deref()?)))
        .collect();
    let depth = |name: &str| {
        let above = std::iter::successors(Some(name), |name| parents.get(name).copied());
        // Nothing lies on itself, whatever the program says.
        above.take(listed.len()).count()
    };
    listed.iter().map(|info| (info.name.clone(), depth(&info.name))).collect()
}

/// Sweeps whenever something is dirty, as long as the proxy lives.
pub(super) async fn work(proxy: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        wake.notified().await;
        let Some(inner) = proxy.upgrade() else { return };
        let done: Result<(), Error> = inner.sweep_dirty().await;
        let (name, failed) = (inner.name.clone(), done.is_err());
        drop(inner);
        if let Err(err) = done {
            tracing::warn!(snapshotter = name, error = %err, "removed snapshots stay for now");
        }
        if failed {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = wake.notified() => tokio::time::sleep(SOON).await,
            }
            wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours() {
        for (name, ours) in [
            ("moby/17/sha256:x", true),
            ("moby/17/a/b", true),
            ("moby/17/", true),
            ("moby/x/y", false),
            ("moby//y", false),
            ("moby/17", false),
            ("moby2/17/y", false),
            ("sha256:x", false),
        ] {
            assert_eq!(is_ours("moby", name), ours, "{name}");
        }
    }
}
