//! Snapshotters: file systems stacked on each other, kept in directories.
//!
//! [`open`] gives one by name. Below the daemon's root, a snapshotter has
//! ```text
//! io.containerd.snapshotter.v1.NAME/snapshots/
//!     17/fs       what the snapshot itself holds
//!     17/work     overlay's scratch directory, for active snapshots
//!     rm-9        removed, being deleted
//! ```
//! and its records are rows of the database. What makes a snapshot exist is
//! its record, never its directory: a directory is made before its record
//! and goes after it, so whatever instant a crash picks, it leaves at most a
//! directory without a record, which the next [`open`] sweeps away.
//!
//! A new snapshotter is a file with a `Backend` and an arm in [`open`].
#![forbid(unsafe_code)]

mod backend;
mod copy;
mod directories;
mod flush;
pub mod grpc;
mod native;
mod numbers;
mod overlayfs;
mod store;
#[cfg(test)]
mod testsuite;
mod trash;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::db::{Database, blocking};
use gantry_core::events::Events;
use gantry_core::snapshots::Snapshotter;
use gantry_core::{Error, Result};

use backend::Backend;
use directories::Directories;
pub use trash::empty_trash;

/// The names that [`open`] knows, the default first.
pub const NAMES: [&str; 2] = [overlayfs::NAME, native::NAME];

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
/// # Errors
/// `InvalidArgument` for an unknown name or an unusable root; what the file
/// system and the database report.
pub async fn open(name: &str, options: Options) -> Result<Arc<dyn Snapshotter>> {
    let name = name.to_owned();
    blocking(move || -> Result<Arc<dyn Snapshotter>> {
        match name.as_str() {
            overlayfs::NAME => open_with(overlayfs::Overlayfs::detect, &options),
            native::NAME => open_with(|| native::Native, &options),
            _ => Err(Error::invalid_argument(format!(
                "no snapshotter is called {name:?}: use one of {}",
                NAMES.join(", ")
            ))),
        }
    })
    .await
}

fn open_with<B: Backend>(
    backend: impl FnOnce() -> B,
    options: &Options,
) -> Result<Arc<dyn Snapshotter>> {
    Ok(Arc::new(Directories::open(backend(), options)?))
}
