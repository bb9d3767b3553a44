//! Devices by the Container Device Interface: descriptions in files of the host (CDI's SPEC.md)
//! that say what a container with such a device needs.

mod description;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};
use serde_json::{Value, json};

use self::description::{ContainerEdits, Description, DeviceNode, Hook, Mount};
use super::devices::{self, EVERYTHING, Node};

/// A description longer than this is not read.
const LONGEST: u64 = 16 << 20;
/// The access that is none.
const NO_ACCESS: &str = "none";

/// What devices change about a container.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    /// `NAME=VALUE`, over the container's.
    pub(crate) env: Vec<String>,
    /// Nodes; the container's user owns those that say nothing else.
    pub(crate) nodes: Vec<Node>,
    /// Mounts, in place of others with the same target.
    pub(crate) mounts: Vec<Value>,
    /// By the specification's name for when they run.
    pub(crate) hooks: BTreeMap<String, Vec<Value>>,
    /// Further groups of the container's user.
    pub(crate) groups: Vec<u32>,
}

/// A device, and where it is described.
struct Found {
    /// Number of the directory.
    priority: usize,
    /// Number of the description.
    description: usize,
    device: usize,
    /// Another description of the same priority has it as well.
    disputed: bool,
}

/// All descriptions.
#[derive(Default)]
struct Registry {
    all: Vec<Description>,
    devices: BTreeMap<String, Found>,
    /// What is wrong with files.
    damage: Vec<String>,
}

/// What these devices, `vendor.com/class=name`, change.
///
/// # Errors
/// `InvalidArgument` for devices that no file describes, or that can't be had.
pub(crate) fn edits(directories: &[PathBuf], names: &[String]) -> Result<Edits> {
    let registry = Registry::read(directories);
    let failed =
        |why: String| Err(Error::invalid_argument(why).context("CDI device injection failed"));
    let missing: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| !registry.has(name)).collect();
    if !missing.is_empty() {
        let mut why = format!("unresolvable CDI devices {}", missing.join(", "));
        if !registry.damage.is_empty() {
            why = format!("{why} ({})", registry.damage.join("; "));
        }
        return failed(why);
    }
    let mut edits = Edits::default();
    let mut begun = Vec::new();
    for found in names.iter().filter_map(|name| registry.devices.get(name)) {
        let description = &registry.all[found.description];
        let mut parts: Vec<&ContainerEdits> = Vec::new();
        if !begun.contains(&found.description) {
            begun.push(found.description);
            parts.extend(&description.container_edits);
        }
        parts.extend(&description.devices[found.device].container_edits);
        for part in parts {
            if let Err(why) = edits.add(part) {
                return failed(format!("failed to inject devices: {why}"));
            }
        }
    }
    Ok(edits)
}

impl Registry {
    fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for (priority, directory) in directories.iter().enumerate() {
            let mut files: Vec<PathBuf> = fs::read_dir(directory)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| is_description(path) && path.is_file())
                .collect();
            files.sort();
            for path in files {
                match load(&path) {
                    Ok(description) => registry.add(priority, description),
                    Err(why) => registry.damage.push(format!("{}: {why}", path.display())),
                }
            }
        }
        registry
    }

    fn add(&mut self, priority: usize, description: Description) {
        for (device, named) in description.devices.iter().enumerate() {
            let name = format!("{}={}", description.kind, named.name);
            let description = self.all.len();
            let found = Found { priority, description, device, disputed: false };
            match self.devices.get_mut(&name) {
                Some(other) if other.priority == priority => {
                    other.disputed = true;
                    self.damage.push(format!("conflicting device {name:?}"));
                }
                // It is described in a directory that counts more.
                Some(other) if other.priority > priority => {}
                _ => {
                    self.devices.insert(name, found);
                }
            }
        }
        self.all.push(description);
    }

    fn has(&self, name: &str) -> bool {
        self.devices.get(name).is_some_and(|found| !found.disputed)
    }
}

fn is_description(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "json" || kind == "yaml")
}

fn load(path: &Path) -> Result<Description, String> {
    let mut text = String::new();
    let file = fs::File::open(path).map_err(|err| err.to_string())?;
    file.take(LONGEST).read_to_string(&mut text).map_err(|err| err.to_string())?;
    let description: Description = if path.extension().is_some_and(|kind| kind == "json") {
        serde_json::from_str(&text).map_err(|err| err.to_string())?
    } else {
        // The error's first line says what is wrong; the others show where.
        serde_saphyr::from_str(&text)
            .map_err(|err| err.to_string().lines().next().unwrap_or_default().to_owned())?
    };
    description.check()?;
    Ok(description)
}

