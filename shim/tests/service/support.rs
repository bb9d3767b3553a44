//! A shim with a busybox bundle, driven as a daemon drives it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use gantry_ttrpc::containerd::services::events::ttrpc::v1::{Events, EventsServer, ForwardRequest};
use gantry_ttrpc::containerd::task::v3::*;
use gantry_ttrpc::containerd::types::Envelope;
use gantry_ttrpc::{CallOptions, Client, Context, Status};
use prost_types::Any;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

pub(crate) const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-gantry-v2");
/// Longest time anything here may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
const APPLETS: [&str; 17] = [
    "sh", "cat", "echo", "sleep", "true", "false", "kill", "ls", "seq", "stty", "tty", "head",
    "id", "wc", "test", "env", "grep",
];

/// A directory with a bundle, and the shim once it is started.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) address: String,
    task: Option<TaskClient>,
}

pub(crate) fn options() -> CallOptions {
    CallOptions::namespace("test").timeout(LIMIT)
}

/// Runs a test's future.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Copies busybox and the libraries it needs into a root filesystem.
fn rootfs(root: &Path) {
    for dir in ["bin", "proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|p| Path::new(p).exists());
    let busybox = busybox.expect("the package busybox is installed");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let libraries = Command::new("ldd").arg(busybox).output().unwrap().stdout;
    for word in
        String::from_utf8(libraries).unwrap().split_whitespace().filter(|w| w.starts_with('/'))
    {
        let to = root.join(&word[1..]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(word, to).unwrap();
    }
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
}

/// An OCI process.
pub(crate) fn process(args: &[&str], terminal: bool) -> Value {
    let caps = json!(["CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE"]);
    json!({
        "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "cwd": "/", "env": ["PATH=/bin"],
        "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
    })
}

fn spec(id: &str, args: &[&str], terminal: bool) -> Value {
    json!({
        "ociVersion": "1.1.0", "root": {"path": "rootfs"}, "hostname": "box",
        "process": process(args, terminal),
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        ],
        "linux": {
            "cgroupsPath": format!("/gantry-shim-test/{id}"),
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}],
        },
    })
}

impl Host {
    /// A bundle whose init runs `args`.
    pub(crate) fn new(args: &[&str], terminal: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("gs").tempdir().unwrap();
        let id = unique();
        let bundle = dir.path().join("bundle");
        rootfs(&bundle.join("rootfs"));
        let host = Self { dir, bundle, address: String::new(), task: None, id };
        host.write_spec(&spec(&host.id, args, terminal));
        host
    }

    pub(crate) fn write_spec(&self, spec: &Value) {
        fs::write(self.bundle.join("config.json"), spec.to_string()).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the events of this host's shim go.
    pub(crate) fn events_path(&self) -> PathBuf {
        self.path("events.sock")
    }

    pub(crate) fn shim(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SHIM);
        command
            .args(["-namespace", "test", "-id", &self.id, "-address"])
            .arg(self.path("d.sock"))
            .args(["-publish-binary", "/bin/false"])
            .args(args)
            .current_dir(&self.bundle)
            .env("TTRPC_ADDRESS", self.events_path())
            .env("GANTRY_SECCOMP_CACHE", self.path("seccomp"))
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run_shim(&self, args: &[&str]) -> Output {
        self.shim(args).output().unwrap()
    }

    /// Starts the shim and connects to it.
    pub(crate) async fn start_shim(&mut self) -> TaskClient {
        let output = self.run_shim(&["start"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.address = String::from_utf8(output.stdout).unwrap();
        self.connect().await
    }

    pub(crate) async fn connect(&mut self) -> TaskClient {
        let path = self.address.strip_prefix("unix://").unwrap();
        let client = TaskClient::new(Client::new(UnixStream::connect(path).await.unwrap()));
        self.task = Some(client.clone());
        client
    }

    pub(crate) fn create_request(
        &self,
        stdin: &str,
        stdout: &str,
        stderr: &str,
        terminal: bool,
    ) -> CreateTaskRequest {
        CreateTaskRequest {
            id: self.id.clone(),
            bundle: self.bundle.display().to_string(),
            terminal,
            stdin: stdin.to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            ..CreateTaskRequest::default()
        }
    }

    pub(crate) fn exec_request(
        &self,
        exec_id: &str,
        process: &Value,
        stdout: &str,
    ) -> ExecProcessRequest {
        ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            terminal: process["terminal"] == true,
            stdout: stdout.to_owned(),
            spec: Some(Any {
                type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
                value: process.to_string().into_bytes(),
            }),
            ..ExecProcessRequest::default()
        }
    }

    /// A shim with a created container whose output goes to `stdout`.
    pub(crate) async fn created(&mut self, stdout: &str, terminal: bool) -> TaskClient {
        let task = self.start_shim().await;
        task.create(&self.create_request("", stdout, "", terminal), &options()).await.unwrap();
        task
    }

    /// A shim with a container that sleeps.
    pub(crate) async fn sleeper() -> (Self, TaskClient) {
        let mut host = Self::new(&["sleep", "1000"], false);
        let task = host.created("", false).await;
        host.start(&task, "").await.unwrap();
        (host, task)
    }

    pub(crate) fn gantry_uri(&self, more: &str) -> String {
        let (log, attach) = (self.path("c.log"), self.path("a.sock"));
        format!("gantry://{}?attach={}{more}", log.display(), attach.display())
    }

    pub(crate) async fn start(
        &self,
        task: &TaskClient,
        exec_id: &str,
    ) -> Result<StartResponse, Status> {
        let request = StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        task.start(&request, &options()).await
    }

    pub(crate) async fn wait(&self, task: &TaskClient, exec_id: &str) -> u32 {
        let request = WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        task.wait(&request, &options()).await.unwrap().exit_status
    }

    pub(crate) async fn kill(
        &self,
        task: &TaskClient,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), Status> {
        let request = KillRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), signal, all };
        task.kill(&request, &options()).await
    }

