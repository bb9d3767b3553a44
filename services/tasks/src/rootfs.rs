//! Root file systems that a shim can't mount alone: images that need loop devices, and
//! directories that are still to be made.

use gantry_core::db::blocking;
use gantry_core::mounts::{Activate, Activation};
use gantry_core::{Context, Mount, Result};

use crate::bundle::Bundle;
use crate::manager::Inner;

/// Label of an activation that goes with a container, if not earlier.
const CONTAINER: &str = "containerd.io/gc.bref.container";

/// Has the host make its part of a root file system, under the task's ID. Returns what is
/// left for the shim.
///
/// # Errors
/// `AlreadyExists` when the name is in use; what making the mounts meets. Nothing is
/// mounted then.
pub(crate) async fn activate(
    inner: &Inner,
    bundle: &Bundle,
    mounts: Vec<Mount>,
) -> Result<Vec<Mount>> {
    if !inner.mounts.needs_host(&mounts) {
        return Ok(mounts);
    }
    // First, so that whoever finds the bundle knows.
    let marked = bundle.clone();
    blocking(move || marked.write_mounted()).await?;
    let ctx = Context::new(bundle.namespace.clone());
    let labels = [(CONTAINER.to_owned(), bundle.id.clone())].into();
    let wanted = Activate { mounts, labels, temporary: false };
    match make(inner, &ctx, &bundle.id, wanted).await {
        Ok(made) => Ok(made.system),
        Err(err) => {
            let unmarked = bundle.clone();
            blocking(move || {
                unmarked.forget_mounted();
                Ok(())
            })
            .await?;
            Err(err.context(format!("mount the root file system of {}", bundle.id)))
        }
    }
}

/// Activates. What an earlier task of the container left goes first: mounts come back
/// after a restart of the machine, and bundles don't.
async fn make(inner: &Inner, ctx: &Context, id: &str, wanted: Activate) -> Result<Activation> {
    let taken = match inner.mounts.activate(ctx, id, wanted.clone()).await {
        Err(err) if err.is_already_exists() => err,
        made => return made,
    };
    let there = inner.mounts.info(ctx, id).await;
    if !there.is_ok_and(|there| there.labels.get(CONTAINER).is_some_and(|of| of == id)) {
        return Err(taken);
    }
    inner.mounts.deactivate(ctx, id).await?;
    inner.mounts.activate(ctx, id, wanted).await
}

/// Takes away what the host has made. What is still in use goes with the container.
pub(crate) async fn deactivate(inner: &Inner, bundle: &Bundle) {
    if !bundle.is_mounted() {
        return;
    }
    let ctx = Context::new(bundle.namespace.clone());
    match inner.mounts.deactivate(&ctx, &bundle.id).await {
        Err(err) if !err.is_not_found() => {
            tracing::warn!(id = %bundle.id, error = %err, "unmount a part of the root");
        }
        _ => {}
    }
}
