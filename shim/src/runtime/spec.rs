//! From the bundle's config.json to what libcontainer gets to see.
//!
//! [`Plan::read`] looks at the whole spec and refuses, by name, what can't be
//! honoured, before anything is changed. [`for_libcontainer`] takes out of it
//! what this runtime does itself and puts in what libcontainer leaves out.

use super::cgroup::devices::{self, Rule};
use super::cgroup::limits::{self, Step};
use super::cgroup::{Group, Host};
use super::cwd;
use super::launch::UMASK;
use super::types::{Error, Options};
use super::{procfs, seccomp};
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, Spec,
};
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Open files that libcontainer needs at the most until it executes the program.
const FILES: u64 = 64;
/// A config.json longer than this is refused.
const MAX_CONFIG: u64 = 16 << 20;

/// A specification with what most have.
const USUAL: &str = r#"{"ociVersion":"1.2.0","hostname":"x","root":{"path":"rootfs"},
"process":{"user":{"uid":0,"gid":0,"additionalGids":[1]},"args":["x"],"env":["A=b"],"cwd":"/",
"capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"],"permitted":["CAP_CHOWN"]},
"rlimits":[{"type":"RLIMIT_CORE","hard":0,"soft":0}]},"annotations":{"a":"b"},
"mounts":[{"destination":"/proc","type":"proc","source":"proc","options":["nosuid"]}],
"linux":{"cgroupsPath":"/x","namespaces":[{"type":"pid"}],"sysctl":{"net.x":"0"},
"resources":{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":1}},
"maskedPaths":["/proc/kcore"],"readonlyPaths":["/proc/sys"],
"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64"],"syscalls":[
{"names":["x"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"}]}]}}}"#;

/// A spec that has been looked through.
pub(crate) struct Plan {
    pub(crate) spec: Spec,
    pub(crate) group: Group,
    pub(crate) devices: Vec<Rule>,
    pub(crate) limits: Vec<Step>,
}

/// Reads `<bundle>/config.json`.
pub(crate) fn load(bundle: &Path) -> Result<Spec, Error> {
    let path = bundle.join("config.json");
    let read = || {
        let file = std::fs::File::open(&path)?;
        let size = file.metadata()?.len().min(MAX_CONFIG);
        // One more, so that the end is found without growing.
        let mut text = String::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(MAX_CONFIG).read_to_string(&mut text).map(|_| text)
    };
    let text = read().map_err(|e| Error::io(format!("read {}", path.display()), e))?;
    parse(&text).map_err(|e| Error::Invalid(format!("{} is not a valid spec: {e}", path.display())))
}

/// Parses a spec for nothing: what that takes is in memory when somebody waits for it.
pub(crate) fn rehearse() {
    let _ = std::hint::black_box(parse(USUAL));
}

/// Parses a spec. Capabilities that nobody knows can't be granted, which is no reason to
/// refuse the rest (config.md, "process.capabilities").
fn parse(text: &str) -> serde_json::Result<Spec> {
    serde_json::from_str(text).or_else(|first| {
        let Ok(mut spec) = serde_json::from_str::<Value>(text) else { return Err(first) };
        let sets = spec.pointer_mut("/process/capabilities").and_then(Value::as_object_mut);
        for names in sets.into_iter().flatten().filter_map(|(_, set)| set.as_array_mut()) {
            names.retain(|name| {
                let known = Capability::deserialize(name).is_ok();
                if !known {
                    tracing::warn!("process.capabilities: {name} is not known, and not granted");
                }
                known
            });
        }
        serde_json::from_value(spec)
    })
}

impl Plan {
    /// Reads and checks the bundle's spec.
    pub(crate) fn read(
        bundle: &Path,
        id: &str,
        options: &Options,
        host: &Host,
    ) -> Result<Self, Error> {
        let mut spec = load(bundle)?;
        if let Some(process) = spec.process_mut() {
            cwd::clean(process);
        }
        let linux = spec.linux().as_ref().ok_or_else(|| missing("linux"))?;
        let process = spec.process().as_ref().ok_or_else(|| missing("process"))?;
        if spec.root().is_none() {
            return Err(missing("root"));
        }
        check_process(process)?;
        procfs::check(&spec)?;
        check_namespaces(linux)?;
        if let Some(section) = linux.seccomp() {
            seccomp::check(section)?;
        }
        propagation_name(linux.rootfs_propagation().as_deref())?;
        let group = group(linux.cgroups_path().as_deref(), id, options)?;
        let resources = linux.resources().clone().unwrap_or_default();
        Ok(Self {
            devices: devices::effective(resources.devices().as_deref().unwrap_or_default())?,
            limits: limits::plan(host, &resources)?,
            group,
            spec,
        })
    }
}

/// The namespaces a spec asks for.
pub(crate) fn namespaces(spec: &Spec) -> &[LinuxNamespace] {
    spec.linux().as_ref().and_then(|l| l.namespaces().as_deref()).unwrap_or_default()
}

/// Whether a spec asks for a pid namespace of the container's own.
pub(crate) fn has_own_pids(spec: &Spec) -> bool {
    namespaces(spec).iter().any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_none())
}

/// Whether a spec asks for a user namespace of the container's own.
pub(crate) fn has_userns(spec: &Spec) -> bool {
    namespaces(spec).iter().any(|n| n.typ() == LinuxNamespaceType::User)
}

fn missing(section: &str) -> Error {
    Error::Invalid(format!("the spec has no section {section:?}; it is required"))
}

/// Refuses what a process can't get.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    if process.args().as_ref().is_none_or(|a| a.is_empty()) {
        return Err(Error::Invalid("process.args is empty: there is nothing to run".into()));
    }
    let nul = |texts: &Option<Vec<String>>| texts.iter().flatten().any(|t| t.contains('\0'));
    if nul(process.args()) || nul(process.env()) {
        return Err(Error::Invalid("process.args and process.env must not hold NUL bytes".into()));
    }
    let user = process.user();
    let more = user.additional_gids().iter().flatten();
    if more.chain([&user.uid(), &user.gid()]).any(|id| *id == u32::MAX) {
        // For setresuid and its like this number means: leave as it is.
        return Err(Error::Invalid(format!("process.user: {} is not an id", u32::MAX)));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::Invalid(format!(
            "process.cwd {:?} is not an absolute path",
            process.cwd()
        )));
    }
    if process.selinux_label().as_ref().is_some_and(|l| !l.is_empty()) {
        return Err(Error::Unsupported(if Path::new("/sys/fs/selinux/enforce").exists() {
            "process.selinuxLabel: SELinux labels are not implemented; leave it out of the spec"
                .into()
        } else {
            "process.selinuxLabel is given, but SELinux is disabled or not supported on this host"
                .into()
        }));
    }
    if let Some(profile) = process.apparmor_profile().as_ref().filter(|p| !p.is_empty()) {
        let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
        if !enabled.is_ok_and(|s| s.starts_with('Y')) {
            return Err(Error::Unsupported(format!(
                "process.apparmorProfile {profile:?} is given, but this host's kernel has no AppArmor"
            )));
        }
    }
    if let Some(score) = process.oom_score_adj().filter(|n| !(-1000..=1000).contains(n)) {
        return Err(Error::Invalid(format!(
            "process.oomScoreAdj {score} is out of range: -1000 to 1000"
        )));
    }
    check_rlimits(process)
}

