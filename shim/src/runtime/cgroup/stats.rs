//! What a container has used, read from its cgroup's own files.
//!
//! Units are those of the messages: nanoseconds of CPU on v1, microseconds on
//! v2, bytes everywhere.

use super::{Group, Hierarchy, Host, Kind};
use crate::runtime::types::Error;
use gantry_ttrpc::io::containerd::cgroups::{v1, v2};

/// Readings, in the shape of the hierarchy they come from.
#[derive(Debug, Clone)]
pub enum Metrics {
    /// From cgroup v1 controllers (also on hybrid hosts).
    V1(Box<v1::Metrics>),
    /// From cgroup v2.
    V2(Box<v2::Metrics>),
}

/// The files of one container in one hierarchy.
struct Files<'a> {
    hierarchy: &'a Hierarchy,
    group: &'a Group,
}

/// `key value` lines.
struct Table(Vec<(String, u64)>);

impl Table {
    fn parse(text: &str) -> Self {
        let line = |l: &str| {
            let (key, value) = l.split_once([' ', '='])?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        };
        Self(text.lines().filter_map(line).collect())
    }

    fn get(&self, key: &str) -> u64 {
        self.0.iter().find(|e| e.0 == key).map_or(0, |e| e.1)
    }
}

impl Files<'_> {
    fn text(&self, file: &str) -> String {
        // A file that this kernel does not have reads as nothing.
        self.hierarchy.read(self.group, file).unwrap_or_default()
    }

    /// A number; `max` is the largest.
    fn number(&self, file: &str) -> u64 {
        let text = self.text(file);
        if text.trim() == "max" { u64::MAX } else { text.trim().parse().unwrap_or(0) }
    }

    fn table(&self, file: &str) -> Table {
        Table::parse(&self.text(file))
    }
}

impl Host {
    /// Reads the cgroup's counters, and those of the network devices that init
    /// sees when they are not the host's.
    pub(crate) fn stats(&self, group: &Group, init: Option<i32>) -> Result<Metrics, Error> {
        if !self.lists().has(group, "cgroup.procs") {
            return Err(Error::NotFound(format!(
                "cgroup {} is gone: the container was removed",
                group.path()
            )));
        }
        let files =
            |controller: &str| self.with(controller).map(|hierarchy| Files { hierarchy, group });
        let network = init.map(network).unwrap_or_default();
        if self.is_v2() {
            let mut m = v2::Metrics {
                pids: files("pids")
                    .map(|f| v2::PidsStat { current: f.number("pids.current"), limit: limit(&f) }),
                // cpu.stat is there without the controller.
                cpu: self.unified().map(|hierarchy| v2_cpu(&Files { hierarchy, group })),
                memory: files("memory").map(|f| v2_memory(&f)),
                io: files("io").map(|f| v2_io(&f)),
                memory_events: files("memory").map(|f| v2_events(&f)),
                ..v2::Metrics::default()
            };
            m.hugetlb = files("hugetlb").map(|f| v2_hugetlb(&f)).unwrap_or_default();
            m.network = network.into_iter().map(|n| n.v2()).collect();
            return Ok(Metrics::V2(Box::new(m)));
        }
        let legacy =
            |controller: &str| files(controller).filter(|f| f.hierarchy.kind == Kind::Legacy);
        let mut m = v1::Metrics {
            pids: legacy("pids")
                .map(|f| v1::PidsStat { current: f.number("pids.current"), limit: limit(&f) }),
            cpu: legacy("cpuacct").map(|f| v1_cpu(&f, legacy("cpu"))),
            memory: legacy("memory").map(|f| v1_memory(&f)),
            blkio: legacy("blkio").map(|f| v1_blkio(&f)),
            memory_oom_control: legacy("memory").map(|f| v1_oom(&f)),
            ..v1::Metrics::default()
        };
        m.network = network.into_iter().map(|n| n.v1()).collect();
        Ok(Metrics::V1(Box::new(m)))
    }
}

/// 0 is no limit, in both messages.
fn limit(f: &Files<'_>) -> u64 {
    match f.number("pids.max") {
        u64::MAX => 0,
        n => n,
    }
}

fn v1_cpu(acct: &Files<'_>, cpu: Option<Files<'_>>) -> v1::CpuStat {
    let stat = cpu.map(|f| f.table("cpu.stat"));
    let per_cpu = acct.text("cpuacct.usage_percpu");
    v1::CpuStat {
        usage: Some(v1::CpuUsage {
            total: acct.number("cpuacct.usage"),
            // Nanoseconds, unlike the clock ticks of cpuacct.stat.
            kernel: acct.number("cpuacct.usage_sys"),
            user: acct.number("cpuacct.usage_user"),
            per_cpu: per_cpu.split_ascii_whitespace().filter_map(|n| n.parse().ok()).collect(),
        }),
        throttling: stat.map(|s| v1::Throttle {
            periods: s.get("nr_periods"),
            throttled_periods: s.get("nr_throttled"),
            throttled_time: s.get("throttled_time"),
        }),
    }
}

