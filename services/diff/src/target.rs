//! Where a layer goes.

use std::path::PathBuf;

use gantry_core::{Error, Mount, Result};

/// How a layer's files are laid down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// The directory is the file system: what a layer deletes is deleted.
    Plain,
    /// The directory is the upper one of an overlay over these, the nearest
    /// first: what a layer deletes is marked.
    Overlay(Vec<PathBuf>),
    /// The directory will be a layer of an overlay, over layers that are
    /// not known yet.
    Detached,
}

/// A directory to write into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) root: PathBuf,
    pub(crate) style: Style,
    /// Overlay's attributes are `user.overlay.*` instead of
    /// `trusted.overlay.*`.
    pub(crate) user_attributes: bool,
}

impl Target {
    /// Finds the directory behind a snapshot's mounts.
    pub(crate) fn of_mounts(mounts: &[Mount]) -> Result<Self> {
        let [mount] = mounts else {
            return Err(Error::unimplemented(format!(
                "apply a layer to {} mounts at once: use a snapshotter whose snapshots are one \
                 bind or overlay mount",
                mounts.len()
            )));
        };
        let has = |option: &str| mount.options.iter().any(|o| o == option);
        let read_only = || {
            Error::failed_precondition(format!(
                "apply a layer to {}: it is mounted read-only; prepare an active snapshot",
                mount.source
            ))
        };
        match mount.kind.as_str() {
            "overlay" => Self::overlay(mount).ok_or_else(read_only),
            "bind" | "none" | "" if mount.kind == "bind" || has("bind") || has("rbind") => {
                if has("ro") {
                    return Err(read_only());
                }
                let root = mount.source.clone().into();
                Ok(Self { root, style: Style::Plain, user_attributes: false })
            }
            other => Err(Error::unimplemented(format!(
                "apply a layer to a mount of type {other:?}: only bind and overlay are known"
            ))),
        }
    }

    fn overlay(mount: &Mount) -> Option<Self> {
        let root = PathBuf::from(overlay_option(mount, "upperdir")?);
        let lower = layers_of(mount);
        let user_attributes = mount.options.iter().any(|o| o == "userxattr");
        Some(Self { root, style: Style::Overlay(lower), user_attributes })
    }

    /// The same directory as a layer over others that are not known yet.
    pub(crate) fn detached(self) -> Result<Self> {
        match self.style {
            Style::Plain => Ok(Self { style: Style::Detached, ..self }),
            _ => Err(Error::failed_precondition(format!(
                "apply a layer to {:?} without its parent: the snapshot was prepared with one",
                self.root
            ))),
        }
    }
}

/// The value of an overlay's option that is one path.
pub(crate) fn overlay_option(mount: &Mount, name: &str) -> Option<String> {
    option(mount, name).map(unescape)
}

/// The lower directories of an overlay, the nearest first.
pub(crate) fn layers_of(mount: &Mount) -> Vec<PathBuf> {
    split_lower(option(mount, "lowerdir").unwrap_or_default())
}

fn option<'a>(mount: &'a Mount, name: &str) -> Option<&'a str> {
    mount.options.iter().find_map(|o| o.strip_prefix(name)?.strip_prefix('='))
}

/// Directories between colons; a backslash takes the meaning of what follows.
fn split_lower(option: &str) -> Vec<PathBuf> {
    let (mut dirs, mut current) = (Vec::new(), String::new());
    let mut chars = option.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => current.extend(chars.next()),
            ':' => dirs.push(PathBuf::from(std::mem::take(&mut current))),
            _ => current.push(c),
        }
    }
    dirs.push(PathBuf::from(current));
    dirs.retain(|dir| !dir.as_os_str().is_empty());
    dirs
}

fn unescape(path: &str) -> String {
    let mut chars = path.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' { out.extend(chars.next()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    fn mount(kind: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Mount { kind: kind.into(), source: "/s".into(), target: String::new(), options }
    }

    #[test]
    fn mounts_are_understood() {
        let overlay =
            mount("overlay", &["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a\\:c"]);
        let target = Target::of_mounts(&[overlay]).unwrap();
        assert_eq!(target.root, PathBuf::from("/u"));
        assert_eq!(target.style, Style::Overlay(vec!["/b".into(), "/a:c".into()]));
        assert_eq!(target.detached().unwrap_err().kind(), Kind::FailedPrecondition);
        let bind = Target::of_mounts(&[mount("bind", &["rw", "rbind"])]).unwrap();
        assert_eq!((&bind.root, &bind.style), (&"/s".into(), &Style::Plain));
        assert_eq!(bind.detached().unwrap().style, Style::Detached);
    }

    #[test]
    fn others_are_refused_by_name() {
        let kind = |mounts: &[Mount]| Target::of_mounts(mounts).unwrap_err().kind();
        assert_eq!(kind(&[mount("overlay", &["lowerdir=/a:/b"])]), Kind::FailedPrecondition);
        assert_eq!(kind(&[mount("bind", &["ro", "rbind"])]), Kind::FailedPrecondition);
        assert_eq!(kind(&[mount("erofs", &[])]), Kind::Unimplemented);
        assert_eq!(kind(&[]), Kind::Unimplemented);
    }
}