/// A limit that can't be reached is refused with a plain text instead of a bare EPERM.
fn check_rlimits(process: &Process) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for limit in process.rlimits().iter().flatten() {
        if !seen.insert(limit.typ().to_string()) {
            return Err(Error::Invalid(format!("rlimit {} is given twice", limit.typ())));
        }
        if limit.soft() > limit.hard() {
            return Err(Error::Invalid(format!(
                "rlimit {}: soft limit above the hard limit",
                limit.typ()
            )));
        }
        let Some(resource) = resource(limit.typ()) else { continue };
        let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `now` is a live rlimit.
        if unsafe { libc::getrlimit(resource, &mut now) } == 0
            && limit.hard() > now.rlim_max
            && !has_capability(CAP_SYS_RESOURCE)
        {
            return Err(Error::Unsupported(format!(
                "rlimit {}: hard limit {} is above the {} that this host's runtime has, and raising it needs CAP_SYS_RESOURCE",
                limit.typ(),
                limit.hard(),
                now.rlim_max
            )));
        }
    }
    Ok(())
}

fn resource(kind: PosixRlimitType) -> Option<libc::__rlimit_resource_t> {
    Some(match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    })
}

const CAP_SYS_RESOURCE: u32 = 24;

/// Whether this process has a capability in effect.
fn has_capability(bit: u32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    line.and_then(|s| u64::from_str_radix(s.trim(), 16).ok())
        .is_some_and(|caps| caps >> bit & 1 == 1)
}

