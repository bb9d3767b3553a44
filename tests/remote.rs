//! Client and daemon on different machines, here two ends of a loopback: TCP with certificates,
//! contexts, SSH, and sockets for those who may not do everything.

mod contexts;
mod scopes;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use gantry_tests::{Daemon, Options, Output, Registry, Terminal, paths, run, start, wait_for};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use tempfile::TempDir;

/// A client that hangs is a failure.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `gantry system certs`.
fn certs(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(paths::program("gantry"));
    command.args(["system", "certs", "--dir"]).arg(dir).args(args);
    run(&mut command)
}

/// A daemon that listens on TCP, and certificates for it.
struct Remote {
    daemon: Daemon,
    certs: TempDir,
    port: u16,
}

impl Remote {
    /// With clients of these names, and further lines of `[[listen]]`.
    fn start(clients: &[&str], config: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        certs(dir.path(), &["--host", "127.0.0.1", "--host", "localhost"]).ok();
        for client in clients {
            certs(dir.path(), &["--client", client]).ok();
        }
        let config = format!("{}{config}", listen(dir.path()));
        let daemon = Daemon::with(Options { config, ..Options::default() });
        let port = port(&daemon);
        Self { daemon, certs: dir, port }
    }

    /// Its address.
    fn host(&self) -> String {
        format!("tcp://127.0.0.1:{}", self.port)
    }

    /// A `gantry` that goes there with this client's certificate.
    fn command(&self, client: &str, args: &[&str]) -> Command {
        self.command_of(self.certs.path(), client, args)
    }

    /// The same with a certificate from another directory.
    fn command_of(&self, dir: &Path, client: &str, args: &[&str]) -> Command {
        let file = |name: &str| match client {
            "client" => dir.join(name),
            client => dir.join(format!("{client}-{name}")),
        };
        let mut command = Command::new(paths::program("gantry"));
        command.env("NO_COLOR", "1").env("GANTRY_CONFIG", self.daemon.scratch().join("config"));
        command.args(["--host", &self.host()]);
        command.arg("--tlscacert").arg(self.certs.path().join("ca.pem"));
        command.arg("--tlscert").arg(file("cert.pem")).arg("--tlskey").arg(file("key.pem"));
        command.args(args);
        command
    }

    fn gantry(&self, args: &[&str]) -> Output {
        run(&mut self.command("client", args))
    }

    /// Waits until the daemon has logged that it refused somebody.
    #[track_caller]
    fn logged(&self, words: &str) {
        logged(&self.daemon, words);
    }
}

/// Waits until a daemon has logged that it refused somebody.
#[track_caller]
fn logged(daemon: &Daemon, words: &str) {
    wait_for("the refusal in the log", || {
        let log = daemon.log();
        let refused = |line: &str| line.contains("refused: ") && line.contains(words);
        log.lines().any(refused).then_some(())
    });
}

fn listen(certs: &Path) -> String {
    let dir = certs.display();
    format!(
        "[[listen]]\naddress = \"tcp://127.0.0.1:0\"\nca = \"{dir}/ca.pem\"\n\
         cert = \"{dir}/server-cert.pem\"\nkey = \"{dir}/server-key.pem\"\n"
    )
}

/// The port that the daemon has got.
fn port(daemon: &Daemon) -> u16 {
    let log = daemon.log();
    let (_, rest) = log.split_once("address=tcp://127.0.0.1:").expect("the port is logged");
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().expect("a port")
}

#[test]
fn containers_over_tcp_are_as_over_a_socket() {
    let remote = Remote::start(&[], "");
    let image = Registry::shared().reference("busybox:latest");
    let run = ["run", "--network", "none"];
    let say = [&run[..], &["--rm", &image, "sh", "-c", "echo out; echo err >&2; exit 3"]].concat();
    let said = remote.gantry(&say).exits(3);
    assert_eq!(said.stdout, "out\n");
    assert!(said.stderr.ends_with("err\n"), "{}", said.stderr);
    let script = "echo ready; trap 'exit 0' TERM; while :; do echo tick; sleep 0.1; done";
    let web = [&run[..], &["-d", "--name", "web", &image, "sh", "-c", script]].concat();
    remote.gantry(&web).ok();
    assert_eq!(remote.gantry(&["ps", "--format", "{{.Names}}"]).ok().text(), "web");
    assert_eq!(remote.gantry(&["exec", "web", "echo", "inside"]).ok().stdout, "inside\n");

    let mut follow = remote.command("client", &["logs", "-f", "web"]);
    let mut follow = start(follow.stdout(Stdio::piped()));
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    assert_eq!((next(), next()), ("ready".to_owned(), "tick".to_owned()));
    assert_eq!(next(), "tick", "as it comes");
    remote.gantry(&["stop", "web"]).ok();
    assert_eq!(follow.wait_within(LIMIT), Some(0));

    let dir = remote.daemon.scratch();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    fs::write(dir.join("there"), &bytes).expect("write");
    let [there, back] = ["there", "back"].map(|name| dir.join(name).display().to_string());
    remote.gantry(&["cp", &there, "web:/tmp/file"]).ok();
    remote.gantry(&["cp", "web:/tmp/file", &back]).ok();
    assert!(fs::read(&back).expect("read") == bytes);
    remote.gantry(&["rm", "web"]).ok();
}

