//! Volumes and mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use gantry_tests::{Daemon, Options, Output, Terminal, wait_for};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

fn inside(daemon: &Daemon, flags: &[&str], script: &str) -> Output {
    let image = daemon.busybox();
    let mut line = vec!["run", "--rm", "--network", "none"];
    line.extend(flags);
    line.extend([image.as_str(), "sh", "-c", script]);
    daemon.gantry(&line)
}

#[track_caller]
fn refused(output: &Output, code: i32, words: &str) {
    assert_eq!(output.code, code, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(words), "{:?} lacks {words:?}", output.stderr);
}

fn names(daemon: &Daemon, flags: &[&str]) -> Vec<String> {
    let out = daemon.gantry(&[&["volume", "ls", "-q"], flags].concat()).ok();
    out.lines().into_iter().map(str::to_owned).collect()
}

fn mountpoint(daemon: &Daemon, name: &str) -> PathBuf {
    let out = daemon.gantry(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]).ok();
    PathBuf::from(out.text())
}

#[test]
fn a_named_volume_keeps_what_is_written() {
    let daemon = Daemon::start();
    inside(&daemon, &["-v", "data:/data"], "echo one > /data/file").ok();
    assert_eq!(names(&daemon, &[]), ["data"]);
    let read = inside(&daemon, &["-v", "data:/other"], "cat /other/file").ok();
    assert_eq!(read.text(), "one");
    let read_only = inside(&daemon, &["-v", "data:/data:ro"], "echo two > /data/file");
    refused(&read_only, 1, "Read-only file system");
    refused(&inside(&daemon, &["-v", "x:/x"], "true"), 125, "too short");
    let ls = daemon.gantry(&["volume", "ls"]).ok();
    assert!(ls.lines()[0].starts_with("DRIVER") && ls.lines()[0].contains("VOLUME NAME"));
    assert_eq!(daemon.gantry(&["volume", "rm", "data"]).ok().text(), "data");
    refused(&daemon.gantry(&["volume", "rm", "data"]), 1, "no such volume");
    refused(&daemon.gantry(&["volume", "inspect", "data"]), 1, "no such volume");
    daemon.gantry(&["volume", "rm", "-f", "data"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn volumes_are_made_listed_and_removed() {
    let daemon = Daemon::start();
    let made = daemon.gantry(&["volume", "create", "--label", "env=prod", "pg"]).ok();
    assert_eq!(made.text(), "pg");
    daemon.gantry(&["volume", "create", "pg"]).ok();
    let random = daemon.gantry(&["volume", "create"]).ok().text().to_owned();
    assert_eq!(random.len(), 64);
    refused(&daemon.gantry(&["volume", "create", "a/b"]), 1, "invalid characters");
    refused(&daemon.gantry(&["volume", "create", "-d", "nfs", "x1"]), 1, "\"nfs\" not found");
    assert_eq!(names(&daemon, &["--filter", "label=env"]), ["pg"]);
    assert_eq!(names(&daemon, &["--filter", "label=env=dev"]), [""; 0]);
    assert_eq!(names(&daemon, &["--filter", "dangling=true"]).len(), 2);
    refused(&daemon.gantry(&["volume", "ls", "--filter", "nope=1"]), 1, "invalid filter");
    let image = daemon.busybox();
    let run = ["run", "-d", "--name", "c", "--network", "none", "-v", "pg:/d", &image];
    daemon.gantry(&[&run[..], &["sleep", "600"]].concat()).ok();
    assert_eq!(names(&daemon, &["--filter", "dangling=false"]), ["pg"]);
    refused(&daemon.gantry(&["volume", "rm", "pg"]), 1, "volume is in use");
    refused(&daemon.gantry(&["volume", "rename", "pg", "other"]), 1, "in use");
    daemon.gantry(&["volume", "prune", "-f"]).ok();
    assert_eq!(names(&daemon, &[]), ["pg"], "only anonymous ones that nobody has go");
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.gantry(&["volume", "prune", "-f"]).ok();
    assert_eq!(names(&daemon, &[]), ["pg"]);
    let pruned = daemon.gantry(&["volume", "prune", "-f", "-a"]).ok();
    assert!(pruned.stdout.contains("pg") && pruned.stdout.contains("Total reclaimed space"));
    assert_eq!(names(&daemon, &[]), [""; 0]);
}

#[test]
fn an_images_files_fill_a_new_volume_once() {
    let daemon = Daemon::start();
    // The engine's own files are new in each container.
    let same = "cd /; ls -ln etc | tail -n +2 | grep -vE ' (hosts|hostname|resolv.conf)$'; \
                cat etc/passwd";
    let own = inside(&daemon, &[], same).ok();
    let volume = inside(&daemon, &["-v", "etc:/mnt", "-v", "conf:/etc"], same).ok();
    assert_eq!(own.stdout, volume.stdout);
    assert!(own.stdout.contains(" group\n") && own.stdout.contains("app:x:1000"), "{own:?}");
    assert!(mountpoint(&daemon, "conf").join("passwd").is_file());
    assert_eq!(fs::read_dir(mountpoint(&daemon, "etc")).unwrap().count(), 0);
    inside(&daemon, &["-v", "conf:/etc"], "rm /etc/group").ok();
    inside(&daemon, &["-v", "conf:/etc"], "test ! -e /etc/group").ok();
    let bare = inside(&daemon, &["-v", "bare:/etc:nocopy"], "ls /etc/passwd");
    assert_eq!(bare.code, 1, "{}", bare.stdout);
}

#[test]
fn anonymous_volumes_go_when_asked_for() {
    let daemon = Daemon::start();
    inside(&daemon, &["-v", "/data"], "touch /data/x").ok();
    wait_for("the volume goes with --rm", || names(&daemon, &[]).is_empty().then_some(()));
    let image = daemon.busybox();
    let create = ["create", "--network", "none", "-v", "/data", "--name"];
    for (name, remove, left) in [("keep", &["rm", "keep"][..], 1), ("go", &["rm", "-v", "go"], 1)] {
        daemon.gantry(&[&create[..], &[name, &image, "true"]].concat()).ok();
        daemon.gantry(remove).ok();
        assert_eq!(names(&daemon, &[]).len(), left);
    }
    // One that another container has stays.
    daemon.gantry(&[&create[..], &["first", &image, "true"]].concat()).ok();
    let from = ["create", "--name", "second", "--volumes-from", "first:ro", "--network", "none"];
    daemon.gantry(&[&from[..], &[&image, "touch", "/data/x"]].concat()).ok();
    refused(&daemon.gantry(&["start", "-a", "second"]), 1, "Read-only");
    daemon.gantry(&["rm", "-v", "first"]).ok();
    assert_eq!(names(&daemon, &[]).len(), 2);
    daemon.gantry(&["rm", "-v", "second"]).ok();
    assert_eq!(names(&daemon, &[]).len(), 1);
    daemon.gantry(&["volume", "prune", "-f"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn anonymous_volumes_go_with_a_removal_that_was_cut_short() {
    let program = Some("gantryd-failpoints".to_owned());
    let mut daemon = Daemon::with(Options { program, ..Options::default() });
    let image = daemon.busybox();
    for name in ["stays", "goes"] {
        let create = ["create", "--network", "none", "-v", "/data", "--name", name];
        daemon.gantry(&[&create[..], &[&image, "true"]].concat()).ok();
    }
    daemon.stop();
    let point = "remove a container's directory, after".to_owned();
    daemon.set_env(vec![("GANTRY_FAULT".to_owned(), point)]);
    daemon.restart();
    assert_ne!(daemon.gantry(&["rm", "-v", "goes"]).code, 0, "the daemon dies over it");
    daemon.kill();
    daemon.set_env(Vec::new());
    daemon.restart();
    assert_eq!(daemon.gantry(&["ps", "-a", "--format", "{{.Names}}"]).ok().text(), "stays");
    assert_eq!(names(&daemon, &[]).len(), 1);
    daemon.gantry(&["rm", "-v", "stays"]).ok();
    assert_eq!(names(&daemon, &[]), [""; 0]);
    daemon.assert_nothing_left();
}

#[test]
fn binds_show_the_hosts_files() {
    let daemon = Daemon::start();
    let host = daemon.scratch().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "from the host\n").unwrap();
    let at = |mode: &str| format!("{}:/in{mode}", host.display());
    assert_eq!(inside(&daemon, &["-v", &at("")], "cat /in/file").ok().text(), "from the host");
    inside(&daemon, &["-v", &at("")], "echo back > /in/new").ok();
    assert_eq!(fs::read_to_string(host.join("new")).unwrap(), "back\n");
    refused(&inside(&daemon, &["-v", &at(":ro")], "touch /in/x"), 1, "Read-only");
    let file = format!("{}:/etc/motd", host.join("file").display());
    assert_eq!(inside(&daemon, &["-v", &file], "cat /etc/motd").ok().text(), "from the host");
    // A path that is not there: made by -v, refused by --mount.
    let missing = host.join("not/there");
    inside(&daemon, &["-v", &format!("{}:/x", missing.display())], "touch /x/y").ok();
    assert!(missing.join("y").is_file());
    let mount = format!("type=bind,src={},dst=/x", host.join("gone").display());
    refused(&inside(&daemon, &["--mount", &mount], "true"), 125, "does not exist");
    assert!(!host.join("gone").exists(), "a refused request changes nothing");
    daemon.assert_nothing_left();
}

#[test]
fn what_is_mounted_below_a_read_only_bind_is_read_only() {
    let daemon = Daemon::start();
    let host = daemon.scratch().join("host");
    fs::create_dir(&host).unwrap();
    let mount = |rest: &str| format!("type=bind,src={},dst=/in,{rest}", host.display());
    // Below it, in the container, another mount: a tmpfs.
    let nested = ["--mount", &mount("readonly"), "--tmpfs", "/in/below"];
    fs::create_dir(host.join("below")).unwrap();
    inside(&daemon, &nested, "touch /in/below/x && ! touch /in/x").ok();
    refused(&inside(&daemon, &["--mount", &mount("nope=1")], "true"), 125, "nope");
    refused(&inside(&daemon, &["-v", "/a:/b", "-v", "/c:/b"], "true"), 125, "Duplicate mount");
    refused(&inside(&daemon, &["-v", "/a:/"], "true"), 125, "destination");
    refused(&inside(&daemon, &["-v", "/a:relative"], "true"), 125, "absolute");
}

#[test]
fn memory_is_mounted() {
    let daemon = Daemon::start();
    let script = "grep ' /t ' /proc/mounts; stat -c %a /t; touch /t/x";
    let out = inside(&daemon, &["--tmpfs", "/t:size=64k,mode=700"], script).ok();
    let lines = out.lines();
    assert!(
        ["tmpfs", "nosuid", "nodev", "noexec", "size=64k"].iter().all(|o| lines[0].contains(o)),
        "{}",
        out.stdout
    );
    assert_eq!(lines[1], "700");
    let out = inside(
        &daemon,
        &["--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770"],
        "df -k /t | tail -1; stat -c %a /t",
    )
    .ok();
    assert!(out.lines()[0].contains("1024") && out.lines()[1] == "1770", "{}", out.stdout);
}

#[test]
fn volumes_are_renamed_copied_and_kept_as_they_were() {
    let daemon = Daemon::start();
    inside(&daemon, &["-v", "data:/d"], "echo 1 > /d/f; ln /d/f /d/g; chmod 600 /d/f").ok();
    daemon.gantry(&["volume", "rename", "data", "base"]).ok();
    assert_eq!(names(&daemon, &[]), ["base"]);
    daemon.gantry(&["volume", "clone", "base", "copy"]).ok();
    daemon.gantry(&["volume", "snapshot", "base", "then"]).ok();
    inside(&daemon, &["-v", "base:/d"], "echo 2 > /d/f").ok();
    for name in ["copy", "then"] {
        let flag = format!("{name}:/d");
        let out = inside(&daemon, &["-v", &flag], "cat /d/f /d/g; stat -c '%a %h' /d/f").ok();
        assert_eq!(out.lines(), ["1", "1", "600 2"], "{name}");
    }
    inside(&daemon, &["-v", "copy:/d"], "echo 3 > /d/f").ok();
    refused(&inside(&daemon, &["-v", "then:/d"], "echo 3 > /d/f"), 1, "Read-only");
    refused(&daemon.gantry(&["volume", "clone", "base", "copy"]), 1, "exists");
    refused(&daemon.gantry(&["volume", "clone", "gone", "x1"]), 1, "no such volume");
    let size = daemon.gantry(&["volume", "ls", "--size"]).ok();
    assert!(size.lines()[0].contains("SIZE"), "{}", size.stdout);
}

#[test]
fn volumes_travel_as_archives() {
    let daemon = Daemon::start();
    let script = "mkdir /d/in; echo 1 > /d/in/f; chown 7:8 /d/in/f; ln -s in/f /d/link";
    inside(&daemon, &["-v", "data:/d"], script).ok();
    let tar = daemon.scratch().join("data.tar");
    let path = tar.to_str().unwrap();
    daemon.gantry(&["volume", "export", "-o", path, "data"]).ok();
    daemon.gantry(&["volume", "import", "again", path]).ok();
    let out = inside(&daemon, &["-v", "again:/d"], "cat /d/link; stat -c %u:%g /d/in/f").ok();
    assert_eq!(out.lines(), ["1", "7:8"]);
    refused(&daemon.gantry(&["volume", "import", "again", path]), 1, "exists");
    fs::write(&tar, "no archive").unwrap();
    assert_ne!(daemon.gantry(&["volume", "import", "broken", path]).code, 0);
    assert_eq!(names(&daemon, &[]), ["again", "data"], "nothing of it remains");
}

#[test]
fn paths_below_volumes_and_images_stay_there() {
    let daemon = Daemon::start();
    inside(&daemon, &["-v", "data:/d"], "mkdir -p /d/a/b; echo in > /d/a/b/f").ok();
    let mount = |sub: &str| format!("type=volume,src=data,dst=/in,volume-subpath={sub}");
    assert_eq!(inside(&daemon, &["--mount", &mount("a/b")], "cat /in/f").ok().text(), "in");
    for bad in ["../..", "/etc", "a/../../.."] {
        let out = inside(&daemon, &["--mount", &mount(bad)], "ls /in");
        assert_ne!(out.code, 0, "{bad}: {}", out.stdout);
    }
    assert_ne!(inside(&daemon, &["--mount", &mount("nope")], "true").code, 0);
    // A link out of it, made by somebody who has the volume.
    symlink("/etc", mountpoint(&daemon, "data").join("out")).unwrap();
    let out = inside(&daemon, &["--mount", &mount("out")], "ls /in");
    assert_ne!(out.code, 0, "{}", out.stdout);
    let image = format!("type=image,src={},dst=/image", daemon.busybox());
    let out = inside(&daemon, &["--mount", &image], "cat /image/etc/passwd; touch /image/x");
    assert_eq!(out.code, 1);
    assert!(out.stdout.contains("app:x:1000") && out.stderr.contains("Read-only"));
    let below = format!("{image},image-subpath=etc");
    let out = inside(&daemon, &["--mount", &below], "cat /image/passwd").ok();
    assert!(out.stdout.contains("app:x:1000"));
}

#[test]
fn volumes_outlive_a_killed_daemon() {
    let mut daemon = Daemon::start();
    inside(&daemon, &["-v", "data:/d"], "echo kept > /d/f").ok();
    let place = mountpoint(&daemon, "data");
    daemon.kill();
    daemon.restart();
    assert_eq!(inside(&daemon, &["-v", "data:/d"], "cat /d/f").ok().text(), "kept");
    assert_eq!(mountpoint(&daemon, "data"), place);
    let own = fs::metadata(Path::new(&place)).unwrap();
    assert_eq!((own.uid(), own.permissions().mode() & 0o777), (0, 0o755));
}

#[test]
fn propagation_is_as_asked_for() {
    let daemon = Daemon::start();
    let host = daemon.scratch().join("host");
    fs::create_dir(&host).unwrap();
    let script = "grep ' /in ' /proc/self/mountinfo";
    let flag = |mode: &str| format!("{}:/in:{mode}", host.display());
    let private = inside(&daemon, &["-v", &flag("rprivate")], script).ok();
    assert!(!private.stdout.contains("master:") && !private.stdout.contains("shared:"));
    refused(&inside(&daemon, &["-v", &flag("rnope")], "true"), 125, "rnope");
    let none: Option<&str> = None;
    mount(Some(&host), &host, none, MsFlags::MS_BIND, none).expect("mount it on itself");
    let mounted = Mounted(host.clone());
    let share = |how| mount(none, &host, none, how, none).expect("set its propagation");
    share(MsFlags::MS_PRIVATE);
    for (mode, kind) in [("shared", "shared"), ("rslave", "shared or slave")] {
        let at = host.display();
        let words = format!("path {at} is mounted on {at} but it is not a {kind} mount");
        refused(&inside(&daemon, &["-v", &flag(mode)], script), 125, &words);
    }
    let image = daemon.busybox();
    share(MsFlags::MS_SHARED);
    for (mode, mark) in [("rshared", "shared:"), ("slave", "master:")] {
        let flag = flag(mode);
        let line = ["create", "--network", "none", "--name", mode, "-v", &flag];
        daemon.gantry(&[&line[..], &[image.as_str(), "sh", "-c", script]].concat()).ok();
        let seen = daemon.gantry(&["start", "-a", mode]).ok();
        assert!(seen.stdout.contains(mark), "{mode}: {}", seen.stdout);
    }
    // What was fine when it was made may not be any more.
    share(MsFlags::MS_PRIVATE);
    refused(&daemon.gantry(&["start", "rshared"]), 1, "but it is not a shared mount");
    daemon.gantry(&["rm", "rshared", "slave"]).ok();
    drop(mounted);
    daemon.assert_nothing_left();
}

/// What a test has mounted on the host.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("unmount it");
    }
}

#[test]
fn terminals_work_among_the_hosts_devices() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let console =
        || fs::symlink_metadata("/dev/console").map(|meta| (meta.ino(), meta.rdev())).ok();
    let before = console();
    let line = ["run", "-it", "--rm", "--name", "c", "--network", "none", "--privileged"];
    let line = [&line[..], &["-v", "/dev:/dev", image.as_str(), "sh"]].concat();
    let mut first = Terminal::start(daemon.gantry_command(&line));
    first.expect("# ");
    first.send("tty\n");
    first.expect("/dev/pts/");
    let mut second = Terminal::start(daemon.gantry_command(&["exec", "-it", "c", "sh"]));
    second.expect("# ");
    second.send("tty; exit 5\n");
    second.expect("/dev/pts/");
    assert_eq!(second.wait(), 5);
    first.send("exit 6\n");
    assert_eq!(first.wait(), 6);
    assert_eq!(console(), before);
    daemon.assert_nothing_left();
}
