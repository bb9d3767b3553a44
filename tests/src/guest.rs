use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::processes::{Owned, own};
use crate::{paths, run_within};

/// An emulated machine with cgroup v2 that sees this machine's files. Emulation is slow:
/// what it does counts, not how long it takes.
pub struct Guest {
    child: Owned,
    serial: PathBuf,
}

/// Kernel and initramfs, made once and kept.
fn fixture() -> PathBuf {
    let dir = paths::fixtures().join("guest");
    let lock = std::fs::File::create(paths::fixtures().join("guest.lock")).expect("make a lock");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock");
    if !dir.join("initramfs").exists() {
        let script = paths::source().join("tests/fixtures/guest");
        run_within(Command::new(script).arg(&dir), Duration::from_secs(600)).ok();
    }
    dir
}

impl Guest {
    /// Boots a guest that runs this shell script as its first process, with `shared`, the
    /// directory in which it lies as `guest.sh`, at /mnt/run, and `disk` as /dev/vda.
    pub fn boot(shared: &Path, script: &str, disk: Option<&Path>) -> Self {
        let fixture = fixture();
        let preamble = "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
                        mount -t proc proc /proc\n";
        let end = "sync\necho o >/proc/sysrq-trigger\nsleep 60\n";
        std::fs::write(shared.join("guest.sh"), format!("{preamble}{script}\n{end}"))
            .expect("write the script");
        let serial = shared.join("serial");
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "6144"]);
        command.args([
            "-nodefaults",
            "-nographic",
            "-no-reboot",
            "-append",
            "console=ttyS0 quiet panic=-1",
        ]);
        command.arg("-serial").arg(format!("file:{}", serial.display()));
        command
            .arg("-kernel")
            .arg(fixture.join("kernel"))
            .arg("-initrd")
            .arg(fixture.join("initramfs"));
        command.args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ]);
        command.args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]);
        command
            .arg("-fsdev")
            .arg(format!("local,id=run,path={},security_model=none", shared.display()));
        command.args(["-device", "virtio-9p-pci,fsdev=run,mount_tag=run"]);
        if let Some(disk) = disk {
            command.arg("-drive").arg(format!("file={},format=raw,if=virtio", disk.display()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { child: own(&mut command).expect("qemu starts"), serial }
    }

    /// Waits until it has powered off.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) {
        let code = self.child.wait_within(limit);
        assert_eq!(code, Some(0), "the guest does not end; its console:\n{}", self.console());
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.child.wait_within(Duration::ZERO).is_none()
    }

    /// Takes its power away.
    pub fn kill(&mut self) {
        self.child.kill();
    }

    /// What it has printed.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.serial).unwrap_or_default()).into_owned()
    }
}
