//! How the end of a sandbox is noticed, and what is done then.

use std::sync::Arc;

use gantry_core::Context;
use gantry_core::tasks::Exit;
use gantry_ttrpc::containerd::events::SandboxExit;
use gantry_ttrpc::convert;

use super::client::Remote;
use super::{Life, Sandbox};
use crate::death;
use crate::manager::Inner;
use crate::shim::Shim;

/// Watches a sandbox until it is taken away: its own end, and that of its shim.
pub(super) async fn watch(inner: Arc<Inner>, sandbox: Arc<Sandbox>) {
    let mut life = sandbox.life.subscribe();
    loop {
        let Ok(shim) = sandbox.shim() else { return };
        tokio::select! {
            () = shim.connection().closed() => {}
            exit = told(&sandbox, &shim) => {
                end(&inner, &sandbox, Life::Ended(exit), exit);
                continue;
            }
            _ = life.wait_for(|life| matches!(life, Life::Gone(_))) => return,
        }
        let _leaving = sandbox.leaving.lock().await;
        if matches!(sandbox.life(), Life::Gone(_)) {
            return;
        }
        let namespace = &sandbox.bundle.namespace;
        let id = &sandbox.bundle.id;
        match Shim::find(&shim.endpoint, namespace).await {
            Ok(Some(shim)) => sandbox.reconnected(shim),
            Ok(None) => {
                tracing::warn!(id = %id, "a sandbox's shim is gone");
                bury(&inner, &sandbox).await;
                return;
            }
            // It may well live: the next round tries again.
            Err(err) => tracing::warn!(id = %id, error = %err, "reach a sandbox's shim again"),
        }
    }
}

/// The end of a sandbox that runs, from its shim. Some shims answer at once and say no
/// time: that means nothing.
async fn told(sandbox: &Sandbox, shim: &Shim) -> Exit {
    let mut life = sandbox.life.subscribe();
    let runs = life.wait_for(|life| *life == Life::Running).await.is_ok();
    if runs
        && let Ok(exit) = Remote::of(shim, &sandbox.bundle.id).wait().await
        && !exit.at.is_unset()
    {
        return exit;
    }
    std::future::pending().await
}

/// Notes the end, and tells everybody of the first.
pub(super) fn end(inner: &Inner, sandbox: &Sandbox, to: Life, exit: Exit) {
    let known = sandbox.life().exit().is_some();
    if !sandbox.turn(to) || known {
        return;
    }
    let ctx = Context::new(sandbox.bundle.namespace.clone());
    let event = SandboxExit {
        sandbox_id: sandbox.bundle.id.clone(),
        exit_status: exit.status,
        exited_at: Some(convert::timestamp(exit.at)),
    };
    death::publish(inner, &ctx, "/sandboxes/exit", &event);
}

/// Cleans up after a dead shim. The sandbox stays for those who ask how it ended.
async fn bury(inner: &Inner, sandbox: &Sandbox) {
    death::clean(inner, &sandbox.bundle, &sandbox.program).await;
    let exit = sandbox.life().exit().unwrap_or_else(death::killed);
    end(inner, sandbox, Life::Dead(exit), exit);
}
