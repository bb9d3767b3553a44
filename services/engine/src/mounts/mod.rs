//! What is mounted in containers: what callers ask for, what images declare, what other
//! containers have; and the volumes that come and go with it.

mod archive;
mod meant;
mod oci;
mod propagation;
mod source;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use gantry_core::containers::Container;
use gantry_core::db::blocking;
use gantry_core::locks::KeyGuard;
use gantry_core::volumes::{ANONYMOUS, NewVolume, Options};
use gantry_core::{Context, Error, Labels, Mount, Namespace, Result};
use serde_json::Value;

use crate::Engine;
use crate::model::{Meta, MountKind, MountSetting, Settings};
use crate::{names, rootfs};

pub use volumes::{VolumeFilter, VolumeSummary};

/// Holds volumes: none of them is removed or renamed while it lives.
pub(crate) type Held = Vec<KeyGuard<(Namespace, String)>>;

/// What holds views of images for a container's record: the number of the mount follows.
const VIEW_LABEL: &str = "containerd.io/gc.ref.snapshot.";

impl Engine {
    /// Completes what a container is to have mounted, before anything of it is made: mounts of
    /// other containers, the image's volumes, names for volumes without one. The volumes stay
    /// as they are until the answer is dropped, which the container's record has to precede.
    ///
    /// # Errors
    /// `NotFound` for a container or a path on the host; `InvalidArgument`.
    pub(crate) async fn plan_mounts(
        &self,
        ctx: &Context,
        settings: &mut Settings,
        volumes: Option<&BTreeMap<String, Value>>,
    ) -> Result<Held> {
        let declared = volumes.is_some_and(|volumes| !volumes.is_empty());
        if settings.mounts.is_empty() && settings.volumes_from.is_empty() && !declared {
            return Ok(Held::new());
        }
        let mut others = Vec::new();
        for from in &settings.volumes_from {
            others.extend(self.mounts_of(ctx, from).await?);
        }
        // What the caller names goes before what others have.
        others.retain(|other| !has(&settings.mounts, &other.target));
        for other in others {
            if !has(&settings.mounts, &other.target) {
                settings.mounts.push(other);
            }
        }
        for target in volumes.iter().flat_map(|volumes| volumes.keys()) {
            if let Some(volume) = of_image(target, &settings.mounts) {
                settings.mounts.push(volume);
            }
        }
        for mount in &mut settings.mounts {
            if mount.kind == MountKind::Volume && mount.source.is_empty() {
                mount.source = names::random_id();
                mount.anonymous = true;
            }
        }
        let binds: Vec<MountSetting> = of_kind(settings, MountKind::Bind).cloned().collect();
        blocking(move || binds.iter().try_for_each(check_bind)).await?;
        let held = self.hold_volumes(ctx, settings).await;
        for mount in of_kind(settings, MountKind::Volume) {
            self.check_volume(ctx, mount).await?;
        }
        Ok(held)
    }

    /// Volumes and binds of another container, `NAME[:ro|:rw]`.
    async fn mounts_of(&self, ctx: &Context, from: &str) -> Result<Vec<MountSetting>> {
        let (name, mode) = match from.split_once(':') {
            Some((name, mode)) => (name, mode),
            None => (from, ""),
        };
        let read_only = match mode {
            "" | "rw" => false,
            "ro" => true,
            _ => {
                return Err(Error::invalid_argument(format!(
                    "volumes-from {from}: invalid mode: {mode}: use ro or rw"
                )));
            }
        };
        let found = self.find(ctx, name).await?;
        let shared =
            |mount: &MountSetting| matches!(mount.kind, MountKind::Bind | MountKind::Volume);
        let mounts = found.meta.settings.mounts.into_iter().filter(shared);
        // What the other one was to get first, it has.
        let taken = |mount: MountSetting| MountSetting {
            read_only: read_only || mount.read_only,
            no_copy: true,
            ..mount
        };
        Ok(mounts.map(taken).collect())
    }

    /// Locks what a container's volumes are called, the lesser name first.
    pub(crate) async fn hold_volumes(&self, ctx: &Context, settings: &Settings) -> Held {
        let volumes = of_kind(settings, MountKind::Volume);
        let names: BTreeSet<&str> = volumes.map(|mount| mount.source.as_str()).collect();
        let mut held = Held::new();
        for name in names {
            held.push(self.volume_locks.lock((ctx.namespace.clone(), name.to_owned())).await);
        }
        held
    }

