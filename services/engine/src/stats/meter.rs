//! The files that tell what a container uses. They stay open between two looks, since opening
//! takes six times as long as reading; they hold neither its cgroup nor its network.

use std::collections::HashMap;
use std::fs::{self, File};
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use gantry_core::Namespace;
use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;

use super::hierarchy::{Hierarchies, Version};
use super::parse;

/// Files that one container takes, at most.
const FILES: u64 = 8;
/// Bytes of the longest file.
const LONGEST: usize = 1 << 20;
/// Containers that are worth a thread of their own to look at them.
const SHARE: usize = 32;
/// A network without devices is looked at once in so many times: they may come later.
const SELDOM: u32 = 10;

/// A container that is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) namespace: Namespace,
    pub(crate) id: String,
    /// Its first process.
    pub(crate) pid: u32,
}

/// What a container has used up to a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) at: Instant,
    /// Tells runs apart.
    pub(crate) pid: u32,
    pub(crate) cpu_nanos: u64,
    pub(crate) memory: u64,
    pub(crate) memory_limit: u64,
    pub(crate) network: (u64, u64),
    pub(crate) block: (u64, u64),
    pub(crate) pids: u64,
}

/// What was read, by namespace and ID; `None` for what can't be measured.
pub(crate) type Readings = HashMap<Namespace, HashMap<String, Option<Reading>>>;

/// The open files of all containers that are measured.
#[derive(Debug)]
pub(super) struct Meters {
    hierarchies: Hierarchies,
    /// The daemon's own network.
    network: PathBuf,
    machine_memory: u64,
    open: HashMap<(Namespace, String), Meter>,
    /// So many containers' files may stay open: the daemon needs descriptors for more than this.
    room: usize,
}

impl Meters {
    pub(super) fn new() -> Self {
        let (files, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        Self {
            hierarchies: Hierarchies::find(),
            network: fs::read_link("/proc/self/ns/net").unwrap_or_default(),
            machine_memory: crate::system::machine_memory(),
            open: HashMap::new(),
            room: usize::try_from(files / 4 / FILES).unwrap_or(usize::MAX),
        }
    }

    /// Reads these containers' files, and closes those of all others. Blocks for some system
    /// calls a container, none of which waits for anything.
    pub(super) fn read(&mut self, targets: &[Target]) -> Readings {
        let mut before = std::mem::take(&mut self.open);
        let mut looks: Vec<_> = targets
            .iter()
            .map(|target| {
                let key = (target.namespace.clone(), target.id.clone());
                let meter = before.remove(&key).filter(|meter| meter.pid == target.pid);
                Look { target, key, meter, reading: None }
            })
            .collect();
        drop(before);
        // Opening takes most of the time, and goes as fast on each processor.
        let (kept, others) = looks.split_at_mut(self.room.min(targets.len()));
        self.look_at(kept, true);
        self.look_at(others, false);
        let mut readings = Readings::new();
        for Look { target, key, meter, reading } in looks {
            if let Some(meter) = meter.filter(|_| reading.is_some()) {
                self.open.insert(key, meter);
            }
            let of_namespace = readings.entry(target.namespace.clone()).or_default();
            of_namespace.insert(target.id.clone(), reading);
        }
        readings
    }

    /// Looks at some, side by side when they are many. Their files stay open when `keep`.
    fn look_at(&self, looks: &mut [Look<'_>], keep: bool) {
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let share = looks.len().div_ceil(threads).max(SHARE);
        let work = |looks: &mut [Look<'_>]| {
            let mut buffer = vec![0; 16 << 10];
            for look in looks {
                look.take(self, &mut buffer);
                look.meter.take_if(|_| !keep);
            }
        };
        thread::scope(|scope| {
            let mut shares = looks.chunks_mut(share);
            let own = shares.next();
            for other in shares {
                scope.spawn(|| work(other));
            }
            own.map(work)
        });
    }
}

/// One container that is being looked at.
struct Look<'a> {
    target: &'a Target,
    key: (Namespace, String),
    meter: Option<Meter>,
    reading: Option<Reading>,
}

impl Look<'_> {
    fn take(&mut self, meters: &Meters, buffer: &mut Vec<u8>) {
        if self.meter.is_none() {
            self.meter = Meter::open(meters, self.target);
        }
        let meter = self.meter.as_mut();
        self.reading = meter.and_then(|meter| meter.measure(meters.machine_memory, buffer));
    }
}

