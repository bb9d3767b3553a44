//! What changes a container that is there: restart, pause, another name.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::tasks::Status;
use gantry_core::{Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::filter::ContainerFilter;
use crate::lifecycle::{Found, running};
use crate::model::Phase;
use crate::{Engine, names, signal};

impl Engine {
    /// Stops a container, when it runs, and starts it, unless somebody has wanted it to end by
    /// then.
    ///
    /// # Errors
    /// As [`Engine::stop`] and [`Engine::start`].
    pub async fn restart(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        signal: &str,
        timeout: Option<Option<Duration>>,
    ) -> Result<()> {
        let asked = if signal.is_empty() { None } else { Some(signal::parse(signal)?) };
        let found = self.find(ctx, text).await?;
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "restart container {text}: another client made it and has to start it"
            ))
            .about("container", text));
        }
        let turn = found.live.turns.run();
        self.restart_in_turn(ctx, text, found, asked, timeout, turn).await
    }

    /// [`Engine::restart`] of a container that was found, unless somebody has wanted it to end
    /// behind this turn.
    async fn restart_in_turn(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        found: Found,
        signal: Option<u32>,
        timeout: Option<Option<Duration>>,
        turn: u64,
    ) -> Result<()> {
        let (id, live) = (found.container.id.as_str(), &found.live);
        let started = if found.state.phase.is_running() {
            // One that goes with its end does not go with this one.
            live.keep(true);
            let started = self.start_anew(ctx, &found, signal, timeout, turn).await;
            live.keep(false);
            started.map_err(|err| err.context(format!("Cannot restart container {text}")))
        } else {
            self.start_in_turn(ctx, id, &found, turn).await
        };
        started?;
        if !live.turns.ends_after(turn) {
            self.tell_of(ctx, Action::Restarted, &found, &[]);
        }
        Ok(())
    }

    /// Ends this run of a container, and starts the next.
    async fn start_anew(
        self: &Arc<Self>,
        ctx: &Context,
        found: &Found,
        signal: Option<u32>,
        timeout: Option<Option<Duration>>,
        turn: u64,
    ) -> Result<()> {
        self.end(ctx, found, signal, timeout).await?;
        // Its start waits for that as well.
        found.live.wait_over(found.state.pid).await;
        self.tell_of(ctx, Action::Stopped, found, &[]);
        let id = found.container.id.as_str();
        let found = self.find(ctx, id).await?;
        self.start_in_turn(ctx, id, &found, turn).await
    }

    /// [`Engine::restart`] that nobody has asked for: what somebody has wanted behind this turn
    /// goes first.
    pub(crate) async fn restart_unasked(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        turn: u64,
    ) -> Result<()> {
        let found = self.find(ctx, id).await?;
        self.restart_in_turn(ctx, id, found, None, None, turn).await
    }

    /// Freezes a container's processes.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it does not run or is frozen.
    pub async fn pause(&self, ctx: &Context, text: &str) -> Result<()> {
        let found = running(self.find(ctx, text).await?, text, "pause")?;
        if found.state.phase == Phase::Paused && self.is_frozen(ctx, &found).await? {
            let err = Error::failed_precondition(format!("Container {text} is already paused"));
            return Err(err.about("container", text));
        }
        self.parts.tasks.pause(ctx, &found.container.id).await
    }

    /// Lets frozen processes go on.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` when it is not frozen.
    pub async fn unpause(&self, ctx: &Context, text: &str) -> Result<()> {
        let found = self.find(ctx, text).await?;
        let frozen = match found.state.phase {
            Phase::Paused => true,
            Phase::Running => self.is_frozen(ctx, &found).await?,
            _ => false,
        };
        if !frozen {
            let err = Error::failed_precondition(format!("Container {text} is not paused"));
            return Err(err.about("container", text));
        }
        self.parts.tasks.resume(ctx, &found.container.id).await
    }

    /// Whether the shim of a container says that it is frozen: it may have changed that without
    /// an answer that anybody heard.
    async fn is_frozen(&self, ctx: &Context, found: &Found) -> Result<bool> {
        match self.parts.tasks.get(ctx, &found.container.id, "").await {
            Ok(task) => Ok(matches!(task.status, Status::Paused | Status::Pausing)),
            Err(err) if err.is_not_found() => Ok(found.state.phase == Phase::Paused),
            Err(err) => Err(err),
        }
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for the name; `AlreadyExists` when another container has it.
    pub async fn rename(&self, ctx: &Context, text: &str, name: &str) -> Result<()> {
        let name = name.strip_prefix('/').unwrap_or(name);
        if name.is_empty() {
            return Err(Error::invalid_argument("Neither old nor new names may be empty"));
        }
        names::validate(name)?;
        let found = self.find(ctx, text).await?;
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "rename container {text}: another client made it: its name is its ID"
            ))
            .about("container", text));
        }
        if found.meta.name == name {
            return Err(Error::invalid_argument(
                "Renaming a container with the same name as its current name",
            )
            .about("container", text));
        }
        // Whoever starts it has told its networks a name.
        let busy = found.live.hold().await;
        let id = found.container.id.as_str();
        self.store.rename(ctx, id, name).await?;
        if found.meta.settings.is_attached() && found.live.now().runs() {
            if let Err(err) = self.parts.endpoints.rename(ctx, id, name).await {
                tracing::warn!(id, name, error = %err, "tell networks another name");
            }
            found.live.connect(self.connected(ctx, id));
        }
        drop(busy);
        Ok(())
    }

    /// Removes containers that do not run. Answers with their IDs and how much they took.
    ///
    /// # Errors
    /// The store's. One that can't be removed is left out.
    pub async fn prune(
        self: &Arc<Self>,
        ctx: &Context,
        filter: &ContainerFilter,
    ) -> Result<(Vec<String>, u64)> {
        let (mut removed, mut reclaimed) = (Vec::new(), 0);
        for container in self.list(ctx, true).await? {
            let ended =
                matches!(container.state.phase, Phase::Created | Phase::Exited | Phase::Dead);
            if !ended || !filter.matches(&container) {
                continue;
            }
            let Ok(found) = self.find(ctx, &container.id).await else { continue };
            if found.meta.foreign {
                continue;
            }
            let snapshotter = self.parts.snapshotters.get(&found.container.snapshotter)?;
            let usage = snapshotter.usage(ctx, &found.container.snapshot_key).await;
            match self.remove(ctx, &container.id, false, false).await {
                Ok(()) => {
                    reclaimed += usage.map_or(0, |usage| usage.size);
                    removed.push(container.id);
                }
                // It was started or removed meanwhile, or somebody has to look at it.
                Err(err) => tracing::info!(id = container.id, error = %err, "leave a container"),
            }
        }
        self.tell_pruned(ctx, reclaimed);
        Ok((removed, reclaimed))
    }
}