fn check_namespaces(linux: &Linux) -> Result<(), Error> {
    let mut seen = HashSet::new();
    let all = linux.namespaces().iter().flatten();
    for ns in all.clone() {
        if !seen.insert(ns.typ().to_string()) {
            return Err(Error::Invalid(format!("the {} namespace is given twice", ns.typ())));
        }
        if let Some(path) = ns.path()
            && !path.exists()
        {
            return Err(Error::NotFound(format!(
                "{} namespace {}: there is no such file",
                ns.typ(),
                path.display()
            )));
        }
    }
    match all.clone().find(|n| n.typ() == LinuxNamespaceType::Mount) {
        None => Err(Error::Unsupported(
            "a container without a mount namespace of its own is not supported".into(),
        )),
        Some(ns) if ns.path().is_some() => Err(Error::Unsupported(
            "joining another mount namespace by path is not supported".into(),
        )),
        Some(_) => Ok(()),
    }
}

/// libcontainer knows the names without the leading r.
fn propagation_name(name: Option<&str>) -> Result<Option<&'static str>, Error> {
    Ok(Some(match name {
        None | Some("") => return Ok(None),
        Some("shared" | "rshared") => "shared",
        Some("slave" | "rslave") => "slave",
        Some("private" | "rprivate") => "private",
        Some("unbindable" | "runbindable") => "unbindable",
        Some(other) => {
            return Err(Error::Invalid(format!(
                "linux.rootfsPropagation {other:?} is no kind of propagation"
            )));
        }
    }))
}

fn group(path: Option<&Path>, id: &str, options: &Options) -> Result<Group, Error> {
    let path = path.filter(|p| !p.as_os_str().is_empty());
    let Some(path) = path else { return Group::new(&Path::new("gantry").join(id)) };
    let text = path.to_str().unwrap_or_default();
    let parts: Vec<&str> = text.split(':').collect();
    if !options.systemd_cgroup || parts.len() != 3 || text.contains('/') {
        return Group::new(path);
    }
    if Path::new("/run/systemd/system").exists() {
        return Err(Error::Unsupported(
            "systemd's cgroup driver is not implemented; set SystemdCgroup to false and give a cgroupsPath as a path"
                .into(),
        ));
    }
    // No systemd to ask: the same place, made by hand.
    let mut place = PathBuf::new();
    if let Some(slice) = parts[0].strip_suffix(".slice") {
        let mut grown = String::new();
        for part in slice.split('-').filter(|p| !p.is_empty()) {
            grown = if grown.is_empty() { part.to_owned() } else { format!("{grown}-{part}") };
            place.push(format!("{grown}.slice"));
        }
    } else if !parts[0].is_empty() {
        return Err(Error::Invalid(format!(
            "cgroupsPath {text:?}: {:?} does not end in .slice",
            parts[0]
        )));
    }
    place.push(if parts[1].is_empty() {
        parts[2].to_owned()
    } else {
        format!("{}-{}.scope", parts[1], parts[2])
    });
    Group::new(&place)
}

/// A spec changed into what libcontainer is to do of it.
pub(crate) struct Adapted {
    /// config.json for libcontainer.
    pub(crate) config: Vec<u8>,
    /// The process as it will be executed.
    pub(crate) process: Process,
}

/// Takes out what this runtime does itself, and writes the rest down. `cgroup`
/// is the path of the cgroup in what libcontainer finds at `/sys/fs/cgroup`.
pub(crate) fn for_libcontainer(
    mut spec: Spec,
    root: &Path,
    cgroup: Option<&Path>,
) -> Result<Adapted, Error> {
    let mut process = spec.process().clone().ok_or_else(|| missing("process"))?;
    let executed = process.clone();
    // The mounts that only the executor can make need it too.
    adapt_process(&mut process, true);
    spec.set_process(Some(process));
    if let Some(root_section) = spec.root_mut() {
        root_section.set_path(root.to_path_buf());
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.retain(|m| !is_cgroup(m));
    }
    if let Some(linux) = spec.linux_mut() {
        let propagation = propagation_name(linux.rootfs_propagation().as_deref())?;
        linux
            .set_seccomp(None)
            .set_resources(None)
            .set_cgroups_path(cgroup.map(Path::to_owned))
            .set_rootfs_propagation(propagation.map(str::to_owned));
    }
    let config = serde_json::to_vec(&spec)
        .map_err(|e| Error::Failed(format!("write the adapted spec: {e}")))?;
    Ok(Adapted { config, process: executed })
}

/// Whether a mount of the spec is the view of the cgroups.
pub(crate) fn is_cgroup(m: &oci_spec::runtime::Mount) -> bool {
    matches!(m.typ().as_deref(), Some("cgroup" | "cgroup2"))
}

/// The limit of open files of a process that has too few of them for what libcontainer does:
/// they are taken just before execve.
pub(crate) fn few_files(process: &Process) -> Option<PosixRlimit> {
    let mut limits = process.rlimits().iter().flatten();
    limits.find(|limit| is_few_files(limit)).copied()
}

