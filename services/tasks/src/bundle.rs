//! Bundles: the directory of one task, as containerd lays it out.
//!
//! ```text
//! <state>/io.containerd.runtime.v2.task/<namespace>/<id>/
//!   config.json        the OCI specification; a sandbox may have none
//!   rootfs/            where the shim makes the root file system appear
//!   work               link to a directory below <root>, for large files
//!   runtime            the runtime's name
//!   sandbox            the sandbox whose shim has the task, if it is in one
//!   mounted            there when the host has made a part of the root file system
//!   shim-binary-path   the shim's program: written before it is started
//!   bootstrap.json     where the shim listens: written as soon as it does
//!   address            the same, as the shim itself writes it down
//!   init.pid           the first process: written by the shim
//!   log                FIFO into which shims that are not our own log
//!   exits/             exit records that our own shim keeps
//! ```
//! All of this is written for the daemon that comes after this one. Bundles of
//! sandboxes are below `io.containerd.sandbox.controller.v1.shim` instead.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gantry_core::tasks::Exit;
use gantry_core::{Error, Namespace, Result, Timestamp, faults};
use nix::mount::{MntFlags, umount2};
use serde::Deserialize;

use crate::TaskConfig;
use crate::dialect::Endpoint;
use crate::runtime::Program;

/// One task's directory. Its methods block for a few system calls.
#[derive(Clone, Debug)]
pub(crate) struct Bundle {
    /// The container's namespace.
    pub(crate) namespace: Namespace,
    /// The container.
    pub(crate) id: String,
    /// The directory.
    pub(crate) path: PathBuf,
    work: PathBuf,
}

impl Bundle {
    /// The bundle of a container; ID and namespace are valid identifiers.
    pub(crate) fn of(config: &TaskConfig, namespace: &Namespace, id: &str) -> Self {
        Self {
            namespace: namespace.clone(),
            id: id.to_owned(),
            path: config.bundles().join(namespace.as_str()).join(id),
            work: config.works().join(namespace.as_str()).join(id),
        }
    }

    /// The bundle of a sandbox.
    pub(crate) fn of_sandbox(config: &TaskConfig, namespace: &Namespace, id: &str) -> Self {
        Self {
            namespace: namespace.clone(),
            id: id.to_owned(),
            path: config.sandbox_bundles().join(namespace.as_str()).join(id),
            work: config.sandbox_works().join(namespace.as_str()).join(id),
        }
    }

    /// Makes the directory with all that a shim finds in it.
    ///
    /// # Errors
    /// `AlreadyExists` when there is one; the system's.
    pub(crate) fn create(&self, spec: &[u8], runtime: &str, program: &Program) -> Result<()> {
        if let Some(namespace) = self.path.parent().filter(|parent| !parent.exists()) {
            for dir in namespace.parent().into_iter().chain([namespace]) {
                directory(dir, 0o711, true)?;
            }
        }
        directory(&self.path, 0o700, false)?;
        let filled = self.fill(spec, runtime, program);
        if filled.is_err() {
            let _ = self.remove();
        }
        filled
    }

    fn fill(&self, spec: &[u8], runtime: &str, program: &Program) -> Result<()> {
        directory(&self.path.join("rootfs"), 0o711, false)?;
        directory(&self.work, 0o711, true)?;
        let link = || symlink(&self.work, self.path.join("work"));
        faults::around("link the work directory", link)
            .map_err(|err| Error::io(format!("link work in {}", self.path.display()), err))?;
        if !program.own {
            self.make_log()?;
        }
        if !spec.is_empty() {
            self.admit_root(spec)?;
            write(&self.path.join("config.json"), spec)?;
        }
        write(&self.path.join("runtime"), runtime.as_bytes())?;
        write(&self.path.join("shim-binary-path"), program.path.as_os_str().as_encoded_bytes())
    }

    /// Lets the root of a user namespace through to its root file system.
    fn admit_root(&self, spec: &[u8]) -> Result<()> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Spec {
            linux: Option<Linux>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Linux {
            gid_mappings: Option<Vec<Mapping>>,
        }
        #[derive(Deserialize)]
        struct Mapping {
            #[serde(rename = "containerID")]
            container: u32,
            #[serde(rename = "hostID")]
            host: u32,
        }
        // Most have no such namespace; what makes no sense the shim refuses.
        if !says(spec, "\"gidMappings\"") {
            return Ok(());
        }
        let spec: Spec = serde_json::from_slice(spec).unwrap_or_default();
        let maps = spec.linux.and_then(|linux| linux.gid_mappings).unwrap_or_default();
        let Some(root) = maps.iter().find(|map| map.container == 0 && map.host != 0) else {
            return Ok(());
        };
        let admit = || {
            std::os::unix::fs::chown(&self.path, None, Some(root.host))?;
            fs::set_permissions(&self.path, fs::Permissions::from_mode(0o710))
        };
        faults::around("let a mapped root into a bundle", admit)
            .map_err(|err| Error::io(format!("set the group of {}", self.path.display()), err))
    }

