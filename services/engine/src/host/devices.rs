//! Devices of the host: their nodes, and rules of who may use them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use gantry_core::{Error, Result};
use nix::sys::stat::{major, minor};
use serde_json::{Value, json};

use crate::model::{DeviceLimit, DeviceSetting};

/// Access without restrictions: read, write, make nodes.
pub(crate) const EVERYTHING: &str = "rwm";

/// Where the host's devices are.
const DEV: &str = "/dev";
/// Directories of it that a container gets of its own, or that are no business of its.
const OTHERS: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// Nodes of it that a container gets of its own.
const OWN: [&str; 2] = ["console", "ptmx"];
/// Directories are gone into so deep.
const DEPTH: usize = 16;
/// The permissions of a mode.
const PERMISSIONS: u32 = 0o7777;

/// A device node for a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// In the container.
    pub(crate) path: String,
    /// `b`, `c`; `p` for a FIFO.
    pub(crate) kind: char,
    pub(crate) major: u64,
    pub(crate) minor: u64,
    /// Permissions; the runtime's choice when `None`.
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// What the container may do with it; nothing when empty.
    pub(crate) access: String,
}

impl Node {
    /// As `linux.devices` of a specification has it.
    pub(crate) fn device(&self) -> Value {
        let mut device = json!({
            "path": self.path,
            "type": self.kind,
            "major": self.major,
            "minor": self.minor,
        });
        let optional = [("fileMode", self.mode), ("uid", self.uid), ("gid", self.gid)];
        for (key, value) in optional {
            if let Some(value) = value {
                device[key] = value.into();
            }
        }
        device
    }

    /// As `linux.resources.devices` has it; `None` when nothing is allowed.
    pub(crate) fn rule(&self) -> Option<Value> {
        (self.kind != 'p' && !self.access.is_empty()).then(|| {
            json!({
                "allow": true,
                "type": self.kind,
                "major": self.major,
                "minor": self.minor,
                "access": self.access,
            })
        })
    }
}

/// The node at a path, which may not be a link: `None` for what is no device.
fn node(path: &Path) -> io::Result<Option<Node>> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => 'c',
        kind if kind.is_block_device() => 'b',
        _ => return Ok(None),
    };
    Ok(Some(Node {
        path: path.to_string_lossy().into_owned(),
        kind,
        major: major(meta.rdev()),
        minor: minor(meta.rdev()),
        mode: Some(meta.mode() & PERMISSIONS),
        uid: Some(meta.uid()),
        gid: Some(meta.gid()),
        access: EVERYTHING.to_owned(),
    }))
}

/// Kind and numbers of the device at a path, for those who have the rest.
pub(crate) fn identity(path: &str) -> io::Result<Option<(char, u64, u64)>> {
    Ok(node(Path::new(path))?.map(|node| (node.kind, node.major, node.minor)))
}

/// The devices that a setting stands for: the one at its path, or all below a directory.
///
/// # Errors
/// `InvalidArgument` when there is none.
pub(crate) fn of_setting(setting: &DeviceSetting) -> Result<Vec<Node>> {
    let asked = setting.host_path.as_str();
    let gather = |why: String| {
        Error::invalid_argument(format!(
            "error gathering device information while adding custom device {asked:?}: {why}"
        ))
    };
    let real = fs::canonicalize(asked).map_err(|err| gather(plain(&err)))?;
    let found = node(&real).map_err(|err| gather(plain(&err)))?;
    let mut nodes = match found {
        Some(node) => vec![Node { path: setting.container_path.clone(), ..node }],
        None => {
            let mut below = Vec::new();
            walk(&real, DEPTH, &|_: &str| true, &mut below);
            let old = real.to_string_lossy();
            for node in &mut below {
                let rest = node.path.strip_prefix(&*old).unwrap_or_default();
                node.path = format!("{}{rest}", setting.container_path.trim_end_matches('/'));
            }
            below
        }
    };
    if nodes.is_empty() {
        return Err(gather("not a device node".to_owned()));
    }
    for node in &mut nodes {
        node.access.clone_from(&setting.access);
    }
    Ok(nodes)
}

/// Every device of the host, where it is.
pub(crate) fn all() -> Vec<Node> {
    let mut nodes = Vec::new();
    let wanted = |name: &str| !OTHERS.contains(&name) && !OWN.contains(&name);
    walk(Path::new(DEV), DEPTH, &wanted, &mut nodes);
    nodes
}

/// Devices in a directory and below. What can't be looked at is left out: devices come and go.
fn walk(directory: &Path, depth: usize, wanted: &dyn Fn(&str) -> bool, into: &mut Vec<Node>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(wanted) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth > 1 => {
                walk(&entry.path(), depth - 1, wanted, into);
            }
            Ok(_) => into.extend(node(&entry.path()).ok().flatten()),
            Err(_) => {}
        }
    }
}

