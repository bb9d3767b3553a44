use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use gantry_core::containers::Containers;
use gantry_core::events::Events;
use gantry_core::mounts::MountManager;
use gantry_core::sandboxes::Sandboxes;
use gantry_core::tasks::{CreateTask, ExecProcess, Exit, Metrics, Process, Rootfs, Status, Tasks};
use gantry_core::{Any, Context, Error, Kind, Namespace, Result, Timestamp, validate_identifier};
use tracing::Instrument;

use crate::bundle::Bundle;
use crate::shim::{QUICK, Shim};
use crate::task::Task;
use crate::warm::Pool;
use crate::{TaskConfig, create, death, recover, sandbox};

/// Tasks and sandboxes in shims: the implementation of [`Tasks`] and of
/// [`gantry_core::sandboxes::SandboxController`].
///
/// [`TaskManager::recover`] is to be called once, before requests are served.
pub struct TaskManager {
    pub(crate) inner: Arc<Inner>,
}

type Key = (Namespace, String);

/// What the parts of the manager share.
pub(crate) struct Inner {
    pub(crate) config: Arc<TaskConfig>,
    pub(crate) containers: Arc<dyn Containers>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) mounts: Arc<dyn MountManager>,
    pub(crate) pool: Option<Pool>,
    /// The records of sandboxes.
    pub(crate) records: Arc<dyn Sandboxes>,
    /// The sandboxes that are there.
    pub(crate) sandboxes: sandbox::Table,
    /// All tasks. Held for looking up and changing entries only.
    tasks: Mutex<HashMap<Key, Slot>>,
    /// Exits of tasks whose shim was found dead at start-up, until somebody
    /// asks: there is no task any more that could tell.
    lost: Mutex<HashMap<Key, Exit>>,
}

enum Slot {
    /// The ID is taken by a task that is being made.
    Creating,
    /// The task.
    Ready(Arc<Task>),
}

/// Holds an ID for a task that is being made.
pub(crate) struct Reservation {
    inner: Arc<Inner>,
    key: Option<Key>,
}

impl Reservation {
    /// The task is there.
    pub(crate) fn fill(mut self, task: Arc<Task>) {
        if let Some(key) = self.key.take() {
            self.inner.tasks().insert(key, Slot::Ready(task));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.inner.tasks().remove(&key);
        }
    }
}

impl Inner {
    fn tasks(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        // Nothing panics under this lock.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self) -> MutexGuard<'_, HashMap<Key, Exit>> {
        // As above.
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an ID for a new task.
    pub(crate) fn reserve(self: &Arc<Self>, ctx: &Context, id: &str) -> Result<Reservation> {
        let key = (ctx.namespace.clone(), id.to_owned());
        match self.tasks().entry(key.clone()) {
            Entry::Occupied(_) => Err(Error::already_exists(format!("task {id}: already exists"))),
            Entry::Vacant(free) => {
                free.insert(Slot::Creating);
                self.lost().remove(&key);
                Ok(Reservation { inner: Arc::clone(self), key: Some(key) })
            }
        }
    }

    /// Adds a task that was found; false when its ID is taken.
    pub(crate) fn insert(&self, task: Arc<Task>) -> bool {
        match self.tasks().entry(key_of(&task.bundle)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(Slot::Ready(task));
                true
            }
        }
    }

    /// Takes a task out.
    pub(crate) fn forget(&self, task: &Arc<Task>) {
        let mut tasks = self.tasks();
        let key = key_of(&task.bundle);
        if matches!(tasks.get(&key), Some(Slot::Ready(there)) if Arc::ptr_eq(there, task)) {
            tasks.remove(&key);
        }
    }

    /// Keeps the exit of a task that is gone, for the next to wait for it.
    pub(crate) fn remember(&self, bundle: &Bundle, exit: Exit) {
        self.lost().insert(key_of(bundle), exit);
    }

    /// Whether a task with another ID lives in the same shim.
    pub(crate) fn shares_shim(&self, bundle: &Bundle, shim: &Shim) -> bool {
        let key = key_of(bundle);
        let mut others = self.ready().filter(|other| key_of(&other.bundle) != key);
        others.any(|other| other.shim().endpoint.address == shim.endpoint.address)
    }

