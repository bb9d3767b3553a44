//! Snapshots as layers of the overlay file system.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use gantry_core::snapshots::Kind;
use gantry_core::{Error, Mount, Result, faults};

use crate::backend::{Backend, CONTENT, Place};
use crate::idmap::{self, IdMap};

pub(crate) const NAME: &str = "overlayfs";

/// The overlay snapshotter: a snapshot holds what differs from its parent.
pub(crate) struct Overlayfs {
    /// Options that every overlay mount has on this system.
    common: Vec<String>,
    /// Whether mounts say how owners are shifted.
    remap_ids: bool,
}

impl Overlayfs {
    /// Looks at what the system has and needs.
    pub(crate) fn detect() -> Self {
        let mut common = Vec::new();
        // An index would tie an upper directory to its first lower ones.
        if Path::new("/sys/module/overlay/parameters/index").exists() {
            common.push("index=off".to_owned());
        }
        // In a user namespace `trusted.*` attributes can't be written.
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
        if !whole && !map.is_empty() {
            common.push("userxattr".to_owned());
        } else {
            common.extend(off(Path::new("/sys/module/overlay/parameters")));
        }
        Self { common, remap_ids: idmap::is_supported() }
    }

    /// What mount options come first.
    fn shifts(&self, place: &Place<'_>) -> Vec<String> {
        let ids = place.ids.filter(|_| self.remap_ids);
        ids.map(|ids| ids.options().to_vec()).unwrap_or_default()
    }

    fn bind(&self, place: &Place<'_>, source: &Path) -> Mount {
        let mut mount = place.bind(source);
        mount.options.splice(0..0, self.shifts(place));
        mount
    }

    fn overlay(&self, options: Vec<String>) -> Mount {
        let options = self.common.iter().cloned().chain(options).collect();
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
    }
}

impl Backend for Overlayfs {
    const NAME: &'static str = NAME;
    const LATE_PARENT: bool = true;

    fn furnish(dir: &Path, kind: Kind) -> Result<()> {
        let content = dir.join(CONTENT);
        let make = || {
            fs::create_dir(&content)?;
            if kind == Kind::Active { fs::create_dir(dir.join("work")) } else { Ok(()) }
        };
        faults::around("make the upper directory of a snapshot", make)
            .map_err(|err| Error::io(format!("make snapshot directory {content:?}"), err))
    }

    fn create(&self, place: &Place<'_>) -> Result<()> {
        let content = place.content();
        match place.below.first() {
            Some(parent) => inherit(parent, &content)?,
            None => set_mode(&content, 0o755)?,
        }
        // What is written is never shifted: the container's root needs its own directory.
        let Some((user, group)) = place.ids.map(IdMap::root) else { return Ok(()) };
        chown(&content, Some(user), Some(group))
            .map_err(|err| Error::io(format!("set owner of {content:?}"), err))
    }

    fn mounts(&self, place: &Place<'_>) -> Vec<Mount> {
        let lower = || {
            let dirs: Vec<_> = place.below.iter().map(|dir| dir.to_string_lossy()).collect();
            format!("lowerdir={}", dirs.join(":"))
        };
        vec![match (place.kind, place.below) {
            (_, []) => self.bind(place, &place.content()),
            (Kind::Active, _) => {
                let mut options = self.shifts(place);
                options.extend([
                    format!("workdir={}", place.dir.join("work").to_string_lossy()),
                    format!("upperdir={}", place.content().to_string_lossy()),
                    lower(),
                ]);
                self.overlay(options)
            }
            (_, [only]) => self.bind(place, only),
            (..) => self.overlay([self.shifts(place), vec![lower()]].concat()),
        }]
    }

    /// The root directory of a layer that said nothing about it is as it was
    /// made; it takes the parent's owner and mode as it would have at first.
    fn adopt(&self, place: &Place<'_>) -> Result<()> {
        let content = place.content();
        let Some(parent) = place.below.first() else { return Ok(()) };
        let own = fs::metadata(&content)
            .map_err(|err| Error::io(format!("look at snapshot directory {content:?}"), err))?;
        let untouched = own.mode() & 0o7777 == 0o755 && own.uid() == 0 && own.gid() == 0;
        if untouched { inherit(parent, &content) } else { Ok(()) }
    }
}

/// Turns off what the kernel was told to do by default with changed files and directories:
/// leave the data of the one and the content of the other in the layers below, under a note
/// that only it follows. Differences and copies of such snapshots would be wrong.
///
/// Not for mounts with `userxattr`, which do neither by themselves, and refuse
/// `redirect_dir=off` where that means to follow such notes.
fn off(parameters: &Path) -> impl Iterator<Item = String> {
    ["redirect_dir", "metacopy"]
        .into_iter()
        .filter(|name| fs::read_to_string(parameters.join(name)).is_ok_and(|is| is.trim() == "Y"))
        .map(|name| format!("{name}=off"))
}

/// Gives a content directory owner and mode of the one below it, since it is
/// the one that shows in the merged file system.
fn inherit(parent: &Path, content: &Path) -> Result<()> {
    let from = fs::metadata(parent)
        .map_err(|err| Error::io(format!("look at parent directory {parent:?}"), err))?;
    if (from.uid(), from.gid()) != (0, 0) {
        chown(content, Some(from.uid()), Some(from.gid()))
            .map_err(|err| Error::io(format!("set owner of {content:?}"), err))?;
    }
    set_mode(content, from.mode() & 0o7777)
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|err| Error::io(format!("set mode of {path:?}"), err))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use gantry_core::Labels;

    #[test]
    fn what_the_kernel_does_by_default_is_turned_off() {
        let parameters = tempfile::tempdir().unwrap();
        let off = || off(parameters.path()).collect::<Vec<_>>();
        assert_eq!(off(), [""; 0], "an old kernel has neither");
        fs::write(parameters.path().join("redirect_dir"), "N\n").unwrap();
        fs::write(parameters.path().join("metacopy"), "Y\n").unwrap();
        assert_eq!(off(), ["metacopy=off"]);
        fs::write(parameters.path().join("redirect_dir"), "Y\n").unwrap();
        assert_eq!(off(), ["redirect_dir=off", "metacopy=off"]);
    }

    #[test]
    fn owners_are_shifted_where_labels_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let labels: Labels = [
            ("containerd.io/snapshot/uidmapping", "0:100000:65536"),
            ("containerd.io/snapshot/gidmapping", "0:200000:65536"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
        let ids = IdMap::of(&labels).unwrap();
        let lower = dir.path().join("lower");
        fs::create_dir(&lower).unwrap();
        let below: Vec<PathBuf> = vec![lower];
        let place = Place { kind: Kind::Active, dir: dir.path(), below: &below, ids: ids.as_ref() };
        let overlay = Overlayfs { common: Vec::new(), remap_ids: true };
        Overlayfs::furnish(place.dir, place.kind).unwrap();
        overlay.create(&place).unwrap();
        let made = fs::metadata(place.content()).unwrap();
        assert_eq!((made.uid(), made.gid()), (100_000, 200_000));
        let shifts = ["uidmap=0:100000:65536", "gidmap=0:200000:65536"];
        assert_eq!(overlay.mounts(&place)[0].options[..2], shifts);
        let view = Place { kind: Kind::View, ..place };
        assert_eq!(overlay.mounts(&view)[0].options[..3], [shifts[0], shifts[1], "ro"]);
        let plain = Overlayfs { common: Vec::new(), remap_ids: false };
        assert_eq!(plain.mounts(&view)[0].options, ["ro", "rbind"]);
    }
}
