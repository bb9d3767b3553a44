//! Ends of containers: one watcher for each that runs.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use gantry_core::containers::Container;
use gantry_core::db::{Durability, blocking};
use gantry_core::filter::Filters;
use gantry_core::tasks::Exit;
use gantry_core::{Context, Error, Kind, Namespace, Result, Timestamp, faults};
use gantry_grpc::any;
use gantry_grpc::containerd::events::TaskOom;
use gantry_grpc::convert;
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::files::{attach_socket, network_socket};
use crate::live::Live;
use crate::model::{Meta, Phase, State};
use crate::signal::KILL;

/// What a process ends with that was killed: 128 and SIGKILL.
pub(crate) const KILLED: u32 = 137;
/// How long a process that was killed may take to end when a task has to go.
const END: Duration = Duration::from_secs(10);
/// Between attempts to learn of an end from a shim that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What the end of its first process makes of a container's state.
pub(crate) fn end(meta: &Meta, status: u32) -> impl FnOnce(&mut State) + use<> {
    end_at(meta, Exit { status, at: Timestamp::now() })
}

fn end_at(meta: &Meta, exit: Exit) -> impl FnOnce(&mut State) + use<> {
    // From here on the name is free, and nobody sees it any more.
    let phase = if meta.settings.auto_remove { Phase::Removing } else { Phase::Exited };
    move |state| {
        state.phase = phase;
        state.exit_code = exit.status;
        state.health = state.health.at_end();
        state.finished_at = if exit.at.is_unset() { Timestamp::now() } else { exit.at };
    }
}

impl Engine {
    /// Watches a container whose process has been started.
    pub(crate) fn watch(
        self: &Arc<Self>,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        live: &Arc<Live>,
    ) {
        let engine = Arc::clone(self);
        let ctx = ctx.of_daemon();
        // What follows needs no specification: it is by far the largest part.
        let container = Container { spec: None, ..container.clone() };
        let (meta, live) = (meta.clone(), Arc::clone(live));
        let run = live.now().run();
        tokio::spawn(async move {
            engine.watch_to_the_end(&ctx, container, meta, live, run).await;
        });
    }

    async fn watch_to_the_end(
        self: &Arc<Self>,
        ctx: &Context,
        container: Container,
        meta: Meta,
        live: Arc<Live>,
        run: u32,
    ) {
        let id = container.id.as_str();
        let exit = self.exit_of(ctx, id).await;
        let after = live.ended(run, end_at(&meta, exit)).phase;
        if after == Phase::Removing {
            // Nothing is recorded: its record goes.
            self.tell(ctx, Action::Died, &container, &meta, &live);
        }
        let busy = live.busy.lock().await;
        // Others may wait for its addresses and ports.
        self.end_networks(ctx, id).await;
        self.tell_unmounted(ctx, id, &meta.settings);
        if after == Phase::Removing {
            self.dispose_or_bury(ctx, &container, &meta, &live).await;
        } else {
            // The shim keeps the exit until it is recorded here.
            self.record(ctx, id, &live, Durability::Sync, Some(Action::Died)).await;
            if let Err(err) = self.delete_task(ctx, id).await {
                tracing::warn!(id, error = %err, "delete a task");
            }
        }
        drop(busy);
        if after == Phase::Restarting {
            // Before it has settled: whoever recovers it then finds what is to be started.
            self.restart_later(ctx, id, &live);
        }
        live.settled();
    }

