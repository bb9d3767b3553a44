//! The lease that holds what a pull fetched until the record exists.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use gantry_core::filter::Filters;
use gantry_core::leases::Leases;
use gantry_core::{Context, Labels, Result, Timestamp, labels};

/// Label of our leases: the image they are for.
const PULL_LABEL: &str = "gantry.io/pull";

/// Makes leases.
pub(crate) struct Leasing {
    leases: Arc<dyn Leases>,
    keep: Duration,
    /// Leases of this process that are in use. The lock guards the set alone.
    active: Arc<Mutex<HashSet<String>>>,
}

/// A lease in use. Dropped without [`Held::release`], it stays until it
/// expires, so that the next attempt finds what this one fetched; unless it
/// was to hold until then.
pub(crate) struct Held {
    ctx: Context,
    /// `None` when the caller holds a lease itself.
    own: Option<Own>,
}

struct Own {
    id: String,
    image: String,
    until_dropped: bool,
    leases: Arc<dyn Leases>,
    active: Arc<Mutex<HashSet<String>>>,
}

impl Leasing {
    pub(crate) fn new(leases: Arc<dyn Leases>, keep: Duration) -> Self {
        Self { leases, keep, active: Arc::default() }
    }

    /// A context whose lease holds what is made for this image.
    pub(crate) async fn hold(&self, ctx: &Context, image: &str) -> Result<Held> {
        self.open(ctx, image, false).await
    }

    /// The same, for what nothing is to go on from: the lease ends when it is dropped.
    pub(crate) async fn hold_until_dropped(&self, ctx: &Context, image: &str) -> Result<Held> {
        self.open(ctx, image, true).await
    }

    async fn open(&self, ctx: &Context, image: &str, until_dropped: bool) -> Result<Held> {
        if ctx.lease.is_some() {
            return Ok(Held { ctx: ctx.clone(), own: None });
        }
        let id = format!("pull-{:032x}", rand::random::<u128>());
        let end = Timestamp::from(SystemTime::now() + self.keep);
        let kept = Labels::from([
            (labels::GC_EXPIRE.to_owned(), end.to_string()),
            (PULL_LABEL.to_owned(), image.to_owned()),
        ]);
        let own = Own {
            id: id.clone(),
            image: image.to_owned(),
            until_dropped,
            leases: Arc::clone(&self.leases),
            active: Arc::clone(&self.active),
        };
        lock(&self.active).insert(id.clone());
        let held = Held { ctx: ctx.clone().with_lease(&id), own: Some(own) };
        self.leases.create(ctx, Some(&id), kept).await?;
        if let Some(own) = held.own.as_ref().filter(|own| !own.until_dropped) {
            own.take_over(ctx).await;
        }
        Ok(held)
    }
}

impl Held {
    /// The caller's context, with the lease.
    pub(crate) fn context(&self) -> &Context {
        &self.ctx
    }

    /// Ends the lease, and those that earlier attempts at the same image left.
    pub(crate) async fn release(mut self) {
        if let Some(own) = self.own.take() {
            own.end(self.ctx.clone()).await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(own) = self.own.take()
            && own.until_dropped
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(own.end(self.ctx.clone()));
        }
    }
}

impl Own {
    async fn end(self, mut ctx: Context) {
        ctx.lease = None;
        let mut ended = self.earlier(&ctx).await;
        ended.push(self.id.clone());
        for id in ended {
            self.delete(&ctx, &id).await;
        }
    }

    /// Leases that earlier attempts at the same image left.
    async fn earlier(&self, ctx: &Context) -> Vec<String> {
        let mine = format!("labels.\"{PULL_LABEL}\"=={:?}", self.image);
        let Ok(filter) = Filters::parse(&[mine]) else { return Vec::new() };
        let Ok(found) = self.leases.list(ctx, &filter).await else { return Vec::new() };
        let active = lock(&self.active);
        found.into_iter().map(|lease| lease.id).filter(|id| !active.contains(id)).collect()
    }

    /// Holds what earlier attempts fetched, whose leases end: an image that is tried
    /// again and again has one.
    async fn take_over(&self, ctx: &Context) {
        for id in self.earlier(ctx).await {
            let moved = match self.leases.resources(ctx, &id).await {
                Ok(held) => self.leases.add_resources(ctx, &self.id, held).await,
                Err(err) => Err(err),
            };
            match moved {
                Ok(()) => self.delete(ctx, &id).await,
                // Another attempt took it over.
                Err(err) if err.is_not_found() => {}
                Err(err) => {
                    tracing::warn!(error = %err, lease = id, "the lease stays until it expires");
                }
            }
        }
    }

    async fn delete(&self, ctx: &Context, id: &str) {
        if let Err(err) = self.leases.delete(ctx, id).await
            && !err.is_not_found()
        {
            tracing::warn!(error = %err, lease = id, "the lease stays until it expires");
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        lock(&self.active).remove(&self.id);
    }
}

fn lock(set: &Mutex<HashSet<String>>) -> std::sync::MutexGuard<'_, HashSet<String>> {
    set.lock().unwrap_or_else(PoisonError::into_inner)
}
