//! A description of devices as a file holds it.

use serde::Deserialize;
use serde::de::IgnoredAny;

/// Releases of the Container Device Interface that are understood.
const VERSIONS: [&str; 11] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "0.8.1", "1.0.0",
    "1.1.0",
];
/// When hooks run.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
/// Kinds of nodes.
const KINDS: [&str; 5] = ["", "b", "c", "u", "p"];

/// Devices of one kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Description {
    pub(super) cdi_version: String,
    pub(super) kind: String,
    /// Of no meaning here.
    #[serde(default, rename = "annotations")]
    _annotations: Option<IgnoredAny>,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: Option<ContainerEdits>,
}

/// One device.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    /// Of no meaning here.
    #[serde(default, rename = "annotations")]
    _annotations: Option<IgnoredAny>,
    #[serde(default)]
    pub(super) container_edits: Option<ContainerEdits>,
}

/// What a container with a device needs.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    pub(super) env: Option<Vec<String>>,
    pub(super) device_nodes: Option<Vec<DeviceNode>>,
    pub(super) mounts: Option<Vec<Mount>>,
    pub(super) hooks: Option<Vec<Hook>>,
    pub(super) additional_gids: Option<Vec<u32>>,
    net_devices: Option<Vec<IgnoredAny>>,
    intel_rdt: Option<IgnoredAny>,
}

/// A device node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    pub(super) host_path: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) file_mode: Option<u32>,
    pub(super) permissions: Option<String>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

/// A mount.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    pub(super) options: Option<Vec<String>>,
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
}

/// A program that is run for the container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Hook {
    pub(super) hook_name: String,
    pub(super) path: String,
    pub(super) args: Option<Vec<String>>,
    pub(super) env: Option<Vec<String>>,
    pub(super) timeout: Option<i64>,
}

impl Description {
    /// Refuses a description that can't be followed.
    ///
    /// # Errors
    /// What is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let version = self.cdi_version.as_str();
        if !VERSIONS.contains(&version.strip_prefix('v').unwrap_or(version)) {
            return Err(format!("invalid version {version:?}"));
        }
        if !is_kind(&self.kind) {
            return Err(format!("invalid kind {:?}", self.kind));
        }
        for (n, device) in self.devices.iter().enumerate() {
            let name = device.name.as_str();
            if !is_device_name(name) {
                return Err(format!("invalid device name {name:?}"));
            }
            if self.devices[..n].iter().any(|other| other.name == name) {
                return Err(format!("invalid spec, multiple device {name:?}"));
            }
        }
        let own = self.devices.iter().map(|device| &device.container_edits);
        own.chain([&self.container_edits]).flatten().try_for_each(ContainerEdits::check)
    }
}

impl ContainerEdits {
    fn check(&self) -> Result<(), String> {
        variables(&self.env)?;
        if self.intel_rdt.is_some() {
            return Err("intelRdt is not supported".to_owned());
        }
        if self.net_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
            return Err("netDevices is not supported".to_owned());
        }
        self.device_nodes.iter().flatten().try_for_each(DeviceNode::check)?;
        for mount in self.mounts.iter().flatten() {
            if mount.host_path.is_empty() || !mount.container_path.starts_with('/') {
                return Err(format!("invalid mount {:?}", mount.container_path));
            }
        }
        for hook in self.hooks.iter().flatten() {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!("invalid hook name {:?}", hook.hook_name));
            }
            if !hook.path.starts_with('/') {
                return Err(format!("invalid hook {:?}: its path is not absolute", hook.hook_name));
            }
            variables(&hook.env)?;
        }
        Ok(())
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        let path = self.path.as_str();
        if !path.starts_with('/') {
            return Err(format!("invalid device path {path:?}"));
        }
        if !KINDS.contains(&self.kind.as_deref().unwrap_or_default()) {
            return Err(format!("device {path:?}: invalid type {:?}", self.kind));
        }
        let access = self.permissions.as_deref().unwrap_or_default();
        if access != "none" && !access.chars().all(|c| "rwm".contains(c)) {
            return Err(format!("device {path:?}: invalid permissions {access:?}"));
        }
        Ok(())
    }
}

fn variables(env: &Option<Vec<String>>) -> Result<(), String> {
    let bad = |entry: &&String| entry.find('=').is_none_or(|at| at == 0);
    match env.iter().flatten().find(bad) {
        Some(entry) => Err(format!("invalid environment variable {entry:?}")),
        None => Ok(()),
    }
}

/// Whether a text is `vendor.com/class`.
pub(super) fn is_kind(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic();
    text.split_once('/')
        .is_some_and(|(vendor, class)| is_name(vendor, first, "_-.") && is_name(class, first, "_-"))
}

/// Whether a text names a device of a kind.
pub(super) fn is_device_name(text: &str) -> bool {
    is_name(text, |c| c.is_ascii_alphanumeric(), "_-.:")
}

/// Letters, digits and some other characters, not at either end.
fn is_name(text: &str, first: impl Fn(char) -> bool, between: &str) -> bool {
    text.starts_with(first)
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || between.contains(c))
}
