//! The device program of cgroup v2: written, loaded and attached with bpf(2).

use super::devices::Policy;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// One eBPF instruction: opcode, registers (source in the high half), offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Insn {
    code: u8,
    regs: u8,
    off: i16,
    imm: i32,
}

const LDX_W: u8 = 0x61;
const MOV32_REG: u8 = 0xbc;
const MOV64_IMM: u8 = 0xb7;
const AND32_IMM: u8 = 0x54;
const RSH32_IMM: u8 = 0x74;
const JNE_IMM: u8 = 0x55;
const JNE_REG: u8 = 0x5d;
const JEQ_IMM: u8 = 0x15;
const EXIT: u8 = 0x95;

/// Registers: 2 device type, 3 access, 4 major, 5 minor, 1 scratch.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 1;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn { code, regs: (src << 4) | dst, off, imm }
}

fn leave(allow: bool) -> [Insn; 2] {
    [insn(MOV64_IMM, 0, 0, 0, i32::from(allow)), insn(EXIT, 0, 0, 0, 0)]
}

/// Writes the program that decides as `policy` does. `None` when it would not
/// fit into the kernel's limit.
pub(crate) fn compile(policy: &Policy) -> Option<Vec<Insn>> {
    // struct bpf_cgroup_dev_ctx: u32 access << 16 | type, u32 major, u32 minor, by register 1.
    let mut program = vec![
        insn(LDX_W, TYPE, 1, 0, 0),
        insn(MOV32_REG, ACCESS, TYPE, 0, 0),
        insn(RSH32_IMM, ACCESS, 0, 0, 16),
        insn(AND32_IMM, TYPE, 0, 0, 0xffff),
        insn(LDX_W, MAJOR, 1, 4, 0),
        insn(LDX_W, MINOR, 1, 8, 0),
    ];
    for rule in &policy.exceptions {
        let mut tests = Vec::new();
        if let Some(kind) = rule.kind {
            tests.push((TYPE, if kind == 'b' { 1 } else { 2 }));
        }
        tests.extend(rule.major.map(|n| (MAJOR, n as i32)));
        tests.extend(rule.minor.map(|n| (MINOR, n as i32)));
        // Behind the tests: three instructions on access, two that leave.
        let whole = tests.len() + 5;
        for (i, (register, value)) in tests.iter().enumerate() {
            let skip = i16::try_from(whole - i - 1).ok()?;
            program.push(insn(JNE_IMM, *register, 0, skip, *value));
        }
        program.push(insn(MOV32_REG, SCRATCH, ACCESS, 0, 0));
        program.push(insn(AND32_IMM, SCRATCH, 0, 0, i32::from(rule.access)));
        program.push(if policy.default_allow {
            // Denied as soon as one wanted kind of access is in the rule.
            insn(JEQ_IMM, SCRATCH, 0, 2, 0)
        } else {
            // Allowed only when every wanted kind of access is.
            insn(JNE_REG, SCRATCH, ACCESS, 2, 0)
        });
        program.extend(leave(!policy.default_allow));
    }
    program.extend(leave(policy.default_allow));
    (program.len() <= 4096).then_some(program)
}

/// bpf(2) with an attribute block of `u64`s.
fn bpf(command: i32, attr: &mut [u64]) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is live and its length in bytes is passed along; what it
    // points to is kept alive by the callers.
    let r = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if r < 0 { Err(io::Error::last_os_error()) } else { Ok(r) }
}

/// Loads a device program into the kernel.
pub(crate) fn load(program: &[Insn]) -> io::Result<OwnedFd> {
    const PROG_LOAD: i32 = 5;
    const TYPE_CGROUP_DEVICE: u64 = 15;
    let licence = c"Apache-2.0";
    // prog_type, insn_cnt; insns; license; log_level, log_size; log_buf;
    // kern_version, prog_flags; prog_name (16 bytes).
    let mut attr = [0u64; 8];
    attr[0] = TYPE_CGROUP_DEVICE | (program.len() as u64) << 32;
    attr[1] = program.as_ptr() as u64;
    attr[2] = licence.as_ptr() as u64;
    attr[6] = u64::from_ne_bytes(*b"gantry_d");
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Attaches a device program to a cgroup directory. The cgroup keeps it alive.
pub(crate) fn attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    const PROG_ATTACH: i32 = 8;
    const CGROUP_DEVICE: u64 = 6;
    const ALLOW_MULTI: u64 = 2;
    // target_fd, attach_bpf_fd; attach_type, attach_flags.
    let mut attr = [
        cgroup.as_raw_fd() as u64 | (program.as_raw_fd() as u64) << 32,
        CGROUP_DEVICE | ALLOW_MULTI << 32,
    ];
    bpf(PROG_ATTACH, &mut attr).map(drop)
}

#[cfg(test)]
mod tests {
    use super::super::devices::{MKNOD, Policy, READ, Rule, WRITE};
    use super::*;

