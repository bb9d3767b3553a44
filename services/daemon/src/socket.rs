//! The daemon's unix sockets: bound under another name, given their mode and
//! owner, and only then moved to where clients look.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener as StdListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, bail};
use gantry_core::faults;
use nix::unistd::{Gid, Uid, chown};
use tokio::net::UnixListener;

use crate::listen::MODE;

/// Whose a socket is, and who may use it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    /// Its permissions.
    pub(crate) mode: u32,
}

impl Default for Owner {
    fn default() -> Self {
        Self { uid: None, gid: None, mode: MODE }
    }
}

/// Binds a listener at `path`. What a dead daemon left there is replaced.
pub(crate) fn bind(path: &Path, owner: Owner) -> Result<UnixListener> {
    let Owner { uid, gid, mode } = owner;
    let dir = path.parent().context("the socket's path has no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    match UnixStream::connect(path) {
        Ok(_) => bail!("{} is served by another process already", path.display()),
        Err(err)
            if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
        }
        Err(err) => return Err(err).with_context(|| format!("look at {}", path.display())),
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = Path::new(&temporary);
    let _ = std::fs::remove_file(temporary);
    let listener =
        StdListener::bind(temporary).with_context(|| format!("bind {}", temporary.display()))?;
    let place = || -> Result<()> {
        std::fs::set_permissions(temporary, std::fs::Permissions::from_mode(mode))?;
        if uid.is_some() || gid.is_some() {
            chown(temporary, uid.map(Uid::from_raw), gid.map(Gid::from_raw))?;
        }
        faults::around("put a socket into place", || std::fs::rename(temporary, path))?;
        listener.set_nonblocking(true)?;
        Ok(())
    };
    if let Err(err) = place() {
        let _ = std::fs::remove_file(temporary);
        return Err(err).with_context(|| format!("set up socket {}", path.display()));
    }
    Ok(UnixListener::from_std(listener)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        drop(StdListener::bind(&path).unwrap());
        let listener = bind(&path, Owner::default()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let err = bind(&path, Owner::default()).unwrap_err();
        assert!(err.to_string().contains("another process"), "{err}");
        drop(listener);
        let owner = Owner { mode: 0o600, ..Owner::default() };
        let _listener = bind(&path, owner).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
