use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A daemon with a further socket.
struct Limited {
    daemon: Daemon,
    _dir: TempDir,
    socket: PathBuf,
}

impl Limited {
    fn start(scope: &str) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("limited.sock");
        let config = format!(
            "[[listen]]\naddress = \"unix://{}\"\nscope = {scope}\nmode = 0o606\n",
            socket.display()
        );
        let daemon = Daemon::with(Options { config, ..Options::default() });
        Self { daemon, _dir: dir, socket }
    }

    /// `gantry` at the limited socket.
    fn gantry(&self, args: &[&str]) -> Output {
        let socket = self.socket.display().to_string();
        self.daemon.gantry(&[&["--address", &socket][..], args].concat())
    }

    /// Is refused; what the user is told.
    #[track_caller]
    fn refused(&self, args: &[&str]) -> String {
        let out = self.gantry(args);
        assert_ne!(out.code, 0, "{args:?}: {}", out.stdout);
        let door = format!("is beyond the scope of socket {}", self.socket.display());
        assert!(out.stderr.contains(&door), "{args:?}: {}", out.stderr);
        out.stderr
    }

    /// A container that sleeps, made by somebody without limits.
    fn sleeper(&self, name: &str, flags: &[&str]) {
        let image = self.daemon.busybox();
        let line = ["run", "-d", "--network", "none", "--name", name];
        self.daemon.gantry(&[&line[..], flags, &[image.as_str(), "sleep", "600"]].concat()).ok();
    }

    fn names(&self) -> Vec<String> {
        let out = self.gantry(&["ps", "-a", "--format", "{{.Names}}"]).ok();
        out.lines().into_iter().map(str::to_owned).collect()
    }
}

#[test]
fn a_read_only_socket_shows_and_changes_nothing() {
    let limited = Limited::start("\"read-only\"");
    let mode = fs::metadata(&limited.socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o606);
    limited.sleeper("web", &["--label", "a=b"]);
    assert_eq!(limited.names(), ["web"]);
    for line in [
        &["inspect", "web"][..],
        &["logs", "web"],
        &["top", "web"],
        &["stats", "--no-stream"],
        &["images"],
        &["info"],
        &["version"],
        &["volume", "ls"],
        &["events", "--since", "1h", "--until", "0s"],
    ] {
        limited.gantry(line).ok();
    }
    let image = limited.daemon.busybox();
    for line in [
        &["run", "--network", "none", &image, "true"][..],
        &["create", "--network", "none", &image, "true"],
        &["exec", "web", "true"],
        &["attach", "--no-stdin", "web"],
        &["stop", "web"],
        &["kill", "web"],
        &["pause", "web"],
        &["rename", "web", "other"],
        &["update", "--restart", "always", "web"],
        &["rm", "-f", "web"],
        &["cp", "web:/etc/passwd", "-"],
        &["export", "web"],
        &["container", "prune", "-f"],
        &["volume", "create", "v"],
        &["pull", &image],
        &["rmi", "-f", &image],
    ] {
        let said = limited.refused(line);
        assert!(said.contains(": read-only"), "{said}");
    }
    let ps = limited.daemon.gantry(&["ps", "--format", "{{.Names}}"]).ok();
    assert_eq!(ps.text(), "web", "nothing has changed");
    logged(&limited.daemon, "uid=0 gid=0 pid=");
    // Other doors don't lead around it.
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(&limited.socket).args(["containers", "ls"]);
    let out = run(&mut ctr);
    assert_ne!(out.code, 0);
    assert!(out.stderr.contains("beyond the scope"), "{}", out.stderr);
}

