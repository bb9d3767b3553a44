//! Finding the sandboxes that an earlier daemon left running.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use gantry_core::db::blocking;
use gantry_core::sandboxes::SandboxStatus;
use gantry_core::tasks::Exit;
use gantry_core::{Context, Kind, Result};

use super::client::Remote;
use super::{Life, Sandbox, watch};
use crate::bundle::Bundle;
use crate::death;
use crate::manager::Inner;
use crate::recover::bundles;
use crate::runtime::{self, Program};
use crate::shim::Shim;

/// Bundles looked at side by side.
const AT_ONCE: usize = 16;
/// How a sandbox ended is told at once.
const ANSWER: Duration = Duration::from_secs(2);

/// Connects to every sandbox whose shim lives, and removes what is dead or has no record.
///
/// # Errors
/// The directory of bundles can't be read. Trouble with one bundle is logged.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    let config = Arc::clone(&inner.config);
    let found =
        blocking(move || bundles(&config, &config.sandbox_bundles(), Bundle::of_sandbox)).await?;
    stream::iter(found)
        .for_each_concurrent(AT_ONCE, |bundle| async move {
            let id = bundle.id.clone();
            if let Err(err) = adopt(inner, bundle).await {
                tracing::warn!(id = %id, error = %err, "a sandbox could not be recovered");
            }
        })
        .await;
    Ok(())
}

async fn adopt(inner: &Arc<Inner>, bundle: Bundle) -> Result<()> {
    let program = match bundle.program(&inner.config) {
        Some(program) => program,
        // The daemon ended while it wrote the bundle: nothing was started.
        None => runtime::resolve(&inner.config, "")?,
    };
    let ctx = Context::new(bundle.namespace.clone());
    let wanted = match inner.records.get(&ctx, &bundle.id).await {
        Ok(_) => true,
        Err(err) if err.is_not_found() => false,
        Err(err) => return Err(err),
    };
    let Some(endpoint) = bundle.endpoint() else {
        lost(inner, bundle, program, wanted).await;
        return Ok(());
    };
    let shim = match Shim::find(&endpoint, &bundle.namespace).await {
        Ok(Some(shim)) => shim,
        Ok(None) => {
            lost(inner, bundle, program, wanted).await;
            return Ok(());
        }
        // Whoever watches the sandbox tries again.
        Err(err) if wanted => {
            tracing::warn!(id = %bundle.id, error = %err, "a sandbox's shim can't be reached yet");
            let shim = Shim::unreached(endpoint, &bundle.namespace);
            resume(inner, bundle, program, shim, Life::Running);
            return Ok(());
        }
        Err(err) => return Err(err),
    };
    let remote = Remote::of(&shim, &bundle.id);
    let status = remote.status(false).await;
    let hangs = status.as_ref().is_err_and(|err| err.kind() == Kind::DeadlineExceeded);
    let found = match status {
        Ok(_) if !wanted => None,
        Ok(status) => Some(life(&remote, &status).await),
        Err(err) if shim.is_lost(&err).await => {
            lost(inner, bundle, program, wanted).await;
            return Ok(());
        }
        Err(err) if wanted && !err.is_not_found() => {
            tracing::warn!(id = %bundle.id, error = %err, "a sandbox's shim does not answer");
            Some(Life::Running)
        }
        Err(_) => None,
    };
    match found {
        Some(life) => {
            tracing::info!(id = %bundle.id, "found a running sandbox");
            resume(inner, bundle, program, shim, life);
            Ok(())
        }
        None => {
            tracing::info!(id = %bundle.id, "end a sandbox that nobody asked for");
            if !hangs {
                abandon(&shim, &bundle.id).await;
            }
            death::tear_down(inner, &bundle, &program).await.map(drop)
        }
    }
}

/// Where a sandbox is in its life, by what its shim says.
async fn life(remote: &Remote<'_>, status: &SandboxStatus) -> Life {
    if !status.exited_at.is_unset() {
        let exit = tokio::time::timeout(ANSWER, remote.wait()).await.ok().and_then(Result::ok);
        return Life::Ended(exit.unwrap_or(Exit { status: 0, at: status.exited_at }));
    }
    if status.created_at.is_unset() { Life::Made } else { Life::Running }
}

fn resume(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: Shim, life: Life) {
    let sandbox = Sandbox::new(bundle, program, Some(shim), life);
    inner.sandboxes.insert(&sandbox);
    tokio::spawn(watch::watch(Arc::clone(inner), sandbox));
}

/// Has a shim end that nobody asked for.
async fn abandon(shim: &Shim, id: &str) {
    // It may never have been set up.
    if Remote::of(shim, id).shutdown().await.is_err() {
        let _ = shim.shutdown(id).await;
    }
}

/// The shim died while no daemon watched.
async fn lost(inner: &Arc<Inner>, bundle: Bundle, program: Program, wanted: bool) {
    tracing::info!(id = %bundle.id, "found the bundle of a dead sandbox");
    death::clean(inner, &bundle, &program).await;
    if wanted {
        let sandbox = Sandbox::new(bundle, program, None, Life::Running);
        inner.sandboxes.insert(&sandbox);
        let exit = death::killed();
        watch::end(inner, &sandbox, Life::Dead(exit), exit);
    }
}
