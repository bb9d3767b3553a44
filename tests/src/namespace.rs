use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use crate::{Output, run};

/// A network namespace, which lives as long as this value or a process in it. The machine's own is
/// never changed: what is done here is done in there.
#[derive(Debug)]
pub struct Namespace {
    network: File,
    /// Mounts of its own, where it has any.
    mounts: Option<File>,
}

impl Namespace {
    /// A new one, with nothing in it but loopback, which is up.
    pub fn new() -> Self {
        Self::made(CloneFlags::CLONE_NEWNET, || {})
    }

    /// A new one whose processes read this file in place of the machine's /etc/resolv.conf.
    pub fn with_resolv_conf(file: &Path) -> Self {
        Self::made(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, || {
            let (none, all) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE);
            // What is mounted here is nobody else's.
            mount(none, "/", none, all, none).expect("keep mounts here");
            mount(Some(file), "/etc/resolv.conf", none, MsFlags::MS_BIND, none)
                .expect("put a resolv.conf in place");
        })
    }

    /// That of a process.
    pub fn of(pid: u32) -> Self {
        let network = File::open(format!("/proc/{pid}/ns/net")).expect("open a network namespace");
        Self { network, mounts: None }
    }

    fn made(flags: CloneFlags, prepare: impl FnOnce() + Send) -> Self {
        let make = || {
            unshare(flags).expect("make a namespace, as root");
            prepare();
            let open = |kind: &str| {
                File::open(format!("/proc/thread-self/ns/{kind}")).expect("open a namespace")
            };
            let mounts = flags.contains(CloneFlags::CLONE_NEWNS).then(|| open("mnt"));
            Self { network: open("net"), mounts }
        };
        let made = on_a_thread(make);
        made.run("ip link set lo up");
        made
    }

    /// Does something in it, on a thread of its own.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(&self.network, CloneFlags::CLONE_NEWNET).expect("enter a network namespace");
            work()
        })
    }

    /// Has a command run in it.
    pub fn enter(&self, command: &mut Command) {
        let share = |file: &File| file.try_clone().expect("share a namespace");
        let (network, mounts) = (share(&self.network), self.mounts.as_ref().map(share));
        // SAFETY: setns is async-signal-safe, and nothing else is called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                setns(&network, CloneFlags::CLONE_NEWNET)?;
                if let Some(mounts) = &mounts {
                    setns(mounts, CloneFlags::CLONE_NEWNS)?;
                }
                Ok(())
            });
        }
    }

    /// A command in it.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        self.enter(&mut command);
        command
    }

    /// Runs a line of words in it, which must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> Output {
        run(&mut self.command(&line.split_whitespace().collect::<Vec<_>>())).ok()
    }

    /// Runs a line of the shell in it.
    pub fn shell(&self, line: &str) -> Output {
        run(&mut self.command(&["sh", "-c", line]))
    }

    /// Sets a parameter of the kernel below `/proc/sys/net`.
    pub fn set(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| std::fs::write(&path, value).unwrap_or_else(|err| panic!("{path}: {err}")));
    }

    /// Its number, as processes in it tell it: `net:[4026531840]`.
    pub fn number(&self) -> String {
        format!("net:[{}]", self.network.metadata().expect("look at a namespace").ino())
    }

    /// A path by which other programs can open it, while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.network.as_raw_fd())
    }

    /// Names of its interfaces.
    pub fn links(&self) -> Vec<String> {
        let shown = self.run("ip -o link show").stdout;
        let name = |line: &str| {
            let name = line.split(": ").nth(1).expect("a name");
            name.split('@').next().unwrap_or(name).to_owned()
        };
        shown.lines().map(name).collect()
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

/// A thread that changes where it is ends with its work.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