    /// Refuses a volume that is there and can't be what is asked for.
    async fn check_volume(&self, ctx: &Context, mount: &MountSetting) -> Result<()> {
        gantry_core::volumes::validate_name(&mount.source)?;
        match self.parts.volumes.get(ctx, &mount.source).await {
            Ok(volume) if mount.volume_options.is_empty() || options(mount) == volume.options => {
                Ok(())
            }
            Ok(_) => Err(Error::already_exists(format!(
                "volume {}: it is there with other options: already exists",
                mount.source
            ))
            .about("volume", mount.source.as_str())),
            Err(err) if err.is_not_found() => {
                gantry_core::volumes::device_mount(&mount.volume_options).map(drop)
            }
            Err(err) => Err(err),
        }
    }

    /// Makes what a container's mounts need, once its record and file system are there: missing
    /// paths on the host, volumes with what the image has at their place.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn make_mounts(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        root: &[Mount],
    ) -> Result<()> {
        let settings = &meta.settings;
        if settings.mounts.is_empty() {
            return Ok(());
        }
        self.make_sources(settings).await?;
        self.make_views(ctx, container, settings).await?;
        let mut opened = None;
        for mount in of_kind(settings, MountKind::Volume) {
            let (volume, newly) = self.parts.volumes.create(ctx, new_volume(mount)).await?;
            if newly {
                self.tell_of_volume(ctx, "create", &volume.name, &volume.labels, "");
            }
            let copied = !mount.no_copy && volume.options.is_empty() && !volume.is_read_only();
            let place = volume.mountpoint.clone();
            if !copied || !blocking(move || Ok(is_empty(&place))).await? {
                continue;
            }
            if opened.is_none() {
                let (mounts, scratch) = (root.to_vec(), self.parts.config.state.clone());
                opened = Some(blocking(move || rootfs::open_image(&mounts, &scratch)).await?);
            }
            let Some(opened) = &opened else { continue };
            let (opened, target) = (opened.try_clone().map_err(cloned)?, mount.target.clone());
            let source = blocking(move || rootfs::directory(&opened, &target)).await?;
            if let Some(source) = source {
                let path = rootfs::path_of(&source);
                self.parts.volumes.fill(ctx, &volume.name, &path).await?;
            }
        }
        Ok(())
    }

    /// Makes the paths on the host that are to be made.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn make_sources(&self, settings: &Settings) -> Result<()> {
        let wanted = of_kind(settings, MountKind::Bind).filter(|mount| mount.create_source);
        let missing: Vec<PathBuf> = wanted.map(|mount| PathBuf::from(&mount.source)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        blocking(move || missing.iter().try_for_each(|path| source::make(path))).await
    }

    /// Removes the anonymous volumes that a container has, which is on its way out, unless
    /// others have them.
    pub(crate) async fn remove_anonymous(&self, ctx: &Context, id: &str, meta: &Meta) {
        let volumes = of_kind(&meta.settings, MountKind::Volume).filter(|mount| mount.anonymous);
        for mount in volumes {
            match self.take_volume(ctx, &mount.source, true, Some(id)).await {
                // In use by a container that has it by --volumes-from.
                Err(err) if err.kind() == gantry_core::Kind::FailedPrecondition => {}
                Err(err) => {
                    tracing::warn!(volume = mount.source, error = %err, "remove a volume");
                }
                Ok(()) => {}
            }
        }
    }

    /// Makes the views that a container's image mounts show, and notes them in its labels, so
    /// that they stay as long as its record.
    ///
    /// # Errors
    /// `NotFound` for an image that is not here.
    pub(crate) async fn plan_views(
        &self,
        ctx: &Context,
        container: &mut Container,
        settings: &Settings,
    ) -> Result<()> {
        for (number, mount) in settings.mounts.iter().enumerate() {
            if mount.kind == MountKind::Image {
                let image = self.image_for_mount(ctx, &mount.source).await?;
                let label = format!("{VIEW_LABEL}{}/{number}", container.snapshotter);
                container.labels.insert(label, view_key(&container.id, number));
                drop(image);
            }
        }
        Ok(())
    }

    /// Makes those views.
    ///
    /// # Errors
    /// The snapshotter's.
    async fn make_views(
        &self,
        ctx: &Context,
        container: &Container,
        settings: &Settings,
    ) -> Result<()> {
        let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
        for (number, mount) in settings.mounts.iter().enumerate() {
            if mount.kind != MountKind::Image {
                continue;
            }
            let image = self.image_for_mount(ctx, &mount.source).await?;
            let parent = image.unpacked.chain_id.as_ref().map(|chain| chain.as_str());
            let key = view_key(&container.id, number);
            match snapshotter.view(ctx, &key, parent, Labels::new()).await {
                Err(err) if !err.is_already_exists() => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the views of a container's image mounts away.
    ///
    /// # Errors
    /// The snapshotter's; one that is gone is no error.
    pub(crate) async fn remove_views(
        &self,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
    ) -> Result<()> {
        for (number, mount) in meta.settings.mounts.iter().enumerate() {
            if mount.kind != MountKind::Image {
                continue;
            }
            let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
            match snapshotter.remove(ctx, &view_key(&container.id, number)).await {
                Err(err) if !err.is_not_found() => return Err(err),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Key of the view that a mount shows.
fn view_key(id: &str, number: usize) -> String {
    format!("{id}-mount-{number}")
}

fn cloned(err: std::io::Error) -> Error {
    Error::io("open an image's files", err)
}

pub(crate) fn of_kind(settings: &Settings, kind: MountKind) -> impl Iterator<Item = &MountSetting> {
    settings.mounts.iter().filter(move |mount| mount.kind == kind)
}

/// Whether something is mounted at a place already.
fn has(mounts: &[MountSetting], target: &str) -> bool {
    let clean = gantry_core::paths::clean(target);
    mounts.iter().any(|mount| gantry_core::paths::clean(&mount.target) == clean)
}

/// The volume that an image declares at a path, unless something else is mounted there. What
/// can't be mounted is left out: the image was made elsewhere.
fn of_image(target: &str, mounts: &[MountSetting]) -> Option<MountSetting> {
    let clean = gantry_core::paths::clean(Path::new("/").join(target.trim_start_matches('/')));
    if clean == Path::new("/") || target.contains('\0') {
        return None;
    }
    let target = clean.to_str()?.to_owned();
    (!has(mounts, &target)).then(|| MountSetting {
        kind: MountKind::Volume,
        target,
        anonymous: true,
        of_image: true,
        ..MountSetting::default()
    })
}

/// Refuses a bind whose source is not there and is not to be made.
fn check_bind(mount: &MountSetting) -> Result<()> {
    let path = Path::new(&mount.source);
    if !path.is_absolute() {
        return Err(Error::invalid_argument(format!(
            "invalid mount config for type \"bind\": invalid mount path: '{}' mount path must be \
             absolute",
            mount.source
        )));
    }
    if mount.create_source || path.symlink_metadata().is_ok() {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "invalid mount config for type \"bind\": bind source path does not exist: {}",
        mount.source
    )))
}

fn options(mount: &MountSetting) -> Options {
    mount.volume_options.clone()
}

fn new_volume(mount: &MountSetting) -> NewVolume {
    let mut labels = mount.volume_labels.clone();
    if mount.anonymous {
        labels.insert(ANONYMOUS.to_owned(), String::new());
    }
    NewVolume {
        name: mount.source.clone(),
        driver: mount.volume_driver.clone(),
        labels,
        options: options(mount),
    }
}

/// Whether a directory has nothing in it. One that can't be read counts as full.
fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(target: &str) -> MountSetting {
        MountSetting { target: target.into(), ..MountSetting::default() }
    }

    #[test]
    fn an_images_volumes_give_way() {
        let made = of_image("data/./x/", &[]).unwrap();
        assert_eq!((made.target.as_str(), made.anonymous), ("/data/x", true));
        assert_eq!(of_image("/data/x", &[at("/data//x/")]), None);
        assert_eq!(of_image("/", &[]), None);
        assert_eq!(of_image("/a\0b", &[]), None);
    }

    #[test]
    fn sources_have_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let bind = |source: &Path| MountSetting {
            source: source.to_string_lossy().into_owned(),
            target: "/x".into(),
            ..MountSetting::default()
        };
        check_bind(&bind(dir.path())).unwrap();
        let missing = bind(&dir.path().join("no"));
        let refused = check_bind(&missing).unwrap_err();
        assert!(refused.to_string().contains("bind source path does not exist"), "{refused}");
        check_bind(&MountSetting { create_source: true, ..missing }).unwrap();
        assert!(check_bind(&bind(Path::new("relative"))).is_err());
    }
}
