//! A root filesystem, specs, and a container to try things in.

use gantry_shim::runtime::{
    ContainerState, CreateSpec, Created, Error, ExecSpec, Options, RootfsMount, Runtime, Stdio,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where things that are kept between runs lie.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("fixtures")
}

/// A Debian busybox with its libraries, as an unpacked image. Made once.
pub(crate) fn image() -> PathBuf {
    let image = cache().join("busybox");
    if image.join("complete").exists() {
        return image;
    }
    let work = cache().join(format!("busybox.{}", std::process::id()));
    let script = r#"
set -e
mkdir -p "$1/deb" "$1/root" && cd "$1/deb"
apt-get download busybox >/dev/null 2>&1
dpkg -x busybox_*.deb "$1/deb/out"
cd "$1/root" && mkdir -p bin etc proc sys dev tmp root srv var lib lib64 run
cp "$1/deb/out/bin/busybox" bin/busybox
for lib in $(ldd bin/busybox | grep -o '/[^ ]*'); do mkdir -p ".$(dirname $lib)"; cp -L "$lib" ".$lib"; done
for applet in $(./bin/busybox --list); do [ -e bin/$applet ] || ln -s busybox bin/$applet; done
printf 'root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n' > etc/passwd
printf 'root:x:0:\nweb:x:44:\nlogs:x:50:web\n' > etc/group
printf 'no shebang\n' > bin/plain; chmod 755 bin/plain
printf '#!/bin/sh\necho hi\n' > bin/unexecutable; chmod 644 bin/unexecutable
chmod 1777 tmp; chmod 700 root; touch complete
"#;
    let made = Command::new("sh").args(["-c", script, "image"]).arg(&work).status();
    assert!(made.is_ok_and(|s| s.success()), "can't make an image from Debian's busybox package");
    // Another run may have been faster: then its image is as good.
    if fs::rename(work.join("root"), &image).is_err() {
        assert!(image.join("complete").exists(), "no image in {}", image.display());
    }
    fs::remove_dir_all(&work).ok();
    image
}

/// Docker's capabilities.
pub(crate) const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A spec like Docker's, running `args`.
pub(crate) fn spec(args: &[&str]) -> Value {
    let mount = |to: &str, kind: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": kind, "options": options});
    let hard = ["nosuid", "noexec", "nodev"];
    json!({
        "ociVersion": "1.1.0",
        "hostname": "inside",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "capabilities": {"bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES},
        },
        "mounts": [
            mount("/proc", "proc", &hard),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", &hard),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                           {"type": "cgroup"}, {"type": "network"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A profile that refuses to make directories and to change modes, with all else allowed.
pub(crate) fn profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    })
}

/// A runtime, a bundle, and the exits seen so far.
pub(crate) struct Lab {
    pub(crate) runtime: Runtime,
    pub(crate) bundle: PathBuf,
    pub(crate) id: String,
    /// The root filesystem: an overlay on the image unless a test wants another.
    pub(crate) mounts: Vec<RootfsMount>,
    tokio: tokio::runtime::Runtime,
    exits: HashMap<i32, i32>,
    dir: tempfile::TempDir,
}

/// What a process said and how it ended.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) out: String,
    pub(crate) status: i32,
}

impl Lab {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("gantry-lab-")
            .tempdir()
            .expect("a temporary directory");
        let bundle = dir.path().join("bundle");
        for sub in ["bundle/rootfs", "upper", "work"] {
            fs::create_dir_all(dir.path().join(sub)).expect("directories in a new directory");
        }
        let id = format!("lab-{}", std::process::id());
        let tokio = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("an event loop");
        // A process of its own without a pid namespace would be init's child otherwise.
        // SAFETY: takes integers only.
        unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        let runtime = Runtime::open().expect("a host with cgroups");
        let mut lab =
            Self { runtime, bundle, id, tokio, exits: HashMap::new(), mounts: Vec::new(), dir };
        lab.mounts = lab.overlay();
        lab
    }

    /// A directory on the host for the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The overlay on the image.
    fn overlay(&self) -> Vec<RootfsMount> {
        let layers = format!("lowerdir={}", image().display());
        let upper = format!("upperdir={}", self.path("upper").display());
        let work = format!("workdir={}", self.path("work").display());
        vec![RootfsMount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec![layers, upper, work],
        }]
    }

    pub(crate) fn block_on<F: Future>(&self, f: F) -> F::Output {
        self.tokio.block_on(f)
    }

    fn write_spec(&self, spec: &Value) {
        let mut spec = spec.clone();
        if spec["linux"]["cgroupsPath"].is_null() {
            spec["linux"]["cgroupsPath"] = format!("/gantry-test/{}", self.id).into();
        }
        fs::write(self.bundle.join("config.json"), spec.to_string()).expect("a bundle to write to");
    }

    pub(crate) fn create_with(
        &self,
        spec: &Value,
        stdio: Stdio,
        options: Options,
    ) -> Result<Created, Error> {
        self.write_spec(spec);
        let request = CreateSpec {
            id: self.id.clone(),
            bundle: self.bundle.clone(),
            rootfs: self.mounts.clone(),
            stdio,
            options,
        };
        self.block_on(self.runtime.create(request))
    }

    /// Creates with stdout and stderr on a pipe, whose read end comes back.
    pub(crate) fn create(&self, spec: &Value) -> Result<(Created, fs::File), Error> {
        let (reader, writer) = pipe();
        let stderr = writer.try_clone().expect("one more descriptor");
        let stdio = Stdio::Fds { stdin: None, stdout: Some(writer), stderr: Some(stderr) };
        self.create_with(spec, stdio, Options::default()).map(|c| (c, reader))
    }

    /// Creates and starts.
    pub(crate) fn start(&mut self, spec: &Value) -> Live<'_> {
        let (created, out) = self.create(spec).unwrap_or_else(|e| panic!("create: {e}"));
        self.block_on(self.runtime.start(&created.state)).unwrap_or_else(|e| panic!("start: {e}"));
        Live { lab: self, c: created.state, out }
    }

    /// Runs a container from create to delete.
    pub(crate) fn run(&mut self, spec: &Value) -> Done {
        self.start(spec).finish()
    }

    /// Runs a shell script in a container.
    pub(crate) fn sh(&mut self, change: impl FnOnce(&mut Value), script: &str) -> Done {
        let mut s = spec(&["sh", "-c", script]);
        change(&mut s);
        self.run(&s)
    }

    /// Waits for a child, keeping what else ends meanwhile.
    pub(crate) fn wait(&mut self, pid: i32) -> i32 {
        loop {
            if let Some(status) = self.exits.remove(&pid) {
                return status;
            }
            let mut status = 0;
            // SAFETY: `status` is a live integer.
            let done = unsafe { libc::waitpid(-1, &mut status, 0) };
            assert!(done > 0, "pid {pid} is no child any more");
            let code = if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                128 + libc::WTERMSIG(status)
            };
            self.exits.insert(done, code);
        }
    }

    pub(crate) fn delete(&self, c: ContainerState) {
        self.block_on(self.runtime.delete(c)).unwrap_or_else(|e| panic!("delete: {e}"));
    }

    /// What is left of the container in cgroups and in the bundle.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for h in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            let at = h.path().join("gantry-test").join(&self.id);
            if at.exists() {
                left.push(at.display().to_string());
            }
        }
        for name in [".libcontainer", "shim.json"] {
            if self.bundle.join(name).exists() {
                left.push(name.into());
            }
        }
        left
    }
}

