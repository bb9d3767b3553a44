//! Snapshots that another program keeps, spoken to by containerd's snapshots service.
//!
//! Keys, labels, namespaces and what lies on what are records here, as those of every
//! snapshotter; the other program sees names `NAMESPACE/NUMBER/KEY` that never repeat.
//! It is told to make a snapshot before the record is written, and to remove one after
//! the record is gone: so it may keep more than there are records, never less.

mod claims;
mod client;
mod making;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gantry_core::db::{Database, Durability, Transaction, blocking, write};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_core::snapshots::{Info, Kind, Snapshotter, Usage};
use gantry_core::{Context, Error, LabelMask, Labels, Mount, Result, labels, validate_identifier};
use gantry_ttrpc::containerd::events::SnapshotRemove;
use gantry_ttrpc::{any, convert};
use tokio::sync::Notify;

use crate::numbers::Numbers;
use crate::store::{self, Backing, Record, Store};
use crate::{INHERITED, NAMES, SNAPSHOT_REF};
use claims::Claims;
use client::Client;

/// What makes the program's own collector, if it has one, keep what we hold there.
const ROOT: (&str, &str) = (labels::GC_ROOT, "gantry");

/// Where a proxied snapshotter is, and whom it tells.
#[derive(Clone)]
pub struct ProxyOptions {
    /// The name it gets here.
    pub name: String,
    /// The name that the program knows it by; usually the same.
    pub theirs: String,
    /// The program's Unix socket.
    pub address: PathBuf,
    /// Whether the program takes a parent when a snapshot is committed that was prepared
    /// without one (containerd's capability `rebase`).
    pub late_parent: bool,
    /// Records.
    pub db: Arc<dyn Database>,
    /// Told of what is prepared, committed and removed.
    pub events: Arc<dyn Events>,
}

/// A snapshotter that another program offers. Cheap to clone.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    name: String,
    late_parent: bool,
    client: Client,
    db: Arc<dyn Database>,
    events: Arc<dyn Events>,
    numbers: Numbers,
    claims: Claims,
    /// Namespaces in which the program may keep too much. Held only to look or change.
    dirty: Mutex<BTreeSet<String>>,
    /// Namespaces that the next start knows of. Held only to look or change.
    namespaces: Mutex<BTreeSet<String>>,
    /// Namespaces, in the program, of records that are being forgotten, by number. Held
    /// only to look or change.
    forgotten: Mutex<BTreeMap<u64, String>>,
    /// One sweep at a time.
    sweeping: tokio::sync::Mutex<()>,
    wake: Arc<Notify>,
}

impl Proxy {
    /// Opens a proxy. The program need not run: whatever needs it fails until it does.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is no identifier or that a snapshotter of our own
    /// has; the database's.
    pub async fn open(options: ProxyOptions) -> Result<Self> {
        let ProxyOptions { name, theirs, address, late_parent, db, events } = options;
        validate_identifier(&name)?;
        if NAMES.contains(&name.as_str()) {
            return Err(Error::invalid_argument(format!(
                "the proxied snapshotter {name:?} has the name of one of ours: use another: \
                 invalid argument"
            )));
        }
        let wake = Arc::new(Notify::new());
        let inner = Arc::new(Inner {
            client: Client::new(name.clone(), theirs, address),
            numbers: Numbers::new(&name),
            name,
            late_parent,
            db,
            events,
            claims: Claims::default(),
            dirty: Mutex::default(),
            namespaces: Mutex::default(),
            forgotten: Mutex::default(),
            sweeping: tokio::sync::Mutex::default(),
            wake: Arc::clone(&wake),
        });
        let reader = Arc::clone(&inner);
        let before = blocking(move || reader.used_before()).await?;
        inner.namespaces().extend(before.iter().cloned());
        inner.dirty().extend(before);
        wake.notify_one();
        tokio::spawn(sweep::work(Arc::downgrade(&inner), wake));
        Ok(Self(inner))
    }
}

fn unpoisoned<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    // Sets and maps are whole at any time.
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The worker looks up, finds nobody and ends.
        self.wake.notify_one();
    }
}

impl Inner {
    fn dirty(&self) -> MutexGuard<'_, BTreeSet<String>> {
        unpoisoned(&self.dirty)
    }

    fn namespaces(&self) -> MutexGuard<'_, BTreeSet<String>> {
        unpoisoned(&self.namespaces)
    }

    fn store(&self) -> Store<'_> {
        Store { snapshotter: &self.name }
    }

    /// One record and its name there.
    async fn get(self: &Arc<Self>, ctx: &Context, key: &str) -> Result<(Record, Backing)> {
        let (inner, namespace, key) = (Arc::clone(self), ctx.namespace.clone(), key.to_owned());
        let record = blocking(move || inner.store().get(&*inner.db, &namespace, &key)).await?;
        let backing = backing_of(&record)?;
        Ok((record, backing))
    }

    fn publish(&self, ctx: &Context, topic: &str, event: prost_types::Any) {
        if let Err(err) = self.events.publish(ctx, topic, convert::from_any(event)) {
            tracing::warn!(error = %err, topic, "an event was not published");
        }
    }

    fn removed(&self, ctx: &Context, key: &str) {
        let event = SnapshotRemove { key: key.to_owned(), snapshotter: self.name.clone() };
        self.publish(ctx, "/snapshot/remove", any::pack(&event));
    }
}

fn backing_of(record: &Record) -> Result<Backing> {
    record.backing.clone().ok_or_else(|| {
        Error::data_loss(format!("snapshot {} has no name in its program", record.info.name))
    })
}

