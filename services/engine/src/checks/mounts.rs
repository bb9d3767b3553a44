//! Mounts, by what their descriptions alone say.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result, paths};

use crate::model::{MountKind, MountSetting};

/// How mount events can be propagated.
const PROPAGATIONS: [&str; 7] = ["", "private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Refuses mounts whose places or options can't be.
///
/// # Errors
/// `InvalidArgument`, in Docker's words.
pub(crate) fn mounts(mounts: &[MountSetting]) -> Result<()> {
    let mut places = BTreeSet::new();
    for mount in mounts {
        let place = check(mount).map_err(|why| {
            let kind = mount.kind.as_str();
            Error::invalid_argument(format!("invalid mount config for type {kind:?}: {why}"))
        })?;
        if !places.insert(place) {
            let target = &mount.target;
            return Err(Error::invalid_argument(format!("Duplicate mount point: {target}")));
        }
    }
    Ok(())
}

/// The place of a mount.
fn check(mount: &MountSetting) -> Result<PathBuf, String> {
    let absolute = |path: &str| {
        let good = path.starts_with('/') && !path.contains('\0');
        let why = || format!("invalid mount path: '{path}' mount path must be absolute");
        if good { Ok(()) } else { Err(why()) }
    };
    if mount.target.is_empty() {
        return Err("field Target must not be empty".to_owned());
    }
    absolute(&mount.target)?;
    let place = paths::clean(&mount.target);
    if place == Path::new("/") {
        return Err("invalid specification: destination can't be '/'".to_owned());
    }
    let source = mount.source.as_str();
    match mount.kind {
        MountKind::Bind | MountKind::Image if source.is_empty() => {
            return Err("field Source must not be empty".to_owned());
        }
        MountKind::Bind => absolute(source)?,
        MountKind::Tmpfs if !source.is_empty() => {
            return Err("field Source must not be specified".to_owned());
        }
        _ => {}
    }
    options(mount)?;
    Ok(place)
}

/// Options belong to kinds of mounts.
fn options(mount: &MountSetting) -> Result<(), String> {
    let (bind, volume) = (mount.kind == MountKind::Bind, mount.kind == MountKind::Volume);
    if !PROPAGATIONS.contains(&mount.propagation.as_str()) {
        return Err(format!("invalid propagation mode: {}", mount.propagation));
    }
    let tmpfs =
        mount.tmpfs_size > 0 || mount.tmpfs_mode.is_some() || !mount.tmpfs_options.is_empty();
    let of_bind = !mount.propagation.is_empty() || mount.non_recursive || mount.create_source;
    let of_volume = mount.no_copy
        || !mount.volume_labels.is_empty()
        || !mount.volume_driver.is_empty()
        || !mount.volume_options.is_empty();
    for (given, belongs, name) in [
        (of_bind, bind, "BindOptions"),
        (of_volume, volume, "VolumeOptions"),
        (tmpfs, mount.kind == MountKind::Tmpfs, "TmpfsOptions"),
        (!mount.subpath.is_empty(), volume || mount.kind == MountKind::Image, "Subpath"),
    ] {
        if given && !belongs {
            return Err(format!("field {name} must not be specified"));
        }
    }
    let below = mount.read_only_non_recursive || mount.read_only_force_recursive;
    if below && !mount.read_only {
        return Err("recursive read-only options need a read-only mount".to_owned());
    }
    if mount.read_only_non_recursive && mount.read_only_force_recursive {
        return Err(
            "ReadOnlyNonRecursive and ReadOnlyForceRecursive are mutually exclusive".to_owned()
        );
    }
    let upwards = mount.subpath.split('/').any(|part| part == "..");
    if mount.subpath.starts_with('/') || upwards || mount.subpath.contains('\0') {
        return Err(format!("subpath must be a relative path within it: {:?}", mount.subpath));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(kind: MountKind, source: &str, target: &str) -> MountSetting {
        MountSetting {
            kind,
            source: source.into(),
            target: target.into(),
            ..MountSetting::default()
        }
    }

    #[test]
    fn plain_ones() {
        mounts(&[
            mount(MountKind::Bind, "/srv", "/a"),
            mount(MountKind::Volume, "data", "/b"),
            mount(MountKind::Volume, "", "/c/d"),
            mount(MountKind::Tmpfs, "", "/c"),
            mount(MountKind::Image, "busybox", "/e"),
        ])
        .unwrap();
    }

    #[test]
    fn refusals() {
        let said = |mount: MountSetting| mounts(&[mount]).unwrap_err().to_string();
        let bind = |source, target| mount(MountKind::Bind, source, target);
        assert_eq!(
            said(bind("/x", "x")),
            "invalid mount config for type \"bind\": invalid mount path: 'x' mount path must be \
             absolute"
        );
        assert!(said(bind("x", "/x")).contains("invalid mount path: 'x'"));
        assert!(said(bind("", "/x")).contains("field Source must not be empty"));
        assert!(said(bind("/x", "")).contains("field Target must not be empty"));
        assert!(said(bind("/x", "/a/..")).contains("destination can't be '/'"));
        assert!(said(mount(MountKind::Tmpfs, "x", "/x")).contains("must not be specified"));
        let wrong = MountSetting { propagation: "odd".into(), ..bind("/x", "/x") };
        assert!(said(wrong).contains("invalid propagation mode: odd"));
        let wrong = MountSetting { no_copy: true, ..bind("/x", "/x") };
        assert!(said(wrong).contains("VolumeOptions"));
        let volume = mount(MountKind::Volume, "v", "/x");
        for subpath in ["/x", "a/../b"] {
            assert!(
                said(MountSetting { subpath: subpath.into(), ..volume.clone() })
                    .contains("subpath")
            );
        }
        let twice = mounts(&[bind("/a", "/x/"), bind("/b", "/y/../x")]).unwrap_err();
        assert_eq!(twice.to_string(), "Duplicate mount point: /y/../x");
    }
}