/// A started container.
pub(crate) struct Live<'a> {
    pub(crate) lab: &'a mut Lab,
    pub(crate) c: ContainerState,
    out: fs::File,
}

impl Live<'_> {
    /// Executes a process given as changes to the spec's own.
    pub(crate) fn try_exec(&mut self, process: &Value) -> Result<Done, Error> {
        let (mut reader, writer) = pipe();
        let stderr = writer.try_clone().expect("one more descriptor");
        let stdio = Stdio::Fds { stdin: None, stdout: Some(writer), stderr: Some(stderr) };
        let request =
            ExecSpec { exec_id: "e".into(), process: process.to_string().into_bytes(), stdio };
        let made = self.lab.block_on(self.lab.runtime.exec(&self.c, request))?;
        let mut out = String::new();
        reader.read_to_string(&mut out).expect("output to read");
        Ok(Done { out, status: self.lab.wait(made.pid) })
    }

    /// Executes four processes at once; gives how each ended.
    pub(crate) fn four_at_once(&mut self, process: &Value) -> Vec<i32> {
        let request = |n: u32| ExecSpec {
            exec_id: format!("e{n}"),
            process: process.to_string().into_bytes(),
            stdio: Stdio::Fds { stdin: None, stdout: None, stderr: None },
        };
        let (runtime, c) = (&self.lab.runtime, &self.c);
        let made = self.lab.block_on(async {
            let (a, b, c, d) = tokio::join!(
                runtime.exec(c, request(1)),
                runtime.exec(c, request(2)),
                runtime.exec(c, request(3)),
                runtime.exec(c, request(4)),
            );
            [a, b, c, d]
        });
        let pids = made.map(|m| m.unwrap_or_else(|e| panic!("exec: {e}")).pid);
        pids.into_iter().map(|pid| self.lab.wait(pid)).collect()
    }

    /// Executes a shell script as root.
    pub(crate) fn exec(&mut self, script: &str) -> Done {
        let mut process = spec(&["sh", "-c", script])["process"].take();
        process["cwd"] = "/".into();
        self.try_exec(&process).unwrap_or_else(|e| panic!("exec: {e}"))
    }

    /// Reads to the end, waits and deletes.
    pub(crate) fn finish(mut self) -> Done {
        let mut out = String::new();
        self.out.read_to_string(&mut out).expect("output to read");
        let status = self.lab.wait(self.c.pid);
        self.lab.delete(self.c);
        assert_eq!(self.lab.leftovers(), Vec::<String>::new());
        Done { out, status }
    }

    /// Kills, waits and deletes.
    pub(crate) fn kill(self) -> i32 {
        let kill = self.lab.runtime.kill_all(&self.c, libc::SIGKILL);
        self.lab.block_on(kill).unwrap_or_else(|e| panic!("kill: {e}"));
        self.finish().status
    }
}

pub(crate) fn pipe() -> (fs::File, OwnedFd) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (OwnedFd::from(reader).into(), writer.into())
}

/// Removes the empty cgroups above those of the containers.
pub(crate) fn remove_parents() {
    let mut roots = vec![PathBuf::from("/sys/fs/cgroup")];
    roots.extend(fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path()));
    for root in roots {
        for name in ["gantry-test", "gantry.slice/gantry-x.slice", "gantry.slice"] {
            // One that another run still uses stays.
            fs::remove_dir(root.join(name)).ok();
        }
    }
}