    /// All tasks that are there.
    fn ready(&self) -> impl Iterator<Item = Arc<Task>> {
        let tasks = self.tasks();
        let ready: Vec<_> = tasks
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready(task) => Some(Arc::clone(task)),
                Slot::Creating => None,
            })
            .collect();
        ready.into_iter()
    }

    /// Makes up for a ready-made shim that was taken: nothing more urgent is to do.
    pub(crate) fn refill(&self) {
        if let Some(pool) = &self.pool {
            pool.refill();
        }
    }

    fn lookup(&self, ctx: &Context, id: &str) -> Option<Arc<Task>> {
        match self.tasks().get(&(ctx.namespace.clone(), id.to_owned())) {
            Some(Slot::Ready(task)) => Some(Arc::clone(task)),
            _ => None,
        }
    }

    /// A task, or the error in containerd's words: it looks for the container
    /// first.
    async fn find(&self, ctx: &Context, id: &str) -> Result<Arc<Task>> {
        match self.lookup(ctx, id) {
            Some(task) => Ok(task),
            None => {
                self.containers.get(ctx, id).await?;
                Err(not_found(id))
            }
        }
    }
}

/// What is said of a task that is not there, though its container is.
pub(crate) fn not_found(id: &str) -> Error {
    Error::not_found(format!("task {id} not found"))
}

/// Says whose shim did not answer; other errors stay as they are.
fn silent(id: &str, err: Error) -> Error {
    // A shim that answers that something took too long says itself what.
    if err.kind() != Kind::DeadlineExceeded || !err.to_string().contains(": no answer in ") {
        return err;
    }
    tracing::debug!(id, error = %err, "a shim does not answer");
    no_answer(id)
}

fn no_answer(id: &str) -> Error {
    let text = format!("the shim of container {id} does not answer: deadline exceeded");
    Error::new(Kind::DeadlineExceeded, text).about("container", id)
}

fn key_of(bundle: &Bundle) -> Key {
    (bundle.namespace.clone(), bundle.id.clone())
}

impl TaskManager {
    /// Begins to keep shims ready; needs a tokio runtime.
    ///
    /// # Errors
    /// `FailedPrecondition` when the shim's program is not there.
    pub fn new(
        config: TaskConfig,
        containers: Arc<dyn Containers>,
        sandboxes: Arc<dyn Sandboxes>,
        events: Arc<dyn Events>,
        mounts: Arc<dyn MountManager>,
    ) -> Result<Arc<Self>> {
        crate::runtime::resolve(&config, "")?;
        let config = Arc::new(config);
        let pool = (config.warm > 0).then(|| Pool::start(Arc::clone(&config)));
        let inner = Inner {
            config,
            containers,
            events,
            mounts,
            pool,
            records: sandboxes,
            sandboxes: sandbox::Table::default(),
            tasks: Mutex::default(),
            lost: Mutex::default(),
        };
        Ok(Arc::new(Self { inner: Arc::new(inner) }))
    }

    /// Finds the shims that an earlier daemon left: living ones are connected
    /// to again, dead ones are cleaned up, with their exits kept for the next
    /// to wait, and tasks without a container are ended.
    ///
    /// # Errors
    /// The state directory can't be read.
    pub async fn recover(&self) -> Result<()> {
        recover::recover(&self.inner).await
    }

    /// [`TaskManager::to_the_end`] for what a shim may still do after nobody waits any more: then
    /// as well it counts what it answers.
    async fn in_time<F>(id: &str, work: F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let done = tokio::time::timeout(QUICK, Self::to_the_end(work)).await;
        done.unwrap_or_else(|_| Err(no_answer(id)))
    }

    /// Runs something to its end, even when the caller goes away half-way.
    pub(crate) async fn to_the_end<T, F>(work: F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match tokio::spawn(work.in_current_span()).await {
            Ok(result) => result,
            Err(err) => Err(Error::internal("a task's operation failed").with_source(err)),
        }
    }
}

#[async_trait]
impl Tasks for TaskManager {
    async fn create(&self, ctx: &Context, mut task: CreateTask) -> Result<u32> {
        let rootfs = std::mem::take(&mut task.rootfs);
        self.create_on(ctx, task, Box::pin(std::future::ready(Ok(rootfs)))).await
    }

    async fn create_on(&self, ctx: &Context, task: CreateTask, rootfs: Rootfs) -> Result<u32> {
        let (inner, ctx) = (Arc::clone(&self.inner), ctx.clone());
        Self::to_the_end(async move { create::create(&inner, &ctx, task, rootfs).await }).await
    }

