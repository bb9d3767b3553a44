//! Volumes of the driver `local`: directories below the daemon's root.
//!
//! ```text
//! volumes/NAMESPACE/NAME/_data     what containers see: the mountpoint
//! volumes/NAMESPACE/NAME/_fill     a first content that is still being copied
//! volumes/NAMESPACE/NAME/_filled   one that is complete, on its way to _data
//! volumes/.removed/rm-…            removed, being deleted
//! ```
//!
//! A volume exists by its record, which is written before its directory is made and goes after
//! that was put away. A record without a directory gets one; a directory without a record is
//! never deleted, and becomes that of the volume that is made with its name, as somebody may
//! have lost records, or brought files from elsewhere.
#![forbid(unsafe_code)]

mod copying;
mod fill;
mod inner;
mod places;
mod records;
mod recover;
mod sizes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use gantry_core::db::{Database, blocking};
use gantry_core::locks::KeyLocks;
use gantry_core::volumes::{
    ANONYMOUS, CopyKind, DRIVER, NewVolume, Volume, Volumes, device_mount, no_such_volume,
    validate_name,
};
use gantry_core::{Context, Error, Result, labels};

use inner::Inner;
use places::Key;
pub use places::empty_trash;

/// Volumes in directories of this host.
pub struct LocalVolumes {
    inner: Arc<Inner>,
    /// Held by whoever changes a volume, in this process: the only one that has the database.
    locks: KeyLocks<Key>,
}

impl LocalVolumes {
    /// For volumes below the daemon's root directory. [`Volumes::recover`] is to be called
    /// before anything else.
    ///
    /// # Errors
    /// `InvalidArgument` for a root that is no absolute path in UTF-8; what the file system
    /// reports.
    pub fn open(root: impl AsRef<Path>, db: Arc<dyn Database>) -> Result<Self> {
        let inner = Arc::new(Inner::open(root.as_ref(), db)?);
        Ok(Self { inner, locks: KeyLocks::default() })
    }

    /// Runs what blocks.
    async fn blocking<R: Send + 'static>(
        &self,
        body: impl FnOnce(&Inner) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let inner = Arc::clone(&self.inner);
        blocking(move || body(&inner)).await
    }

    /// Runs what blocks while nobody else changes the volume, to its end also when the caller
    /// goes away.
    async fn alone<R: Send + 'static>(
        &self,
        key: Key,
        body: impl FnOnce(&Inner, &Key) -> Result<R> + Send + 'static,
    ) -> Result<R> {
        let held = self.locks.lock(key).await;
        self.blocking(move |inner| body(inner, held.key())).await
    }
}

#[async_trait]
impl Volumes for LocalVolumes {
    async fn create(&self, ctx: &Context, new: NewVolume) -> Result<(Volume, bool)> {
        let new = complete(new)?;
        let key = (ctx.namespace.clone(), new.name.clone());
        self.alone(key, move |inner, key| inner.create(key, &new)).await
    }

    async fn get(&self, ctx: &Context, name: &str) -> Result<Volume> {
        let key = known(ctx, name)?;
        self.blocking(move |inner| inner.get(&key)).await
    }

    fn place(&self, ctx: &Context, name: &str) -> PathBuf {
        self.inner.places.data(&(ctx.namespace.clone(), name.to_owned()))
    }

    async fn list(&self, ctx: &Context) -> Result<Vec<Volume>> {
        let namespace = ctx.namespace.clone();
        self.blocking(move |inner| inner.list(&namespace)).await
    }

    async fn remove(&self, ctx: &Context, name: &str) -> Result<()> {
        self.alone(known(ctx, name)?, |inner, key| inner.remove(key)).await
    }

    async fn rename(&self, ctx: &Context, name: &str, to: &str) -> Result<Volume> {
        validate_name(to)?;
        let (from, to) = (known(ctx, name)?, (ctx.namespace.clone(), to.to_owned()));
        if from == to {
            self.get(ctx, name).await?;
            return Err(inner::taken(name));
        }
        let (first, second) = if from < to { (&from, &to) } else { (&to, &from) };
        let first = self.locks.lock(first.clone()).await;
        let held = (first, self.locks.lock(second.clone()).await);
        let rename = move |inner: &Inner| {
            let _held = held;
            inner.rename(&from, &to)
        };
        self.blocking(rename).await
    }

    async fn copy(
        &self,
        ctx: &Context,
        from: &str,
        new: NewVolume,
        kind: CopyKind,
    ) -> Result<Volume> {
        let new = complete(new)?;
        if !new.options.is_empty() {
            return Err(Error::invalid_argument(format!(
                "volume {} is to be a copy of {from} and can't have driver options",
                new.name
            ))
            .about("volume", &new.name));
        }
        let source = self.alone(known(ctx, from)?, |inner, key| inner.source(key)).await?;
        let key = (ctx.namespace.clone(), new.name.clone());
        // Goes with this call: then the copy is given up.
        let here = Arc::new(());
        let caller = Arc::downgrade(&here);
        let copy = self.alone(key, move |inner, key| {
            let wanted = || caller.strong_count() > 0;
            inner.copy(&source, key, new.labels, kind, &wanted)
        });
        let copied = copy.await;
        drop(here);
        copied
    }

    async fn fill(&self, ctx: &Context, name: &str, source: &Path) -> Result<bool> {
        let (key, source) = (known(ctx, name)?, source.to_owned());
        // Once it is open, it does not matter whether the caller goes away and closes it.
        let source = self.blocking(move |_| fill::open(&source)).await?;
        self.alone(key, move |inner, key| inner.fill(key, source.as_ref())).await
    }

    async fn sizes(&self, ctx: &Context) -> Result<BTreeMap<String, u64>> {
        let namespace = ctx.namespace.clone();
        self.blocking(move |inner| inner.sizes(&namespace)).await
    }

    async fn recover(&self) -> Result<()> {
        self.blocking(Inner::recover).await
    }
}

/// The key of a volume that is there, if any. No other name gets into a path.
fn known(ctx: &Context, name: &str) -> Result<Key> {
    match validate_name(name) {
        Ok(()) => Ok((ctx.namespace.clone(), name.to_owned())),
        Err(_) => Err(no_such_volume(name)),
    }
}

/// Checks what is to be made, and gives it a name if it has none.
fn complete(mut new: NewVolume) -> Result<NewVolume> {
    let driver = &new.driver;
    if !driver.is_empty() && driver != DRIVER {
        return Err(Error::not_found(format!(
            "error looking up volume plugin {driver}: plugin \"{driver}\" not found"
        )));
    }
    if new.name.is_empty() {
        let (one, two) = (rand::random::<u128>(), rand::random::<u128>());
        new.name = format!("{one:032x}{two:032x}");
        new.labels.entry(ANONYMOUS.to_owned()).or_default();
    }
    let failed = |err: Error| err.context(format!("create {}", new.name));
    validate_name(&new.name).map_err(failed)?;
    device_mount(&new.options).map_err(failed)?;
    labels::validate_all(&new.labels).map_err(failed)?;
    Ok(new)
}
