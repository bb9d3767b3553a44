use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::processes::{Owned, own};
use crate::{image, run_within, wait_for};

/// What a guarded registry lets in.
pub const CREDENTIALS: (&str, &str) = ("somebody", "secret");
/// The line of its password file; bcrypt with little work.
const PASSWORDS: &str = "somebody:$2b$04$loNoZTEGPjrDt9DWKmC2z.U0HLSYRWnz2dClC0yHG3ycNlS0TE0tK\n";

/// Debian's docker-registry on loopback.
pub struct Registry {
    port: u16,
    dir: TempDir,
    child: Owned,
    guarded: bool,
}

impl Registry {
    /// A registry of one's own.
    pub fn start() -> Self {
        // Another process may take the port in between: then it is tried again.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port");
        (0..5).find_map(|_| Self::try_start(free().port(), false)).expect("the registry starts")
    }

    /// A registry that lets in only who has [`CREDENTIALS`].
    pub fn guarded() -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("port");
        (0..5).find_map(|_| Self::try_start(free().port(), true)).expect("the registry starts")
    }

    /// A registry at a port that is known to be free.
    pub fn start_at(port: u16) -> Self {
        Self::try_start(port, false).expect("the registry starts")
    }

    fn try_start(port: u16, guarded: bool) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("gantry-registry-").tempdir().expect("tempdir");
        let config = dir.path().join("config.yml");
        let mut text = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\n  level: info\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            dir.path().join("data").display()
        );
        if guarded {
            let passwords = dir.path().join("passwords");
            std::fs::write(&passwords, PASSWORDS).expect("write the registry's passwords");
            let passwords = passwords.display();
            text += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {passwords}\n");
        }
        std::fs::write(&config, text).expect("write the registry's configuration");
        let log = std::fs::File::create(dir.path().join("log")).expect("make the log");
        let err = log.try_clone().expect("share the log");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(log).stderr(err);
        let mut child = own(&mut command)?;
        let ready = wait_for("the registry", || match child.try_wait() {
            Ok(Some(_)) => Some(false),
            _ => get(port, "/v2/").map(|_| true),
        });
        ready.then_some(Self { port, dir, child, guarded })
    }

    /// The registry that all tests of this process share, with `busybox` and
    /// `debian` in it.
    pub fn shared() -> &'static Registry {
        static SHARED: OnceLock<Registry> = OnceLock::new();
        SHARED.get_or_init(|| {
            let registry = Registry::start();
            // Statics are not dropped.
            crate::processes::end_with_us(registry.child.id(), registry.dir.path());
            registry.push("busybox", "busybox:latest");
            registry.push("debian", "debian:latest");
            registry
        })
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The reference of an image in this registry.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.host())
    }

    /// Pushes an image made from Debian's packages.
    pub fn push(&self, kind: &str, name: &str) {
        self.push_layout(&image(kind), name);
    }

    /// Pushes the image tagged `latest` of an OCI layout.
    pub fn push_layout(&self, layout: &Path, name: &str) {
        let mut command = Command::new("skopeo");
        command.args(["copy", "-q", "--dest-tls-verify=false"]);
        if self.guarded {
            command.arg("--dest-creds").arg(format!("{}:{}", CREDENTIALS.0, CREDENTIALS.1));
        }
        command.arg(format!("oci:{}:latest", layout.display()));
        command.arg(format!("docker://{}", self.reference(name)));
        run_within(&mut command, Duration::from_secs(300)).ok();
    }

    /// What the registry has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn get(port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.starts_with("HTTP/1.").then_some(answer)
}
