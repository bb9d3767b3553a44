//! Snapshotters: file systems stacked on each other, kept in directories.
//!
//! [`open`] gives one by name. Below the daemon's root, a snapshotter has
//! ```text
//! io.containerd.snapshotter.v1.NAME/
//!     snapshots/17/fs     what the snapshot itself holds
//!     snapshots/17/work   overlay's scratch directory, for active snapshots
//!     snapshots/rm-9      removed, being deleted
//!     ready/3             to become the next snapshot's directory
//! ```
//! and its records are rows of the database. What makes a snapshot exist is
//! its record, never its directory: a directory is made before its record
//! and goes after it, so whatever instant a crash picks, it leaves at most a
//! directory without a record, which the next [`open`] sweeps away.
//!
//! A new snapshotter is a file with a `Backend` and an arm in [`open`]. One that another
//! program offers is a [`Proxy`].
#![forbid(unsafe_code)]

mod backend;
mod directories;
pub mod grpc;
mod idmap;
mod native;
mod numbers;
mod overlayfs;
mod proxy;
mod store;
#[cfg(test)]
mod testsuite;
mod trash;

use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::db::{Database, blocking};
use gantry_core::events::Events;
use gantry_core::snapshots::Snapshotter;
use gantry_core::{Error, Result};

use backend::Backend;
use directories::Directories;
pub use proxy::{Proxy, ProxyOptions};
pub use trash::empty_trash;

/// The names that [`open`] knows, the default first.
pub const NAMES: [&str; 2] = [overlayfs::NAME, native::NAME];

/// Label of a snapshot that is prepared: the name that it is to be committed by. When
/// that is there already the client is told so, and need not make it.
pub(crate) const SNAPSHOT_REF: &str = "containerd.io/snapshot.ref";
/// Begins labels that snapshotters themselves read.
pub(crate) const INHERITED: &str = "containerd.io/snapshot/";

/// Where a snapshotter keeps things and whom it tells.
#[derive(Clone)]
pub struct Options {
    /// The daemon's root directory; each snapshotter has its own below it.
    pub root: PathBuf,
    /// Records.
    pub db: Arc<dyn Database>,
    /// Told of what is prepared, committed and removed.
    pub events: Arc<dyn Events>,
}

/// Opens a snapshotter and starts to sweep what a crash left behind. Only
/// one process may have it open: whoever holds the database.
///
/// Where the kernel can shift owners, mounts of snapshots with maps of IDs in their labels
/// have options `uidmap=` and `gidmap=`.
///
/// # Errors
/// `InvalidArgument` for an unknown name or an unusable root; what the file
/// system and the database report.
pub async fn open(name: &str, options: Options) -> Result<Arc<dyn Snapshotter>> {
    let name = name.to_owned();
    blocking(move || -> Result<Arc<dyn Snapshotter>> {
        match name.as_str() {
            overlayfs::NAME => start(overlayfs::Overlayfs::detect, &options),
            native::NAME => start(|| native::Native, &options),
            _ => Err(Error::invalid_argument(format!(
                "no snapshotter is called {name:?}: use one of {}",
                NAMES.join(", ")
            ))),
        }
    })
    .await
}

/// What a snapshotter of ours can beyond the usual, in containerd's words: `rebase`, a
/// parent at the commit; `remap-ids`, mounts that shift owners.
pub fn capabilities(name: &str) -> Vec<&'static str> {
    if name != overlayfs::NAME {
        return Vec::new();
    }
    [("rebase", true), ("remap-ids", idmap::is_supported())]
        .into_iter()
        .filter_map(|(word, can)| can.then_some(word))
        .collect()
}

fn start<B: Backend>(
    backend: impl FnOnce() -> B,
    options: &Options,
) -> Result<Arc<dyn Snapshotter>> {
    Ok(Arc::new(Directories::open(backend(), options)?))
}