/// The numbers of the block device that a limit is for.
///
/// # Errors
/// `InvalidArgument` when there is none.
pub(crate) fn of_limit(limit: &DeviceLimit) -> Result<(u64, u64)> {
    let path = limit.path.as_str();
    let meta = fs::metadata(path)
        .map_err(|err| Error::invalid_argument(format!("stat {path}: {}", plain(&err))))?;
    if !meta.file_type().is_block_device() {
        return Err(Error::invalid_argument(format!("{path}: it is no block device")));
    }
    Ok((major(meta.rdev()), minor(meta.rdev())))
}

/// A rule as cgroup v1 writes it, `c 13:* rwm`, for `linux.resources.devices`.
///
/// # Errors
/// `InvalidArgument` for what is none.
pub(crate) fn rule(text: &str) -> Result<Value> {
    let bad = || Error::invalid_argument(format!("invalid device cgroup rule format: '{text}'"));
    let parts: Vec<&str> = text.split(' ').collect();
    let &[kind, numbers, access] = parts.as_slice() else { return Err(bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => {
            digits.parse::<u32>().map(Some).map_err(|_| bad())
        }
        _ => Err(bad()),
    };
    let (major, minor) = (number(major)?, number(minor)?);
    if !matches!(kind, "a" | "b" | "c") || !is_access(access) {
        return Err(bad());
    }
    let mut rule = json!({"allow": true, "type": kind, "access": access});
    if kind == "a" && (major, minor) != (None, None) {
        return Err(Error::invalid_argument(format!(
            "invalid device cgroup rule '{text}': numbers need the type b or c"
        )));
    }
    for (key, number) in [("major", major), ("minor", minor)] {
        if let Some(number) = number {
            rule[key] = number.into();
        }
    }
    Ok(rule)
}

/// Whether a text is made of `r`, `w` and `m`, each once at most, and says something.
pub(crate) fn is_access(text: &str) -> bool {
    let once = |c: char| text.matches(c).count() <= 1;
    !text.is_empty() && text.chars().all(|c| EVERYTHING.contains(c) && once(c))
}

/// The system's words for an error, without its number.
fn plain(err: &io::Error) -> String {
    let text = err.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |c| c.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn setting(host: &str, container: &str, access: &str) -> DeviceSetting {
        DeviceSetting {
            host_path: host.into(),
            container_path: container.into(),
            access: access.into(),
        }
    }

    #[test]
    fn a_device_and_a_link_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        symlink("/dev/null", &link).unwrap();
        for host in ["/dev/null", link.to_str().unwrap()] {
            let found = of_setting(&setting(host, "/dev/nothing", "rw")).unwrap();
            let [node] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!((node.kind, node.major, node.minor), ('c', 1, 3));
            assert_eq!(node.device()["path"], "/dev/nothing");
            assert_eq!(node.device()["fileMode"], 0o666);
            let rule = json!({
                "allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw",
            });
            assert_eq!(node.rule(), Some(rule));
        }
    }

    #[test]
    fn a_directory_stands_for_its_devices() {
        // Every machine has some of these.
        let found = of_setting(&setting("/dev", "/dev/host/", "r")).unwrap();
        let null = found.iter().find(|node| node.path == "/dev/host/null").unwrap();
        assert_eq!((null.minor, null.access.as_str()), (3, "r"));
    }

    #[test]
    fn all_but_what_is_its_own() {
        let all = all();
        assert!(all.iter().any(|node| node.path == "/dev/zero"));
        assert!(!all.iter().any(|node| node.path.starts_with("/dev/pts/")));
        assert!(!all.iter().any(|node| node.path == "/dev/ptmx"));
    }

    #[test]
    fn what_is_no_device_is_refused() {
        let said = |host| of_setting(&setting(host, "/x", "rwm")).unwrap_err().to_string();
        assert_eq!(
            said("/dev/nope"),
            "error gathering device information while adding custom device \"/dev/nope\": no such \
             file or directory"
        );
        assert!(said("/etc/passwd").ends_with("not a device node"));
        let dir = tempfile::tempdir().unwrap();
        assert!(said(dir.path().to_str().unwrap()).ends_with("not a device node"));
        let limit = |path: &str| {
            let kind = crate::model::DeviceLimitKind::ReadBps;
            of_limit(&DeviceLimit { kind, path: path.into(), rate: 1 }).unwrap_err().to_string()
        };
        assert_eq!(limit("/dev/nope"), "stat /dev/nope: no such file or directory");
        assert_eq!(limit("/dev/null"), "/dev/null: it is no block device");
    }

    #[test]
    fn rules() {
        let made = rule("c 13:* rwm").unwrap();
        assert_eq!(made, json!({"allow": true, "type": "c", "major": 13, "access": "rwm"}));
        assert_eq!(rule("a *:* r").unwrap(), json!({"allow": true, "type": "a", "access": "r"}));
        for bad in [
            "",
            "c 1:3",
            "x 1:3 r",
            "c 1 r",
            "c 1:3 x",
            "c 1:3 rr",
            "c -1:3 r",
            "c :3 r",
            "a 1:3 r",
            "c 1:3  r",
            "c 99999999999:3 r",
        ] {
            assert!(rule(bad).is_err(), "{bad}");
        }
    }
}
