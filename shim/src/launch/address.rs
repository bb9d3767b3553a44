//! Where a shim listens, and how a second container of a group finds it.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{self, Error};

/// Longest path that fits `sun_path` with its terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Used when the daemon's own directory is unknown or its path too long.
const FALLBACK_DIR: &str = "/run/gantry/s";

/// A path from an address that may carry the `unix://` scheme.
pub fn strip_scheme(address: &str) -> &str {
    address.strip_prefix("unix://").unwrap_or(address)
}

/// The socket of the shim of `group` in `namespace`, for the daemon that
/// listens on `daemon` (its gRPC socket).
///
/// The same three values always give the same path, which is what makes two
/// containers of a group meet. `dir` overrides the directory.
pub fn socket_path(daemon: &str, namespace: &str, group: &str, dir: Option<&Path>) -> PathBuf {
    let daemon = strip_scheme(daemon);
    let mut hash = Sha256::new();
    for part in [daemon, namespace, group] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut name = String::with_capacity(32);
    for byte in &hash.finalize()[..16] {
        name.push_str(&format!("{byte:02x}"));
    }
    let dir = match (dir, Path::new(daemon).parent()) {
        (Some(dir), _) => dir.to_owned(),
        (None, Some(parent)) if parent.is_absolute() && parent != Path::new("/") => {
            parent.join("s")
        }
        _ => PathBuf::from(FALLBACK_DIR),
    };
    let path = dir.join(&name);
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        path
    } else {
        Path::new(FALLBACK_DIR).join(name)
    }
}

/// What [`bind`] found.
#[derive(Debug)]
pub enum Bound {
    /// The socket is ours.
    New(UnixListener),
    /// A living shim listens there already.
    Taken,
}

/// Listens on `path`, removing the socket of a shim that is dead.
///
/// # Errors
/// The directory or the socket cannot be made.
pub fn bind(path: &Path) -> Result<Bound, Error> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| error::io(format!("make the socket directory {}", dir.display()), e))?;
    }
    let failed = |e: io::Error| error::io(format!("listen on {}", path.display()), e);
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            if UnixStream::connect(path).is_ok() {
                return Ok(Bound::Taken);
            }
            fs::remove_file(path).map_err(failed)?;
            UnixListener::bind(path).map_err(failed)?
        }
        Err(e) => return Err(failed(e)),
    };
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Bound::New(listener))
}

/// The group a bundle's container belongs to: containers with the same group
/// share a shim. Its own id when the spec names none.
pub fn group_of(bundle: &Path, id: &str) -> String {
    #[derive(serde::Deserialize)]
    struct Annotations {
        #[serde(default)]
        annotations: std::collections::HashMap<String, String>,
    }
    const KEYS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
    let spec = fs::read(bundle.join("config.json")).ok();
    let spec: Option<Annotations> = spec.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    spec.and_then(|spec| {
        KEYS.iter().find_map(|key| spec.annotations.get(*key).filter(|v| !v.is_empty()).cloned())
    })
    .unwrap_or_else(|| id.to_owned())
}

/// Writes a file of the bundle whole or not at all.
///
/// # Errors
/// The bundle cannot be written.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |e: io::Error| error::io(format!("write {}", path.display()), e);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    fs::write(&tmp, bytes).map_err(failed)?;
    fs::rename(&tmp, path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_stable_and_short() {
        let a = socket_path("/run/gantry/gantry.sock", "default", "c1", None);
        assert_eq!(a, socket_path("unix:///run/gantry/gantry.sock", "default", "c1", None));
        assert!(a.starts_with("/run/gantry/s"));
        assert_ne!(a, socket_path("/run/gantry/gantry.sock", "default", "c2", None));
        assert_ne!(a, socket_path("/run/gantry/gantry.sock", "defaultc", "1", None));
        let long = format!("/{}/x.sock", "d".repeat(100));
        let path = socket_path(&long, "default", "c1", None);
        assert!(path.starts_with(FALLBACK_DIR) && path.as_os_str().len() <= MAX_SOCKET_PATH);
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_living_one_is_joined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s/x");
        let Ok(Bound::New(first)) = bind(&path) else { panic!("not new") };
        assert!(matches!(bind(&path), Ok(Bound::Taken)));
        drop(first);
        assert!(matches!(bind(&path), Ok(Bound::New(_))));
    }

    #[test]
    fn groups() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(group_of(dir.path(), "c"), "c");
        let spec = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        fs::write(dir.path().join("config.json"), spec).unwrap();
        assert_eq!(group_of(dir.path(), "c"), "pod");
    }
}
