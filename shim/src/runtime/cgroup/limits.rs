//! The spec's resources, as writes into cgroup files.
//!
//! [`plan`] says what is written where and refuses, by name, what this host's
//! cgroups cannot do, before anything is changed; [`Host::apply`] does it.

use super::{Group, Hierarchy, Host, Kind};
use crate::runtime::types::Error;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use std::io;

/// One value for one file. Of several files the first that exists is taken.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(super) controller: String,
    pub(super) files: Vec<String>,
    pub(super) value: String,
    /// A file that is taken before those, and what is written into it in place of the value.
    pub(super) first: Option<(String, String)>,
}

/// Values that depend on each other's order are in one step: when one write
/// fails, the others are done first and it is tried again.
pub(crate) type Step = Vec<Setting>;

struct Planner<'a> {
    host: &'a Host,
    steps: Vec<Step>,
}

/// What has to be written for `resources`. Device rules are not among it: they
/// are set once, when the container is made.
pub(crate) fn plan(host: &Host, resources: &LinuxResources) -> Result<Vec<Step>, Error> {
    let mut p = Planner { host, steps: Vec::new() };
    if resources.rdma().as_ref().is_some_and(|r| !r.is_empty()) {
        return Err(refused("rdma limits", "they are not implemented"));
    }
    if let Some(m) = resources.memory() {
        p.memory(m)?;
    }
    if let Some(c) = resources.cpu() {
        p.cpu(c)?;
    }
    if let Some(n) = resources.pids().as_ref().map(|p| p.limit()).filter(|n| *n != 0) {
        let value = if n < 0 { "max".to_owned() } else { n.to_string() };
        p.one("pids", &["pids.max"], value)?;
    }
    if let Some(b) = resources.block_io() {
        p.block_io(b)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        let (v1, v2) = (format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.max"));
        p.one("hugetlb", &[&v1, &v2], bytes(limit.limit(), p.is_v2("hugetlb")))?;
    }
    if let Some(n) = resources.network() {
        if let Some(id) = n.class_id() {
            p.one("net_cls", &["net_cls.classid"], id.to_string())?;
        }
        for prio in n.priorities().iter().flatten() {
            p.one(
                "net_prio",
                &["net_prio.ifpriomap"],
                format!("{} {}", prio.name(), prio.priority()),
            )?;
        }
    }
    if let Some(unified) = resources.unified().as_ref().filter(|u| !u.is_empty()) {
        p.unified(unified)?;
    }
    Ok(p.steps)
}

fn refused(what: &str, why: &str) -> Error {
    Error::Unsupported(format!("{what}: {why}; leave it out of the container's resources"))
}

/// v2's limit of swap alone, from v1's of memory and swap together.
fn swap_alone(swap: i64, limit: i64) -> Result<String, Error> {
    if swap < 0 {
        return Ok("max".to_owned());
    }
    if limit <= 0 {
        return Err(Error::Invalid("a swap limit needs a memory limit".into()));
    }
    if swap < limit {
        return Err(Error::Invalid("the memory and swap limit is below the memory limit".into()));
    }
    Ok((swap - limit).to_string())
}

/// A size; negative is no limit.
fn bytes(n: i64, v2: bool) -> String {
    match n {
        ..0 if v2 => "max".to_owned(),
        ..0 => "-1".to_owned(),
        n => n.to_string(),
    }
}

/// v1's cpu.shares (2..262144) as v2's cpu.weight (1..10000).
fn cpu_weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// v1's blkio.weight (10..1000) as v2's io.weight (1..10000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

impl Planner<'_> {
    fn is_v2(&self, controller: &str) -> bool {
        self.host.with(controller).is_some_and(|h| h.kind == Kind::Unified)
    }

    fn setting(&self, controller: &str, files: &[&str], value: String) -> Result<Setting, Error> {
        if self.host.with(controller).is_none() {
            return Err(refused(
                files[0],
                &format!("this host offers no {controller} cgroup controller"),
            ));
        }
        let files = files.iter().map(|f| (*f).to_owned()).collect();
        Ok(Setting { controller: controller.to_owned(), files, value, first: None })
    }

    fn one(&mut self, controller: &str, files: &[&str], value: String) -> Result<(), Error> {
        let s = self.setting(controller, files, value)?;
        self.steps.push(vec![s]);
        Ok(())
    }

    /// A weight of v2: the scheduler BFQ takes v1's, as it is.
    fn weight(&mut self, value: String, bfq: String) -> Result<(), Error> {
        let mut s = self.setting("io", &["io.weight"], value)?;
        s.first = Some(("io.bfq.weight".to_owned(), bfq));
        self.steps.push(vec![s]);
        Ok(())
    }

    fn memory(&mut self, m: &LinuxMemory) -> Result<(), Error> {
        let v2 = self.is_v2("memory");
        #[allow(deprecated, reason = "clients still send it, so it is refused by name")]
        let kernel = m.kernel();
        if kernel.is_some_and(|k| k > 0) {
            return Err(refused("kernel memory limit", "the kernel has none any more"));
        }
        let mut sizes = Vec::new();
        if let Some(limit) = m.limit().filter(|l| *l != 0) {
            let file = if v2 { "memory.max" } else { "memory.limit_in_bytes" };
            sizes.push(self.setting("memory", &[file], bytes(limit, v2))?);
        }
        if let Some(swap) = m.swap().filter(|s| *s != 0) {
            let (file, value) = if v2 {
                ("memory.swap.max", swap_alone(swap, m.limit().unwrap_or(0))?)
            } else {
                ("memory.memsw.limit_in_bytes", bytes(swap, false))
            };
            sizes.push(self.setting("memory", &[file], value)?);
        }
        if !sizes.is_empty() {
            self.steps.push(sizes);
        }
        if let Some(r) = m.reservation().filter(|r| *r != 0) {
            let file = if v2 { "memory.low" } else { "memory.soft_limit_in_bytes" };
            let value = if v2 && r < 0 { "0".to_owned() } else { bytes(r, v2) };
            self.one("memory", &[file], value)?;
        }
        if let Some(s) = m.swappiness() {
            if v2 {
                return Err(refused("memory swappiness", "cgroup v2 has none per container"));
            }
            if s > 100 {
                return Err(Error::Invalid(format!("memory swappiness {s} is not within 0..100")));
            }
            self.one("memory", &["memory.swappiness"], s.to_string())?;
        }
        if let Some(tcp) = m.kernel_tcp().filter(|k| *k != 0) {
            if v2 {
                return Err(refused("kernel TCP memory limit", "cgroup v2 has none"));
            }
            self.one("memory", &["memory.kmem.tcp.limit_in_bytes"], bytes(tcp, false))?;
        }
        if m.disable_oom_killer() == Some(true) {
            if v2 {
                return Err(refused("disabling the OOM killer", "cgroup v2 can't"));
            }
            self.one("memory", &["memory.oom_control"], "1".into())?;
        }
        Ok(())
    }

    fn cpu(&mut self, c: &LinuxCpu) -> Result<(), Error> {
        let v2 = self.is_v2("cpu");
        if let Some(shares) = c.shares().filter(|s| *s != 0) {
            if v2 {
                self.one("cpu", &["cpu.weight"], cpu_weight(shares).to_string())?;
            } else {
                self.one("cpu", &["cpu.shares"], shares.to_string())?;
            }
        }
        self.bandwidth(c, v2)?;
        if let Some(idle) = c.idle() {
            self.one("cpu", &["cpu.idle"], idle.to_string())?;
        }
        if let Some(cpus) = c.cpus().as_deref().filter(|s| !s.is_empty()) {
            self.one("cpuset", &["cpuset.cpus"], cpus.to_owned())?;
        }
        if let Some(mems) = c.mems().as_deref().filter(|s| !s.is_empty()) {
            self.one("cpuset", &["cpuset.mems"], mems.to_owned())?;
        }
        Ok(())
    }

    fn bandwidth(&mut self, c: &LinuxCpu, v2: bool) -> Result<(), Error> {
        let period = c.period().filter(|p| *p != 0);
        let quota = c.quota().filter(|q| *q != 0);
        let realtime =
            (c.realtime_period().filter(|p| *p != 0), c.realtime_runtime().filter(|r| *r != 0));
        if v2 {
            if period.is_some() || quota.is_some() {
                let quota = quota.filter(|q| *q > 0).map_or("max".to_owned(), |q| q.to_string());
                let value = period.map_or(quota.clone(), |p| format!("{quota} {p}"));
                self.one("cpu", &["cpu.max"], value)?;
            }
            if let Some(b) = c.burst() {
                self.one("cpu", &["cpu.max.burst"], b.to_string())?;
            }
            if realtime != (None, None) {
                return Err(refused("real-time CPU limits", "cgroup v2 has none"));
            }
            return Ok(());
        }
        let mut step = Vec::new();
        if let Some(p) = period {
            step.push(self.setting("cpu", &["cpu.cfs_period_us"], p.to_string())?);
        }
        if let Some(q) = quota {
            step.push(self.setting("cpu", &["cpu.cfs_quota_us"], q.to_string())?);
        }
        if let Some(b) = c.burst() {
            step.push(self.setting("cpu", &["cpu.cfs_burst_us"], b.to_string())?);
        }
        if let Some(p) = realtime.0 {
            step.push(self.setting("cpu", &["cpu.rt_period_us"], p.to_string())?);
        }
        if let Some(r) = realtime.1 {
            step.push(self.setting("cpu", &["cpu.rt_runtime_us"], r.to_string())?);
        }
        if !step.is_empty() {
            self.steps.push(step);
        }
        Ok(())
    }

    fn block_io(&mut self, b: &LinuxBlockIo) -> Result<(), Error> {
        let v2 = self.host.with("blkio").is_none();
        let controller = if v2 { "io" } else { "blkio" };
        if b.leaf_weight().is_some_and(|w| w != 0) {
            return Err(refused("block IO leaf weight", "the kernel has none any more"));
        }
        if let Some(w) = b.weight().filter(|w| *w != 0) {
            if !v2 {
                self.one(controller, &["blkio.bfq.weight", "blkio.weight"], w.to_string())?;
            } else {
                self.weight(format!("default {}", io_weight(w)), w.to_string())?;
            }
        }
        for d in b.weight_device().iter().flatten() {
            if d.leaf_weight().is_some_and(|w| w != 0) {
                return Err(refused("block IO leaf weight", "the kernel has none any more"));
            }
            let Some(w) = d.weight() else { continue };
            let at = format!("{}:{}", d.major(), d.minor());
            if v2 {
                self.weight(format!("{at} {}", io_weight(w)), format!("{at} {w}"))?;
            } else {
                self.one(
                    controller,
                    &["blkio.bfq.weight_device", "blkio.weight_device"],
                    format!("{at} {w}"),
                )?;
            }
        }
        let throttles = [
            (b.throttle_read_bps_device(), "blkio.throttle.read_bps_device", "rbps"),
            (b.throttle_write_bps_device(), "blkio.throttle.write_bps_device", "wbps"),
            (b.throttle_read_iops_device(), "blkio.throttle.read_iops_device", "riops"),
            (b.throttle_write_iops_device(), "blkio.throttle.write_iops_device", "wiops"),
        ];
        for (list, file, key) in throttles {
            for d in list.iter().flatten() {
                let at = format!("{}:{}", d.major(), d.minor());
                if v2 {
                    let rate = if d.rate() == 0 { "max".to_owned() } else { d.rate().to_string() };
                    self.one(controller, &["io.max"], format!("{at} {key}={rate}"))?;
                } else {
                    self.one(controller, &[file], format!("{at} {}", d.rate()))?;
                }
            }
        }
        Ok(())
    }

    fn unified(&mut self, map: &std::collections::HashMap<String, String>) -> Result<(), Error> {
        if !self.host.is_v2() {
            return Err(refused("unified cgroup settings", "this host's cgroups are v1"));
        }
        let mut sorted: Vec<_> = map.iter().collect();
        sorted.sort();
        for (file, value) in sorted {
            let plain =
                file.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            let Some((controller, _)) = file.split_once('.').filter(|_| plain) else {
                return Err(Error::Invalid(format!(
                    "unified cgroup setting {file:?} names no file of a controller"
                )));
            };
            // cgroup.* belongs to no controller: any of the unified hierarchy's will do.
            let controller = if controller == "cgroup" { "pids" } else { controller };
            self.one(controller, &[file], value.clone())?;
        }
        Ok(())
    }
}