impl Edits {
    fn add(&mut self, edits: &ContainerEdits) -> Result<(), String> {
        self.env.extend(edits.env.iter().flatten().cloned());
        for node in edits.device_nodes.iter().flatten() {
            let node = resolve(node)?;
            self.nodes.retain(|other| other.path != node.path);
            self.nodes.push(node);
        }
        for mount in edits.mounts.iter().flatten() {
            self.mounts.retain(|other| other["destination"] != mount.container_path.as_str());
            self.mounts.push(as_mount(mount));
        }
        for hook in edits.hooks.iter().flatten() {
            self.hooks.entry(hook.hook_name.clone()).or_default().push(as_hook(hook));
        }
        let groups = edits.additional_gids.iter().flatten().copied().filter(|gid| *gid != 0);
        self.groups.extend(groups);
        Ok(())
    }
}

/// A node with what its description leaves to the host's device.
fn resolve(wanted: &DeviceNode) -> Result<Node, String> {
    let path = wanted.path.as_str();
    let host = wanted.host_path.as_deref().filter(|host| !host.is_empty()).unwrap_or(path);
    let kind = wanted.kind.as_deref().and_then(|kind| kind.chars().next());
    // For the kernel they are the same.
    let kind = if kind == Some('u') { Some('c') } else { kind };
    let major = wanted.major.unwrap_or_default();
    let (kind, major, minor) = match kind {
        Some('p') => ('p', 0, 0),
        Some(kind) if major != 0 => (kind, major, wanted.minor.unwrap_or_default()),
        _ => {
            let failed = |why: &str| format!("failed to stat CDI host device {host:?}: {why}");
            let found = devices::identity(host)
                .map_err(|err| failed(&err.to_string()))?
                .ok_or_else(|| failed("not a device node"))?;
            if kind.is_some_and(|kind| kind != found.0) {
                return Err(format!("CDI device ({path:?}, {host:?}): host type mismatch"));
            }
            found
        }
    };
    let access = match wanted.permissions.as_deref() {
        None | Some("") => EVERYTHING,
        Some(NO_ACCESS) => "",
        Some(access) => access,
    };
    Ok(Node {
        path: path.to_owned(),
        kind,
        major,
        minor,
        mode: wanted.file_mode,
        uid: wanted.uid,
        gid: wanted.gid,
        access: access.to_owned(),
    })
}

fn as_mount(mount: &Mount) -> Value {
    let kind = mount.kind.as_deref().filter(|kind| !kind.is_empty()).unwrap_or("bind");
    let mut options = mount.options.clone().unwrap_or_default();
    if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
        options.push("rbind".to_owned());
    }
    json!({
        "destination": mount.container_path,
        "type": kind,
        "source": mount.host_path,
        "options": options,
    })
}

fn as_hook(hook: &Hook) -> Value {
    let mut made = json!({"path": hook.path});
    if let Some(args) = &hook.args {
        made["args"] = json!(args);
    }
    if let Some(env) = &hook.env {
        made["env"] = json!(env);
    }
    if let Some(timeout) = hook.timeout {
        made["timeout"] = timeout.into();
    }
    made
}