    /// Makes the FIFO `log`, without which containerd's own shims don't start.
    fn make_log(&self) -> Result<()> {
        let path = self.log();
        let make = || nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU);
        faults::around("make the FIFO of a shim's log", make)
            .map_err(|err| Error::io(format!("make FIFO {}", path.display()), err.into()))
    }

    /// The FIFO into which a shim of somebody else's logs.
    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Remembers where the shim listens.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_endpoint(&self, endpoint: &Endpoint) -> Result<()> {
        let json = serde_json::to_vec(endpoint)
            .map_err(|err| Error::internal("encode bootstrap.json").with_source(err))?;
        let tmp = self.path.join(".bootstrap.json");
        let path = self.path.join("bootstrap.json");
        write(&tmp, &json)?;
        faults::around("record where a shim listens", || fs::rename(&tmp, &path))
            .map_err(|err| Error::io(format!("make {}", path.display()), err))
    }

    /// Where the shim listens, if it got that far: as this daemon wrote it,
    /// or as the shim itself did, which says nothing of versions: all shims that
    /// write it answer to version 2.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        if let Ok(json) = fs::read(self.path.join("bootstrap.json"))
            && let Ok(endpoint) = serde_json::from_slice(&json)
        {
            return Some(endpoint);
        }
        let address = fs::read_to_string(self.path.join("address")).ok()?;
        Some(Endpoint::ttrpc(2, address.trim()))
    }

    /// Remembers that the task lives in a shim that is not its own: that of this
    /// sandbox, or one that the client named, with an empty name.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_sandbox(&self, sandbox: &str) -> Result<()> {
        write(&self.path.join("sandbox"), sandbox.as_bytes())
    }

    /// Whether the task lives in a shim that is not its own.
    pub(crate) fn is_guest(&self) -> bool {
        self.path.join("sandbox").exists()
    }

    /// Remembers that the host has made a part of the root file system.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_mounted(&self) -> Result<()> {
        write(&self.path.join("mounted"), &[])
    }

    /// The host has made nothing after all.
    pub(crate) fn forget_mounted(&self) {
        let forget = || fs::remove_file(self.path.join("mounted"));
        // It goes with the bundle at the latest.
        let _ = faults::around("forget what the host has mounted", forget);
    }

    /// Whether the host has made a part of the root file system.
    pub(crate) fn is_mounted(&self) -> bool {
        self.path.join("mounted").exists()
    }

    /// The shim's program, as it was when the task was made.
    pub(crate) fn program(&self, config: &TaskConfig) -> Option<Program> {
        let path = fs::read_to_string(self.path.join("shim-binary-path")).ok()?;
        Some(Program::at(config, PathBuf::from(path)))
    }

    /// Whether there may be processes and more that only the shim's program can take away.
    /// Once it was started, our own fails for that reason only. Others may fail because
    /// nothing is left: of theirs the first process has to be there still.
    pub(crate) fn is_in_use(&self, program: &Program) -> bool {
        let init = fs::read_to_string(self.path.join("init.pid")).ok();
        if program.own {
            return init.is_some() || self.endpoint().is_some();
        }
        let pid = init.and_then(|pid| pid.trim().parse::<u32>().ok());
        pid.is_some_and(|pid| Path::new("/proc").join(pid.to_string()).exists())
    }

    /// The exit that our own shim recorded for the first process.
    pub(crate) fn recorded_exit(&self) -> Option<(u32, Exit)> {
        /// As the shim writes it.
        #[derive(Deserialize)]
        struct Record {
            pid: u32,
            status: u32,
            seconds: i64,
            nanos: i32,
        }
        let json = fs::read(self.path.join("exits/init")).ok()?;
        let r: Record = serde_json::from_slice(&json).ok()?;
        let at = Timestamp { seconds: r.seconds, nanos: r.nanos };
        Some((r.pid, Exit { status: r.status, at }))
    }

    /// Takes the directory away, with what may still be mounted in it.
    ///
    /// # Errors
    /// `FailedPrecondition` when the root file system can't be unmounted: the
    /// files in it must not be taken for the bundle's. The system's.
    pub(crate) fn remove(&self) -> Result<()> {
        let rootfs = self.path.join("rootfs");
        unmount(&rootfs);
        match faults::around("remove a root directory", || fs::remove_dir(&rootfs)) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(Error::failed_precondition(format!(
                    "remove {}: something is still mounted or stored there",
                    rootfs.display()
                ))
                .with_source(err));
            }
            _ => {}
        }
        remove_all(&self.work)?;
        // Under another name it is no bundle any more, whatever happens next.
        let hidden = self.path.with_file_name(format!(".{}", self.id));
        match faults::around("hide a bundle", || fs::rename(&self.path, &hidden)) {
            Ok(()) => remove_all(&hidden),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(_) => remove_all(&self.path),
        }
    }
}

/// Whether a specification may say this word somewhere: one that is no text may.
pub(crate) fn says(spec: &[u8], word: &str) -> bool {
    std::str::from_utf8(spec).map_or(true, |spec| spec.contains(word))
}