impl Host {
    /// Writes what [`plan`] planned.
    pub(crate) fn apply(&self, group: &Group, steps: &[Step]) -> Result<(), Error> {
        steps.iter().try_for_each(|step| self.take(group, step))
    }

    /// Writes what belongs together.
    pub(super) fn take(&self, group: &Group, step: &[Setting]) -> Result<(), Error> {
        let failed: Vec<&Setting> = step.iter().filter(|s| self.set(group, s).is_err()).collect();
        // The kernel refuses, for instance, a limit above the one for memory and swap: in the
        // other order it goes.
        for s in failed {
            self.set(group, s).map_err(|e| explain(group, s, e))?;
        }
        Ok(())
    }

    fn set(&self, group: &Group, s: &Setting) -> io::Result<()> {
        // `plan` has seen the controller.
        let (h, file) = self.place(group, s).ok_or(io::ErrorKind::NotFound)?;
        let first = s.first.as_ref().filter(|(first, _)| first == file);
        h.write(group, file, first.map_or(&s.value, |(_, value)| value))
    }

    /// The file that a setting is about.
    pub(super) fn place<'a>(
        &'a self,
        group: &Group,
        s: &'a Setting,
    ) -> Option<(&'a Hierarchy, &'a str)> {
        let h = self.with(&s.controller)?;
        if let Some((first, _)) = s.first.as_ref().filter(|(first, _)| h.has(group, first)) {
            return Some((h, first.as_str()));
        }
        let exists = s.files.iter().find(|f| s.files.len() == 1 || h.has(group, f));
        Some((h, exists.unwrap_or(&s.files[0]).as_str()))
    }
}