#[test]
fn a_terminal_over_tcp() {
    let remote = Remote::start(&[], "");
    let image = remote.daemon.busybox();
    let line = ["run", "-it", "--rm", "--network", "none", &image, "sh"];
    let mut terminal = Terminal::start(remote.command("client", &line));
    terminal.expect("# ");
    terminal.send("stty size\n");
    terminal.expect("24 80");
    terminal.resize(33, 111);
    wait_for("the size", || {
        terminal.send("stty size\n");
        terminal.expect("# ").contains("33 111").then_some(())
    });
    terminal.send("\x03");
    terminal.send("exit 7\n");
    assert_eq!(terminal.wait(), 7);
}

#[test]
fn the_daemon_does_not_listen_on_plain_tcp() {
    let config = "[[listen]]\naddress = \"tcp://127.0.0.1:0\"\n".to_owned();
    let mut daemon = Daemon::unstarted(Options { config, ..Options::default() });
    let said = daemon.try_restart().expect_err("it must not start");
    assert!(said.contains("does not listen on plain TCP"), "{said}");
    let mut command = Command::new(paths::program("gantryd"));
    command.args(["--config", "/dev/null", "--address", "tcp://127.0.0.1:0"]);
    assert!(run(&mut command).exits(1).stderr.contains("[[listen]]"));
}

/// Shows no certificate; what came of it.
fn shake_without(port: u16, ca: &Path) -> String {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(ca).expect("a certificate");
    roots.add(ca).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").expect("a name");
    let mut tls = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut tcp = connect(port);
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    match stream.read(&mut [0; 64]) {
        Ok(n) => format!("{n} bytes"),
        Err(err) => err.to_string(),
    }
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
    stream
}

#[test]
fn who_has_no_certificate_of_the_authority_is_refused_and_logged() {
    let remote = Remote::start(&[], "");
    // Nothing to show.
    let said = shake_without(remote.port, &remote.certs.path().join("ca.pem"));
    assert!(said.to_lowercase().contains("certificaterequired"), "{said}");
    remote.logged("no certificates");
    // No TLS: no byte of HTTP/2 comes back.
    let mut plain = connect(remote.port);
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("write");
    let mut answer = Vec::new();
    // An error is an end as well.
    let _ = plain.read_to_end(&mut answer);
    assert!(matches!(answer.first(), None | Some(0x15)), "an alert at most: {answer:x?}");
    remote.logged("corrupt message");
    // A certificate of another authority.
    let foreign = tempfile::tempdir().expect("tempdir");
    certs(foreign.path(), &["--host", "127.0.0.1"]).ok();
    let out = run(&mut remote.command_of(foreign.path(), "client", &["ps"])).exits(1);
    assert!(out.stderr.contains("does not accept the certificate"), "{}", out.stderr);
    remote.logged("invalid peer certificate");
    // A server's certificate is no client's.
    let out = run(&mut remote.command("server", &["ps"])).exits(1);
    assert!(out.stderr.contains("does not accept the certificate"), "{}", out.stderr);
    // Nor does the client take a daemon whose certificate is of somebody else.
    let mut other = remote.command("client", &["ps"]);
    other.arg("--tlscacert").arg(foreign.path().join("ca.pem"));
    let out = run(&mut other).exits(1);
    assert!(out.stderr.contains("its certificate is not accepted"), "{}", out.stderr);
    remote.gantry(&["ps"]).ok();
}

#[test]
fn a_client_that_says_nothing_holds_nobody_up() {
    let remote = Remote::start(&[], "");
    let silent: Vec<TcpStream> = (0..20).map(|_| connect(remote.port)).collect();
    remote.gantry(&["ps"]).ok();
    remote.logged("no handshake within");
    for mut stream in silent {
        // An error is an end as well.
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }
}

#[test]
fn certificates_say_how_far_their_clients_may_go() {
    let scopes =
        "clients = { looks = \"read-only\", lost = \"none\", ci = { label = \"ci=true\" } }\n";
    let remote = Remote::start(&["looks", "lost", "ci"], scopes);
    let image = remote.daemon.busybox();
    let create = ["create", "--network", "none", "--name"];
    remote.gantry(&[&create[..], &["full", &image, "true"]].concat()).ok();
    let names = |client: &str| {
        let mut ps = remote.command(client, &["ps", "-a", "--format", "{{.Names}}"]);
        run(&mut ps).ok().text().to_owned()
    };
    assert_eq!(names("looks"), "full");
    let out = run(&mut remote.command("looks", &["rm", "full"])).exits(1);
    assert!(out.stderr.contains("is beyond the scope of certificate \"looks\""), "{}", out.stderr);
    remote.logged("certificate \"looks\" from 127.0.0.1");
    run(&mut remote.command("ci", &[&create[..], &["own", &image, "true"]].concat())).ok();
    assert_eq!(names("ci"), "own");
    let out = run(&mut remote.command("ci", &["rm", "full"])).exits(1);
    assert!(out.stderr.contains("container full is beyond the scope of"), "{}", out.stderr);
    let out = run(&mut remote.command("lost", &["ps"])).exits(1);
    assert!(out.stderr.contains("its log says why"), "{}", out.stderr);
    remote.logged("certificate \"lost\" is not let in");
}
