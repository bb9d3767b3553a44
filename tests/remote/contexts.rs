use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// What stands for ssh: notes what it was called with, and runs the command here.
const SSH: &str = r#"#!/bin/sh
echo "$*" >> "$SSH_LOG"
while [ "$1" != -- ]; do shift; done
host=$2
shift 2
case $host in
    unknown) echo "ssh: Could not resolve hostname unknown" >&2; exit 255 ;;
    bare) exit 127 ;;
esac
exec sh -c "$*"
"#;

/// A user with a directory of contexts, and with an ssh.
struct User<'a> {
    daemon: &'a Daemon,
    dir: TempDir,
}

impl<'a> User<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let ssh = dir.path().join("ssh");
        fs::write(&ssh, SSH).expect("write");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("make it executable");
        Self { daemon, dir }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(paths::program("gantry"));
        let mut path = OsString::from(self.dir.path());
        for dir in [paths::bin().into_os_string(), std::env::var_os("PATH").unwrap_or_default()] {
            path.push(":");
            path.push(dir);
        }
        command.env("PATH", path).env("SSH_LOG", self.dir.path().join("log"));
        command.env("NO_COLOR", "1").env("GANTRY_CONFIG", self.dir.path().join("config"));
        command.args(args);
        command
    }

    fn gantry(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    /// The daemon behind ssh.
    fn behind_ssh(&self) -> String {
        format!("ssh://me@lab:2222{}", self.daemon.address().display())
    }
}

#[test]
fn contexts_name_daemons() {
    let remote = Remote::start(&[], "");
    let image = remote.daemon.busybox();
    let user = User::new(&remote.daemon);
    let dir = remote.certs.path().display().to_string();
    let [ca, cert, key] = ["ca", "cert", "key"].map(|name| format!("{dir}/{name}.pem"));
    let host = remote.host();
    let tls = ["--tlscacert", &ca, "--tlscert", &cert, "--tlskey", &key];
    let create = ["context", "create", "far", "--description", "over there", "--host", &host];
    let made = user.gantry(&[&create[..], &tls].concat()).ok();
    assert_eq!(made.stdout, "far\n");
    assert!(made.stderr.contains("Successfully created context \"far\""), "{}", made.stderr);
    let again = user.gantry(&[&create[..], &tls].concat()).exits(1);
    assert!(again.stderr.contains("context \"far\" already exists"), "{}", again.stderr);
    let bare = user.gantry(&["context", "create", "none", "--host", &host]).exits(1);
    assert!(bare.stderr.contains("ca.pem"), "{}", bare.stderr);
    let endpoint = format!("host=unix://{}", remote.daemon.address().display());
    user.gantry(&["context", "create", "near", "--docker", &endpoint]).ok();

    assert_eq!(user.gantry(&["context", "show"]).ok().text(), "default");
    let used = user.gantry(&["context", "use", "far"]).ok();
    assert!(used.stderr.contains("Current context is now \"far\""), "{}", used.stderr);
    assert_eq!(user.gantry(&["context", "show"]).ok().text(), "far");
    let listed = user.gantry(&["context", "ls"]).ok();
    assert!(listed.lines()[0].starts_with("NAME      DESCRIPTION"), "{}", listed.stdout);
    let row = listed.lines().into_iter().find(|line| line.starts_with("far *"));
    assert!(row.is_some_and(|row| row.contains("over there") && row.contains(&host)));
    assert_eq!(user.gantry(&["context", "ls", "-q"]).ok().lines(), ["default", "far", "near"]);
    let format = "{{.Endpoints.docker.Host}} {{.Metadata.Description}}";
    let shown = user.gantry(&["context", "inspect", "--format", format]).ok();
    assert_eq!(shown.text(), format!("{host} over there"));

    // The certificates are the context's own by now.
    let line = ["run", "--rm", "--network", "none", &image, "echo", "hi"];
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        fs::remove_file(remote.certs.path().join(name)).expect("remove");
    }
    assert_eq!(user.gantry(&line).ok().stdout, "hi\n");
    user.gantry(&["--context", "near", "ps"]).ok();
    // What counts more than the context in use.
    let elsewhere = |name: &str, value: &str| {
        let mut command = user.command(&["ps"]);
        run(command.env(name, value)).exits(1).stderr
    };
    assert!(elsewhere("GANTRY_HOST", "unix:///no/such").contains("/no/such"));
    assert!(elsewhere("GANTRY_CONTEXT", "missing").contains("context not found"));
    let mut both = user.command(&["--context", "near", "ps"]);
    run(both.env("GANTRY_HOST", "unix:///no/such")).ok();
    let both = user.gantry(&["--context", "near", "--host", &host, "ps"]).exits(1);
    assert!(both.stderr.contains("conflicting options"), "{}", both.stderr);

    let refused = user.gantry(&["context", "rm", "far"]).exits(1);
    assert!(refused.stderr.contains("is in use, set -f flag"), "{}", refused.stderr);
    let refused = user.gantry(&["context", "rm", "default"]).exits(1);
    assert!(refused.stderr.contains("cannot be removed"), "{}", refused.stderr);
    assert_eq!(user.gantry(&["context", "rm", "-f", "far", "near"]).ok().lines(), ["far", "near"]);
    assert_eq!(user.gantry(&["context", "show"]).ok().text(), "default");
}