fn explain(group: &Group, s: &Setting, e: io::Error) -> Error {
    let first = s.first.iter().map(|(file, _)| file);
    let names: Vec<&str> = first.chain(&s.files).map(String::as_str).collect();
    let names = names.join(" or ");
    let what = format!("set {names} to {:?} in cgroup {}", s.value, group.path());
    match e.raw_os_error() {
        Some(libc::ENOENT | libc::EOPNOTSUPP) => {
            Error::Unsupported(format!("{what}: this host's kernel has no such limit"))
        }
        Some(libc::EINVAL | libc::ERANGE | libc::EBUSY | libc::ENODEV) => {
            Error::Invalid(format!("{what}: the kernel refuses the value ({e})"))
        }
        _ => Error::io(what, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// What is in these files of a group of v2, the only ones, when limits of disks are set.
    fn written(files: &[&str], limits: serde_json::Value) -> Result<Vec<String>, Error> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("g")).unwrap();
        let at = |file: &str| dir.path().join("g").join(file);
        files.iter().for_each(|file| std::fs::write(at(file), "").unwrap());
        let hierarchy = Hierarchy {
            name: String::new(),
            controllers: vec!["io".into()],
            kind: Kind::Unified,
            mount_point: dir.path().to_owned(),
            dir: Host::handle(dir.path()).unwrap(),
        };
        let host = Host { hierarchies: vec![hierarchy] };
        let group = Group::new(Path::new("/g")).unwrap();
        let resources = serde_json::json!({"blockIO": limits});
        let steps = plan(&host, &serde_json::from_value(resources).unwrap())?;
        host.apply(&group, &steps)?;
        Ok(files.iter().map(|file| std::fs::read_to_string(at(file)).unwrap()).collect())
    }

    #[test]
    fn weights_of_disks_are_the_schedulers_where_it_has_some() {
        let all = serde_json::json!({"weight": 300});
        let one = serde_json::json!({"weightDevice": [{"major": 8, "minor": 0, "weight": 500}]});
        let both = ["io.bfq.weight", "io.weight"];
        assert_eq!(written(&both, all.clone()).unwrap(), ["300", ""]);
        assert_eq!(written(&both, one.clone()).unwrap(), ["8:0 500", ""]);
        assert_eq!(written(&both[1..], all.clone()).unwrap(), ["default 2930"]);
        assert_eq!(written(&both[1..], one).unwrap(), ["8:0 4950"]);
        let said = written(&[], all).unwrap_err().to_string();
        assert!(said.contains("set io.bfq.weight or io.weight") && said.contains("no such limit"));
        assert!(written(&[], serde_json::json!({})).unwrap().is_empty());
    }

    #[test]
    fn weights_reach_both_ends() {
        assert_eq!((cpu_weight(2), cpu_weight(1024), cpu_weight(262_144)), (1, 39, 10_000));
        assert_eq!((io_weight(10), io_weight(1000)), (1, 10_000));
    }

    #[test]
    fn no_limit_is_written_as_each_version_wants() {
        assert_eq!(bytes(-1, true), "max");
        assert_eq!(bytes(-1, false), "-1");
        assert_eq!(bytes(4096, true), "4096");
    }
}
