//! Seccomp filters: compiled once, cached, loaded last.
//!
//! Compiling a profile takes longer than everything else that makes a
//! container, so the finished BPF program is kept in a file named after the
//! profile's digest.

use super::sys;
use super::types::Error;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// So many programs are kept: whoever runs containers may bring profiles without end.
const KEPT: usize = 64;
/// The kernel's limit on the length of a program.
const MAX_INSNS: usize = 4096;
const INSN: usize = size_of::<libc::sock_filter>();

/// A filter ready to be loaded.
#[derive(Clone)]
pub(crate) struct Filter {
    program: Vec<libc::sock_filter>,
    flags: libc::c_ulong,
    lets_read: bool,
}

/// Refuses by name what cannot be honoured, before anything happens.
pub(crate) fn check(section: &LinuxSeccomp) -> Result<(), Error> {
    let notify = LinuxSeccompAction::ScmpActNotify;
    let rules = section.syscalls().iter().flatten();
    if section.default_action() == notify
        || section.listener_path().is_some()
        || rules.clone().any(|r| r.action() == notify)
    {
        return Err(Error::Unsupported(
            "seccomp: SCMP_ACT_NOTIFY and listenerPath are not implemented; use another action"
                .into(),
        ));
    }
    for flag in section.flags().iter().flatten() {
        kernel_flag(*flag)?;
    }
    for arch in section.architectures().iter().flatten() {
        architecture(*arch)?;
    }
    Ok(())
}

/// The program for a profile, from the cache or compiled and put there.
pub(crate) fn filter(section: &LinuxSeccomp, cache: &Path) -> Result<Filter, Error> {
    check(section)?;
    let flags =
        section.flags().iter().flatten().try_fold(0, |all, f| kernel_flag(*f).map(|f| all | f))?;
    let lets_read = lets(section, "read");
    let place = entry(section, cache)?;
    let usable = directory(cache);
    if let Err(e) = &usable {
        tracing::warn!("seccomp cache {} is not used: {e}", cache.display());
    } else if let Some(program) = cached(&place) {
        return Ok(Filter { program, flags, lets_read });
    }
    let bytes = compile(section)?;
    let program = decode(&bytes).ok_or_else(|| {
        Error::Invalid("seccomp: the profile makes a program too long for the kernel".into())
    })?;
    if usable.is_ok() {
        if let Err(e) = store(&place, &bytes) {
            tracing::warn!("seccomp program {} is not kept: {e}", place.display());
        }
        if let Err(e) = prune(cache) {
            tracing::warn!("seccomp cache {} is not cleared: {e}", cache.display());
        }
    }
    Ok(Filter { program, flags, lets_read })
}

/// Whether a profile lets a call through, whatever its arguments are.
fn lets(section: &LinuxSeccomp, call: &str) -> bool {
    let allow = LinuxSeccompAction::ScmpActAllow;
    let rules = section.syscalls().iter().flatten();
    let mut rules = rules.filter(|rule| rule.names().iter().any(|name| name == call)).peekable();
    let named = rules.peek().is_some();
    let plain = |rule: &LinuxSyscall| {
        rule.action() == allow && rule.args().as_ref().is_none_or(|args| args.is_empty())
    };
    (named || section.default_action() == allow) && rules.all(plain)
}

impl Filter {
    /// Whether the process can still read once it is loaded.
    pub(crate) fn lets_read(&self) -> bool {
        self.lets_read
    }

    /// Loads the filter into the calling process. It needs CAP_SYS_ADMIN or
    /// no_new_privs, and is for good.
    pub(crate) fn load(&self) -> io::Result<()> {
        const SET_MODE_FILTER: libc::c_uint = 1;
        let program = libc::sock_fprog {
            len: self.program.len() as u16,
            filter: self.program.as_ptr().cast_mut(),
        };
        // SAFETY: `program` describes a live array of `len` instructions, which
        // the kernel only reads.
        let r = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, self.flags, &program) };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

