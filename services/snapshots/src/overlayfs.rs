//! Snapshots as layers of the overlay file system.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use gantry_core::snapshots::Kind;
use gantry_core::{Error, Mount, Result};

use crate::backend::{Backend, Place};

pub(crate) const NAME: &str = "overlayfs";

/// The overlay snapshotter: a snapshot holds what differs from its parent.
pub(crate) struct Overlayfs {
    /// Options that every overlay mount has on this system.
    common: Vec<String>,
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
        }
        Self { common }
    }

    fn overlay(&self, options: Vec<String>) -> Mount {
        let options = self.common.iter().cloned().chain(options).collect();
        Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
    }
}

impl Backend for Overlayfs {
    const NAME: &'static str = NAME;
    const LATE_PARENT: bool = true;

    fn create(&self, place: &Place<'_>) -> Result<()> {
        let content = place.content();
        let made = fs::create_dir(&content).and_then(|()| {
            if place.kind == Kind::Active { fs::create_dir(place.dir.join("work")) } else { Ok(()) }
        });
        made.map_err(|err| Error::io(format!("make snapshot directory {content:?}"), err))?;
        match place.below.first() {
            Some(parent) => inherit(parent, &content),
            None => set_mode(&content, 0o755),
        }
    }

    fn mounts(&self, place: &Place<'_>) -> Vec<Mount> {
        let lower = || {
            let dirs: Vec<_> = place.below.iter().map(|dir| dir.to_string_lossy()).collect();
            format!("lowerdir={}", dirs.join(":"))
        };
        vec![match (place.kind, place.below) {
            (_, []) => place.bind(&place.content()),
            (Kind::Active, _) => self.overlay(vec![
                format!("workdir={}", place.dir.join("work").to_string_lossy()),
                format!("upperdir={}", place.content().to_string_lossy()),
                lower(),
            ]),
            (_, [only]) => place.bind(only),
            (..) => self.overlay(vec![lower()]),
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