fn v1_memory(f: &Files<'_>) -> v1::MemoryStat {
    let t = f.table("memory.stat");
    let entry = |name: &str| v1::MemoryEntry {
        limit: f.number(&format!("memory.{name}limit_in_bytes")),
        usage: f.number(&format!("memory.{name}usage_in_bytes")),
        max: f.number(&format!("memory.{name}max_usage_in_bytes")),
        failcnt: f.number(&format!("memory.{name}failcnt")),
    };
    v1::MemoryStat {
        cache: t.get("cache"),
        rss: t.get("rss"),
        rss_huge: t.get("rss_huge"),
        mapped_file: t.get("mapped_file"),
        dirty: t.get("dirty"),
        writeback: t.get("writeback"),
        pg_pg_in: t.get("pgpgin"),
        pg_pg_out: t.get("pgpgout"),
        pg_fault: t.get("pgfault"),
        pg_maj_fault: t.get("pgmajfault"),
        inactive_anon: t.get("inactive_anon"),
        active_anon: t.get("active_anon"),
        inactive_file: t.get("inactive_file"),
        active_file: t.get("active_file"),
        unevictable: t.get("unevictable"),
        hierarchical_memory_limit: t.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: t.get("hierarchical_memsw_limit"),
        total_cache: t.get("total_cache"),
        total_rss: t.get("total_rss"),
        total_rss_huge: t.get("total_rss_huge"),
        total_mapped_file: t.get("total_mapped_file"),
        total_dirty: t.get("total_dirty"),
        total_writeback: t.get("total_writeback"),
        total_pg_pg_in: t.get("total_pgpgin"),
        total_pg_pg_out: t.get("total_pgpgout"),
        total_pg_fault: t.get("total_pgfault"),
        total_pg_maj_fault: t.get("total_pgmajfault"),
        total_inactive_anon: t.get("total_inactive_anon"),
        total_active_anon: t.get("total_active_anon"),
        total_inactive_file: t.get("total_inactive_file"),
        total_active_file: t.get("total_active_file"),
        total_unevictable: t.get("total_unevictable"),
        usage: Some(entry("")),
        swap: Some(entry("memsw.")),
        kernel: Some(entry("kmem.")),
        kernel_tcp: Some(entry("kmem.tcp.")),
    }
}

fn v1_oom(f: &Files<'_>) -> v1::MemoryOomControl {
    let t = f.table("memory.oom_control");
    v1::MemoryOomControl {
        oom_kill_disable: t.get("oom_kill_disable"),
        under_oom: t.get("under_oom"),
        oom_kill: t.get("oom_kill"),
    }
}

fn v1_blkio(f: &Files<'_>) -> v1::BlkIoStat {
    // The scheduler's counters where it keeps them, else those of throttling.
    let list = |own: &str, throttle: &str| {
        let found = blkio_entries(&f.text(own));
        if found.is_empty() && !throttle.is_empty() {
            blkio_entries(&f.text(throttle))
        } else {
            found
        }
    };
    v1::BlkIoStat {
        io_service_bytes_recursive: list(
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ),
        io_serviced_recursive: list(
            "blkio.bfq.io_serviced_recursive",
            "blkio.throttle.io_serviced_recursive",
        ),
        io_queued_recursive: list("blkio.bfq.io_queued_recursive", ""),
        io_service_time_recursive: list("blkio.bfq.io_service_time_recursive", ""),
        io_wait_time_recursive: list("blkio.bfq.io_wait_time_recursive", ""),
        io_merged_recursive: list("blkio.bfq.io_merged_recursive", ""),
        io_time_recursive: list("blkio.bfq.time_recursive", ""),
        sectors_recursive: list("blkio.bfq.sectors_recursive", ""),
    }
}

