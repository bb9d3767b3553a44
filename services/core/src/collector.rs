//! Garbage collection, as the services that wait for it see it.

use async_trait::async_trait;

use crate::Result;

/// Takes away what nothing references: blobs, snapshots, ingests, and leases and
/// images whose time is over.
///
/// What keeps an object: containers, images and leases that have not expired, and the
/// label `containerd.io/gc.root`; from these on, the parents of snapshots, the targets
/// of images, and labels `containerd.io/gc.ref.*` and `containerd.io/gc.bref.*`.
/// Whoever makes an object that nothing references yet holds it by a lease.
#[async_trait]
pub trait Collector: Send + Sync {
    /// Collects what nothing references at the time of this call, and returns
    /// when it is gone.
    ///
    /// # Errors
    /// The store's.
    async fn collect(&self) -> Result<()>;
}
