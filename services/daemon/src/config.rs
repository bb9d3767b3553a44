//! The daemon's configuration: one validated value, from a TOML file and the
//! command line. Nothing reads the environment after start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// Where the configuration lies unless `--config` says otherwise. It need not exist.
pub(crate) const DEFAULT_PATH: &str = "/etc/gantry/config.toml";

/// The whole configuration. Unknown keys are refused.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// What must outlive a restart of the machine.
    pub(crate) root: PathBuf,
    /// What is lost with a restart of the machine: bundles and sockets.
    pub(crate) state: PathBuf,
    /// The gRPC server.
    pub(crate) grpc: Grpc,
    /// Logging of the daemon itself.
    pub(crate) log: Log,
    /// Our own shim.
    pub(crate) shim: Shim,
    /// Containers made through `gantry.engine.v1`.
    pub(crate) containers: Containers,
    /// Registries and pulls.
    pub(crate) registry: Registry,
}

/// The gRPC server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Grpc {
    /// Unix socket. Events from shims come in on the same path with `.ttrpc` behind it.
    pub(crate) address: PathBuf,
    /// Owner of the socket.
    pub(crate) uid: Option<u32>,
    /// Group of the socket: its members may do all that root may.
    pub(crate) gid: Option<u32>,
}

/// Logging of the daemon itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Log {
    /// `trace`, `debug`, `info`, `warn` or `error`.
    pub(crate) level: String,
}

/// Our own shim.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Shim {
    /// The binary; `containerd-shim-gantry-v2` beside the daemon when unset.
    pub(crate) path: Option<PathBuf>,
    /// How many ready-made shims to keep; 1 when unset.
    pub(crate) warm: Option<usize>,
}

/// Containers made through `gantry.engine.v1`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Containers {
    /// Snapshotter for images: `overlayfs` or `native`.
    pub(crate) snapshotter: String,
    /// Cgroup below which containers get theirs.
    pub(crate) cgroup_parent: String,
    /// Bytes at which a container's log is rotated.
    pub(crate) log_max_size: u64,
    /// Files that are kept of a container's log.
    pub(crate) log_max_files: u32,
}

/// Registries and pulls.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Registry {
    /// Hosts (`name:port`) that are spoken to by plain HTTP, besides those on
    /// loopback.
    pub(crate) plain_http: Vec<String>,
    /// Directory with Docker's `config.json`; `$DOCKER_CONFIG` or `~/.docker` when unset.
    pub(crate) docker_config: Option<PathBuf>,
    /// Layers fetched at a time by one pull; 4 when unset.
    pub(crate) parallel_layers: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/gantry".into(),
            state: "/run/gantry".into(),
            grpc: Grpc::default(),
            log: Log::default(),
            shim: Shim::default(),
            containers: Containers::default(),
            registry: Registry::default(),
        }
    }
}

impl Default for Grpc {
    fn default() -> Self {
        Self { address: "/run/gantry/gantry.sock".into(), uid: None, gid: None }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".into() }
    }
}

impl Default for Containers {
    fn default() -> Self {
        Self {
            snapshotter: "overlayfs".into(),
            cgroup_parent: "/gantry".into(),
            log_max_size: 10 << 20,
            log_max_files: 3,
        }
    }
}

impl Config {
    /// Reads a file; a missing one at the default path is an empty one.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => toml::from_str(&text)
                .with_context(|| format!("configuration {} is not valid", file.display())),
            Err(err) if path.is_none() && err.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(err) => Err(err).with_context(|| format!("read configuration {}", file.display())),
        }
    }

    /// Checks what the types can't.
    pub(crate) fn validate(&self) -> Result<()> {
        for (what, path) in [("root", &self.root), ("state", &self.state)] {
            if !path.is_absolute() {
                bail!("{what} {} must be an absolute path", path.display());
            }
        }
        if self.root == self.state {
            bail!("root and state must differ, both are {}", self.root.display());
        }
        let address = &self.grpc.address;
        if !address.is_absolute() {
            bail!("address {} must be an absolute path of a unix socket", address.display());
        }
        // sockaddr_un holds 108 bytes; `.ttrpc` and the final NUL have to fit.
        if address.as_os_str().len() > 100 {
            bail!("address {} is too long: 100 bytes at most", address.display());
        }
        if !["trace", "debug", "info", "warn", "error"].contains(&self.log.level.as_str()) {
            bail!("log level {:?} is none of trace, debug, info, warn, error", self.log.level);
        }
        let parent = &self.containers.cgroup_parent;
        if !parent.starts_with('/') || parent.split('/').any(|part| part == "..") {
            bail!("cgroup_parent {parent:?} must be an absolute path without `..`");
        }
        if self.containers.log_max_files == 0 || self.containers.log_max_size < 4096 {
            bail!("log_max_files must be 1 or more and log_max_size 4096 or more");
        }
        Ok(())
    }

    /// Where shims send events.
    pub(crate) fn ttrpc_address(&self) -> PathBuf {
        let mut name = self.grpc.address.clone().into_os_string();
        name.push(".ttrpc");
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn a_file_is_read_and_mistakes_are_named() {
        let config: Config =
            toml::from_str("root = \"/r\"\n[grpc]\naddress = \"/a.sock\"\n[shim]\nwarm = 0\n")
                .unwrap();
        config.validate().unwrap();
        assert_eq!(config.ttrpc_address(), Path::new("/a.sock.ttrpc"));
        assert_eq!(config.shim.warm, Some(0));
        let err = toml::from_str::<Config>("rooot = \"/r\"").unwrap_err();
        assert!(err.to_string().contains("rooot"), "{err}");
    }

    #[test]
    fn bad_values_are_refused() {
        let bad = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.root = "x".into()).contains("absolute"));
        assert!(bad(|c| c.state = c.root.clone()).contains("differ"));
        assert!(bad(|c| c.grpc.address = "/a".repeat(60).into()).contains("too long"));
        assert!(bad(|c| c.log.level = "loud".into()).contains("loud"));
        assert!(bad(|c| c.containers.cgroup_parent = "/a/../b".into()).contains("cgroup_parent"));
        assert!(bad(|c| c.containers.log_max_files = 0).contains("log_max_files"));
    }
}
