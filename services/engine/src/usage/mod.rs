//! What takes how much of the disk.
//!
//! Nothing of an image is measured: the size of an unpacked layer is recorded when it is made,
//! that of a blob when it comes. What containers write is measured by [`Writable`].

mod account;
mod writable;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use gantry_core::db::blocking;
use gantry_core::filter::Filters;
use gantry_core::{Context, Digest, Error, Kind, Result};

use crate::images::ImageSummary;
use crate::model::State;
use crate::{Engine, Summary, VolumeFilter, VolumeSummary};

pub(crate) use account::Disk;
use account::Holder;
use writable::Key;
pub(crate) use writable::Writable;

/// So many containers are measured side by side.
const SIDE_BY_SIDE: usize = 8;
/// What takes longer than this to measure is not known.
const PATIENCE: Duration = Duration::from_secs(30);

/// What takes the disk.
#[derive(Clone, Debug, Default)]
pub struct DiskUsage {
    /// Images, newest first; one with several names once.
    pub images: Vec<ImageUsage>,
    /// Bytes of all that images and containers lie on, each thing counted once.
    pub layers_size: u64,
    /// Bytes of these that no container needs.
    pub layers_reclaimable: u64,
    /// Containers, newest first, with sizes as far as they are known.
    pub containers: Vec<(Summary, Option<ContainerSize>)>,
    /// Volumes, with sizes.
    pub volumes: Vec<VolumeSummary>,
}

/// What an image takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub image: ImageSummary,
    /// Bytes that it shares with other images.
    pub shared: u64,
    /// Bytes that no other image has.
    pub unique: u64,
    /// How many containers were made from it.
    pub containers: u32,
}

/// What a container's file system takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContainerSize {
    /// Bytes that it has written.
    pub written: u64,
    /// Bytes of all of its files.
    pub whole: u64,
}

/// Held by who writes to a container's file system from outside.
pub(crate) struct Writes {
    writable: Arc<Writable>,
    key: Key,
}

impl Drop for Writes {
    fn drop(&mut self) {
        self.writable.written(&self.key);
    }
}

/// An image with all of its names.
#[derive(Debug)]
pub(crate) struct Named {
    /// Names, the one to show first.
    pub(crate) names: Vec<ImageSummary>,
    /// IDs of the containers that were made from it.
    pub(crate) containers: Vec<String>,
}

impl Named {
    /// Digest of its configuration, as text; of its manifest when that can't be read.
    fn key(image: &ImageSummary) -> &Digest {
        image.id.as_ref().unwrap_or(&image.digest)
    }

    /// Images by their IDs, in the order of their first names, with the containers that were
    /// made from them.
    pub(crate) fn all(images: Vec<ImageSummary>, containers: &[Summary]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        let mut by_id: HashMap<Digest, usize> = HashMap::new();
        for image in images {
            let at = *by_id.entry(Self::key(&image).clone()).or_insert(all.len());
            match all.get_mut(at) {
                // One with a tag is shown.
                Some(named) if named.names[0].tag.is_empty() => named.names.insert(0, image),
                Some(named) => named.names.push(image),
                None => all.push(Self { names: vec![image], containers: Vec::new() }),
            }
        }
        for container in containers {
            let named = all.iter_mut().find(|named| named.made(container));
            if let Some(named) = named {
                named.containers.push(container.id.clone());
            }
        }
        all
    }

    /// Whether a container was made from it. Of those that other clients made only the name of
    /// the image is known.
    fn made(&self, container: &Summary) -> bool {
        if container.image_id.is_empty() {
            return self.names.iter().any(|name| name.name == container.image);
        }
        self.names[0].id.as_ref().is_some_and(|id| id.as_str() == container.image_id)
    }
}