/// Detaches whatever is mounted there, layer by layer.
fn unmount(path: &Path) {
    const MOST: usize = 64;
    for _ in 0..MOST {
        // EINVAL: nothing is mounted here any more.
        let detach = || umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
        if faults::around("detach a root file system", detach).is_err() {
            return;
        }
    }
}

/// Removes a directory tree; a missing one is no error.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    match faults::around("remove a tree of a bundle", || fs::remove_dir_all(path)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), err))
        }
        _ => Ok(()),
    }
}

fn directory(path: &Path, mode: u32, parents: bool) -> Result<()> {
    let make = || {
        DirBuilder::new().recursive(parents).mode(mode).create(path)?;
        // Whatever the daemon's mask takes away.
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    faults::around("make a directory of a bundle", make)
        .map_err(|err| Error::io(format!("make directory {}", path.display()), err))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let write = || options.open(path).and_then(|mut file| file.write_all(bytes));
    faults::around("write a file of a bundle", write)
        .map_err(|err| Error::io(format!("write {}", path.display()), err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    fn bundle(dir: &Path) -> (TaskConfig, Bundle) {
        let config = TaskConfig {
            state: dir.join("state"),
            root: dir.join("root"),
            shim_path: "/shim".into(),
            ..TaskConfig::default()
        };
        let bundle = Bundle::of(&config, &Namespace::new("default").unwrap(), "c1");
        (config, bundle)
    }

    #[test]
    fn life_of_a_bundle() {
        let dir = tempfile::tempdir().unwrap();
        let (config, bundle) = bundle(dir.path());
        let program = Program { path: "/other".into(), own: false };
        bundle.create(b"{}", "io.containerd.runc.v2", &program).unwrap();
        let mode = bundle.path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700);
        assert!(bundle.path.join("work").is_dir());
        assert_eq!(bundle.program(&config), Some(program.clone()));
        assert_eq!(bundle.endpoint(), None);
        let again = bundle.create(b"{}", "", &program).unwrap_err();
        assert_eq!(again.kind(), Kind::AlreadyExists);

        let endpoint = Endpoint::ttrpc(3, "unix:///run/x");
        bundle.write_endpoint(&endpoint).unwrap();
        assert_eq!(bundle.endpoint(), Some(endpoint));
        fs::create_dir(bundle.path.join("exits")).unwrap();
        let record = br#"{"pid":7,"status":3,"seconds":9,"nanos":1}"#;
        fs::write(bundle.path.join("exits/init"), record).unwrap();
        let at = Timestamp { seconds: 9, nanos: 1 };
        assert_eq!(bundle.recorded_exit(), Some((7, Exit { status: 3, at })));

        bundle.remove().unwrap();
        bundle.remove().unwrap();
        assert_eq!(fs::read_dir(bundle.path.parent().unwrap()).unwrap().count(), 0);
        assert_eq!(fs::read_dir(config.works().join("default")).unwrap().count(), 0);
    }

    #[test]
    fn files_in_the_root_file_system_are_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bundle) = bundle(dir.path());
        bundle.create(b"{}", "", &Program { path: "/shim".into(), own: true }).unwrap();
        let file = bundle.path.join("rootfs/precious");
        fs::write(&file, b"x").unwrap();
        assert_eq!(bundle.remove().unwrap_err().kind(), Kind::FailedPrecondition);
        assert!(file.exists());
    }

    #[test]
    fn what_only_the_shims_program_can_take_away() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bundle) = bundle(dir.path());
        let [own, other] = [true, false].map(|own| Program { path: "/shim".into(), own });
        bundle.create(b"{}", "", &own).unwrap();
        assert!(!bundle.is_in_use(&own) && !bundle.is_in_use(&other), "nothing was started");
        bundle.write_endpoint(&Endpoint::ttrpc(3, "unix:///run/x")).unwrap();
        assert!(bundle.is_in_use(&own) && !bundle.is_in_use(&other));
        let init = bundle.path.join("init.pid");
        fs::write(&init, std::process::id().to_string()).unwrap();
        assert!(bundle.is_in_use(&other), "its first process is there");
        // Larger than any process' number.
        fs::write(&init, u32::MAX.to_string()).unwrap();
        assert!(bundle.is_in_use(&own) && !bundle.is_in_use(&other));
    }

    #[test]
    fn words_of_specifications() {
        let spec = br#"{"linux": {"gidMappings": []}}"#;
        assert!(says(spec, "\"gidMappings\"") && !says(spec, "gidMappings\" "));
        assert!(says(b"{\xff}", "anything"), "nobody knows what it says");
    }

    #[test]
    fn the_shims_own_address_file_is_a_fallback() {
        let dir = tempfile::tempdir().unwrap();
        let (_, bundle) = bundle(dir.path());
        fs::create_dir_all(&bundle.path).unwrap();
        fs::write(bundle.path.join("address"), "unix:///run/y\n").unwrap();
        assert_eq!(bundle.endpoint(), Some(Endpoint::ttrpc(2, "unix:///run/y")));
    }
}
