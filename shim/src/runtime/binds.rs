//! Binds of what the runtime itself is at: the host's cgroups, which libcontainer is not to
//! see, and /dev, which libcontainer fills.

use super::apifs::{Plain, is_bind};
use super::executor::MountWork;
use super::sys;
use super::types::Error;
use oci_spec::runtime::{Mount, Spec};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// Where cgroups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Where libcontainer makes nodes and links.
pub(crate) const DEV: &str = "/dev";
/// Terminals in it.
const PTS: &str = "/dev/pts";

/// Clones of what binds bring of the host's cgroups, each with the number of its mount: taken
/// before the worker leaves the host's mount namespace. `shared`: mounts are to reach the host.
pub(crate) fn with_cgroups(spec: &Spec, shared: bool) -> Result<Vec<(usize, OwnedFd)>, Error> {
    let mut clones = Vec::new();
    for (number, m) in spec.mounts().iter().flatten().enumerate() {
        let Some(source) = m.source().as_deref().filter(|_| is_bind(m)) else { continue };
        let tree = m.options().iter().flatten().any(|o| o == "rbind");
        let above = tree && source.is_absolute() && Path::new(CGROUPS).starts_with(source);
        if !above && !source.starts_with(CGROUPS) {
            continue;
        }
        match cloned(source, tree, shared) {
            Ok(clone) => clones.push((number, clone)),
            // Whoever mounts it says so.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => {
                return Err(Error::io(format!("clone the mount of {}", source.display()), e));
            }
        }
    }
    Ok(clones)
}

fn cloned(source: &Path, tree: bool, shared: bool) -> io::Result<OwnedFd> {
    let clone = sys::clone_mount(sys::open_path(source)?.as_fd(), c"", tree)?;
    if !shared {
        // What is mounted on it must not reach the host.
        let propagation = libc::MS_SLAVE;
        let change = sys::MountChange { propagation, recursive: tree, ..Default::default() };
        sys::set_mount(clone.as_fd(), &change)?;
    }
    Ok(clone)
}

/// The executor's part of a bind of /dev, or of what is mounted below one: it comes over what
/// libcontainer has made there.
pub(crate) fn over_dev(m: &Mount) -> Result<MountWork, Error> {
    let failed = |e| Error::io(format!("mount {}", m.destination().display()), e);
    let mut own = m.clone();
    for option in own.options_mut().iter_mut().flatten().filter(|o| o.as_str() == "rro") {
        // The executor makes all of it read-only.
        *option = "ro".to_owned();
    }
    // Others would be of this process' namespaces.
    let known = is_bind(m) || m.typ().as_deref() == Some("tmpfs");
    let Some(plain) = Plain::of(&own).filter(|_| known) else {
        return Err(Error::Unsupported(format!(
            "mount {}: with a bind of /dev it has to be a plain bind or tmpfs",
            m.destination().display()
        )));
    };
    let base = plain.detached().map_err(failed)?;
    let at = sys::cpath(m.destination()).map_err(failed)?;
    Ok(MountWork::Attach { at, base, below: Vec::new(), attributes: plain.attributes() })
}

/// Puts memory that libcontainer can fill in the place of a bind of /dev. Gives the mount with
/// terminals that goes with it: the same that the bind has, if there are any.
pub(crate) fn stand_in(m: &mut Mount) -> Mount {
    let own = m.source().as_deref().unwrap_or(Path::new("")).join("pts");
    let mut terminals = Mount::default();
    terminals.set_destination(PTS.into());
    if own.join("ptmx").exists() {
        terminals.set_typ(Some("bind".to_owned())).set_source(Some(own)).set_options(words("bind"));
    } else {
        terminals
            .set_typ(Some("devpts".to_owned()))
            .set_source(Some("devpts".into()))
            .set_options(words("nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"));
    }
    m.set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("tmpfs".into()))
        .set_options(words("nosuid,noexec,mode=755"));
    terminals
}

fn words(text: &str) -> Option<Vec<String>> {
    Some(text.split(',').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(source: &str, at: &str, option: &str) -> Mount {
        let mut m = Mount::default();
        m.set_destination(at.into()).set_source(Some(source.into())).set_options(words(option));
        m
    }

    #[test]
    fn binds_that_bring_cgroups() {
        let mut spec = Spec::default();
        spec.set_mounts(Some(vec![
            bind("/sys/fs/cgroup", "/a", "bind"),
            bind("/sys", "/b", "bind"),
            bind("/etc", "/c", "rbind"),
            bind("", "/d", "rbind"),
            bind("/sys/fs/cgroup/no/such", "/e", "bind"),
            bind("/sys/fs/cgroup", "/f", "ro"),
        ]));
        // Whether they can be cloned here or not, no others are looked at.
        if let Ok(clones) = with_cgroups(&spec, false) {
            assert_eq!(clones.iter().map(|clone| clone.0).collect::<Vec<_>>(), [0]);
        }
    }

    #[test]
    fn what_libcontainer_gets_in_place_of_dev() {
        let mut m = bind("/no/such", "/dev", "rbind,ro");
        let terminals = stand_in(&mut m);
        assert_eq!(
            (m.destination().as_path(), m.typ().as_deref()),
            (Path::new(DEV), Some("tmpfs"))
        );
        assert_eq!(terminals.destination(), Path::new(PTS));
        assert_eq!(terminals.typ().as_deref(), Some("devpts"));
        for made in [m, terminals] {
            assert!(Plain::of(&made).is_some(), "{made:?}");
        }
        let mut queues = bind("mqueue", "/dev/mqueue", "nosuid");
        queues.set_typ(Some("mqueue".into()));
        assert!(Plain::of(&queues).is_some() && over_dev(&queues).is_err());
    }
}