fn entry(section: &LinuxSeccomp, cache: &Path) -> Result<PathBuf, Error> {
    let text = serde_json::to_vec(section)
        .map_err(|e| Error::Failed(format!("seccomp: write the profile: {e}")))?;
    let mut sum = Sha256::new();
    sum.update(&text);
    sum.update(std::env::consts::ARCH);
    sum.update(env!("CARGO_PKG_VERSION"));
    let mut name = String::with_capacity(68);
    for byte in sum.finalize() {
        // Writing into a String never fails.
        let _ = write!(name, "{byte:02x}");
    }
    Ok(cache.join(name + ".bpf"))
}

/// Makes the cache directory and sees that nobody else can write to it.
fn directory(cache: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let meta = std::fs::symlink_metadata(cache)?;
    if !meta.is_dir() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(io::Error::other("it is not a directory that only root can write to"));
    }
    Ok(())
}

fn cached(place: &Path) -> Option<Vec<libc::sock_filter>> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut file = std::fs::OpenOptions::new().read(true).custom_flags(flags).open(place).ok()?;
    let meta = file.metadata().ok()?;
    if !meta.is_file()
        || meta.uid() != 0
        || meta.mode() & 0o022 != 0
        || meta.len() > (MAX_INSNS * INSN) as u64
    {
        return None;
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize);
    file.read_to_end(&mut bytes).ok()?;
    decode(&bytes)
}

fn store(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = place.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&tmp)?;
    file.write_all(bytes)?;
    drop(file);
    std::fs::rename(&tmp, place)
}

/// Removes the oldest programs beyond those that are kept, and with them what a worker that was
/// killed has left half-written. No container needs its program any more; one that is wanted
/// again is compiled again.
fn prune(cache: &Path) -> io::Result<()> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        let path = entry.path();
        if !path.extension().is_some_and(|kind| kind == "bpf" || kind == "tmp") {
            continue;
        }
        // Another worker may have removed it just now.
        if let Ok(written) = entry.metadata().and_then(|meta| meta.modified()) {
            all.push((written, path));
        }
    }
    all.sort_unstable();
    all.truncate(all.len().saturating_sub(KEPT));
    for (_, path) in all {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn decode(bytes: &[u8]) -> Option<Vec<libc::sock_filter>> {
    let whole =
        !bytes.is_empty() && bytes.len().is_multiple_of(INSN) && bytes.len() / INSN <= MAX_INSNS;
    whole.then(|| {
        bytes
            .chunks_exact(INSN)
            .map(|c| libc::sock_filter {
                code: u16::from_ne_bytes([c[0], c[1]]),
                jt: c[2],
                jf: c[3],
                k: u32::from_ne_bytes([c[4], c[5], c[6], c[7]]),
            })
            .collect()
    })
}

fn compile(section: &LinuxSeccomp) -> Result<Vec<u8>, Error> {
    let failed = |what: &str, e: libseccomp::error::SeccompError| {
        Error::Failed(format!("seccomp: {what}: {e}"))
    };
    let default = action(section.default_action(), section.default_errno_ret())?;
    let mut filter = ScmpFilterContext::new(default).map_err(|e| failed("begin the filter", e))?;
    filter.set_ctl_nnp(false).map_err(|e| failed("leave no_new_privs alone", e))?;
    // 2: a binary tree over the system call numbers, in place of one test after the other.
    filter.set_ctl_optimize(2).map_err(|e| failed("optimise the filter", e))?;
    for arch in section.architectures().iter().flatten() {
        filter.add_arch(architecture(*arch)?).map_err(|e| failed("add an architecture", e))?;
    }
    for rule in section.syscalls().iter().flatten() {
        let wanted = action(rule.action(), rule.errno_ret())?;
        if wanted == default {
            continue;
        }
        for name in rule.names() {
            // A name that this libseccomp does not know is a call of a newer kernel.
            let Ok(call) = ScmpSyscall::from_name(name) else { continue };
            for conditions in conditions(rule.args().as_deref().unwrap_or_default()) {
                filter
                    .add_rule_conditional(wanted, call, &conditions)
                    .map_err(|e| failed(name, e))?;
            }
        }
    }
    let memory = sys_memfd().map_err(|e| Error::io("seccomp: make a memory file", e))?;
    filter.export_bpf(&memory).map_err(|e| failed("write the program", e))?;
    let mut bytes = Vec::new();
    let mut memory = memory;
    io::Seek::rewind(&mut memory)
        .and_then(|()| memory.read_to_end(&mut bytes))
        .map_err(|e| Error::io("seccomp: read the program", e))?;
    Ok(bytes)
}

fn sys_memfd() -> io::Result<std::fs::File> {
    use std::os::fd::{FromRawFd, OwnedFd};
    let name = sys::cstr("seccomp")?;
    // SAFETY: the name ends with NUL.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// The conditions of one rule. All of them must hold; but libseccomp takes one
/// per argument, so several on the same argument become rules of their own.
fn conditions(args: &[LinuxSeccompArg]) -> Vec<Vec<ScmpArgCompare>> {
    let mut seen = std::collections::HashSet::new();
    let repeated = args.iter().any(|a| !seen.insert(a.index()));
    let all = args.iter().map(|a| {
        let (op, datum) = match a.op() {
            LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, a.value()),
            LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, a.value()),
            LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, a.value()),
            LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, a.value()),
            // The spec's `value` is the mask and `valueTwo` what is compared with.
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (ScmpCompareOp::MaskedEqual(a.value()), a.value_two().unwrap_or(0))
            }
        };
        ScmpArgCompare::new(a.index() as u32, op, datum)
    });
    if repeated { all.map(|c| vec![c]).collect() } else { vec![all.collect()] }
}