impl Engine {
    /// Tells what takes the disk.
    ///
    /// # Errors
    /// The store's.
    pub async fn disk_usage(self: &Arc<Self>, ctx: &Context) -> Result<DiskUsage> {
        let images = self.images(ctx).await?;
        let containers = self.list(ctx, true).await?;
        let disk = self.disk(ctx).await?;
        let every = VolumeFilter::default();
        let (sizes, volumes) =
            tokio::join!(self.sizes_on(ctx, &disk, &containers), self.volumes(ctx, &every, true));
        let named = Named::all(images, &containers);
        let held = disk.held(&self.holders(ctx, &disk, &named).await);
        let with_size = |container: Summary| {
            let size = sizes.get(&container.id).copied();
            (container, size)
        };
        let usage = |(named, (shared, unique)): (Named, (u64, u64))| {
            let containers = u32::try_from(named.containers.len()).unwrap_or(u32::MAX);
            let image = named.names.into_iter().next()?;
            Some(ImageUsage { image, shared, unique, containers })
        };
        Ok(DiskUsage {
            images: named.into_iter().zip(held.images).filter_map(usage).collect(),
            layers_size: held.total,
            layers_reclaimable: held.reclaimable,
            containers: containers.into_iter().map(with_size).collect(),
            volumes: volumes?,
        })
    }

    /// What these containers' file systems take, by their IDs; of some it may not be known.
    ///
    /// # Errors
    /// The store's.
    pub async fn container_sizes(
        self: &Arc<Self>,
        ctx: &Context,
        containers: &[Summary],
    ) -> Result<HashMap<String, ContainerSize>> {
        let disk = self.disk(ctx).await?;
        Ok(self.sizes_on(ctx, &disk, containers).await)
    }

    /// Somebody else than its processes writes to a container's file system, until the answer
    /// is dropped.
    pub(crate) fn writes_to(&self, ctx: &Context, id: &str) -> Writes {
        let key = (ctx.namespace.clone(), id.to_owned());
        Writes { writable: Arc::clone(&self.writable), key }
    }

    /// What lies on the disk.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn disk(&self, ctx: &Context) -> Result<Disk> {
        let blobs = self.parts.content.list(ctx, &Filters::all()).await?;
        let mut disk = Disk::new(blobs.into_iter().map(|b| (b.digest, b.size)).collect());
        for (name, snapshotter) in &self.parts.snapshotters.by_name {
            match tokio::time::timeout(PATIENCE, snapshotter.list_usage(ctx)).await {
                Ok(Ok(snapshots)) => disk.add(name, snapshots),
                Ok(Err(err)) if name == &self.parts.snapshotters.default => return Err(err),
                // One that another program keeps.
                Ok(Err(err)) => tracing::warn!(snapshotter = name, error = %err, "list snapshots"),
                Err(_) => tracing::warn!(snapshotter = name, "it does not list its snapshots"),
            }
        }
        Ok(disk)
    }

    /// What these images consist of, in their order.
    pub(crate) async fn holders(
        &self,
        ctx: &Context,
        disk: &Disk,
        images: &[Named],
    ) -> Vec<Holder> {
        let mut holders = Vec::with_capacity(images.len());
        for image in images {
            let mut parts = Vec::with_capacity(image.names.len());
            for name in &image.names {
                parts.push(self.parts(ctx, &name.digest, &disk.blobs).await);
            }
            holders.push(Holder { parts, used: !image.containers.is_empty() });
        }
        holders
    }

    async fn sizes_on(
        self: &Arc<Self>,
        ctx: &Context,
        disk: &Disk,
        containers: &[Summary],
    ) -> HashMap<String, ContainerSize> {
        let ids: HashSet<&str> = containers.iter().map(|c| c.id.as_str()).collect();
        let all = self.store.ids(ctx).await.unwrap_or_default();
        let kept = ids.iter().copied().chain(all.iter().map(String::as_str)).collect();
        self.writable.retain(&ctx.namespace, &kept);
        let size = async |n: usize| {
            let container = &containers[n];
            match self.size_on(ctx, disk, container).await {
                Ok(size) => size.map(|size| (container.id.clone(), size)),
                // It has gone meanwhile.
                Err(err) if err.is_not_found() => None,
                Err(err) => {
                    tracing::warn!(id = container.id, error = %err, "measure a container");
                    None
                }
            }
        };
        let sizes = stream::iter(0..containers.len()).map(size).buffer_unordered(SIDE_BY_SIDE);
        sizes.filter_map(std::future::ready).collect().await
    }

    /// `None` for one without a file system of its own.
    async fn size_on(
        self: &Arc<Self>,
        ctx: &Context,
        disk: &Disk,
        container: &Summary,
    ) -> Result<Option<ContainerSize>> {
        let (snapshotter, key) = match disk.writable(&container.id) {
            Some(snapshotter) => (snapshotter.to_owned(), container.id.clone()),
            // Another client gave it another one.
            None => match self.store.get(ctx, &container.id).await? {
                Some((record, _)) if !record.snapshot_key.is_empty() => {
                    let snapshotter = self.parts.snapshotters.resolve(&record.snapshotter);
                    (snapshotter.to_owned(), record.snapshot_key)
                }
                _ => return Ok(None),
            },
        };
        let below = disk.below(&snapshotter, &key);
        let written = self.measure(ctx, &container.id, &container.state, &snapshotter, key).await?;
        Ok(Some(ContainerSize { written, whole: below.saturating_add(written) }))
    }

    /// Measures what a container has written, but waits only so long.
    async fn measure(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        state: &State,
        snapshotter: &str,
        snapshot: String,
    ) -> Result<u64> {
        let (engine, ctx) = (Arc::clone(self), ctx.clone());
        let snapshotter = engine.parts.snapshotters.get(snapshotter)?;
        let key: Key = (ctx.namespace.clone(), id.to_owned());
        let (pid, finished_at) = (state.pid, state.finished_at);
        // It goes on when nobody waits any more, and holds the key for as long.
        let work = tokio::spawn(async move {
            let writable = &engine.writable;
            // Nor does anybody wait for ever behind one that hangs.
            let held = tokio::time::timeout(PATIENCE, writable.locks.lock(key.clone())).await;
            let _held = held.map_err(|_| too_late())?;
            let stamp = async {
                let (engine, key) = (Arc::clone(&engine), key.clone());
                let stamp = blocking(move || Ok(engine.writable.stamp(&key, pid, finished_at)));
                stamp.await.ok().flatten()
            };
            let walk = snapshotter.usage(&ctx, &snapshot);
            writable.measure(&key, stamp, walk).await
        });
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(measured)) => measured,
            Ok(Err(_)) => Err(Error::internal("measuring failed unexpectedly")),
            Err(_) => Err(too_late()),
        }
    }
}