/// A name of ours there begins with the namespace that it was made for.
fn namespace_of<'a>(backing: &'a str, ctx: &'a Context) -> &'a str {
    match backing.split_once('/') {
        Some((namespace, _)) if sweep::is_ours(namespace, backing) => namespace,
        _ => ctx.namespace.as_str(),
    }
}

/// The labels that the program gets to see.
fn inherited(all: &Labels) -> Labels {
    let theirs = all.iter().filter(|(key, _)| is_inherited(key));
    let mut theirs: Labels = theirs.map(|(k, v)| (k.clone(), v.clone())).collect();
    theirs.insert(ROOT.0.to_owned(), ROOT.1.to_owned());
    theirs
}

fn is_inherited(key: &str) -> bool {
    key == SNAPSHOT_REF || key.starts_with(INHERITED)
}

/// A snapshot whose record is here and whose files are not there.
fn lost(key: &str, err: Error) -> Error {
    if !err.is_not_found() {
        return err;
    }
    Error::not_found(format!("snapshot {key} has lost its files: not found; pull its image again"))
        .with_source(err)
}

#[async_trait]
impl Snapshotter for Proxy {
    /// The program may add labels of its own to ours.
    async fn stat(&self, ctx: &Context, key: &str) -> Result<Info> {
        let (record, backing) = self.0.get(ctx, key).await?;
        let theirs = self.0.client.stat(&ctx.namespace, &backing.name).await;
        let mut all = theirs.map_err(|err| lost(key, err))?.labels;
        all.remove(ROOT.0);
        all.extend(record.info.labels);
        Ok(Info { labels: all, ..record.info })
    }

    async fn update(&self, ctx: &Context, key: &str, new: Labels, mask: LabelMask) -> Result<Info> {
        store::validate_name(key)?;
        labels::validate_all(&new)?;
        let (_, backing) = self.0.get(ctx, key).await?;
        let paths = match &mask {
            LabelMask::All => vec!["labels".to_owned()],
            LabelMask::Keys(keys) => {
                let theirs = keys.iter().filter(|key| is_inherited(key));
                theirs.map(|key| format!("labels.{key}")).collect()
            }
        };
        if !paths.is_empty() {
            self.0.client.update(&ctx.namespace, &backing.name, inherited(&new), paths).await?;
        }
        let (inner, ctx, key) = (Arc::clone(&self.0), ctx.clone(), key.to_owned());
        write(&self.0.db, Durability::Sync, move |tx| {
            inner.store().update(tx, &ctx, &key, &new, &mask)
        })
        .await
    }

    async fn usage(&self, ctx: &Context, key: &str) -> Result<Usage> {
        let (_, backing) = self.0.get(ctx, key).await?;
        let usage = self.0.client.usage(&ctx.namespace, &backing.name).await;
        usage.map_err(|err| lost(key, err))
    }

    async fn mounts(&self, ctx: &Context, key: &str) -> Result<Vec<Mount>> {
        let (record, backing) = self.0.get(ctx, key).await?;
        if record.info.kind == Kind::Committed {
            return Err(store::no_mounts(key));
        }
        let mounts = self.0.client.mounts(&ctx.namespace, &backing.name).await;
        mounts.map_err(|err| lost(key, err))
    }

    async fn prepare(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.0.make(ctx, Kind::Active, (key, parent), labels).await
    }

    async fn view(
        &self,
        ctx: &Context,
        key: &str,
        parent: Option<&str>,
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        self.0.make(ctx, Kind::View, (key, parent), labels).await
    }

    async fn commit(
        &self,
        ctx: &Context,
        name: &str,
        key: &str,
        labels: Labels,
        parent: Option<&str>,
    ) -> Result<()> {
        self.0.commit(ctx, (name, key), labels, parent).await
    }

    async fn remove(&self, ctx: &Context, key: &str) -> Result<()> {
        self.remove_with(ctx, key, Durability::Sync).await
    }

    async fn remove_with(&self, ctx: &Context, key: &str, durability: Durability) -> Result<()> {
        let (inner, within, removed) = (Arc::clone(&self.0), ctx.clone(), key.to_owned());
        let record =
            write(&self.0.db, durability, move |tx| inner.store().remove(tx, &within, &removed));
        let backing = record.await?.backing.map(|backing| backing.name).unwrap_or_default();
        self.0.removed(ctx, key);
        self.0.soil(namespace_of(&backing, ctx));
        Ok(())
    }

    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, key: &str) -> Result<u64> {
        let record = self.0.store().remove(tx, ctx, key)?;
        let backing = record.backing.map(|backing| backing.name).unwrap_or_default();
        let namespace = namespace_of(&backing, ctx).to_owned();
        unpoisoned(&self.0.forgotten).insert(record.number, namespace);
        Ok(record.number)
    }

    async fn release(&self, ctx: &Context, forgotten: Vec<(String, u64)>) {
        for (key, number) in forgotten {
            let namespace = unpoisoned(&self.0.forgotten).remove(&number);
            self.0.removed(ctx, &key);
            self.0.soil(namespace.as_deref().unwrap_or(ctx.namespace.as_str()));
        }
    }

    fn supports_late_parent(&self) -> bool {
        self.0.late_parent
    }

    /// From the records alone: a program that does not answer is no reason not to.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Info>> {
        let (inner, namespace) = (Arc::clone(&self.0), ctx.namespace.clone());
        let all = blocking(move || inner.store().list(&*inner.db, namespace.as_str())).await?;
        let infos = all.into_iter().map(|record| record.info);
        Ok(infos.filter(|info| filters.matches(info)).collect())
    }

    async fn cleanup(&self) -> Result<()> {
        let namespaces = self.0.namespaces().clone();
        for namespace in namespaces {
            self.0.sweep(&namespace).await?;
        }
        Ok(())
    }
}
