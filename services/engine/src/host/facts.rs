//! What the control groups of this machine can limit, so that what they can't is known before
//! anything is made.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where control groups are mounted.
const CGROUPS: &str = "/sys/fs/cgroup";
/// Processors that can be used.
const ONLINE: &str = "/sys/devices/system/cpu/online";
/// Numbers of processors and memory nodes are below this.
const MOST: u32 = 8192;

/// The limits that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) memory: bool,
    pub(crate) swap: bool,
    pub(crate) reservation: bool,
    pub(crate) swappiness: bool,
    pub(crate) oom_kill_disable: bool,
    pub(crate) pids: bool,
    pub(crate) cpu_shares: bool,
    pub(crate) cpu_cfs: bool,
    pub(crate) cpu_realtime: bool,
    pub(crate) cpuset: bool,
    pub(crate) blkio_weight: bool,
    pub(crate) blkio_weight_device: bool,
    pub(crate) blkio_throttle: bool,
    /// Processors, `0-3`.
    pub(crate) cpus: String,
    /// Memory nodes, `0`.
    pub(crate) mems: String,
    /// How many processors there are.
    pub(crate) count: usize,
}

impl Facts {
    /// Those of this machine.
    pub(crate) fn read() -> Self {
        let online = fs::read_to_string(ONLINE).unwrap_or_default();
        let count = numbers(online.trim()).map_or(0, |set| set.len());
        let other = || std::thread::available_parallelism().map_or(1, |n| n.get());
        let count = if count == 0 { other() } else { count };
        Self { count, ..Self::below(Path::new(CGROUPS)) }
    }

    fn below(root: &Path) -> Self {
        match fs::read_to_string(root.join("cgroup.controllers")) {
            Ok(controllers) => Self::unified(root, &controllers),
            Err(_) => Self::legacy(root),
        }
    }

    fn legacy(root: &Path) -> Self {
        let (memory, cpu, cpuset) = (root.join("memory"), root.join("cpu"), root.join("cpuset"));
        let blkio = root.join("blkio");
        let in_memory = |file: &str| memory.join(file).exists();
        let weight = |file: &str| {
            offers(&blkio, &format!("blkio.{file}")) || offers(&blkio, &format!("blkio.bfq.{file}"))
        };
        Self {
            memory: in_memory("memory.limit_in_bytes"),
            swap: in_memory("memory.memsw.limit_in_bytes"),
            reservation: in_memory("memory.soft_limit_in_bytes"),
            swappiness: in_memory("memory.swappiness"),
            oom_kill_disable: in_memory("memory.oom_control"),
            pids: root.join("pids").is_dir(),
            cpu_shares: cpu.join("cpu.shares").exists(),
            cpu_cfs: cpu.join("cpu.cfs_quota_us").exists(),
            cpu_realtime: cpu.join("cpu.rt_runtime_us").exists(),
            cpuset: cpuset.join("cpuset.cpus").exists(),
            blkio_weight: weight("weight"),
            blkio_weight_device: weight("weight_device"),
            blkio_throttle: blkio.join("blkio.throttle.read_bps_device").exists(),
            cpus: text(&cpuset.join("cpuset.cpus")),
            mems: text(&cpuset.join("cpuset.mems")),
            count: 0,
        }
    }

    fn unified(root: &Path, controllers: &str) -> Self {
        let has = |name: &str| controllers.split_whitespace().any(|c| c == name);
        let (memory, cpu, io) = (has("memory"), has("cpu"), has("io"));
        // The root has no limits of its own: groups below it tell, if there are any.
        let swapless = offers(root, "memory.max") && !offers(root, "memory.swap.max");
        Self {
            memory,
            swap: memory && !swapless,
            reservation: memory,
            pids: has("pids"),
            cpu_shares: cpu,
            cpu_cfs: cpu,
            cpuset: has("cpuset"),
            blkio_weight: io,
            blkio_weight_device: io,
            blkio_throttle: io,
            cpus: text(&root.join("cpuset.cpus.effective")),
            mems: text(&root.join("cpuset.mems.effective")),
            ..Self::default()
        }
    }
}

/// Whether a hierarchy's root or a group directly below it has a file: some are nowhere else.
fn offers(root: &Path, file: &str) -> bool {
    let below = || fs::read_dir(root).into_iter().flatten().flatten();
    root.join(file).exists() || below().any(|entry| entry.path().join(file).exists())
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// The numbers of a list as the kernel writes it, `0-2,4`; `None` for what is no list.
pub(crate) fn numbers(list: &str) -> Option<BTreeSet<u32>> {
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let mut set = BTreeSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last >= MOST {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn lists() {
        let set = |list| numbers(list).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(set("0-2,4"), Some(vec![0, 1, 2, 4]));
        assert_eq!(set(""), Some(vec![]));
        for bad in ["a", "2-1", "-1", "0-99999999", "1-"] {
            assert_eq!(set(bad), None, "{bad}");
        }
    }

    #[test]
    fn version_1() {
        let dir = tempfile::tempdir().unwrap();
        touch(
            dir.path(),
            &[
                ("memory/memory.limit_in_bytes", ""),
                ("memory/memory.oom_control", ""),
                ("cpu/cpu.shares", ""),
                ("cpuset/cpuset.cpus", "0-3\n"),
                ("blkio/one/blkio.bfq.weight", ""),
            ],
        );
        let facts = Facts::below(dir.path());
        assert!(facts.memory && !facts.swap && facts.oom_kill_disable && facts.cpu_shares);
        assert!(!facts.cpu_cfs && facts.blkio_weight && !facts.blkio_weight_device);
        assert_eq!(facts.cpus, "0-3");
    }

    #[test]
    fn version_2() {
        let dir = tempfile::tempdir().unwrap();
        let controllers = ("cgroup.controllers", "cpuset cpu memory pids\n");
        touch(dir.path(), &[controllers, ("cpuset.cpus.effective", "0-1\n")]);
        let facts = Facts::below(dir.path());
        assert!(facts.memory && facts.swap && facts.cpu_cfs && facts.pids && facts.cpuset);
        assert!(!facts.swappiness && !facts.oom_kill_disable && !facts.blkio_throttle);
        touch(dir.path(), &[("system.slice/memory.max", "max")]);
        assert!(!Facts::below(dir.path()).swap);
        touch(dir.path(), &[("system.slice/memory.swap.max", "max")]);
        assert!(Facts::below(dir.path()).swap);
    }

    #[test]
    fn this_machine_has_processors() {
        assert!(Facts::read().count > 0);
    }
}