/// Refuses what is no name of a device, `vendor.com/class=name`.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = name.split_once('=').is_some_and(|(kind, name)| {
        description::is_kind(kind) && description::is_device_name(name)
    });
    if good {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "invalid CDI device name {name:?}: it must be like vendor.com/class=name"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{
        "cdiVersion": "0.6.0", "kind": "vendor.com/net",
        "containerEdits": {"env": ["ALL=1"]},
        "devices": [
            {"name": "one", "containerEdits": {
                "env": ["ONE=1"],
                "deviceNodes": [
                    {"path": "/dev/one", "hostPath": "/dev/null", "permissions": "rw"},
                    {"path": "/dev/two", "type": "b", "major": 7, "minor": 1, "fileMode": 432}
                ],
                "mounts": [
                    {"hostPath": "/lib/x", "containerPath": "/lib/y", "options": ["ro", "bind"]}
                ],
                "hooks": [{"hookName": "createContainer", "path": "/bin/x", "args": ["x", "y"]}],
                "additionalGids": [0, 44]
            }},
            {"name": "two", "containerEdits": {"env": ["TWO=2"]}}
        ]
    }"#;

    fn file(directory: &Path, name: &str, text: &str) {
        fs::create_dir_all(directory).unwrap();
        fs::write(directory.join(name), text).unwrap();
    }

    fn of(directories: &[PathBuf], names: &[&str]) -> Result<Edits> {
        edits(directories, &names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn edits_of_a_device_and_its_description() {
        let dir = tempfile::tempdir().unwrap();
        file(dir.path(), "net.json", JSON);
        let directories = [dir.path().to_owned()];
        let made = of(&directories, &["vendor.com/net=one", "vendor.com/net=two"]).unwrap();
        assert_eq!(made.env, ["ALL=1", "ONE=1", "TWO=2"]);
        let numbers = |n: &Node| (n.kind, n.major, n.minor, n.access.clone());
        assert_eq!(numbers(&made.nodes[0]), ('c', 1, 3, "rw".to_owned()));
        assert_eq!(numbers(&made.nodes[1]), ('b', 7, 1, "rwm".to_owned()));
        assert_eq!((made.nodes[0].mode, made.nodes[1].mode), (None, Some(0o660)));
        assert_eq!(made.mounts[0]["options"], json!(["ro", "bind"]));
        assert_eq!(made.hooks["createContainer"][0]["args"], json!(["x", "y"]));
        assert_eq!(made.groups, [44]);
    }

    #[test]
    fn yaml() {
        let dir = tempfile::tempdir().unwrap();
        let text = "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  \
                    containerEdits:\n    deviceNodes:\n    - path: /dev/null\n- name: all\n  \
                    containerEdits:\n    env:\n    - A=b\n";
        file(dir.path(), "nvidia.yaml", text);
        let made = of(&[dir.path().to_owned()], &["nvidia.com/gpu=0"]).unwrap();
        assert_eq!(made.nodes[0].minor, 3);
    }

    #[test]
    fn the_later_directory_counts_more() {
        let dir = tempfile::tempdir().unwrap();
        let directories = ["a", "b"].map(|name| dir.path().join(name));
        let text = |env: &str| JSON.replace("ONE=1", env);
        file(&directories[0], "x.json", &text("FROM=a"));
        file(&directories[1], "x.json", &text("FROM=b"));
        let made = of(&directories, &["vendor.com/net=one"]).unwrap();
        assert_eq!(made.env, ["ALL=1", "FROM=b"]);
        // In one directory nobody knows which is meant.
        file(&directories[1], "y.json", &text("FROM=c"));
        let refused = of(&directories, &["vendor.com/net=one"]).unwrap_err().to_string();
        assert!(refused.contains("conflicting device \"vendor.com/net=one\""), "{refused}");
    }

    #[test]
    fn unknown_devices_and_damaged_files() {
        let dir = tempfile::tempdir().unwrap();
        let directories = [dir.path().to_owned(), dir.path().join("missing")];
        let said = |name: &str| of(&directories, &[name]).unwrap_err().to_string();
        assert_eq!(
            said("vendor.com/net=three"),
            "CDI device injection failed: unresolvable CDI devices vendor.com/net=three"
        );
        for (text, why) in [
            ("{", "EOF"),
            (JSON.replace("0.6.0", "9.0.0").as_str(), "version"),
            (JSON.replace("vendor.com/net", "vendor").as_str(), "kind"),
            (JSON.replace("createContainer", "sometime").as_str(), "hook"),
            (JSON.replace("\"rw\"", "\"rx\"").as_str(), "permissions"),
            (JSON.replace("additionalGids", "surprise").as_str(), "surprise"),
        ] {
            file(dir.path(), "net.json", text);
            let said = said("vendor.com/net=one");
            assert!(said.contains("net.json: ") && said.contains(why), "{why}: {said}");
        }
        file(dir.path(), "net.json", &JSON.replace("/dev/null", "/dev/nope"));
        assert!(said("vendor.com/net=one").contains("\"/dev/nope\""));
    }

    #[test]
    fn names() {
        for good in ["vendor.com/class=x", "nvidia.com/gpu=all", "v1/c-d_e=0:1.2"] {
            check_name(good).unwrap();
        }
        for bad in ["x", "vendor.com/class", "vendor.com=x", "/c=x", "v/c=", "v/c=-x", "1/c=x"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
