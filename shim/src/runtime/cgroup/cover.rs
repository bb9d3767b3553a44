//! What libcontainer finds in place of the host's cgroups.
//!
//! It looks for cgroups of its own accord, and puts its processes into one. With cgroup v2 on the
//! host it finds the container's own directory at `/sys/fs/cgroup`, which they are in already:
//! read-only, and the file that moves processes is the null device. Without v2 it finds an empty
//! directory, after it has gone through the table of mounts for every controller that it knows.

use super::{Group, Hierarchy, Host};
use crate::runtime::sys;
use crate::runtime::types::Error;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

const TOP: &str = "/sys/fs/cgroup";
const MEMBERS: &str = "cgroup.procs";

impl Host {
    /// Covers the host's cgroups, in a mount namespace of this process' own. The path of the
    /// container's cgroup in what lies there then, if that is one.
    pub(crate) fn cover(&self, group: &Group) -> Result<Option<&'static Path>, Error> {
        let what = |e| Error::io(format!("hide {TOP}"), e);
        if let Some(unified) = self.unified() {
            unified.stand_in(group).map_err(what)?;
            // What libcontainer does there it must not do to the host's.
            harmless().map_err(what)?;
            return Ok(Some(Path::new("/")));
        }
        let top = Path::new(TOP);
        // The hierarchies usually lie on a tmpfs, which takes them along; without
        // one they go one by one.
        if sys::detach(top).is_err() {
            for h in &self.hierarchies {
                // One that stays is found by libcontainer, which then names it.
                let _ = sys::detach(&h.mount_point);
            }
        }
        sys::mount("tmpfs", top, "tmpfs", libc::MS_RDONLY, "mode=755").map_err(what)?;
        Ok(None)
    }
}

impl Hierarchy {
    /// Puts the container's directory, which can't be written to, over all cgroups.
    fn stand_in(&self, group: &Group) -> io::Result<()> {
        // By its path: the handle stands for the mount in the host's namespace.
        let own = sys::open_path(&self.mount_point.join(&group.path))?;
        let own = sys::clone_mount(own.as_fd(), c"", false)?;
        let change = sys::MountChange { set: sys::ATTR_RDONLY, ..Default::default() };
        sys::set_mount(own.as_fd(), &change)?;
        sys::attach(own.as_fd(), sys::open_path(Path::new(TOP))?.as_fd())?;
        let null = sys::open_path(Path::new("/dev/null"))?;
        let null = sys::clone_mount(null.as_fd(), c"", false)?;
        let members = sys::openat(own.as_fd(), &sys::cstr(MEMBERS)?, libc::O_PATH)?;
        sys::attach(null.as_fd(), members.as_fd())
    }
}

/// Refuses anything but a stand-in: libcontainer moves its processes into what lies there, and
/// kills who is in it and removes it after a failure.
fn harmless() -> io::Result<()> {
    let top = sys::open_path(Path::new(TOP))?;
    let members = File::from(sys::openat(top.as_fd(), &sys::cstr(MEMBERS)?, libc::O_PATH)?);
    if sys::is_cgroup2(top.as_fd())? && sys::is_read_only(top.as_fd())? && sys::is_null(&members)? {
        return Ok(());
    }
    Err(io::Error::other("something else lies there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroups_of_the_host_are_no_stand_in() {
        assert!(harmless().is_err());
    }
}
