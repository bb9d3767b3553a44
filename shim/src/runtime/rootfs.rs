//! The root filesystem: the snapshotter's mounts, made below the bundle.

use super::mounts::{Stage, shifted};
use super::types::{Error, RootfsMount};
use super::{loopdev, sys, userns};
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// What mount(2) takes as data, with the NUL at its end.
const MAX_DATA: usize = 4096;

/// Mounts the root filesystem on `root`, seen by nobody but this container. `stage` is a
/// directory for what is mounted on the way.
pub(crate) fn mount(root: &Path, mounts: &[RootfsMount], stage: &Path) -> Result<(), Error> {
    let mut stage = Stage::new(stage);
    for m in mounts {
        let target = m.target.trim_start_matches('/');
        if target.split('/').any(|p| p == "..") {
            return Err(Error::Invalid(format!(
                "rootfs mount target {:?} leads upwards",
                m.target
            )));
        }
        let at = if target.is_empty() { root.to_path_buf() } else { root.join(target) };
        mount_at(m, &at, &mut stage)?;
        stage.clear().map_err(|e| failed(m, &at, e))?;
    }
    Ok(())
}

/// Mounts one filesystem on `at`.
pub(crate) fn mount_at(m: &RootfsMount, at: &Path, stage: &mut Stage<'_>) -> Result<(), Error> {
    let wanted = Wanted::parse(&m.options)?;
    wanted.mount(m, at, stage).map_err(|e| failed(m, at, e))
}

fn failed(m: &RootfsMount, at: &Path, e: io::Error) -> Error {
    Error::io(format!("mount {} {:?} on {}", m.kind, m.source, at.display()), e)
}

/// Whether one of the mounts is of a device.
pub(crate) fn has_device(mounts: &[RootfsMount]) -> bool {
    let plain = |m: &RootfsMount| {
        matches!(m.kind.as_str(), "overlay" | "bind" | "rbind")
            || m.options.iter().any(|o| o == "bind" || o == "rbind")
    };
    !mounts.iter().all(plain)
}

/// fstab's words, parsed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    flags: u64,
    /// What the filesystem itself is told.
    data: Vec<String>,
    /// The source is an image that needs a device.
    looped: bool,
    /// How owners are shifted: users, groups.
    shift: Option<[Vec<LinuxIdMapping>; 2]>,
}

impl Wanted {
    fn parse(options: &[String]) -> Result<Self, Error> {
        let (mut wanted, mut uids, mut gids) = (Self::default(), None, None);
        for option in options {
            match option.as_str() {
                "ro" => wanted.flags |= libc::MS_RDONLY,
                "nosuid" => wanted.flags |= libc::MS_NOSUID,
                "nodev" => wanted.flags |= libc::MS_NODEV,
                "noexec" => wanted.flags |= libc::MS_NOEXEC,
                "noatime" => wanted.flags |= libc::MS_NOATIME,
                "nodiratime" => wanted.flags |= libc::MS_NODIRATIME,
                "relatime" => wanted.flags |= libc::MS_RELATIME,
                "sync" => wanted.flags |= libc::MS_SYNCHRONOUS,
                "bind" => wanted.flags |= libc::MS_BIND,
                "rbind" => wanted.flags |= libc::MS_BIND | libc::MS_REC,
                "loop" => wanted.looped = true,
                "rw" | "suid" | "dev" | "exec" | "defaults" | "" => {}
                other => match other.split_once('=') {
                    Some(("uidmap", map)) => uids = Some(ranges(option, map)?),
                    Some(("gidmap", map)) => gids = Some(ranges(option, map)?),
                    _ => wanted.data.push(option.clone()),
                },
            }
        }
        wanted.shift = match (uids, gids) {
            (None, None) => None,
            (Some(uids), Some(gids)) => Some([uids, gids]),
            _ => {
                let text = "rootfs mount options uidmap= and gidmap= need each other";
                return Err(Error::Invalid(text.to_owned()));
            }
        };
        Ok(wanted)
    }

    fn mount(mut self, m: &RootfsMount, at: &Path, stage: &mut Stage<'_>) -> io::Result<()> {
        let users = match &self.shift {
            Some([uids, gids]) => Some(userns::with_mappings(uids, gids)?),
            None => None,
        };
        if m.kind == "bind" || m.kind == "rbind" || self.flags & libc::MS_BIND != 0 {
            return self.bind(m, at, users);
        }
        if m.kind == "overlay" {
            if let Some(users) = users {
                self.shift_layers(&users, stage)?;
            }
            return self.overlay(m, at);
        }
        match users {
            None => self.filesystem(m, at),
            Some(users) => {
                let place = stage.place_directory()?;
                self.filesystem(m, &place)?;
                attach(&shifted(&place, users.as_fd(), false, false)?, at)
            }
        }
    }

    fn bind(&self, m: &RootfsMount, at: &Path, users: Option<OwnedFd>) -> io::Result<()> {
        let tree = m.kind == "rbind" || self.flags & libc::MS_REC != 0;
        match users {
            None => {
                let recursive = if tree { libc::MS_REC } else { 0 };
                sys::mount(&m.source, at, "", libc::MS_BIND | recursive, "")?;
            }
            Some(users) => {
                let source = Path::new(&m.source);
                attach(&shifted(source, users.as_fd(), tree, tree)?, at)?;
            }
        }
        let flags = self.flags & !(libc::MS_BIND | libc::MS_REC);
        if flags == 0 {
            return Ok(());
        }
        sys::mount("", at, "", flags | libc::MS_BIND | libc::MS_REMOUNT, "")
    }

