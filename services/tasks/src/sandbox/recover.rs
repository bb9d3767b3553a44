//! Finding the sandboxes that an earlier daemon left running.

use std::sync::Arc;
use std::time::Duration;

use futures::future;
use futures::stream::{self, StreamExt};
use gantry_core::db::blocking;
use gantry_core::sandboxes::SandboxStatus;
use gantry_core::tasks::Exit;
use gantry_core::{Context, Error, Result};

use super::client::Remote;
use super::{Life, Sandbox, watch};
use crate::bundle::Bundle;
use crate::death;
use crate::manager::Inner;
use crate::recover::{AT_ONCE, Heard, bundles, hear};
use crate::runtime::{self, Program};
use crate::shim::Shim;

/// Between attempts to learn something from a shim that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How a sandbox ended is told at once.
const ANSWER: Duration = Duration::from_secs(2);

/// Connects to every sandbox whose shim lives, and removes what is dead or has no record. Shims
/// that hang hold up nobody.
///
/// # Errors
/// The directory of bundles can't be read. Trouble with one bundle is logged.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    let config = Arc::clone(&inner.config);
    let found =
        blocking(move || bundles(&config, &config.sandbox_bundles(), Bundle::of_sandbox)).await?;
    let heard = future::join_all(found.into_iter().map(|bundle| async move {
        let ask = async |shim: &Shim| Remote::of(shim, &bundle.id).status(false).await;
        let heard = hear(&bundle, ask).await;
        (bundle, heard)
    }));
    stream::iter(heard.await)
        .for_each_concurrent(AT_ONCE, |(bundle, heard)| async move {
            let id = bundle.id.clone();
            if let Err(err) = adopt(inner, bundle, heard).await {
                tracing::warn!(id = %id, error = %err, "a sandbox could not be recovered");
            }
        })
        .await;
    Ok(())
}

async fn adopt(inner: &Arc<Inner>, bundle: Bundle, heard: Heard<SandboxStatus>) -> Result<()> {
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
    match heard {
        Heard::Dead => lost(inner, bundle, program, wanted).await,
        Heard::Said(shim, Ok(status)) if wanted => {
            let life = life(&Remote::of(&shim, &bundle.id), &status).await;
            tracing::info!(id = %bundle.id, "found a running sandbox");
            resume(inner, bundle, program, shim, life);
        }
        Heard::Said(shim, Err(err)) if wanted && !err.is_not_found() => {
            tracing::warn!(id = %bundle.id, error = %err, "a sandbox's shim does not answer");
            resume(inner, bundle, program, shim, Life::Running);
        }
        Heard::Hangs(shim) if wanted => resume_unknown(inner, bundle, program, shim),
        Heard::Away(endpoint) if wanted => {
            let shim = Shim::unreached(endpoint, &bundle.namespace);
            resume_unknown(inner, bundle, program, shim);
        }
        Heard::Said(shim, _) => {
            tracing::info!(id = %bundle.id, "end a sandbox that nobody asked for");
            abandon(&shim, &bundle.id).await;
            death::tear_down(inner, &bundle, &program).await?;
        }
        Heard::Hangs(shim) => {
            tracing::info!(id = %bundle.id, "end a sandbox that nobody asked for, by force");
            let inner = Arc::clone(inner);
            tokio::spawn(async move {
                if let Err(err) = death::force(&inner, &bundle, &program, &shim).await {
                    tracing::warn!(id = %bundle.id, error = %err, "clean up behind a shim");
                }
            });
        }
        // The next start of the daemon tries again.
        Heard::Away(_) => return Err(Error::unavailable("its shim can't be reached")),
    }
    Ok(())
}

/// Takes over a sandbox that is taken to run, and ends it once its shim says that it knows
/// nothing of it.
fn resume_unknown(inner: &Arc<Inner>, bundle: Bundle, program: Program, shim: Shim) {
    tracing::warn!(id = %bundle.id, "a sandbox's shim has not answered yet");
    let sandbox = resume(inner, bundle, program, shim, Life::Running);
    tokio::spawn(async move {
        let id = sandbox.bundle.id.as_str();
        while sandbox.life().exit().is_none()
            && let Ok(shim) = sandbox.shim()
        {
            match Remote::of(&shim, id).status(false).await {
                Ok(_) => return,
                // Whoever watches it tells of its end.
                Err(err) if err.is_not_found() => return abandon(&shim, id).await,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    });
}

/// Where a sandbox is in its life, by what its shim says.
async fn life(remote: &Remote<'_>, status: &SandboxStatus) -> Life {
    if !status.exited_at.is_unset() {
        let exit = tokio::time::timeout(ANSWER, remote.wait()).await.ok().and_then(Result::ok);
        return Life::Ended(exit.unwrap_or(Exit { status: 0, at: status.exited_at }));
    }
    if status.created_at.is_unset() { Life::Made } else { Life::Running }
}

fn resume(
    inner: &Arc<Inner>,
    bundle: Bundle,
    program: Program,
    shim: Shim,
    life: Life,
) -> Arc<Sandbox> {
    let sandbox = Sandbox::new(bundle, program, Some(shim), life);
    inner.sandboxes.insert(&sandbox);
    tokio::spawn(watch::watch(Arc::clone(inner), Arc::clone(&sandbox)));
    sandbox
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
