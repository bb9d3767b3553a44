//! The daemon's configuration: one validated value, from a TOML file and the
//! command line. Nothing reads the environment after start.

mod networks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::listen::{self, Listen};

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
    /// Where it listens as well.
    pub(crate) listen: Vec<Listen>,
    /// Logging of the daemon itself.
    pub(crate) log: Log,
    /// Our own shim.
    pub(crate) shim: Shim,
    /// Containers made through `gantry.engine.v1`.
    pub(crate) containers: Containers,
    /// Networks of containers.
    pub(crate) networks: networks::Networks,
    /// Registries and pulls.
    pub(crate) registry: Registry,
    /// What happened.
    pub(crate) events: Events,
    /// Runtime names that are served by this shim instead of the usual one.
    pub(crate) runtimes: BTreeMap<String, PathBuf>,
    /// Parts that other programs offer, by the name they get here.
    pub(crate) proxy_plugins: BTreeMap<String, ProxyPlugin>,
}

/// A part that another program offers on a socket, written as for containerd.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProxyPlugin {
    /// What it is: `snapshot`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The program's Unix socket.
    pub(crate) address: PathBuf,
    /// Whose images it is for, `linux/amd64` for example; this machine's when unset.
    #[serde(default)]
    pub(crate) platform: Option<String>,
    /// What clients are told of it.
    #[serde(default)]
    pub(crate) exports: BTreeMap<String, String>,
    /// What it can beyond the usual: `rebase`, `remap-ids`.
    #[serde(default)]
    pub(crate) capabilities: Vec<String>,
    /// The name by which the program knows it, when that is another.
    #[serde(default)]
    pub(crate) snapshotter: Option<String>,
}

impl ProxyPlugin {
    fn validate(&self, name: &str) -> Result<()> {
        if self.kind != "snapshot" {
            bail!("proxy_plugins.{name}: type {:?} is not known, only \"snapshot\" is", self.kind);
        }
        if !self.address.is_absolute() {
            let address = self.address.display();
            bail!("proxy_plugins.{name}: address {address} must be an absolute path of a socket");
        }
        let platform = self.platform.as_deref().unwrap_or("linux/any");
        if !(2..=3).contains(&platform.split('/').filter(|part| !part.is_empty()).count()) {
            bail!("proxy_plugins.{name}: platform {platform:?} must be as linux/amd64");
        }
        if gantry_snapshots::NAMES.contains(&name) {
            bail!("proxy_plugins.{name}: a snapshotter of our own has this name, use another");
        }
        gantry_core::validate_identifier(name).with_context(|| format!("proxy_plugins.{name}"))
    }
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
    /// Hours after which a container's log is rotated; never when 0.
    pub(crate) log_max_age_hours: u64,
    /// Where devices are described that containers may have (Container Device Interface): a
    /// later directory counts more.
    pub(crate) cdi_directories: Vec<PathBuf>,
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
    /// Directory with a `hosts.toml` for each registry that has mirrors, certificates or
    /// headers, in containerd's form; none when unset.
    pub(crate) config_path: Option<PathBuf>,
    /// Layers fetched at a time by one pull; 4 when unset.
    pub(crate) parallel_layers: Option<usize>,
}

/// Events that are kept, for clients that come back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Events {
    /// So many of them.
    pub(crate) keep: u64,
    /// None that is older than so many hours.
    pub(crate) keep_hours: u64,
}

impl Default for Events {
    fn default() -> Self {
        Self { keep: 64 << 10, keep_hours: 7 * 24 }
    }
}