    async fn start(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<u32> {
        let task = self.inner.find(ctx, id).await?;
        let exec_id = exec_id.to_owned();
        Self::to_the_end(async move {
            let id = &task.bundle.id;
            let pid = task.shim().start(id, &exec_id).await.map_err(|err| silent(id, err))?;
            if exec_id.is_empty() {
                task.set_status(Status::Running);
            }
            Ok(pid)
        })
        .await
    }

    async fn delete(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<(u32, Exit)> {
        let task = self.inner.find(ctx, id).await?;
        if !exec_id.is_empty() {
            let exec_id = exec_id.to_owned();
            return Self::to_the_end(async move { task.delete_exec(&exec_id).await }).await;
        }
        let inner = Arc::clone(&self.inner);
        Self::to_the_end(async move { create::delete(&inner, &task).await }).await
    }

    async fn get(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<Process> {
        let task = self.inner.find(ctx, id).await?;
        let process = task.shim().state(id, exec_id).await.map_err(|err| silent(id, err))?;
        if exec_id.is_empty() {
            task.learn(&process);
        }
        Ok(process)
    }

    async fn list(&self, ctx: &Context) -> Result<Vec<Process>> {
        let mine = self.inner.ready().filter(|task| task.bundle.namespace == ctx.namespace);
        let mut processes: Vec<_> = mine.map(|task| task.init()).collect();
        processes.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        Ok(processes)
    }

    async fn last_known(&self, ctx: &Context, id: &str) -> Option<Process> {
        self.inner.lookup(ctx, id).map(|task| task.init())
    }

    async fn kill(
        &self,
        ctx: &Context,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        task.shim().kill(id, exec_id, signal, all).await.map_err(|err| silent(id, err))
    }

    async fn end_shim(&self, ctx: &Context, id: &str) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        let inner = Arc::clone(&self.inner);
        Self::to_the_end(async move { death::end(&inner, &task).await }).await
    }

    async fn exec(&self, ctx: &Context, process: ExecProcess) -> Result<()> {
        validate_identifier(&process.exec_id)?;
        let task = self.inner.find(ctx, &process.container_id).await?;
        Self::to_the_end(async move {
            let id = &process.container_id;
            task.shim().exec(&process).await.map_err(|err| silent(id, err))?;
            // Of one that had the same ID before.
            task.forget(&process.exec_id);
            Ok(())
        })
        .await
    }

    async fn resize(
        &self,
        ctx: &Context,
        id: &str,
        exec_id: &str,
        cols: u32,
        rows: u32,
    ) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        task.shim().resize(id, exec_id, (cols, rows)).await
    }

    async fn close_stdin(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        task.shim().close_stdin(id, exec_id).await
    }

    async fn pause(&self, ctx: &Context, id: &str) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        Self::in_time(id, async move {
            task.shim().pause(&task.bundle.id).await?;
            task.set_status(Status::Paused);
            Ok(())
        })
        .await
    }

    async fn resume(&self, ctx: &Context, id: &str) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        Self::in_time(id, async move {
            task.shim().resume(&task.bundle.id).await?;
            task.set_status(Status::Running);
            Ok(())
        })
        .await
    }

    async fn pids(&self, ctx: &Context, id: &str) -> Result<Vec<(u32, Option<Any>)>> {
        let task = self.inner.find(ctx, id).await?;
        task.shim().pids(id).await.map_err(|err| silent(id, err))
    }

    async fn update(&self, ctx: &Context, id: &str, resources: Any) -> Result<()> {
        let task = self.inner.find(ctx, id).await?;
        task.shim().update(id, resources).await.map_err(|err| silent(id, err))
    }

    async fn metrics(&self, ctx: &Context, id: &str) -> Result<Metrics> {
        let task = self.inner.find(ctx, id).await?;
        let data = task.shim().stats(id).await?;
        Ok(Metrics { container_id: id.to_owned(), timestamp: Timestamp::now(), data })
    }

    async fn wait(&self, ctx: &Context, id: &str, exec_id: &str) -> Result<Exit> {
        if exec_id.is_empty() && self.inner.lookup(ctx, id).is_none() {
            let lost = self.inner.lost().remove(&(ctx.namespace.clone(), id.to_owned()));
            if let Some(exit) = lost {
                return Ok(exit);
            }
        }
        let task = self.inner.find(ctx, id).await?;
        task.wait(exec_id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shim_that_does_not_answer_is_named() {
        let late = |text: &str| Error::new(Kind::DeadlineExceeded, text);
        let err = silent("c1", late("call x/Kill: no answer in 10s: deadline exceeded"));
        assert_eq!(err.kind(), Kind::DeadlineExceeded);
        assert_eq!(err.to_string(), "the shim of container c1 does not answer: deadline exceeded");
        assert_eq!(err.subject(), Some(("container", "c1")));
        let own = "freeze the cgroup: not in 5s: deadline exceeded";
        assert_eq!(silent("c1", late(own)).to_string(), own);
        let refused = "call x/Kill: no answer in 10s: deadline exceeded";
        assert_eq!(silent("c1", Error::internal(refused)).kind(), Kind::Internal);
    }
}
