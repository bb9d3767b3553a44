//! containerd's mount manager: makes the mounts that need the host's help.
//!
//! Below the daemon's state directory lies
//! ```text
//! mounts/12/0    a link to a loop device, or
//! mounts/12/1    a mount point
//! ```
//! where 12 is an activation's number and 0, 1, … are its mounts. A record precedes
//! them: whatever is mounted below a number without a complete record is taken away
//! when the daemon starts.

pub mod grpc;
mod locks;
mod loopdev;
mod making;
mod manager;
mod plan;
mod records;
mod template;
#[cfg(test)]
mod tests;
mod transform;

use std::path::PathBuf;
use std::sync::Arc;

use gantry_core::db::Database;

pub use manager::Manager;

/// The type of a mount that is a device, not a file system.
pub(crate) const LOOP: &str = "loop";

/// Where the manager keeps things.
#[derive(Clone)]
pub struct Options {
    /// Mounts are made in here; nobody else uses it. Lost with a restart of the machine,
    /// as mounts are.
    pub root: PathBuf,
    /// Records.
    pub db: Arc<dyn Database>,
}