    /// Runs a program as the kernel would.
    fn simulate(program: &[Insn], kind: char, major: u32, minor: u32, access: u8) -> Option<bool> {
        let word = u32::from(access) << 16 | if kind == 'b' { 1 } else { 2 };
        let context = [word, major, minor];
        let mut regs = [0u32; 11];
        let mut at = 0usize;
        // The kernel's checker allows no loop, so every program ends.
        for _ in 0..=program.len() {
            let i = program.get(at)?;
            let (dst, src) = (usize::from(i.regs & 15), usize::from(i.regs >> 4));
            let imm = i.imm as u32;
            at += 1;
            let jump = match i.code {
                LDX_W => {
                    regs[dst] = *context.get(usize::try_from(i.off).ok()? / 4)?;
                    false
                }
                MOV32_REG => {
                    regs[dst] = regs[src];
                    false
                }
                MOV64_IMM => {
                    regs[dst] = imm;
                    false
                }
                AND32_IMM => {
                    regs[dst] &= imm;
                    false
                }
                RSH32_IMM => {
                    regs[dst] >>= imm;
                    false
                }
                JNE_IMM => regs[dst] != imm,
                JNE_REG => regs[dst] != regs[src],
                JEQ_IMM => regs[dst] == imm,
                EXIT => return Some(regs[0] != 0),
                _ => return None,
            };
            if jump {
                at = at.checked_add_signed(isize::from(i.off))?;
            }
        }
        None
    }

    fn policy(default_allow: bool, exceptions: Vec<Rule>) -> Vec<Insn> {
        compile(&Policy { default_allow, exceptions }).unwrap_or_default()
    }

    #[test]
    fn an_allow_list_lets_through_what_it_names_only() {
        let allow = |kind, major, minor, access| Rule {
            allow: true,
            kind: Some(kind),
            major,
            minor,
            access,
        };
        let p = policy(
            false,
            vec![
                allow('c', Some(1), Some(3), READ | WRITE),
                allow('c', Some(136), None, 7),
                allow('b', None, None, MKNOD),
            ],
        );
        let ask = |kind, major, minor, access| simulate(&p, kind, major, minor, access);
        assert_eq!(ask('c', 1, 3, READ), Some(true));
        assert_eq!(ask('c', 1, 3, READ | WRITE), Some(true));
        assert_eq!(ask('c', 1, 3, MKNOD), Some(false));
        assert_eq!(ask('c', 1, 5, READ), Some(false));
        assert_eq!(ask('b', 1, 3, READ), Some(false));
        assert_eq!(ask('b', 8, 0, MKNOD), Some(true));
        assert_eq!(ask('c', 136, 9, READ), Some(true));
    }

    #[test]
    fn a_deny_list_stops_what_it_names_only() {
        let p = policy(
            true,
            vec![Rule {
                allow: false,
                kind: Some('c'),
                major: Some(10),
                minor: Some(200),
                access: READ | WRITE,
            }],
        );
        assert_eq!(simulate(&p, 'c', 10, 200, READ), Some(false));
        assert_eq!(simulate(&p, 'c', 10, 200, READ | MKNOD), Some(false));
        assert_eq!(simulate(&p, 'c', 10, 200, MKNOD), Some(true));
        assert_eq!(simulate(&p, 'c', 1, 3, READ), Some(true));
    }

    /// The kernel takes the program and obeys it, where a cgroup v2 hierarchy is
    /// mounted, alone or beside v1.
    #[test]
    fn gap_19_v2_device_rules() {
        use std::os::fd::AsFd;
        use std::process::Command;
        let rules = super::super::devices::effective(
            &serde_json::from_str::<Vec<_>>(r#"[{"allow":false,"access":"rwm"}]"#)
                .unwrap_or_default(),
        );
        let program = compile(&Policy::new(&rules.unwrap_or_default())).unwrap_or_default();
        let loaded = load(&program);
        assert!(loaded.is_ok(), "{loaded:?}");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let point = mounts
            .lines()
            .map(|l| l.split(' ').collect::<Vec<_>>())
            .find(|f| f.get(2) == Some(&"cgroup2"));
        let Some(point) = point.and_then(|f| f.get(1).map(std::path::PathBuf::from)) else {
            return;
        };
        let dir = point.join(format!("gantry-bpf-{}", std::process::id()));
        assert!(std::fs::create_dir(&dir).is_ok());
        let attached = std::fs::File::open(&dir)
            .and_then(|d| loaded.and_then(|p| attach(p.as_fd(), d.as_fd())));
        let script = "echo $$ > $0/cgroup.procs; : < /dev/zero && echo zero; : < /dev/kmsg && echo kmsg; : < /dev/net/tun && echo tun";
        let out = Command::new("sh").args(["-c", script]).arg(&dir).output();
        assert!(std::fs::remove_dir(&dir).is_ok());
        assert!(attached.is_ok(), "{attached:?}");
        let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        assert_eq!(text, "zero\n");
    }
}