fn too_late() -> Error {
    Error::new(Kind::DeadlineExceeded, "its files can't be read in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Meta;
    use gantry_core::containers::Container;
    use gantry_core::{Labels, Timestamp};

    fn image(name: &str, tag: &str, id: u8) -> ImageSummary {
        ImageSummary {
            id: Some(Digest::of(&[id])),
            name: format!("docker.io/library/{name}"),
            repository: name.to_owned(),
            tag: tag.to_owned(),
            digest: Digest::of(&[id, 0]),
            created_at: Timestamp::default(),
            size: 0,
            labels: Labels::new(),
            damage: String::new(),
        }
    }

    fn container(id: &str, image: &str, image_id: &str) -> Summary {
        let meta = Meta { image: image.into(), image_id: image_id.into(), ..Meta::default() };
        let container = Container { id: id.into(), ..Container::default() };
        Summary::of(&container, meta, State::default())
    }

    #[test]
    fn an_image_with_several_names_is_one() {
        let images = vec![image("a", "", 1), image("b", "1", 1), image("c", "2", 2)];
        let id = Digest::of(&[1]).to_string();
        let containers = [
            container("c1", "a", &id),
            container("c2", "whatever", &id),
            container("c3", "docker.io/library/c", ""),
            container("c4", "gone", "sha256:00"),
        ];
        let all = Named::all(images, &containers);
        assert_eq!(all.len(), 2);
        let names = |n: usize| -> Vec<_> {
            all[n].names.iter().map(|image| image.repository.as_str()).collect()
        };
        assert_eq!((names(0), names(1)), (vec!["b", "a"], vec!["c"]), "tags come first");
        assert_eq!(all[0].containers, ["c1", "c2"]);
        assert_eq!(all[1].containers, ["c3"]);
    }
}