#[test]
fn damage_to_what_says_which_context_is_in_use() {
    let daemon = Daemon::start();
    let user = User::new(&daemon);
    let socket = daemon.address().display().to_string();
    user.gantry(&["context", "create", "near", "--host", &format!("unix://{socket}")]).ok();
    user.gantry(&["context", "use", "near"]).ok();
    let config = user.dir.path().join("config/config.json");
    fs::write(&config, "{\"currentContext\": \"ne").expect("write");
    let told = user.gantry(&["ps"]).exits(1).stderr;
    assert!(told.contains(&format!("{} is damaged", config.display())), "{told}");
    assert!(told.contains("`gantry context use default`"), "{told}");
    for named in [["--address", socket.as_str()], ["--context", "near"]] {
        user.gantry(&[&named[..], &["ps"]].concat()).ok();
    }
    run(user.command(&["ps"]).env("GANTRY_ADDRESS", &socket)).ok();
    let used = user.gantry(&["context", "use", "near"]).ok();
    let kept = user.dir.path().join("config/config.json.damaged.1");
    assert!(used.stderr.contains(&kept.display().to_string()), "{}", used.stderr);
    assert_eq!(fs::read_to_string(&kept).expect("read"), "{\"currentContext\": \"ne");
    user.gantry(&["ps"]).ok();
    fs::remove_dir_all(user.dir.path().join("config/contexts/near")).expect("remove");
    let told = user.gantry(&["ps"]).exits(1).stderr;
    assert!(told.contains("context not found") && told.contains("config.json names"), "{told}");
    user.gantry(&["context", "use", "default"]).ok();
    assert_eq!(user.gantry(&["context", "show"]).ok().text(), "default");
}

/// No sshd is here: a program of that name on PATH is what `gantry` executes.
#[test]
fn a_daemon_behind_ssh() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let user = User::new(&daemon);
    let host = user.behind_ssh();
    let run_it = ["--host", &host, "run", "-i", "--rm", "--network", "none", &image];
    let mut cat = user.command(&[&run_it[..], &["cat"]].concat());
    let mut cat = start(cat.stdin(Stdio::piped()).stdout(Stdio::piped()));
    cat.stdin.take().expect("a pipe").write_all(b"through ssh\n").expect("write");
    let mut said = String::new();
    cat.stdout.take().expect("a pipe").read_to_string(&mut said).expect("read");
    assert_eq!((said.as_str(), cat.wait_within(LIMIT)), ("through ssh\n", Some(0)));
    let log = fs::read_to_string(user.dir.path().join("log")).expect("ssh was called");
    let socket = daemon.address().display().to_string();
    let wanted = format!("-T -l me -p 2222 -- lab gantry --address {socket} system dial-stdio");
    assert!(log.lines().all(|line| line.ends_with(&wanted)), "{log}");

    user.gantry(&["context", "create", "lab", "--host", &host]).ok();
    user.gantry(&["context", "use", "lab"]).ok();
    let line = ["run", "-it", "--rm", "--network", "none", &image, "sh"];
    let mut terminal = Terminal::start(user.command(&line));
    terminal.expect("# ");
    // For the shell in the container, not for ssh.
    terminal.send("\x03");
    terminal.send("echo st''ill here; exit 5\n");
    terminal.expect("still here");
    assert_eq!(terminal.wait(), 5);

    let unknown = user.gantry(&["--host", "ssh://unknown", "ps"]).exits(1);
    assert!(unknown.stderr.contains("Could not resolve hostname unknown"), "{}", unknown.stderr);
    let bare = user.gantry(&["--host", "ssh://bare", "ps"]).exits(1);
    assert!(bare.stderr.contains("is gantry installed there?"), "{}", bare.stderr);
    let gone = user.gantry(&["--host", "ssh://lab/no/such.sock", "ps"]).exits(1);
    assert!(gone.stderr.contains("/no/such.sock"), "{}", gone.stderr);
}