    /// Replaces the lower layers by clones with shifted owners. What is written goes to the
    /// upper one, which takes owners as they are.
    fn shift_layers(&mut self, users: &OwnedFd, stage: &mut Stage<'_>) -> io::Result<()> {
        for option in &mut self.data {
            let Some(layers) = option.strip_prefix("lowerdir=") else { continue };
            let mut moved = Vec::new();
            for layer in layers.split(':') {
                let place = stage.place_directory()?;
                attach(&shifted(Path::new(layer), users.as_fd(), false, false)?, &place)?;
                moved.push(place.display().to_string());
            }
            *option = format!("lowerdir={}", moved.join(":"));
        }
        Ok(())
    }

    fn overlay(&self, m: &RootfsMount, at: &Path) -> io::Result<()> {
        self.forgive()?;
        let data = self.data.join(",");
        if data.len() < MAX_DATA {
            return sys::mount(&m.source, at, &m.kind, self.flags, &data);
        }
        // More layers than fit into mount(2)'s page: one option a layer.
        let mut keys = vec![("source", "overlay")];
        for option in &self.data {
            match option.split_once('=') {
                Some(("lowerdir", all)) => keys.extend(all.split(':').map(|l| ("lowerdir+", l))),
                Some(pair) => keys.push(pair),
                None => keys.push((option, "")),
            }
        }
        let attr = if self.flags & libc::MS_RDONLY != 0 { sys::ATTR_RDONLY } else { 0 };
        attach(&sys::new_mount(c"overlay", &keys, attr)?, at)
    }

    /// An overlay that does not sync leaves a mark, for which the kernel does not mount it
    /// again: its files could be lost if the machine ended. It did not: whoever has the
    /// container started again has seen to that.
    fn forgive(&self) -> io::Result<()> {
        if !self.data.iter().any(|option| option == "volatile") {
            return Ok(());
        }
        let Some(work) = self.data.iter().find_map(|option| option.strip_prefix("workdir=")) else {
            return Ok(());
        };
        match std::fs::remove_dir_all(Path::new(work).join("work/incompat/volatile")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn filesystem(&self, m: &RootfsMount, at: &Path) -> io::Result<()> {
        let data = self.data.join(",");
        if !self.looped {
            return sys::mount(&m.source, at, &m.kind, self.flags, &data);
        }
        // The device goes with the mount.
        let device = loopdev::attach(&m.source, self.flags & libc::MS_RDONLY != 0)?;
        sys::mount(&device.path, at, &m.kind, self.flags, &data)
    }
}

fn attach(mount: &OwnedFd, at: &Path) -> io::Result<()> {
    sys::attach(mount.as_fd(), File::open(at)?.as_fd())
}

/// Ranges of ids, `CONTAINER:HOST:COUNT`, joined by commas.
fn ranges(option: &str, map: &str) -> Result<Vec<LinuxIdMapping>, Error> {
    let range = |text: &str| {
        let numbers: Option<Vec<u32>> = text.split(':').map(|n| n.parse().ok()).collect();
        let &[container, host, size] = numbers?.as_slice() else { return None };
        let range = LinuxIdMappingBuilder::default();
        range.container_id(container).host_id(host).size(size).build().ok()
    };
    map.split(',').map(range).collect::<Option<_>>().ok_or_else(|| {
        Error::Invalid(format!(
            "rootfs mount option {option:?} is no map of ids, such as 0:100000:65536"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<Wanted, Error> {
        Wanted::parse(&options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_flags_data_and_maps() {
        let wanted = parse(&["ro", "rbind", "rw", "index=off", "lowerdir=/a:/b"]).unwrap();
        assert_eq!(wanted.flags, libc::MS_RDONLY | libc::MS_BIND | libc::MS_REC);
        assert_eq!(wanted.data, ["index=off", "lowerdir=/a:/b"]);
        assert!(wanted.shift.is_none() && !wanted.looped);
        let wanted = parse(&["uidmap=0:1000:1,1:2000:9", "gidmap=0:5:6", "loop"]).unwrap();
        let [uids, gids] = wanted.shift.unwrap();
        let numbers = |m: &LinuxIdMapping| (m.container_id(), m.host_id(), m.size());
        assert_eq!(uids.iter().map(numbers).collect::<Vec<_>>(), [(0, 1000, 1), (1, 2000, 9)]);
        assert_eq!(gids.iter().map(numbers).collect::<Vec<_>>(), [(0, 5, 6)]);
        assert!(wanted.looped && wanted.data.is_empty());
    }

    #[test]
    fn maps_that_are_none_are_refused() {
        for bad in [&["uidmap=0:1:2"][..], &["uidmap=0:1", "gidmap=0:1:2"], &["gidmap=x"]] {
            assert!(matches!(parse(bad), Err(Error::Invalid(_))), "{bad:?}");
        }
    }
}
