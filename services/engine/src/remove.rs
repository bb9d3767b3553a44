//! Taking containers away.

use std::sync::Arc;
use std::time::Instant;

use gantry_core::db::Durability;
use gantry_core::{Context, Error, Kind, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::lifecycle::{END, Found};
use crate::model::{Meta, Phase, State};
use crate::signal::KILL;
use crate::store::no_such;
use crate::{Engine, watch};

/// Why a container was not removed.
enum Removal {
    /// It was started after it had been found not to run.
    Started(Error),
    /// Anything else.
    Failed(Error),
}

impl From<Error> for Removal {
    fn from(err: Error) -> Self {
        Self::Failed(err)
    }
}

impl Engine {
    /// Removes a container with its file system and its output, and, when asked for, its
    /// anonymous volumes. A restart that is under way does not start it again.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it runs, unless `force` is set; `DeadlineExceeded`
    /// for a process that can't be killed, which stays as it is. When anything else fails it is
    /// dead, and can be removed once more.
    pub async fn remove(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        force: bool,
        volumes: bool,
    ) -> Result<()> {
        self.remove_while(ctx, text, force, volumes, &|| true).await
    }

    /// [`Engine::remove`], unless it is not wanted any more before anything has happened to the
    /// container. With `force` only one whose shim is still to say what it does stays then.
    ///
    /// # Errors
    /// As [`Engine::remove`]; `Cancelled`.
    pub(crate) async fn remove_while(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        force: bool,
        volumes: bool,
        wanted: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<()> {
        let found = self.find(ctx, text).await?;
        let id = found.container.id.clone();
        let meta = found.meta.clone();
        let end = Instant::now() + END;
        let mut attempt = self.try_remove(ctx, text, found, force, volumes, wanted).await;
        // Somebody starts it again and again: not for ever.
        while let Err(Removal::Started(err)) = attempt {
            if !force || Instant::now() > end {
                self.stay(ctx, &id).await;
                return Err(err);
            }
            attempt = match self.find(ctx, &id).await {
                Ok(found) => self.try_remove(ctx, text, found, force, volumes, wanted).await,
                Err(err) if err.is_not_found() => Ok(false),
                Err(err) => Err(err.into()),
            };
        }
        let removed = attempt.map_err(|removal| match removal {
            Removal::Started(err) | Removal::Failed(err) => err,
        })?;
        if volumes && !removed {
            // Whoever was faster may have left them.
            self.remove_anonymous(ctx, &id, &meta).await;
        }
        Ok(())
    }

    /// Whether it was removed: it may just have gone otherwise.
    async fn try_remove(
        &self,
        ctx: &Context,
        text: &str,
        found: Found,
        force: bool,
        volumes: bool,
        wanted: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<bool, Removal> {
        let (id, name) = (found.container.id.as_str(), found.meta.name.as_str());
        let refused = |why: &str| {
            let text = format!(
                "cannot remove container \"/{name}\": container is {why}: stop the container \
                 before removing or force remove"
            );
            Removal::Failed(Error::failed_precondition(text).about("container", name))
        };
        let killed = found.state.phase.is_running() && force;
        let unclear = !killed && found.live.is_unclear();
        if force && !unclear {
            found.live.turns.end();
        }
        match found.state.phase {
            _ if killed => match self.kill_to_remove(ctx, &found, volumes).await {
                Err(err) if err.is_not_found() => return Ok(false),
                other => other?,
            },
            phase if phase.is_running() => return Err(refused("running")),
            Phase::Restarting if !force => return Err(refused("restarting")),
            _ => {}
        }
        let busy = found.live.hold().await;
        if (!force || unclear) && !wanted() {
            let text = format!("the caller went away before container {name} was removed");
            return Err(Error::new(Kind::Cancelled, text).into());
        }
        let state = self.live.state(&ctx.namespace, id);
        match state.as_ref().map(|state| state.phase) {
            // It went by itself meanwhile, or another caller was faster.
            Some(Phase::Removing) if force => return Ok(false),
            Some(Phase::Removing) => return Err(no_such(text).into()),
            Some(phase) if phase.is_running() => {
                return Err(Removal::Started(Error::failed_precondition(format!(
                    "cannot remove container \"/{name}\": it has just been started"
                ))));
            }
            _ => {}
        }
        let before = state.unwrap_or(found.state);
        found.live.set(State { phase: Phase::Removing, ..before.clone() });
        // First the intent, so that a restart finishes what was begun.
        let removing = move |meta: &mut Meta| {
            meta.state.phase = Phase::Removing;
            meta.removing = false;
            meta.with_volumes = volumes;
        };
        let intended = self.store.update(ctx, id, Durability::Buffered, None, removing).await;
        let meta = Meta { with_volumes: volumes, ..found.meta.clone() };
        let removed = match intended {
            Ok(()) => self.dispose(ctx, &found.container, &meta, Durability::Sync, force).await,
            Err(err) if err.is_not_found() => return Ok(false),
            Err(err) => Err(err),
        };
        if let Err(err) = removed {
            let error = err.to_string();
            found.live.set(State { phase: Phase::Dead, error, ..before });
            self.record(ctx, id, &found.live, Durability::Sync, Some(Action::Updated)).await;
            return Err(err.context(format!("remove container {name}")).into());
        }
        drop(busy);
        Ok(true)
    }

    /// Kills a container that is to be removed. What is to become of it is written down first: a
    /// daemon that comes after this one finishes it.
    async fn kill_to_remove(&self, ctx: &Context, found: &Found, volumes: bool) -> Result<()> {
        let id = found.container.id.as_str();
        found.live.stopped_by_user();
        // One that goes with its end needs no more than that.
        if !found.meta.foreign && !found.meta.settings.auto_remove {
            let removing = move |meta: &mut Meta| {
                meta.state.stopped_by_user = true;
                meta.removing = true;
                meta.with_volumes = volumes;
            };
            self.store.update(ctx, id, Durability::Buffered, None, removing).await?;
        }
        let killed = async {
            let sent = match self.signal(ctx, found, KILL).await {
                Err(err) if err.kind() == Kind::DeadlineExceeded => {
                    // Nobody else could end it.
                    match self.parts.tasks.end_shim(ctx, id).await {
                        Err(why) if !why.is_not_found() => Err(err.context(why)),
                        _ => Err(err),
                    }
                }
                sent => sent,
            };
            // Whether it helped, whatever was answered: the shim may just have died.
            let ended = tokio::time::timeout(END, self.ended(ctx, found)).await;
            let stuck = || watch::stuck("remove", &found.meta.name);
            ended.map_err(|_| sent.err().unwrap_or_else(stuck))
        };
        if let Err(err) = killed.await {
            self.stay(ctx, id).await;
            return Err(err);
        }
        found.live.wait_over(found.state.pid).await;
        Ok(())
    }

    /// A container that was to be removed stays, also with a daemon that comes after this one.
    async fn stay(&self, ctx: &Context, id: &str) {
        let stays = |meta: &mut Meta| meta.removing = false;
        match self.store.update(ctx, id, Durability::Buffered, None, stays).await {
            Err(err) if !err.is_not_found() => {
                tracing::warn!(id, error = %err, "record that a container stays");
            }
            _ => {}
        }
    }
}