#[test]
fn a_socket_by_label_has_its_own_containers_alone() {
    let limited = Limited::start("{ label = \"ci=true\" }");
    limited.sleeper("others", &["--label", "ci=false"]);
    limited.sleeper("given", &["--label", "ci=true"]);
    let image = limited.daemon.busybox();
    let line = ["run", "-d", "--network", "none", "--name", "own", &image, "sleep", "600"];
    let id = limited.gantry(&line).ok().text().to_owned();
    let label = limited.daemon.gantry(&["inspect", "-f", "{{.Config.Labels.ci}}", "own"]).ok();
    assert_eq!(label.text(), "true");
    assert_eq!(limited.names(), ["own", "given"]);
    assert_eq!(limited.gantry(&["exec", "given", "echo", "hi"]).ok().stdout, "hi\n");
    assert_eq!(limited.gantry(&["info", "--format", "{{.ContainersRunning}}"]).ok().text(), "2");
    let stats = limited.gantry(&["stats", "--no-stream", "--format", "{{.Name}}"]).ok();
    assert_eq!(stats.lines(), ["given", "own"]);
    for line in [
        &["inspect", "--type", "container", "others"][..],
        &["logs", "others"],
        &["exec", "others", "true"],
        &["stop", "others"],
        &["rm", "-f", "others"],
        &["cp", "others:/etc/passwd", "-"],
        &["top", "others"],
        &["stats", "--no-stream", "others"],
        &["rename", "others", "own2"],
    ] {
        let said = limited.refused(line);
        assert!(said.contains("container others"), "{said}");
    }
    // A part of an ID finds only what is there for it.
    let others = limited.daemon.gantry(&["inspect", "-f", "{{.Id}}", "others"]).ok();
    let out = limited.gantry(&["stop", &others.text()[..12]]).exits(1);
    assert!(out.stderr.contains("No such container"), "{}", out.stderr);
    limited.gantry(&["stop", "-t", "0", &id[..12]]).ok();
    limited.gantry(&["kill", "given"]).ok();
    limited.gantry(&["wait", "given"]).ok();
    limited.daemon.gantry(&["stop", "-t", "0", "others"]).ok();
    limited.gantry(&["container", "prune", "-f"]).ok();
    assert!(limited.names().is_empty());
    let told = limited.gantry(&["events", "--since", "1h", "--until", "0s"]).ok();
    assert!(told.stdout.contains("name=own") && !told.stdout.contains("name=others"));
    let left = limited.daemon.gantry(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    assert_eq!(left.text(), "others");
    logged(&limited.daemon, "container others is beyond the scope");
}

#[test]
fn a_socket_by_label_tells_nothing_of_other_containers() {
    let limited = Limited::start("{ label = \"ci=true\" }");
    let image = limited.daemon.busybox();
    limited.sleeper("others", &[]);
    limited.sleeper("own", &["--label", "ci=true"]);
    let id = |name: &str| {
        let said = limited.daemon.gantry(&["inspect", "-f", "{{.Id}}", name]).ok();
        said.text().to_owned()
    };
    let others = id("others");
    for line in [
        &["create", "--name", "others", &image, "true"][..],
        &["run", "--name", "others", &image, "true"],
        &["rename", "own", "others"],
    ] {
        let out = limited.gantry(line);
        assert_ne!(out.code, 0, "{line:?}");
        let said = out.stderr;
        assert!(said.contains("\"/others\" is already in use"), "{said}");
        assert!(!said.contains(&others[..12]), "{said}");
    }
    let out = limited.gantry(&["create", "--name", "own", &image, "true"]).exits(1);
    assert!(out.stderr.contains(&id("own")), "{}", out.stderr);
    // Other columns under the title of the process' ID would show processes of the host.
    for format in ["uid=,pid,args", "lstart,uid,gid,ppid,pid,args"] {
        limited.refused(&["top", "own", "-eo", format]);
    }
    for options in [&["-eo", "pid,args"][..], &["aux"], &[]] {
        let shown = limited.gantry(&[&["top", "own"][..], options].concat()).ok();
        assert!(shown.stdout.contains("sleep 600"), "{options:?}: {}", shown.stdout);
    }
}

#[test]
fn a_socket_by_label_does_not_lead_to_the_host() {
    let limited = Limited::start("{ label = \"ci=true\" }");
    let image = limited.daemon.busybox();
    limited.sleeper("own", &["--label", "ci=true"]);
    limited.daemon.gantry(&["volume", "create", "data"]).ok();
    for flags in [
        &["--privileged"][..],
        &["--cap-add", "SYS_ADMIN"],
        &["--security-opt", "seccomp=unconfined"],
        &["--security-opt", "systempaths=unconfined"],
        &["--device", "/dev/null"],
        &["--device-cgroup-rule", "c 1:3 rwm"],
        &["--network", "host"],
        &["--pid", "host"],
        &["--pid", "container:own"],
        &["--ipc", "host"],
        &["--uts", "host"],
        &["--cgroupns", "host"],
        &["--cgroup-parent", "/"],
        &["--oom-score-adj=-500"],
        &["-v", "/:/host"],
        &["-v", "data:/data"],
        &[
            "--mount",
            "type=volume,dst=/h,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/",
        ],
        &["--volumes-from", "own"],
        &["--label", "ci=false"],
    ] {
        let network: &[&str] = if flags[0] == "--network" { &[] } else { &["--network", "none"] };
        let line = [&["run", "--rm"][..], network, flags, &[image.as_str(), "true"]].concat();
        limited.refused(&line);
    }
    limited.refused(&["exec", "--privileged", "own", "true"]);
    limited.refused(&["volume", "ls"]);
    limited.refused(&["system", "df"]);
    limited.refused(&["rmi", "-f", &image]);
    let said = limited.refused(&["--namespace", "moby", "ps"]);
    assert!(said.contains("namespace moby"), "{said}");
    // What stays within a container is granted.
    let line = ["run", "--rm", "--network", "none", "-v", "/data", "--tmpfs", "/t", "-m", "64m"];
    let line = [&line[..], &["--read-only", &image, "touch", "/data/x", "/t/x"]].concat();
    limited.gantry(&line).ok();
    limited.gantry(&["pull", "-q", &image]).ok();
    assert_eq!(limited.names(), ["own"]);
}