    async fn exit_of(&self, ctx: &Context, id: &str) -> Exit {
        loop {
            match self.parts.tasks.wait(ctx, id, "").await {
                Ok(exit) => return exit,
                Err(err) if err.is_not_found() => {
                    tracing::warn!(id, "the task is gone; its exit is not known");
                    return Exit { status: KILLED, at: Timestamp::now() };
                }
                Err(err) => {
                    tracing::warn!(id, error = %err, "wait for a container");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Stores the state as it is now, and what made it so.
    pub(crate) async fn record(
        &self,
        ctx: &Context,
        id: &str,
        live: &Arc<Live>,
        how: Durability,
        action: Option<Action>,
    ) {
        match self.store.record(ctx, id, live, how, action).await {
            Err(err) if !err.is_not_found() => {
                tracing::warn!(id, error = %err, "record what a container does");
            }
            _ => {}
        }
    }

    /// Takes a task away, if there is one, whatever its process does; with `force`, with a shim
    /// that does not answer.
    ///
    /// # Errors
    /// It can't be told whether the process has ended.
    pub(crate) async fn end_task(&self, ctx: &Context, id: &str, force: bool) -> Result<()> {
        let Err(err) = self.delete_task(ctx, id).await else { return Ok(()) };
        tracing::warn!(id, error = %err, "delete a task; it is killed now");
        // What follows tells whether that helped.
        let killed = self.parts.tasks.kill(ctx, id, "", KILL, true).await;
        if force && killed.is_err_and(|err| err.kind() == Kind::DeadlineExceeded) {
            self.end_silent_shim(ctx, id).await;
        }
        let _ = tokio::time::timeout(END, self.parts.tasks.wait(ctx, id, "")).await;
        self.delete_task(ctx, id).await
    }

    /// Kills the shim of a container that is to go: nobody else could end that one. Whether it
    /// helped is seen by whether the task goes.
    pub(crate) async fn end_silent_shim(&self, ctx: &Context, id: &str) {
        match self.parts.tasks.end_shim(ctx, id).await {
            Err(err) if !err.is_not_found() => {
                tracing::warn!(id, error = %err, "end a shim that does not answer");
            }
            _ => {}
        }
    }

    /// Takes a task away whose process has ended.
    pub(crate) async fn delete_task(&self, ctx: &Context, id: &str) -> Result<()> {
        match self.parts.tasks.delete(ctx, id, "").await {
            Err(err) if !err.is_not_found() => return Err(err),
            _ => {}
        }
        // Of a start that failed, or one that an earlier daemon began.
        self.leave_networks(ctx, id).await;
        let state = &self.parts.config.state;
        let (socket, network) = (attach_socket(state, id), network_socket(state, id));
        // Usually the shim has removed them.
        let remove = || {
            let _ = std::fs::remove_file(network);
            std::fs::remove_file(socket)
        };
        let _ = blocking(move || Ok(faults::around("remove the socket of a task", remove))).await;
        Ok(())
    }

    /// Takes everything of a container away, its record last; with `force`, with a shim that does
    /// not answer. Whatever is gone already is no error: it may be the second attempt.
    pub(crate) async fn dispose(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        durability: Durability,
        force: bool,
    ) -> Result<()> {
        let id = container.id.as_str();
        self.end_task(ctx, id, force).await?;
        if !container.snapshot_key.is_empty() {
            let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
            match snapshotter.remove_with(ctx, &container.snapshot_key, Durability::Buffered).await
            {
                Err(err) if !err.is_not_found() => return Err(err),
                _ => {}
            }
        }
        self.remove_views(ctx, container, meta).await?;
        let files = self.files(ctx, id);
        blocking(move || files.remove()).await?;
        self.shelf.refill();
        // Before the record, which tells a daemon that comes after this one of them. Of one
        // that was never made nobody else knows.
        let untold = meta.state.phase == Phase::Creating;
        if meta.settings.auto_remove || meta.with_volumes || untold {
            self.remove_anonymous(ctx, id, meta).await;
        }
        self.store.remove(ctx, id, &meta.name, durability).await?;
        self.live.gone(ctx, id);
        self.health.forget(ctx, id);
        Ok(())
    }

    /// [`Engine::dispose`] for one that goes by itself: when that fails, it
    /// is shown as dead, so that somebody can try again.
    pub(crate) async fn dispose_or_bury(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        live: &Arc<Live>,
    ) {
        if let Err(err) = self.dispose(ctx, container, meta, Durability::Buffered, true).await {
            self.bury(ctx, container, live, &err).await;
        }
    }

    /// Takes away what there is of a container that nobody was told of.
    pub(crate) async fn undo(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        live: &Arc<Live>,
    ) {
        self.dispose_or_bury(ctx, container, meta, live).await;
        live.unmade();
    }

    /// Shows a container as dead: somebody has to remove it.
    pub(crate) async fn bury(
        &self,
        ctx: &Context,
        container: &Container,
        live: &Arc<Live>,
        err: &Error,
    ) {
        tracing::warn!(id = %container.id, error = %err, "remove a container");
        let state = live.now().state.unwrap_or_default();
        live.set(State { phase: Phase::Dead, error: err.to_string(), ..state });
        self.record(ctx, &container.id, live, Durability::Sync, Some(Action::Updated)).await;
    }

    /// Notes which containers were killed for want of memory, for as long as
    /// the engine lives.
    pub(crate) fn watch_memory(self: &Arc<Self>) -> Result<()> {
        let filters = Filters::parse(&["topic==/tasks/oom"])?;
        let engine = Arc::downgrade(self);
        let mut events = self.parts.events.subscribe(filters.clone());
        tokio::spawn(async move {
            loop {
                let event = events.next().await;
                let Some(engine) = engine.upgrade() else { return };
                match event {
                    Some(Ok(event)) => engine.out_of_memory(&event.namespace, event.event),
                    // Too slow, or ended: from the beginning.
                    Some(Err(_)) => events = engine.parts.events.subscribe(filters.clone()),
                    None => return,
                }
            }
        });
        Ok(())
    }

    fn out_of_memory(self: &Arc<Self>, namespace: &str, event: gantry_core::Any) {
        let Ok(event) = any::unpack::<TaskOom>(&convert::any(event)) else { return };
        let Ok(namespace) = Namespace::new(namespace) else { return };
        let id = event.container_id;
        let Some(live) = self.live.get(&namespace, &id) else { return };
        if live.out_of_memory() {
            // Its end was told without that.
            let (engine, ctx) = (Arc::clone(self), Context::new(namespace));
            tokio::spawn(async move {
                let action = Some(Action::Updated);
                engine.record(&ctx, &id, &live, Durability::Buffered, action).await;
            });
        }
    }
}

/// The error for a container that is in somebody's hands for too long.
pub(crate) fn stuck(what: &str, name: &str) -> Error {
    Error::new(
        Kind::DeadlineExceeded,
        format!("{what} container {name}: its process does not end: try again, or kill it"),
    )
    .about("container", name)
}