impl Events {
    /// The same for the journal.
    pub(crate) fn limits(&self) -> gantry_events::Limits {
        let age = Duration::from_secs(self.keep_hours.saturating_mul(3600));
        gantry_events::Limits { events: self.keep, age }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/gantry".into(),
            state: "/run/gantry".into(),
            grpc: Grpc::default(),
            listen: Vec::new(),
            log: Log::default(),
            shim: Shim::default(),
            containers: Containers::default(),
            networks: networks::Networks::default(),
            registry: Registry::default(),
            events: Events::default(),
            runtimes: BTreeMap::new(),
            proxy_plugins: BTreeMap::new(),
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
            log_max_age_hours: 7 * 24,
            cdi_directories: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).to_vec(),
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
        if let Some(path) = self.registry.config_path.as_ref().filter(|path| !path.is_absolute()) {
            bail!("registry.config_path {} must be an absolute path", path.display());
        }
        listen::check_socket(&self.grpc.address)?;
        listen::validate(&self.listen, [self.grpc.address.clone(), self.ttrpc_address()])?;
        if !["trace", "debug", "info", "warn", "error"].contains(&self.log.level.as_str()) {
            bail!("log level {:?} is none of trace, debug, info, warn, error", self.log.level);
        }
        let parent = &self.containers.cgroup_parent;
        if !parent.starts_with('/') || parent.split('/').any(|part| part == "..") {
            bail!("cgroup_parent {parent:?} must be an absolute path without `..`");
        }
        if let Some(path) = self.containers.cdi_directories.iter().find(|p| !p.is_absolute()) {
            bail!("cdi_directories: {} must be an absolute path", path.display());
        }
        for (name, path) in &self.runtimes {
            if !path.is_absolute() {
                bail!("runtimes.{name:?}: {} must be an absolute path of a shim", path.display());
            }
        }
        for (name, plugin) in &self.proxy_plugins {
            plugin.validate(name)?;
        }
        if self.containers.log_max_files == 0 || self.containers.log_max_size < 4096 {
            bail!("log_max_files must be 1 or more and log_max_size 4096 or more");
        }
        self.networks.validate(self.state.clone())?;
        if self.events.keep == 0 || self.events.keep_hours == 0 {
            bail!("keep and keep_hours of events must be 1 or more");
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
        let mapped = "[runtimes]\n\"io.containerd.runc.v2\" = \"/usr/bin/other\"\n";
        let config: Config = toml::from_str(mapped).unwrap();
        assert_eq!(config.runtimes["io.containerd.runc.v2"], Path::new("/usr/bin/other"));
        let err = toml::from_str::<Config>("rooot = \"/r\"").unwrap_err();
        assert!(err.to_string().contains("rooot"), "{err}");
    }

    #[test]
    fn proxy_plugins_are_written_as_for_containerd() {
        let parse = |name: &str, text: &str| {
            let config: Config =
                toml::from_str(&format!("[proxy_plugins.{name}]\n{text}")).unwrap();
            config.validate().map(|()| config)
        };
        let good = "type = \"snapshot\"\naddress = \"/run/x.sock\"\nplatform = \"linux/arm/v7\"\n\
                    capabilities = [\"rebase\"]\nexports = { root = \"/var/lib/x\" }\n";
        let config = parse("stargz", good).unwrap();
        assert_eq!(config.proxy_plugins["stargz"].capabilities, ["rebase"]);
        for (name, text, what) in [
            ("native", good, "of our own"),
            ("\"a/b\"", good, "a/b"),
            ("x", "type = \"content\"\naddress = \"/x\"", "content"),
            ("x", "type = \"snapshot\"\naddress = \"x\"", "absolute"),
            ("x", "type = \"snapshot\"\naddress = \"/x\"\nplatform = \"linux\"", "platform"),
        ] {
            let err = format!("{:#}", parse(name, text).unwrap_err());
            assert!(err.contains(what), "{err}");
        }
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
        assert!(bad(|c| c.grpc.address = "tcp://0.0.0.0:1".into()).contains("[[listen]]"));
        assert!(bad(|c| c.log.level = "loud".into()).contains("loud"));
        assert!(bad(|c| c.containers.cgroup_parent = "/a/../b".into()).contains("cgroup_parent"));
        assert!(bad(|c| drop(c.runtimes.insert("a.b".into(), "c".into()))).contains("a.b"));
        assert!(bad(|c| c.containers.log_max_files = 0).contains("log_max_files"));
        assert!(bad(|c| c.events.keep_hours = 0).contains("keep_hours"));
    }
}
