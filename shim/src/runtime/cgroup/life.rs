//! A cgroup's life: made, joined, frozen, killed, removed.

use super::{Group, Hierarchy, Host, Kind, read_at, write_at};
use crate::runtime::sys;
use crate::runtime::types::Error;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long freezing may take.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);

impl Host {
    /// Makes the container's directory in every hierarchy. One that exists
    /// already must have no process in it.
    pub(crate) fn create(&self, group: &Group) -> Result<(), Error> {
        for h in &self.hierarchies {
            let what = || format!("make cgroup {}/{}", h.mount_point.display(), group.path);
            if h.create(group).map_err(|e| Error::io(what(), e))? {
                continue;
            }
            let members = if h.kind == Kind::Unified { "cgroup.procs" } else { "tasks" };
            if h.read(group, members).is_ok_and(|s| !s.trim().is_empty()) {
                let at = h.mount_point.join(&group.path);
                return Err(Error::State(format!(
                    "cgroup {} is in use by other processes",
                    at.display()
                )));
            }
        }
        Ok(())
    }

    /// Puts the calling process into the cgroup. With `born` it is in the
    /// unified one already.
    pub(crate) fn join(&self, group: &Group, born: bool) -> Result<(), Error> {
        for h in &self.hierarchies {
            let file = match h.kind {
                Kind::Unified if born => continue,
                Kind::Unified => "cgroup.procs",
                // `tasks` moves one thread, without the wait that `cgroup.procs` costs.
                Kind::Legacy | Kind::Named => "tasks",
            };
            let what = || format!("join cgroup {}/{}", h.mount_point.display(), group.path);
            h.write(group, file, "0").map_err(|e| Error::io(what(), e))?;
        }
        Ok(())
    }

