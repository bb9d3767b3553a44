//! What is mounted in a container.

mod long;
mod short;

use anyhow::bail;
use clap::Args;
use clap_complete::engine::{ArgValueCandidates, ArgValueCompleter};
use gantry_core::paths;
use gantry_grpc::gantry::engine::v1 as api;

use crate::{complete, units};

/// How mounts pass between a container and the host.
const PROPAGATIONS: [&str; 6] = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];

/// Options about files.
#[derive(Debug, Args)]
#[command(next_help_heading = "Files")]
pub(crate) struct Mounts {
    /// Mount a volume or a path: data:/data, ./src:/src:ro, /cache (several)
    #[arg(
        short,
        long = "volume",
        value_name = "SOURCE:TARGET",
        value_parser = short::parse,
        add = ArgValueCompleter::new(complete::volumes_and_paths)
    )]
    volumes: Vec<api::Mount>,
    /// Mount what fields between commas say, type=volume,source=data,target=/data (several)
    #[arg(long = "mount", value_name = "FIELDS", value_parser = long::parse)]
    mounts: Vec<api::Mount>,
    /// Mount memory: /run, /run:size=64m,noexec (several)
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = tmpfs)]
    tmpfs: Vec<api::Mount>,
    /// Mount what is mounted in another container; NAME:ro only to read (several)
    #[arg(
        long,
        value_name = "CONTAINER",
        value_parser = from_container,
        add = ArgValueCandidates::new(complete::containers)
    )]
    volumes_from: Vec<String>,
    /// Nothing of its own file system can be written
    #[arg(long)]
    read_only: bool,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "BYTES", value_parser = units::size)]
    shm_size: Option<u64>,
}

impl Mounts {
    /// Adds them to what a container is made from.
    ///
    /// # Errors
    /// When something else is to be mounted at the same place.
    pub(super) fn add_to(self, spec: &mut api::ContainerSpec) -> anyhow::Result<()> {
        let mut mounts: Vec<api::Mount> = Vec::new();
        let mut memory: Vec<api::Mount> = Vec::new();
        for mount in self.tmpfs {
            // Of two at one place the last counts, as with Docker.
            memory.retain(|other| other.target != mount.target);
            memory.push(mount);
        }
        for mount in self.volumes.into_iter().chain(self.mounts).chain(memory) {
            let place = paths::clean(&mount.target);
            match mounts.iter().find(|other| paths::clean(&other.target) == place) {
                // Said twice.
                Some(same) if *same == mount => {}
                Some(_) => bail!("Duplicate mount point: {}", mount.target),
                None => mounts.push(mount),
            }
        }
        spec.mounts = mounts;
        spec.volumes_from = self.volumes_from;
        spec.shm_size = self.shm_size.unwrap_or_default();
        if self.read_only {
            spec.security.get_or_insert_default().read_only = true;
        }
        Ok(())
    }
}

/// A path as seen from the caller's directory.
fn absolute(path: &str) -> Result<String, String> {
    let here = std::env::current_dir();
    let here = here.map_err(|error| format!("find the working directory: {error}"))?;
    let path = paths::clean(here.join(path));
    path.into_os_string().into_string().map_err(|path| format!("path {path:?} is not UTF-8"))
}

/// `TARGET[:OPTIONS]`.
fn tmpfs(text: &str) -> Result<api::Mount, String> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    if target.is_empty() {
        return Err("the path in the container is missing".to_owned());
    }
    Ok(api::Mount {
        kind: api::MountKind::Tmpfs.into(),
        target: target.to_owned(),
        tmpfs_options: options.to_owned(),
        ..Default::default()
    })
}

/// `CONTAINER[:MODE]`, with what the mode means for writing.
fn from_container(text: &str) -> Result<String, String> {
    let (container, mode) = text.split_once(':').unwrap_or((text, ""));
    if container.is_empty() {
        return Err("volumes-from specification cannot be an empty string".to_owned());
    }
    // `z` and `Z` label files for SELinux.
    let known = |option: &str| matches!(option, "" | "ro" | "rw" | "z" | "Z");
    if !mode.split(',').all(known) {
        return Err(format!("invalid mode: {mode}"));
    }
    match mode.split(',').any(|option| option == "ro") {
        true => Ok(format!("{container}:ro")),
        false => Ok(container.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none() -> Mounts {
        Mounts {
            volumes: Vec::new(),
            mounts: Vec::new(),
            tmpfs: Vec::new(),
            volumes_from: Vec::new(),
            read_only: false,
            shm_size: None,
        }
    }

    #[test]
    fn memory_has_options() {
        let mount = tmpfs("/run:size=64m,mode=1770").unwrap();
        assert_eq!((mount.kind(), mount.target.as_str()), (api::MountKind::Tmpfs, "/run"));
        assert_eq!(mount.tmpfs_options, "size=64m,mode=1770");
        assert_eq!(tmpfs("/run").unwrap().tmpfs_options, "");
        assert!(tmpfs(":ro").is_err());
    }

    #[test]
    fn mounts_of_other_containers() {
        assert_eq!(from_container("db").as_deref(), Ok("db"));
        assert_eq!(from_container("db:rw,z").as_deref(), Ok("db"));
        assert_eq!(from_container("db:Z,ro").as_deref(), Ok("db:ro"));
        assert_eq!(from_container("db:nocopy"), Err("invalid mode: nocopy".to_owned()));
        assert!(from_container("").unwrap_err().contains("cannot be an empty string"));
    }

    #[test]
    fn one_place_holds_one_mount() {
        let mut spec = api::ContainerSpec::default();
        let tmpfs = ["/a:size=1k", "/b", "/a:size=2k"].map(|text| tmpfs(text).unwrap()).into();
        let volumes = ["x:/x", "x:/x"].map(|text| short::parse(text).unwrap()).into();
        Mounts { tmpfs, volumes, read_only: true, ..none() }.add_to(&mut spec).unwrap();
        let places: Vec<_> = spec.mounts.iter().map(|mount| mount.target.as_str()).collect();
        assert_eq!(places, ["/x", "/b", "/a"]);
        assert_eq!(spec.mounts[2].tmpfs_options, "size=2k");
        assert!(spec.security.unwrap().read_only);
        let volumes = ["x:/x", "y:/x/"].map(|text| short::parse(text).unwrap()).into();
        let refused = Mounts { volumes, ..none() }.add_to(&mut api::ContainerSpec::default());
        assert_eq!(refused.unwrap_err().to_string(), "Duplicate mount point: /x/");
    }
}