/// Nanoseconds of processors that a container has used, as [`Reading`] has them, by a look at
/// that alone.
pub(crate) fn cpu_of(hierarchies: &Hierarchies, id: &str, pid: u32) -> Option<u64> {
    let process = File::open(format!("/proc/{pid}")).ok()?;
    let memberships = below(&process, "cgroup")?;
    cpu_nanos(&open_cpu(hierarchies, &memberships, id)?, &mut vec![0; 4 << 10])
}

/// The files of one container.
#[derive(Debug)]
struct Meter {
    pid: u32,
    /// /proc/PID: what is opened below it is of this process, or not there any more.
    process: File,
    cpu: Option<(Version, File)>,
    memory: Option<Memory>,
    block: Option<(Version, File)>,
    pids: Option<File>,
    /// It has a network of its own.
    networked: bool,
    /// Its network is not looked at for so many times.
    skip: u32,
}

#[derive(Debug)]
struct Memory {
    version: Version,
    usage: File,
    stat: File,
    /// Of v1 it is in `stat`.
    limit: Option<File>,
}

impl Meter {
    fn open(meters: &Meters, target: &Target) -> Option<Self> {
        let (hierarchies, pid, id) = (&meters.hierarchies, target.pid, target.id.as_str());
        let process = File::open(format!("/proc/{pid}")).ok()?;
        let memberships = below(&process, "cgroup")?;
        let directory = |controller| hierarchies.directory(controller, &memberships, id);
        let block = match directory("blkio") {
            Some((version, dir)) => [
                "blkio.throttle.io_service_bytes_recursive",
                "blkio.bfq.io_service_bytes_recursive",
            ]
            .into_iter()
            .find_map(|name| Some((version, open(&dir, name)?))),
            None => {
                directory("io").and_then(|(version, dir)| Some((version, open(&dir, "io.stat")?)))
            }
        };
        let network = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap_or_default();
        Some(Self {
            pid,
            cpu: open_cpu(hierarchies, &memberships, id),
            memory: directory("memory").and_then(|(version, dir)| Memory::open(version, &dir)),
            block,
            pids: directory("pids").and_then(|(_, dir)| open(&dir, "pids.current")),
            networked: network != meters.network,
            skip: 0,
            process,
        })
    }

    fn measure(&mut self, machine_memory: u64, buffer: &mut Vec<u8>) -> Option<Reading> {
        let at = Instant::now();
        let cpu = self.cpu.as_ref().and_then(|cpu| cpu_nanos(cpu, buffer));
        let memory = self.memory.as_ref().and_then(|memory| memory.read(buffer));
        // Of a cgroup that has gone, none can be read.
        if cpu.is_none() && memory.is_none() {
            return None;
        }
        let (used, limit) = memory.unwrap_or((0, u64::MAX));
        let block = self.block.as_ref().and_then(|(version, file)| {
            let text = text(file, buffer)?;
            Some(if *version == Version::V1 { parse::blkio(text) } else { parse::io(text) })
        });
        let pids = self.pids.as_ref().and_then(|file| parse::number(text(file, buffer)?));
        Some(Reading {
            at,
            pid: self.pid,
            cpu_nanos: cpu.unwrap_or(0),
            memory: used,
            memory_limit: limit.min(machine_memory),
            network: self.network(),
            block: block.unwrap_or_default(),
            pids: pids.unwrap_or(0),
        })
    }

    /// Bytes received and sent. An open file of these would keep the network alive, with its
    /// devices, after the container has ended: it is opened each time.
    fn network(&mut self) -> (u64, u64) {
        if !self.networked || self.skip > 0 {
            self.skip = self.skip.saturating_sub(1);
            return (0, 0);
        }
        let counters = below(&self.process, "net/dev").and_then(|text| parse::network(&text));
        if counters.is_none() {
            self.skip = SELDOM - 1;
        }
        counters.unwrap_or_default()
    }
}

impl Memory {
    fn open(version: Version, dir: &Path) -> Option<Self> {
        let (usage, limit) = match version {
            Version::V1 => (open(dir, "memory.usage_in_bytes")?, None),
            Version::V2 => (open(dir, "memory.current")?, open(dir, "memory.max")),
        };
        Some(Self { version, usage, stat: open(dir, "memory.stat")?, limit })
    }

