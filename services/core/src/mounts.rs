//! Mounts that the host makes for clients, under names.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::LabelMask;
use crate::db::Transaction;
use crate::filter::{Filterable, Filters};
use crate::{Context, Labels, Mount, Result, Timestamp};

/// Table of the activations. Key: name. Rows have labels, when they were made, and
/// whether somebody said what keeps them.
pub const TABLE: &str = "mounts";

/// Type of a lease's resource that is an activation.
pub const RESOURCE: &str = "mounts";

/// A mount that the host has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveMount {
    /// What was mounted, without templates.
    pub mount: Mount,
    /// When.
    pub mounted_at: Timestamp,
    /// Where; for a device that is no file system, a link to it.
    pub mount_point: String,
    /// What the kind of mount remembers: `device` for loop devices.
    pub data: BTreeMap<String, String>,
}

/// A list of mounts under a name, made as far as a client can't do it itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// Its name, unique in its namespace.
    pub name: String,
    /// What the host has made, in order.
    pub active: Vec<ActiveMount>,
    /// What is left to mount.
    pub system: Vec<Mount>,
    /// Labels; `containerd.io/gc.bref.*` name what keeps it.
    pub labels: Labels,
}

impl Filterable for Activation {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["name"] => Some(self.name.clone()),
            ["labels", rest @ ..] => self.labels.get(&rest.join(".")).cloned(),
            _ => None,
        }
    }
}

/// What to activate.
#[derive(Clone, Debug, Default)]
pub struct Activate {
    /// The mounts, in order. A type `format/KIND`, `mkdir/KIND` or `mkfs/KIND`, also
    /// combined, stands for something to do before KIND is mounted.
    pub mounts: Vec<Mount>,
    /// Labels of the activation.
    pub labels: Labels,
    /// Whether to make all of them, for a client that only wants to look at the
    /// result for a while: it may vanish with the daemon.
    pub temporary: bool,
}

/// Makes mounts for clients: those that need the host's help, and what these build on.
/// The rest is told to the client, with templates filled in:
/// ```text
/// let mounts = [loop disk.img, format/ext4 {{ mount 0 }}, format/overlay lowerdir={{ mount 1 }}];
/// let made = m.activate(ctx, "c1", Activate { mounts, .. }).await?;
/// // made.active: the loop device and the ext4; made.system: the overlay
/// m.deactivate(ctx, "c1").await?;
/// ```
/// An activation outlives the daemon. It goes by [`MountManager::deactivate`] or, when
/// its labels or a lease say what keeps it, with that.
#[async_trait]
pub trait MountManager: Send + Sync {
    /// Whether some of these mounts need the host: an activation of others is refused.
    fn needs_host(&self, mounts: &[Mount]) -> bool;

    /// Makes an activation.
    ///
    /// # Errors
    /// `Unimplemented` when none of the mounts needs the host, so that the caller
    /// mounts them as they are; `AlreadyExists` for the name; `InvalidArgument` for a
    /// type, option or template that can't be; what the kernel said.
    async fn activate(&self, ctx: &Context, name: &str, wanted: Activate) -> Result<Activation>;

    /// Unmounts an activation and forgets it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while something on the host uses it: the
    /// activation then stays, to be deactivated again.
    async fn deactivate(&self, ctx: &Context, name: &str) -> Result<()>;

    /// What is known of an activation.
    ///
    /// # Errors
    /// `NotFound`.
    async fn info(&self, ctx: &Context, name: &str) -> Result<Activation>;

    /// Changes labels; nothing else can be changed.
    ///
    /// # Errors
    /// `NotFound`, `InvalidArgument`.
    async fn update(
        &self,
        ctx: &Context,
        name: &str,
        labels: Labels,
        mask: LabelMask,
    ) -> Result<Activation>;

    /// All activations of the namespace that match.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context, filters: &Filters) -> Result<Vec<Activation>>;

    /// Removes an activation's record in a transaction of the caller's. What is
    /// returned is for [`MountManager::release`].
    ///
    /// # Errors
    /// As [`MountManager::deactivate`], but for what uses it.
    fn forget(&self, tx: &mut dyn Transaction, ctx: &Context, name: &str) -> Result<u64>;

    /// Unmounts forgotten activations: their names, and what [`MountManager::forget`]
    /// returned. Called when that is durable.
    async fn release(&self, ctx: &Context, forgotten: Vec<(String, u64)>);
}