    pub(crate) async fn delete(
        &self,
        task: &TaskClient,
        exec_id: &str,
    ) -> Result<DeleteResponse, Status> {
        let request = DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        task.delete(&request, &options()).await
    }

    pub(crate) async fn state(
        &self,
        task: &TaskClient,
        exec_id: &str,
    ) -> Result<StateResponse, Status> {
        let request = StateRequest { id: self.id.clone(), exec_id: exec_id.to_owned() };
        task.state(&request, &options()).await
    }

    /// Ends the shim and sees that it has gone.
    pub(crate) async fn shutdown(&self, task: &TaskClient) {
        let request = ShutdownRequest { id: self.id.clone(), now: true };
        task.shutdown(&request, &options()).await.unwrap();
        tokio::time::timeout(LIMIT, task.connection().closed()).await.expect("the shim exits");
        assert!(!Path::new(self.address.strip_prefix("unix://").unwrap()).exists());
    }

    /// What the log's records say, of one stream.
    pub(crate) fn logged(&self, stream: &str) -> String {
        let text = fs::read_to_string(self.path("c.log")).unwrap_or_default();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        records
            .filter(|r| r["stream"] == stream)
            .map(|r| r["log"].as_str().unwrap().to_owned())
            .collect()
    }

    pub(crate) fn shim_pid(&self) -> i32 {
        fs::read_to_string(self.bundle.join("shim.pid")).unwrap().parse().unwrap()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Whatever a failed test left: the shim, then its container.
        if let Ok(pid) = fs::read_to_string(self.bundle.join("shim.pid"))
            && let Ok(name) = fs::read_to_string(format!("/proc/{pid}/cmdline"))
            && name.contains(&self.id)
            && let Ok(pid) = pid.parse::<i32>()
        {
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid),
                nix::sys::signal::Signal::SIGKILL,
            );
        }
        if self.bundle.join("shim.json").exists() {
            let _ = self.shim(&["delete"]).output();
        }
    }
}

/// A FIFO.
pub(crate) fn fifo(path: &Path) -> String {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::from_bits_truncate(0o700)).unwrap();
    path.display().to_string()
}

/// A client of an attach socket.
pub(crate) struct Attached(UnixStream);

impl Attached {
    pub(crate) async fn to(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    pub(crate) async fn send(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.0.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut header = [0; 5];
        tokio::time::timeout(LIMIT, self.0.read_exact(&mut header))
            .await
            .expect("a frame in time")
            .unwrap();
        let mut payload = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize];
        self.0.read_exact(&mut payload).await.unwrap();
        (header[0], payload)
    }

    /// Output up to `text`.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(text) {
            let (kind, payload) = self.frame().await;
            assert_eq!(kind, 1, "after {seen:?}");
            seen += &String::from_utf8_lossy(&payload);
        }
        seen
    }

    /// Everything up to the exit: standard output, standard error, status.
    pub(crate) async fn rest(&mut self) -> (String, String, i32) {
        let mut out = [String::new(), String::new()];
        loop {
            let (kind, payload) = self.frame().await;
            match kind {
                1 | 2 => out[kind as usize - 1] += &String::from_utf8_lossy(&payload),
                5 => {
                    let [stdout, stderr] = out;
                    return (stdout, stderr, i32::from_be_bytes(payload.try_into().unwrap()));
                }
                other => panic!("frame of type {other}"),
            }
        }
    }
}

struct Collector(mpsc::UnboundedSender<Envelope>);

impl Events for Collector {
    async fn forward(&self, _: &Context, request: ForwardRequest) -> Result<(), Status> {
        self.0.send(request.envelope.unwrap()).unwrap();
        Ok(())
    }
}

/// A daemon that takes events; they come out of the receiver.
pub(crate) fn event_server(path: &Path) -> mpsc::UnboundedReceiver<Envelope> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let listener = UnixListener::bind(path).unwrap();
    let server = EventsServer(Arc::new(Collector(sender)));
    tokio::task::spawn_local(async move {
        gantry_ttrpc::serve(listener, server, std::future::pending()).await.unwrap();
    });
    receiver
}
