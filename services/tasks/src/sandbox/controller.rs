//! The controller: the implementation of [`SandboxController`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::db::blocking;
use gantry_core::sandboxes::{NOT_READY, SandboxController, SandboxStatus, SetUp, Started};
use gantry_core::tasks::{Exit, Metrics};
use gantry_core::{Context, Error, Kind, Platform, Result, Timestamp, validate_identifier};
use gantry_ttrpc::containerd::events::{SandboxCreate, SandboxStart};

use super::client::Remote;
use super::{Life, Sandbox, watch};
use crate::bundle::Bundle;
use crate::manager::{Inner, TaskManager};
use crate::{create, death, runtime};

/// A shim that was told to go does so within this time, once its containers have ended.
const GOING: Duration = Duration::from_secs(5);

/// Starts a shim and has it set up the sandbox.
async fn create(inner: &Arc<Inner>, ctx: &Context, request: SetUp) -> Result<()> {
    validate_identifier(&request.id)?;
    let record = inner.records.get(ctx, &request.id).await?;
    let options = record.runtime.options.as_ref();
    let program = runtime::choose(&inner.config, &record.runtime.name, options)?;
    let key = (ctx.namespace.clone(), request.id.clone());
    let reservation = inner.sandboxes.reserve(&key)?;
    let bundle = Bundle::of_sandbox(&inner.config, &ctx.namespace, &request.id);
    let spec = record.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    let id = request.id.clone();
    let mut hanging = None;
    let prepared = async {
        create::fill(inner, &bundle, spec, &record.runtime.name, &program).await?;
        let shim = create::get_shim(inner, &bundle, &program, options, spec)
            .await
            .map_err(|err| err.context(format!("failed to start new shim for sandbox {id}")))?;
        let remote = Remote::of(&shim, &id);
        if let Err(err) = remote.create(&bundle.path.display().to_string(), request).await {
            // It may serve no sandboxes at all; then it ends as a task's shim does.
            if remote.shutdown().await.is_err() {
                let _ = shim.shutdown(&id).await;
            }
            if tokio::time::timeout(GOING, shim.connection().closed()).await.is_err() {
                hanging = Some(shim);
            }
            return Err(err.context(format!("failed to create sandbox {id}")));
        }
        Ok(shim)
    };
    let shim = match prepared.await {
        Ok(shim) => shim,
        Err(err) => {
            death::undo(inner, &bundle, &program, hanging.as_ref()).await;
            inner.refill();
            return Err(err);
        }
    };
    inner.refill();
    let sandbox = Sandbox::new(bundle, program, Some(shim), Life::Made);
    reservation.fill(&sandbox);
    tokio::spawn(watch::watch(Arc::clone(inner), sandbox));
    death::publish(inner, ctx, "/sandboxes/create", &SandboxCreate { sandbox_id: id });
    Ok(())
}

async fn start(inner: &Arc<Inner>, ctx: &Context, id: &str) -> Result<Started> {
    let sandbox = inner.sandboxes.find(ctx, id)?;
    let _starting = sandbox.starting.lock().await;
    match sandbox.life() {
        Life::Made => {}
        Life::Dead(_) | Life::Gone(_) => return Err(sandbox.not_found()),
        Life::Running | Life::Ended(_) => {
            return Err(Error::failed_precondition(format!(
                "sandbox {id} was started already: failed precondition"
            )));
        }
    }
    let shim = sandbox.shim()?;
    match Remote::of(&shim, id).start().await {
        Ok(started) => {
            sandbox.turn(Life::Running);
            death::publish(inner, ctx, "/sandboxes/start", &SandboxStart { sandbox_id: id.into() });
            Ok(started)
        }
        Err(err) => {
            if let Err(left) = shutdown(inner, &sandbox).await {
                tracing::warn!(id, error = %left, "take away a sandbox that did not start");
            }
            Err(err.context(format!("failed to start sandbox {id}")))
        }
    }
}

