//! A container's own directory: its output, and the files that are bound into
//! it.

mod names;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_core::{Error, Namespace, Result, faults};
use gantry_files::Shelf;

use crate::model::{Network, Settings};

/// Where the directories are, below the daemon's root.
const DIRECTORY: &str = "io.gantry.engine/containers";
/// Where those lie ready that new containers get, as well.
const READY: &str = "io.gantry.engine/ready";
/// Where sockets are, below the daemon's state. Their paths must stay short.
const SOCKETS: &str = "a";
/// Used when the state directory's own path is too long for a socket.
const FALLBACK_SOCKETS: &str = "/run/gantry/a";
/// Longest path of a socket, with its terminating zero.
const MAX_SOCKET_PATH: usize = 108;
/// So much of an ID names a socket: 96 bits don't collide.
const SOCKET_NAME: usize = 24;

/// Paths of a container's files.
#[derive(Clone, Debug)]
pub(crate) struct ContainerFiles {
    pub(crate) directory: PathBuf,
    /// Recorded output; rotated files have `.1`, `.2`, … behind.
    pub(crate) log: PathBuf,
    pub(crate) hosts: PathBuf,
    pub(crate) hostname: PathBuf,
    pub(crate) resolv_conf: PathBuf,
}

impl ContainerFiles {
    /// The files of a container.
    pub(crate) fn of(root: &Path, namespace: &Namespace, id: &str) -> Self {
        Self::below(&root.join(DIRECTORY).join(namespace.as_str()).join(id), id)
    }

    pub(crate) fn below(directory: &Path, id: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            log: directory.join(format!("{id}-json.log")),
            hosts: directory.join("hosts"),
            hostname: directory.join("hostname"),
            resolv_conf: directory.join("resolv.conf"),
        }
    }

    /// Sources and targets of what is bound into the container.
    pub(crate) fn binds(&self) -> [(PathBuf, &'static str); 3] {
        [
            (self.resolv_conf.clone(), "/etc/resolv.conf"),
            (self.hostname.clone(), "/etc/hostname"),
            (self.hosts.clone(), "/etc/hosts"),
        ]
    }

    /// The same, but names are found as in another container, whose network this one shares.
    pub(crate) fn sharing(self, other: Self) -> Self {
        Self { directory: self.directory, log: self.log, ..other }
    }

    /// Makes the directory, if none lies ready, and writes the files; `lines` stand at the end
    /// of hosts. Blocks for a few system calls.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write(&self, shelf: &Shelf, settings: &Settings, lines: &[String]) -> Result<()> {
        let write = if shelf.take(&self.directory) {
            fill
        } else {
            directory(&self.directory)?;
            create
        };
        let base = match settings.network {
            Network::Host => fs::read("/etc/hosts").unwrap_or_else(|_| own_hosts().into()),
            _ => own_hosts().into(),
        };
        let resolv_conf = fs::read("/etc/resolv.conf").unwrap_or_default();
        write(&self.hosts, &names::with_lines(&base, &[], lines))?;
        write(&self.hostname, format!("{}\n", settings.hostname).as_bytes())?;
        write(&self.resolv_conf, &names::resolv_conf(resolv_conf, &settings.networking.dns))
    }

    /// Takes the directory away; a missing one is no error.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn remove(&self) -> Result<()> {
        let remove = || fs::remove_dir_all(&self.directory);
        match faults::around("remove a container's directory", remove) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.directory.display()), err))
            }
            _ => Ok(()),
        }
    }
}

/// Keeps directories with empty files ready for new containers. Where that can't be, each is
/// made when it is needed.
pub(crate) fn keep_ready(root: &Path) -> Shelf {
    let place = root.join(READY);
    // Who can't list it says so.
    let _ = directory(&place);
    Shelf::new(&place, "container", |path| {
        directory(path)?;
        let files = ContainerFiles::below(path, "");
        let all = [&files.hosts, &files.hostname, &files.resolv_conf];
        all.into_iter().try_for_each(|file| create(file, &[]))
    })
}

/// The socket on which the shim of a container with networks takes what it is handed.
pub(crate) fn network_socket(state: &Path, id: &str) -> PathBuf {
    // No attach socket begins so: IDs are hexadecimal.
    let name = format!("n{}", &id[..id.len().min(SOCKET_NAME - 1)]);
    socket_directory(state).join(name)
}

/// Where sockets lie. A path that ends in one of their names is short enough
/// for a socket.
pub(crate) fn socket_directory(state: &Path) -> PathBuf {
    let directory = state.join(SOCKETS);
    if directory.as_os_str().len() + SOCKET_NAME + 1 < MAX_SOCKET_PATH {
        directory
    } else {
        PathBuf::from(FALLBACK_SOCKETS)
    }
}