    /// Puts the calling process into a cgroup of somebody else's, in each hierarchy that
    /// has it.
    pub(crate) fn enter(&self, group: &Group) -> Result<(), Error> {
        let mut entered = false;
        for h in &self.hierarchies {
            let file = if h.kind == Kind::Unified { "cgroup.procs" } else { "tasks" };
            match h.write(group, file, "0") {
                Ok(()) => entered = true,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    let at = h.mount_point.join(&group.path);
                    return Err(Error::io(format!("move the shim to cgroup {}", at.display()), e));
                }
            }
        }
        if entered {
            return Ok(());
        }
        Err(Error::NotFound(format!("cgroup {} for the shim: there is no such cgroup", group.path)))
    }

    /// Host pids in the cgroup and in those below it.
    pub(crate) fn pids(&self, group: &Group) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        let h = self.lists();
        match h.open(group) {
            Ok(dir) => collect(dir.as_fd(), &mut pids).map_err(|e| {
                Error::io(format!("list the processes of cgroup {}", group.path), e)
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io(format!("open cgroup {}", group.path), e)),
        }
        Ok(pids)
    }

    /// Freezes every process, and waits until they are.
    pub(crate) async fn freeze(&self, group: &Group) -> Result<(), Error> {
        let what = || format!("freeze cgroup {}", group.path);
        let h =
            self.freezer().ok_or_else(|| Error::Unsupported("this host has no freezer".into()))?;
        let until = Instant::now() + FREEZE_LIMIT;
        loop {
            if h.kind == Kind::Unified {
                h.write(group, "cgroup.freeze", "1")
            } else {
                h.write(group, "freezer.state", "FROZEN")
            }
            .map_err(|e| Error::io(what(), e))?;
            if h.frozen(group, true) {
                return Ok(());
            }
            if Instant::now() > until {
                self.thaw(group)?;
                return Err(Error::Timeout(format!(
                    "{}: not frozen within 5 s; it was thawed again",
                    what()
                )));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Lets the processes run again.
    pub(crate) fn thaw(&self, group: &Group) -> Result<(), Error> {
        let Some(h) = self.freezer() else { return Ok(()) };
        let (file, off) = if h.kind == Kind::Unified {
            ("cgroup.freeze", "0")
        } else {
            ("freezer.state", "THAWED")
        };
        match h.write(group, file, off) {
            // A cgroup that is gone, or was never made, holds nobody.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            r => r.map_err(|e| Error::io(format!("thaw cgroup {}", group.path), e)),
        }
    }

    /// Lets killed processes die: v1's freezer would hold them, v2 kills the frozen, too.
    pub(crate) fn let_die(&self, group: &Group) -> Result<(), Error> {
        match self.freezer() {
            Some(h) if h.kind != Kind::Unified => self.thaw(group),
            _ => Ok(()),
        }
    }

    /// Whether the cgroup is frozen or being frozen.
    pub(crate) fn is_frozen(&self, group: &Group) -> bool {
        self.freezer().is_some_and(|h| h.frozen(group, false))
    }

    /// Sends a signal to every process, once each, also to those forked meanwhile.
    pub(crate) fn signal_all(&self, group: &Group, signal: i32) -> Result<(), Error> {
        if signal == libc::SIGKILL
            && let Some(h) = self.unified()
            && h.write(group, "cgroup.kill", "1").is_ok()
        {
            return self.let_die(group);
        }
        // A frozen cgroup can't fork away from the list.
        let was_frozen = self.is_frozen(group);
        if let Some(h) = self.freezer().filter(|_| !was_frozen) {
            let (file, on) = if h.kind == Kind::Unified {
                ("cgroup.freeze", "1")
            } else {
                ("freezer.state", "FROZEN")
            };
            // Without it the loop below still finds every process that stays.
            let _ = h.write(group, file, on);
        }
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10 {
            let new: Vec<i32> = self.pids(group)?.into_iter().filter(|p| seen.insert(*p)).collect();
            if new.is_empty() {
                break;
            }
            for pid in new {
                // SAFETY: takes integers; a process that is gone answers ESRCH, which is fine.
                unsafe { libc::kill(pid, signal) };
            }
        }
        if was_frozen && signal != libc::SIGKILL { Ok(()) } else { self.thaw(group) }
    }

    /// Removes the cgroup and those below it; true when nothing is left.
    pub(crate) fn remove(&self, group: &Group) -> bool {
        let mut all = true;
        for h in &self.hierarchies {
            all &= remove_tree(h.root(), &group.path).is_ok();
        }
        all
    }

    /// [`Host::remove`], repeated while the kernel still lets go of dead processes.
    pub(crate) async fn remove_patiently(&self, group: &Group) -> Result<(), Error> {
        let mut pause = Duration::from_micros(500);
        let until = Instant::now() + FREEZE_LIMIT;
        while !self.remove(group) {
            if Instant::now() > until {
                return Err(self.still_busy(group));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
        Ok(())
    }

    /// [`Host::remove_patiently`] for a process without an event loop.
    pub(crate) fn remove_blocking(&self, group: &Group) -> Result<(), Error> {
        let until = Instant::now() + FREEZE_LIMIT;
        while !self.remove(group) {
            if Instant::now() > until {
                return Err(self.still_busy(group));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn still_busy(&self, group: &Group) -> Error {
        let pids = self.pids(group).unwrap_or_default();
        Error::State(format!(
            "cgroup {} can't be removed, processes left in it: {pids:?}",
            group.path
        ))
    }
}

impl Hierarchy {
    /// Makes the container's directory and those above it. Whether it is new.
    fn create(&self, group: &Group) -> io::Result<bool> {
        if self.kind != Kind::Unified {
            // What is above is there nearly always.
            match self.make(&group.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Ok(new) if self.controllers.iter().any(|c| c == "cpuset") => {
                    return self.inherit_cpuset(&group.path).map(|()| new);
                }
                other => return other,
            }
        }
        let mut new = false;
        let mut made = String::new();
        for part in group.path.split('/') {
            if self.kind == Kind::Unified {
                self.delegate(&made);
            }
            if !made.is_empty() {
                made.push('/');
            }
            made.push_str(part);
            new = self.make(&made)?;
            if self.controllers.iter().any(|c| c == "cpuset") && self.kind == Kind::Legacy {
                self.inherit_cpuset(&made)?;
                if new && made != group.path {
                    // Those below begin with what it has, then; without it they are given that.
                    let _ = write_at(self.root(), &format!("{made}/cgroup.clone_children"), "1");
                }
            }
        }
        Ok(new)
    }

    /// Makes one directory, into which every user of the container may look. Whether it is new.
    fn make(&self, path: &str) -> io::Result<bool> {
        let path = sys::cstr(path)?;
        let new = sys::mkdirat(self.root(), &path, 0o755)?;
        if new {
            // The shim's umask is the daemon's, which lets nobody else in.
            sys::fchmodat(self.root(), &path, 0o755)?;
        }
        Ok(new)
    }

    /// v2: hands every controller of a directory on to its children.
    fn delegate(&self, path: &str) {
        let base = if path.is_empty() { String::new() } else { format!("{path}/") };
        let file = format!("{base}cgroup.subtree_control");
        // To write what is there already takes the kernel as long as a change.
        let handed = read_at(self.root(), &file).unwrap_or_default();
        let missing = |c: &&String| handed.split_ascii_whitespace().all(|there| there != *c);
        for c in self.controllers.iter().filter(missing) {
            // One that can't be handed on is missed when a limit needs it, and named then.
            let _ = write_at(self.root(), &file, &format!("+{c}"));
        }
    }

    /// v1: a new cpuset is empty, and an empty one takes no process.
    fn inherit_cpuset(&self, path: &str) -> io::Result<()> {
        let parent = path.rsplit_once('/').map_or(String::new(), |(p, _)| format!("{p}/"));
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = format!("{path}/{file}");
            if read_at(self.root(), &own)?.trim().is_empty() {
                let value = read_at(self.root(), &format!("{parent}{file}"))?;
                write_at(self.root(), &own, value.trim())?;
            }
        }
        Ok(())
    }

    fn frozen(&self, group: &Group, completely: bool) -> bool {
        if self.kind == Kind::Unified {
            let (file, on) =
                if completely { ("cgroup.events", "frozen 1") } else { ("cgroup.freeze", "1") };
            return self.read(group, file).is_ok_and(|s| s.lines().any(|l| l == on));
        }
        self.read(group, "freezer.state").is_ok_and(|s| {
            let s = s.trim();
            s == "FROZEN" || (!completely && s == "FREEZING")
        })
    }
}

/// Names of the directories in a directory.
fn children(dir: BorrowedFd<'_>) -> io::Result<Vec<String>> {
    use std::os::fd::AsRawFd;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Ok(name) = entry.file_name().into_string()
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn collect(dir: BorrowedFd<'_>, pids: &mut Vec<i32>) -> io::Result<()> {
    let list = match read_at(dir, "cgroup.procs") {
        Ok(list) => list,
        // A threaded v2 child lists its processes in its parent; one that went away has none.
        Err(e)
            if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV | libc::ENOENT)) =>
        {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    pids.extend(list.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|p| *p > 0));
    for name in children(dir)? {
        match sys::openat(dir, &sys::cstr(&name)?, libc::O_RDONLY | libc::O_DIRECTORY) {
            Ok(below) => collect(below.as_fd(), pids)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn remove_tree(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let c = sys::cstr(path)?;
    match sys::rmdirat(root, &c) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    let dir = sys::openat(root, &c, libc::O_RDONLY | libc::O_DIRECTORY)?;
    for name in children(dir.as_fd())? {
        remove_tree(dir.as_fd(), &name)?;
    }
    sys::rmdirat(root, &c)
}