fn is_few_files(limit: &PosixRlimit) -> bool {
    limit.typ() == PosixRlimitType::RlimitNofile && limit.soft() < FILES
}

/// A limit with which libcontainer can do its work.
fn with_files(limit: PosixRlimit) -> PosixRlimit {
    if !is_few_files(&limit) {
        return limit;
    }
    let enough = PosixRlimitBuilder::default().typ(limit.typ()).soft(FILES);
    enough.hard(limit.hard().max(FILES)).build().unwrap_or(limit)
}

/// The changes that every process needs. `admin`: it has privileged work to do
/// just before execve, which is then what takes CAP_SYS_ADMIN away again, since
/// it is added to neither the bounding, nor the inheritable, nor the ambient set.
pub(crate) fn adapt_process(process: &mut Process, admin: bool) {
    // A missing set would be kept as the runtime has it, so each is written out.
    let given = process.capabilities().clone();
    let set = |pick: fn(&LinuxCapabilities) -> &Option<HashSet<Capability>>| {
        given.as_ref().and_then(|c| pick(c).clone()).unwrap_or_default()
    };
    let mut caps = LinuxCapabilities::default();
    let (mut permitted, mut effective) = (set(|c| c.permitted()), set(|c| c.effective()));
    if admin {
        permitted.insert(Capability::SysAdmin);
        effective.insert(Capability::SysAdmin);
    }
    caps.set_bounding(Some(set(|c| c.bounding())))
        .set_inheritable(Some(set(|c| c.inheritable())))
        .set_ambient(Some(set(|c| c.ambient())))
        .set_permitted(Some(permitted))
        .set_effective(Some(effective));
    process.set_capabilities(Some(caps));
    // Some(false) means for libcontainer that a filter is loaded too late to be allowed.
    if process.no_new_privileges() == Some(false) {
        process.set_no_new_privileges(None);
    }
    process.set_oom_score_adj(None).set_selinux_label(None);
    let limits = process.rlimits().clone();
    process.set_rlimits(limits.map(|all| all.into_iter().map(with_files).collect()));
    if process.user().umask().is_none() {
        process.user_mut().set_umask(Some(UMASK));
    }
    if process.apparmor_profile().as_deref() == Some("") {
        process.set_apparmor_profile(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_that_nobody_knows_are_left_out() {
        let text = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","args":["x"],"user":{"uid":0,"gid":0},
            "capabilities":{"bounding":["CAP_CHOWN","CAP_FOO"],"effective":["CAP_FOO"]}}}"#;
        let spec = parse(text).unwrap();
        let capabilities = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
        let bounding = capabilities.bounding().as_ref().unwrap();
        assert_eq!(bounding.iter().collect::<Vec<_>>(), [&Capability::Chown]);
        assert!(capabilities.effective().as_ref().unwrap().is_empty());
        let said = parse(r#"{"ociVersion":1}"#).unwrap_err().to_string();
        assert!(said.contains("invalid type"), "{said}");
    }

    #[test]
    fn the_usual_is_understood() {
        let spec = serde_json::from_str::<Spec>(USUAL).unwrap();
        check_process(spec.process().as_ref().unwrap()).unwrap();
        assert!(has_own_pids(&spec) && !has_userns(&spec));
    }

    #[test]
    fn libcontainer_has_files_enough() {
        let limit = |typ: PosixRlimitType, soft: u64, hard: u64| {
            let limit = PosixRlimitBuilder::default().typ(typ).soft(soft).hard(hard);
            limit.build().unwrap()
        };
        let files = |soft, hard| limit(PosixRlimitType::RlimitNofile, soft, hard);
        let core = limit(PosixRlimitType::RlimitCore, 0, 0);
        for (asked, few, seen) in [
            (files(5, 5), Some(files(5, 5)), files(FILES, FILES)),
            (files(5, 1024), Some(files(5, 1024)), files(FILES, 1024)),
            (files(1024, 1024), None, files(1024, 1024)),
        ] {
            let mut process = Process::default();
            process.set_rlimits(Some(vec![core, asked]));
            assert_eq!(few_files(&process), few);
            adapt_process(&mut process, false);
            assert_eq!(process.rlimits(), &Some(vec![core, seen]));
        }
    }

    #[test]
    fn scores_that_the_kernel_does_not_know() {
        let mut process = Process::default();
        for (score, ok) in [(1000, true), (-1000, true), (1001, false), (-1001, false)] {
            process.set_oom_score_adj(Some(score));
            assert_eq!(check_process(&process).is_ok(), ok, "{score}");
        }
    }
}