/// The socket on which a process' shim takes clients; `id` is random.
pub(crate) fn attach_socket(state: &Path, id: &str) -> PathBuf {
    socket_directory(state).join(&id[..id.len().min(SOCKET_NAME)])
}

/// Makes the directory for sockets.
///
/// # Errors
/// The system's.
pub(crate) fn make_socket_directory(state: &Path) -> Result<()> {
    let directory = socket_directory(state);
    let make = || DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    faults::around("make the directory of sockets", make)
        .map_err(|err| Error::io(format!("make directory {}", directory.display()), err))
}

/// Makes a directory, and those above.
fn directory(path: &Path) -> Result<()> {
    let make = || DirBuilder::new().recursive(true).mode(0o700).create(path);
    faults::around("make a container's directory", make)
        .map_err(|err| Error::io(format!("make directory {}", path.display()), err))
}

fn own_hosts() -> String {
    "127.0.0.1\tlocalhost\n\
     ::1\tlocalhost ip6-localhost ip6-loopback\n\
     fe00::\tip6-localnet\n\
     ff00::\tip6-mcastprefix\n\
     ff02::1\tip6-allnodes\n\
     ff02::2\tip6-allrouters\n"
        .to_owned()
}

/// Readable by whatever user the container runs as, whatever the daemon's umask.
fn create(path: &Path, bytes: &[u8]) -> Result<()> {
    let readable = || fs::Permissions::from_mode(0o644);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        file.write_all(bytes)?;
        file.set_permissions(readable())
    };
    faults::around("write a container's file", write)
        .map_err(|err| Error::io(format!("write {}", path.display()), err))
}

/// Writes an empty file. It is not cut off first: some file systems bring what is written after
/// that to the disk at once.
fn fill(path: &Path, bytes: &[u8]) -> Result<()> {
    let open = || OpenOptions::new().write(true).open(path);
    faults::around("write a container's file", || open()?.write_all(bytes))
        .map_err(|err| Error::io(format!("write {}", path.display()), err))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_lies_ready_becomes_a_containers_directory() {
        let dir = tempfile::tempdir().unwrap();
        let namespace = Namespace::new("default").unwrap();
        let settings = Settings { hostname: "web".into(), ..Settings::default() };
        let shelf = keep_ready(dir.path());
        let begin = Instant::now();
        // At first none may lie there yet.
        for number in 0.. {
            let entries = fs::read_dir(dir.path().join(READY)).unwrap();
            let there: Vec<u64> = entries.map(|e| e.unwrap().metadata().unwrap().ino()).collect();
            let files = ContainerFiles::of(dir.path(), &namespace, &number.to_string());
            files.write(&shelf, &settings, &[]).unwrap();
            assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web\n");
            assert_eq!(fs::read_to_string(&files.hosts).unwrap(), own_hosts());
            assert_eq!(fs::metadata(&files.hosts).unwrap().mode() & 0o777, 0o644);
            if there.contains(&fs::metadata(&files.directory).unwrap().ino()) {
                return;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "all were made anew");
        }
    }

    #[test]
    fn files_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let namespace = Namespace::new("default").unwrap();
        let files = ContainerFiles::of(dir.path(), &namespace, "c1");
        let settings = Settings { hostname: "web".into(), ..Settings::default() };
        let shelf = keep_ready(dir.path());
        files.write(&shelf, &settings, &["10.0.0.7\tdb".to_owned()]).unwrap();
        assert_eq!(fs::read_to_string(&files.hostname).unwrap(), "web\n");
        let hosts = fs::read_to_string(&files.hosts).unwrap();
        assert!(hosts.starts_with("127.0.0.1\tlocalhost\n") && hosts.ends_with("\n10.0.0.7\tdb\n"));
        assert!(files.resolv_conf.is_file());
        files.remove().unwrap();
        files.remove().unwrap();
        assert!(!files.directory.exists());
    }

    #[test]
    fn sockets_have_short_paths() {
        let id = "0123456789abcdef".repeat(4);
        let path = attach_socket(Path::new("/run/gantry"), &id);
        assert_eq!(path, Path::new("/run/gantry/a/0123456789abcdef01234567"));
        let path = network_socket(Path::new("/run/gantry"), &id);
        assert_eq!(path, Path::new("/run/gantry/a/n0123456789abcdef0123456"));
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(attach_socket(&long, &id).starts_with(FALLBACK_SOCKETS));
    }
}
