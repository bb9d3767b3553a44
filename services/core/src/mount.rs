use serde::{Deserialize, Serialize};

/// A mount as containerd describes it: what a client, a shim or this daemon
/// would pass to mount(2).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File system type: `overlay`, `bind`, `tmpfs`, …
    pub kind: String,
    /// Device, directory or name.
    pub source: String,
    /// Where below the root file system; empty for the root itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Options in fstab's form: flags (`ro`, `rbind`) and data (`lowerdir=…`).
    pub options: Vec<String>,
}