/// Takes a sandbox away with its shim.
async fn shutdown(inner: &Arc<Inner>, sandbox: &Arc<Sandbox>) -> Result<()> {
    let _leaving = sandbox.leaving.lock().await;
    match sandbox.life() {
        Life::Gone(_) => return Err(sandbox.not_found()),
        Life::Dead(exit) => {
            sandbox.turn(Life::Gone(exit));
            inner.sandboxes.remove(sandbox);
            return Ok(());
        }
        _ => {}
    }
    let shim = sandbox.shim()?;
    if let Err(err) = Remote::of(&shim, &sandbox.bundle.id).shutdown().await
        && !err.is_not_found()
        && !shim.is_lost(&err).await
    {
        return Err(err.context("failed to shutdown sandbox"));
    }
    let asked = Exit { status: 0, at: Timestamp::now() };
    let exit = sandbox.life().exit().unwrap_or(asked);
    watch::end(inner, sandbox, Life::Gone(exit), exit);
    let (bundle, program) = (&sandbox.bundle, &sandbox.program);
    let closed = shim.connection().closed();
    let removed = if tokio::time::timeout(GOING, closed).await.is_err() {
        tracing::warn!(id = %bundle.id, "a sandbox's shim does not go");
        death::force(inner, bundle, program, &shim).await
    } else if program.own {
        let bundle = bundle.clone();
        blocking(move || bundle.remove()).await
    } else {
        death::tear_down(inner, bundle, program).await.map(drop)
    };
    removed.map_err(|err| err.context("failed to delete sandbox shim"))?;
    inner.sandboxes.remove(sandbox);
    Ok(())
}

#[async_trait]
impl SandboxController for TaskManager {
    async fn create(&self, ctx: &Context, sandbox: SetUp) -> Result<()> {
        let (inner, ctx) = (Arc::clone(&self.inner), ctx.clone());
        Self::to_the_end(async move { create(&inner, &ctx, sandbox).await }).await
    }

    async fn start(&self, ctx: &Context, id: &str) -> Result<Started> {
        let (inner, ctx, id) = (Arc::clone(&self.inner), ctx.clone(), id.to_owned());
        Self::to_the_end(async move { start(&inner, &ctx, &id).await }).await
    }

    async fn platform(&self, ctx: &Context, id: &str) -> Result<Platform> {
        let shim = self.inner.sandboxes.find(ctx, id)?.shim()?;
        let platform = Remote::of(&shim, id).platform().await;
        platform.map_err(|err| err.context("failed to get sandbox platform"))
    }

    async fn stop(&self, ctx: &Context, id: &str, seconds: u32) -> Result<()> {
        let sandbox = match self.inner.sandboxes.find(ctx, id) {
            Err(err) if err.is_not_found() => return Ok(()),
            found => found?,
        };
        match Remote::of(&sandbox.shim()?, id).stop(seconds).await {
            Err(err) if !err.is_not_found() && err.kind() != Kind::Unavailable => {
                Err(err.context("failed to stop sandbox"))
            }
            _ => Ok(()),
        }
    }

    async fn wait(&self, ctx: &Context, id: &str) -> Result<Exit> {
        let sandbox = self.inner.sandboxes.get(ctx, id)?;
        let mut life = sandbox.life.subscribe();
        let end = life.wait_for(|life| life.exit().is_some()).await.map(|life| life.exit());
        end.ok().flatten().ok_or_else(|| sandbox.not_found())
    }

    async fn status(&self, ctx: &Context, id: &str, verbose: bool) -> Result<SandboxStatus> {
        let over = |at| SandboxStatus {
            state: NOT_READY.to_owned(),
            exited_at: at,
            ..SandboxStatus::default()
        };
        let Ok(sandbox) = self.inner.sandboxes.get(ctx, id) else {
            return Ok(over(Timestamp::now()));
        };
        if let Life::Dead(exit) | Life::Gone(exit) = sandbox.life() {
            return Ok(over(exit.at));
        }
        let status = Remote::of(&sandbox.shim()?, id).status(verbose).await;
        status.map_err(|err| err.context(format!("failed to query sandbox {id} status")))
    }

    async fn shutdown(&self, ctx: &Context, id: &str) -> Result<()> {
        let sandbox = self.inner.sandboxes.get(ctx, id)?;
        let inner = Arc::clone(&self.inner);
        Self::to_the_end(async move { shutdown(&inner, &sandbox).await }).await
    }

    async fn metrics(&self, ctx: &Context, id: &str) -> Result<Metrics> {
        let shim = self.inner.sandboxes.find(ctx, id)?.shim()?;
        Remote::of(&shim, id).metrics().await
    }

    async fn update(&self, ctx: &Context, id: &str, _fields: &[String]) -> Result<()> {
        // The shim's service has no such call: what has changed is the record, and it
        // counts for the containers that come.
        let shim = self.inner.sandboxes.find(ctx, id)?.shim()?;
        match Remote::of(&shim, id).ping().await {
            // Not every shim can be asked.
            Err(err) if err.kind() != Kind::Unimplemented => Err(err),
            _ => Ok(()),
        }
    }
}