/// Lines `8:0 Read 4096`, or `8:0 4096` where there is one kind only.
fn blkio_entries(text: &str) -> Vec<v1::BlkIoEntry> {
    let entry = |line: &str| {
        let mut parts = line.split_ascii_whitespace();
        let (major, minor) = parts.next()?.split_once(':')?;
        let second = parts.next()?;
        let (op, value) = match parts.next() {
            Some(value) => (second, value),
            None => ("", second),
        };
        Some(v1::BlkIoEntry {
            op: op.to_owned(),
            device: String::new(),
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

fn v2_cpu(f: &Files<'_>) -> v2::CpuStat {
    let t = f.table("cpu.stat");
    v2::CpuStat {
        usage_usec: t.get("usage_usec"),
        user_usec: t.get("user_usec"),
        system_usec: t.get("system_usec"),
        nr_periods: t.get("nr_periods"),
        nr_throttled: t.get("nr_throttled"),
        throttled_usec: t.get("throttled_usec"),
        nr_bursts: t.get("nr_bursts"),
        burst_usec: t.get("burst_usec"),
        ..v2::CpuStat::default()
    }
}

fn v2_memory(f: &Files<'_>) -> v2::MemoryStat {
    let t = f.table("memory.stat");
    v2::MemoryStat {
        anon: t.get("anon"),
        file: t.get("file"),
        kernel_stack: t.get("kernel_stack"),
        slab: t.get("slab"),
        sock: t.get("sock"),
        shmem: t.get("shmem"),
        file_mapped: t.get("file_mapped"),
        file_dirty: t.get("file_dirty"),
        file_writeback: t.get("file_writeback"),
        anon_thp: t.get("anon_thp"),
        inactive_anon: t.get("inactive_anon"),
        active_anon: t.get("active_anon"),
        inactive_file: t.get("inactive_file"),
        active_file: t.get("active_file"),
        unevictable: t.get("unevictable"),
        slab_reclaimable: t.get("slab_reclaimable"),
        slab_unreclaimable: t.get("slab_unreclaimable"),
        pgfault: t.get("pgfault"),
        pgmajfault: t.get("pgmajfault"),
        workingset_refault: t.get("workingset_refault_anon") + t.get("workingset_refault_file"),
        workingset_activate: t.get("workingset_activate_anon") + t.get("workingset_activate_file"),
        workingset_nodereclaim: t.get("workingset_nodereclaim"),
        pgrefill: t.get("pgrefill"),
        pgscan: t.get("pgscan"),
        pgsteal: t.get("pgsteal"),
        pgactivate: t.get("pgactivate"),
        pgdeactivate: t.get("pgdeactivate"),
        pglazyfree: t.get("pglazyfree"),
        pglazyfreed: t.get("pglazyfreed"),
        thp_fault_alloc: t.get("thp_fault_alloc"),
        thp_collapse_alloc: t.get("thp_collapse_alloc"),
        usage: f.number("memory.current"),
        usage_limit: f.number("memory.max"),
        swap_usage: f.number("memory.swap.current"),
        swap_limit: f.number("memory.swap.max"),
        max_usage: f.number("memory.peak"),
        swap_max_usage: f.number("memory.swap.peak"),
        ..v2::MemoryStat::default()
    }
}

fn v2_events(f: &Files<'_>) -> v2::MemoryEvents {
    let t = f.table("memory.events");
    v2::MemoryEvents {
        low: t.get("low"),
        high: t.get("high"),
        max: t.get("max"),
        oom: t.get("oom"),
        oom_kill: t.get("oom_kill"),
        oom_group_kill: t.get("oom_group_kill"),
    }
}

fn v2_io(f: &Files<'_>) -> v2::IoStat {
    let entry = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let t = Table::parse(&rest.replace(' ', "\n"));
        Some(v2::IoEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            rbytes: t.get("rbytes"),
            wbytes: t.get("wbytes"),
            rios: t.get("rios"),
            wios: t.get("wios"),
        })
    };
    v2::IoStat {
        usage: f.text("io.stat").lines().filter_map(entry).collect(),
        ..v2::IoStat::default()
    }
}

fn v2_hugetlb(f: &Files<'_>) -> Vec<v2::HugeTlbStat> {
    let sizes = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let stat = |entry: std::fs::DirEntry| {
        let kilobytes: u64 = entry
            .file_name()
            .to_str()?
            .strip_prefix("hugepages-")?
            .strip_suffix("kB")?
            .parse()
            .ok()?;
        let pagesize = match kilobytes {
            k if k >= 1 << 20 => format!("{}GB", k >> 20),
            k if k >= 1 << 10 => format!("{}MB", k >> 10),
            k => format!("{k}KB"),
        };
        Some(v2::HugeTlbStat {
            current: f.number(&format!("hugetlb.{pagesize}.current")),
            max: f.number(&format!("hugetlb.{pagesize}.max")),
            failcnt: f.table(&format!("hugetlb.{pagesize}.events")).get("max"),
            pagesize,
        })
    };
    sizes.filter_map(stat).collect()
}

/// The counters of one network device.
struct Device {
    name: String,
    counters: [u64; 16],
}

impl Device {
    fn v1(self) -> v1::NetworkStat {
        let c = self.counters;
        v1::NetworkStat {
            name: self.name,
            rx_bytes: c[0],
            rx_packets: c[1],
            rx_errors: c[2],
            rx_dropped: c[3],
            tx_bytes: c[8],
            tx_packets: c[9],
            tx_errors: c[10],
            tx_dropped: c[11],
        }
    }

    fn v2(self) -> v2::NetworkStat {
        let c = self.counters;
        v2::NetworkStat {
            name: self.name,
            rx_bytes: c[0],
            rx_packets: c[1],
            rx_errors: c[2],
            rx_dropped: c[3],
            tx_bytes: c[8],
            tx_packets: c[9],
            tx_errors: c[10],
            tx_dropped: c[11],
        }
    }
}

/// The devices in init's network namespace, without `lo`; none when it is the host's.
fn network(init: i32) -> Vec<Device> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    if namespace(&init.to_string()) == namespace("self") {
        return Vec::new();
    }
    let text = std::fs::read_to_string(format!("/proc/{init}/net/dev")).unwrap_or_default();
    let device = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let mut counters = [0; 16];
        for (counter, value) in counters.iter_mut().zip(rest.split_ascii_whitespace()) {
            *counter = value.parse().ok()?;
        }
        Some(Device { name: name.trim().to_owned(), counters })
    };
    text.lines().filter_map(device).filter(|d| d.name != "lo").collect()
}