    /// What is used, without cache that can go, and the most that may be.
    fn read(&self, buffer: &mut Vec<u8>) -> Option<(u64, u64)> {
        let usage = parse::number(text(&self.usage, buffer)?)?;
        let limit = self.limit.as_ref().and_then(|file| parse::number(text(file, buffer)?));
        let stat = text(&self.stat, buffer)?;
        let (inactive, limit) = match self.version {
            Version::V1 => {
                // That of the cgroups above counts as well.
                let limit = parse::entry(stat, "hierarchical_memory_limit");
                (parse::entry(stat, "total_inactive_file"), limit)
            }
            Version::V2 => (parse::entry(stat, "inactive_file"), limit),
        };
        let inactive = inactive.unwrap_or(0);
        let used = if inactive < usage { usage - inactive } else { usage };
        Some((used, limit.unwrap_or(u64::MAX)))
    }
}

fn open_cpu(hierarchies: &Hierarchies, memberships: &str, id: &str) -> Option<(Version, File)> {
    if let Some((version, dir)) = hierarchies.directory("cpuacct", memberships, id) {
        return Some((version, open(&dir, "cpuacct.usage")?));
    }
    // It is there without the controller.
    let (version, dir) = hierarchies.unified(memberships, id)?;
    Some((version, open(&dir, "cpu.stat")?))
}

fn cpu_nanos((version, file): &(Version, File), buffer: &mut Vec<u8>) -> Option<u64> {
    let text = text(file, buffer)?;
    match version {
        Version::V1 => parse::number(text),
        Version::V2 => parse::entry(text, "usage_usec").map(|micros| micros.saturating_mul(1000)),
    }
}

fn open(dir: &Path, name: &str) -> Option<File> {
    File::open(dir.join(name)).ok()
}

/// All of a file of a cgroup, from its beginning. The kernel gives such a file in one piece, as
/// far as there is room for it.
fn text<'a>(file: &File, buffer: &'a mut Vec<u8>) -> Option<&'a str> {
    let mut len = 0;
    loop {
        let n = file.read_at(&mut buffer[len..], len as u64).ok()?;
        len += n;
        if len < buffer.len() {
            break;
        }
        if len >= LONGEST {
            return None;
        }
        buffer.resize(len * 2, 0);
    }
    std::str::from_utf8(&buffer[..len]).ok()
}

/// All of a file of a process. The kernel gives such a file a page at a time, or less.
fn below(directory: &File, name: &str) -> Option<String> {
    let file = openat(directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
    std::io::read_to_string(File::from(file)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_longer_than_the_buffer_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let long = "0123456789".repeat(1000);
        fs::write(dir.path().join("f"), &long).unwrap();
        let file = open(dir.path(), "f").unwrap();
        let mut buffer = vec![0; 16];
        assert_eq!(text(&file, &mut buffer), Some(long.as_str()));
        assert_eq!(text(&file, &mut buffer), Some(long.as_str()), "again from the beginning");
        fs::write(dir.path().join("f"), "7\n").unwrap();
        assert_eq!(text(&file, &mut buffer).and_then(parse::number), Some(7));
    }

    #[test]
    fn files_of_a_process_are_read_behind_their_first_page() {
        let process = File::open("/proc/self").unwrap();
        let text = below(&process, "smaps").unwrap();
        assert!(text.len() > 8 << 10, "{}", text.len());
    }

    #[test]
    fn cache_that_can_go_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("memory.usage_in_bytes", "1000\n");
        write("memory.current", "1000\n");
        write("memory.max", "max\n");
        write(
            "memory.stat",
            "inactive_file 200\nhierarchical_memory_limit 5000\ntotal_inactive_file 300\n",
        );
        let mut buffer = vec![0; 4096];
        let v1 = Memory::open(Version::V1, dir.path()).unwrap();
        assert_eq!(v1.read(&mut buffer), Some((700, 5000)));
        let v2 = Memory::open(Version::V2, dir.path()).unwrap();
        assert_eq!(v2.read(&mut buffer), Some((800, u64::MAX)));
        write("memory.stat", "inactive_file 2000\n");
        assert_eq!(v2.read(&mut buffer), Some((1000, u64::MAX)));
    }

    #[test]
    fn a_process_of_another_time_is_not_measured() {
        let mut meters = Meters::new();
        let namespace = Namespace::new("default").unwrap();
        let target = Target { namespace: namespace.clone(), id: "none".into(), pid: u32::MAX };
        let readings = meters.read(&[target]);
        assert_eq!(readings[&namespace]["none"], None);
        assert!(meters.open.is_empty());
    }
}