fn action(a: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, Error> {
    let number = errno.unwrap_or(libc::EPERM as u32);
    Ok(match a {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            ScmpAction::KillThread
        }
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(number as i32),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(number as u16),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(Error::Unsupported("seccomp: SCMP_ACT_NOTIFY".into()));
        }
    })
}

fn kernel_flag(flag: LinuxSeccompFilterFlag) -> Result<libc::c_ulong, Error> {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(1),
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => Ok(2),
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => Ok(4),
        #[allow(unreachable_patterns, reason = "WAIT_KILLABLE_RECV belongs to SCMP_ACT_NOTIFY")]
        other => Err(Error::Unsupported(format!("seccomp: the flag {other:?} is not implemented"))),
    }
}

fn architecture(arch: Arch) -> Result<ScmpArch, Error> {
    Ok(match arch {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        other => {
            return Err(Error::Unsupported(format!(
                "seccomp: the architecture {other:?} is not known here"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    #[test]
    fn calls_that_are_let_through() {
        let lets = |default: &str, rules: serde_json::Value| {
            let text = serde_json::json!({"defaultAction": default, "syscalls": rules});
            lets(&serde_json::from_value(text).unwrap(), "read")
        };
        let rule = |action: &str, args: serde_json::Value| serde_json::json!({"names": ["open", "read"], "action": action, "args": args});
        let (allow, deny) = ("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO");
        let some = serde_json::json!([{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]);
        let none = serde_json::json!([]);
        assert!(lets(deny, [rule(allow, none.clone())].into()));
        assert!(lets(allow, none.clone()));
        assert!(!lets(deny, none.clone()));
        assert!(!lets(deny, [rule(allow, some.clone())].into()));
        assert!(!lets(allow, [rule(deny, some)].into()));
        assert!(!lets(deny, [rule(allow, none.clone()), rule(deny, none)].into()));
    }

    #[test]
    fn the_oldest_programs_go() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let write = |name: &str, seconds: u64| {
            let file = std::fs::File::create(at(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        write("half.7.tmp", 1);
        write("other", 1);
        (0..KEPT).for_each(|n| write(&format!("{n}.bpf"), 10 + n as u64));
        prune(dir.path()).unwrap();
        assert!(!at("half.7.tmp").exists() && at("0.bpf").exists() && at("other").exists());
        // The newest one is the one that has just been made.
        write("new.bpf", 5000);
        write("newer.bpf", 6000);
        prune(dir.path()).unwrap();
        assert!(!at("0.bpf").exists() && !at("1.bpf").exists() && at("2.bpf").exists());
        assert!(at("new.bpf").exists() && at("newer.bpf").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), KEPT + 1);
        assert!(prune(&at("missing")).is_err());
    }
}
