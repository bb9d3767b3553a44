//! Files of containers: `cp` both ways, `diff` and `export`.

mod hostile;
mod interrupted;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use gantry_tests::{Daemon, Output, paths, run, start};

/// Makes a container that sleeps, and starts it.
fn sleeper(daemon: &Daemon, name: &str, flags: &[&str]) {
    create(daemon, name, flags);
    daemon.gantry(&["start", name]).ok();
}

fn create(daemon: &Daemon, name: &str, flags: &[&str]) {
    let image = daemon.busybox();
    let mut line = vec!["create", "--name", name, "--network", "none"];
    line.extend(flags);
    line.extend([image.as_str(), "sleep", "600"]);
    daemon.gantry(&line).ok();
}

/// Runs a script in a container that runs.
fn inside(daemon: &Daemon, name: &str, script: &str) -> String {
    daemon.gantry(&["exec", name, "sh", "-c", script]).ok().text().to_owned()
}

#[track_caller]
fn refused(output: &Output, words: &str) {
    assert_eq!(output.code, 1, "{}{}", output.stdout, output.stderr);
    assert!(output.stderr.contains(words), "{:?} lacks {words:?}", output.stderr);
}

/// A shell script with `$0` for `gantry`.
fn script(daemon: &Daemon, text: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", text]).arg(paths::program("gantry"));
    run(command.env("GANTRY_ADDRESS", daemon.address()).current_dir(daemon.scratch()))
}

/// `gantry cp`, in the test's own directory.
fn cp(daemon: &Daemon, from: &str, to: &str) -> Output {
    run(daemon.gantry_command(&["cp", from, to]).current_dir(daemon.scratch()))
}

fn read(daemon: &Daemon, path: &str) -> String {
    fs::read_to_string(daemon.scratch().join(path)).unwrap_or_else(|err| panic!("{path}: {err}"))
}

fn write(daemon: &Daemon, path: &str, text: &str) {
    let path = daemon.scratch().join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
    fs::write(path, text).expect("write");
}

#[test]
fn whatever_a_container_does() {
    let daemon = Daemon::start();
    let scratch = daemon.scratch().to_owned();
    create(&daemon, "c", &["-v", "data:/data", "--tmpfs", "/mem"]);
    write(&daemon, "in", "from here");
    let both_ways = |state: &str| {
        for dir in ["/root", "/data"] {
            let place = format!("c:{dir}/{state}");
            cp(&daemon, "in", &place).ok();
            cp(&daemon, &place, "out").ok();
            assert_eq!(read(&daemon, "out"), "from here", "{state} {dir}");
            fs::remove_file(scratch.join("out")).expect("remove");
        }
        cp(&daemon, "c:/etc/hosts", "hosts").ok();
        assert!(read(&daemon, "hosts").contains("localhost"), "{state}");
    };
    both_ways("created");
    daemon.gantry(&["start", "c"]).ok();
    both_ways("running");
    cp(&daemon, "in", "c:/mem/in").ok();
    assert_eq!(
        inside(&daemon, "c", "cat /mem/in /root/created /data/running"),
        "from here".repeat(3)
    );
    inside(&daemon, "c", "echo changed > /mem/in");
    cp(&daemon, "c:mem/in", "mem").ok();
    assert_eq!(read(&daemon, "mem"), "changed\n");
    daemon.gantry(&["pause", "c"]).ok();
    both_ways("paused");
    daemon.gantry(&["unpause", "c"]).ok();
    daemon.gantry(&["stop", "-t", "0", "c"]).ok();
    both_ways("exited");
    daemon.gantry(&["start", "c"]).ok();
    let all = "ls /root /data | grep -c ed$; ls /root | grep -c ing$";
    assert_eq!(inside(&daemon, "c", all), "6\n1");
    refused(&cp(&daemon, "none:/x", "x"), "No such container: none");
    refused(&cp(&daemon, "in", "none:/x"), "No such container: none");
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.gantry(&["volume", "rm", "data"]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn what_goes_where_to_a_container() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    write(&daemon, "d/sub/file", "f");
    write(&daemon, "file", "f");
    inside(&daemon, "c", "mkdir /there; echo old > /old; ln -s there /to-dir; ln -s /old /to-old");
    let found = |path: &str| inside(&daemon, "c", &format!("cd {path} && find . -type f | sort"));
    for (from, to, at, files) in [
        ("file", "c:/there", "/there", "./file"),
        ("file", "c:/there/new", "/there", "./file\n./new"),
        ("d", "c:/there", "/there", "./d/sub/file\n./file\n./new"),
        ("d", "c:/fresh", "/fresh", "./sub/file"),
        ("d", "c:/fresher/", "/fresher", "./sub/file"),
        ("d/.", "c:/contents", "/contents", "./sub/file"),
        ("d/.", "c:/fresh", "/fresh", "./sub/file"),
        ("d/", "c:/fresh/", "/fresh", "./d/sub/file\n./sub/file"),
        ("file", "c:/to-dir/via", "/there", "./d/sub/file\n./file\n./new\n./via"),
        ("file", "c:to-dir", "/there", "./d/sub/file\n./file\n./new\n./via"),
    ] {
        cp(&daemon, from, to).ok();
        assert_eq!(found(at), files, "{from} {to}");
    }
    cp(&daemon, "file", "c:/to-old").ok();
    assert_eq!(inside(&daemon, "c", "cat /old; readlink /to-old"), "f/old");
    refused(&cp(&daemon, "d", "c:/old"), "cannot copy directory");
    refused(&cp(&daemon, "file", "c:/missing/"), "no such directory");
    let nowhere = cp(&daemon, "file", "c:/missing/file");
    refused(&nowhere, "Could not find the file /missing in container c");
    refused(&cp(&daemon, "file/", "c:/there"), "not a directory");
    refused(&cp(&daemon, "no", "c:/there"), "no such file or directory");
    refused(&cp(&daemon, "file", "c:/dev/null"), "must be a directory or a regular file");
    refused(&cp(&daemon, "c:/a", "c:/b"), "copying between containers is not supported");
    refused(&cp(&daemon, "a", "b"), "must specify at least one container source");
    inside(&daemon, "c", "mkdir -p /there/file2");
    write(&daemon, "file2", "f");
    refused(&cp(&daemon, "file2", "c:/there"), "cannot overwrite directory");
    assert_eq!(inside(&daemon, "c", "ls -A / | grep gantry; ls -A /there | grep gantry; echo"), "");
}

#[test]
fn what_goes_where_from_a_container() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    inside(
        &daemon,
        "c",
        "mkdir -p /d/sub; echo f > /d/sub/file; ln -s sub /d/link; ln -s /d/sub/file /far; ln -s none /broken",
    );
    let at = |path: &str| daemon.scratch().join(path);
    fs::create_dir(at("there")).expect("make a directory");
    for (from, to, file) in [
        ("c:/d", "there", "there/d/sub/file"),
        ("c:/d", "fresh", "fresh/sub/file"),
        ("c:/d/.", "contents", "contents/sub/file"),
        ("c:/d/.", "there", "there/sub/file"),
        ("c:/d/sub/file", "there", "there/file"),
        ("c:d/sub/file", "there/other", "there/other"),
        ("c:/d/link/", "followed", "followed/file"),
        ("c:/d/link/file", ".", "file"),
    ] {
        cp(&daemon, from, to).ok();
        assert_eq!(read(&daemon, file), "f\n", "{from} {to}");
    }
    assert_eq!(fs::read_link(at("fresh/link")).expect("a link"), Path::new("sub"));
    cp(&daemon, "c:/far", "far").ok();
    assert_eq!(fs::read_link(at("far")).expect("a link"), Path::new("/d/sub/file"));
    daemon.gantry(&["cp", "-L", "c:/far", at("followed-file").to_str().expect("UTF-8")]).ok();
    assert_eq!(read(&daemon, "followed-file"), "f\n");
    symlink("there", at("to-there")).expect("link");
    cp(&daemon, "c:/far", "to-there").ok();
    assert!(at("there/far").is_symlink());
    refused(&cp(&daemon, "c:/d", "file"), "cannot copy directory");
    refused(&cp(&daemon, "c:/d/sub/file", "missing/"), "no such directory");
    refused(&cp(&daemon, "c:/d/sub/file", "missing/x"), "missing\" does not exist");
    refused(&cp(&daemon, "c:/nope", "x"), "Could not find the file /nope in container c");
    refused(&cp(&daemon, "c:/d/sub/file/", "x"), "not a directory");
    let broken = daemon.gantry(&["cp", "-L", "c:/broken", "-"]);
    refused(&broken, "Could not find the file /broken in container c");
    refused(&cp(&daemon, "c:/far", "/dev/null"), "must be a directory or a regular file");
}

#[test]
fn owners_modes_and_times() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    write(&daemon, "d/file", "f");
    let at = |path: &str| daemon.scratch().join(path);
    chown(at("d/file"), Some(1000), Some(29)).expect("chown");
    fs::set_permissions(at("d/file"), fs::Permissions::from_mode(0o2751)).expect("chmod");
    fs::hard_link(at("d/file"), at("d/other")).expect("link");
    run(Command::new("touch").args(["-d", "@1600000000.5"]).arg(at("d/file"))).ok();
    let facts = |path: &str| inside(&daemon, "c", &format!("stat -c '%u:%g %a %Y %h' {path}"));
    cp(&daemon, "d", "c:/plain").ok();
    assert_eq!(facts("/plain/file"), "0:0 2751 1600000000 2");
    daemon.gantry(&["cp", "-a", at("d").to_str().expect("UTF-8"), "c:/kept"]).ok();
    assert_eq!(facts("/kept/file"), "1000:29 2751 1600000000 2");
    cp(&daemon, "c:/kept", "plain").ok();
    let plain = fs::metadata(at("plain/file")).expect("it was copied");
    let mine = fs::metadata(daemon.scratch()).expect("it is there").uid();
    let facts = (plain.uid(), plain.mode() & 0o7777, plain.nlink());
    assert_eq!(facts, (mine, 0o751, 2), "no set-id bits by the way");
    assert_eq!((plain.mtime(), plain.mtime_nsec()), (1_600_000_000, 500_000_000));
    daemon.gantry(&["cp", "-a", "c:/kept", at("kept").to_str().expect("UTF-8")]).ok();
    let kept = fs::metadata(at("kept/file")).expect("it was copied");
    assert_eq!((kept.uid(), kept.gid(), kept.mode() & 0o7777), (1000, 29, 0o2751));
    // Devices are for those who ask for them.
    inside(&daemon, "c", "mkdir /nodes; mknod /nodes/null c 1 3; mkfifo /nodes/fifo");
    let left = cp(&daemon, "c:/nodes", "nodes").ok();
    assert!(left.stderr.contains("left out 1 devices"), "{}", left.stderr);
    assert!(at("nodes/fifo").exists() && !at("nodes/null").exists());
}

#[test]
fn archives_on_the_streams() {
    let daemon = Daemon::start();
    sleeper(&daemon, "c", &[]);
    write(&daemon, "site/index", "hello");
    let out = script(
        &daemon,
        "set -e; tar c site | \"$0\" cp - c:/root; tar cz site | \"$0\" cp - c:/tmp
         \"$0\" cp c:/root/site - | tar t; \"$0\" cp c:/tmp/site/. - | tar xO ./index",
    )
    .ok();
    assert_eq!(out.stdout, "site/\nsite/index\nhello");
    refused(&script(&daemon, "tar c site | \"$0\" cp - c:/root/new"), "must be a directory");
    refused(&script(&daemon, "echo no archive | \"$0\" cp - c:/root"), "not a whole tar archive");
    // Holes stay holes between us, and are written out for others.
    inside(&daemon, "c", "truncate -s 64M /holes; echo end >> /holes");
    cp(&daemon, "c:/holes", "holes").ok();
    let holes = fs::metadata(daemon.scratch().join("holes")).expect("it was copied");
    assert!(holes.len() == (64 << 20) + 4 && holes.blocks() < 1000, "{holes:?}");
    let plain = script(&daemon, "\"$0\" cp c:/holes - | wc -c").ok();
    assert!(plain.text().parse::<u64>().expect("a number") > 64 << 20);
    cp(&daemon, "holes", "c:/again").ok();
    let sparse = "cmp /holes /again && [ $(du -k /again | cut -f1) -lt 1000 ] && echo sparse";
    assert_eq!(inside(&daemon, "c", sparse), "sparse");
}

#[test]
fn what_is_read_only_is_refused() {
    let daemon = Daemon::start();
    let flags = ["--read-only", "-v", "data:/data", "-v", "fixed:/fixed:ro", "--tmpfs", "/mem"];
    write(&daemon, "file", "f");
    create(&daemon, "c", &flags);
    let check = || {
        refused(&cp(&daemon, "file", "c:/root"), "container rootfs is marked read-only");
        refused(&cp(&daemon, "file", "c:/fixed"), "mounted volume is marked read-only");
        cp(&daemon, "file", "c:/data").ok();
        cp(&daemon, "c:/data/file", "back").ok();
    };
    check();
    daemon.gantry(&["start", "c"]).ok();
    check();
    cp(&daemon, "file", "c:/mem").ok();
    assert_eq!(inside(&daemon, "c", "ls -A /root; ls -A /fixed; cat /mem/file"), "f");
}

#[test]
fn what_differs_and_what_is_there() {
    let daemon = Daemon::start();
    create(&daemon, "c", &[]);
    assert_eq!(daemon.gantry(&["diff", "c"]).ok().stdout, "");
    daemon.gantry(&["start", "c"]).ok();
    inside(
        &daemon,
        "c",
        "mkdir -p /new/deep; echo x > /new/deep/file; ln /new/deep/file /new/also; \
         echo >> /etc/passwd; rm /etc/group; chmod 700 /home; echo > /dev/shm/no; echo > /etc/hosts",
    );
    let expected = "C /etc\nD /etc/group\nC /etc/passwd\nC /home\nA /new\nA /new/also\nA /new/deep\n\
                    A /new/deep/file\n";
    assert_eq!(daemon.gantry(&["diff", "c"]).ok().stdout, expected);
    daemon.gantry(&["pause", "c"]).ok();
    assert_eq!(daemon.gantry(&["diff", "c"]).ok().stdout, expected);
    let tar = daemon.scratch().join("c.tar");
    let tar = tar.to_str().expect("UTF-8");
    daemon.gantry(&["export", "-o", tar, "c"]).ok();
    let listing = script(&daemon, "tar tvf c.tar; \"$0\" export c | tar tf - | sort > all").ok();
    for words in ["new/deep/file link to new/also", "drwx------ 0/0", "etc/passwd", "bin/busybox"] {
        assert!(listing.stdout.contains(words), "{words:?} in {}", listing.stdout);
    }
    let all = read(&daemon, "all");
    let names: Vec<&str> = all.lines().collect();
    assert!(names.contains(&"proc/") && names.contains(&"etc/hosts"), "places of mounts: {all}");
    assert!(!names.contains(&"etc/group") && !names.iter().any(|name| name.starts_with("proc/s")));
    refused(&daemon.gantry(&["export", "-o", "/no/such/file", "c"]), "failed to export container");
    let mut terminal = gantry_tests::Terminal::start(daemon.gantry_command(&["export", "c"]));
    terminal.expect("cowardly refusing to save to a terminal. Use the -o flag or redirect");
    assert_eq!(terminal.wait(), 1);
    daemon.gantry(&["rm", "-f", "c"]).ok();
    daemon.assert_nothing_left();
}

/// Feeds a command's standard input, and waits for its end.
fn fed(command: &mut Command, input: &[u8]) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = start(piped);
    let mut to = child.stdin.take().expect("it is piped");
    // One that refuses it reads not all.
    let _ = to.write_all(input);
    drop(to);
    let text = |from: &mut dyn std::io::Read| {
        let mut text = String::new();
        from.read_to_string(&mut text).expect("UTF-8");
        text
    };
    let stdout = text(child.stdout.as_mut().expect("it is piped"));
    let stderr = text(child.stderr.as_mut().expect("it is piped"));
    let code = child.wait_within(std::time::Duration::from_secs(60)).expect("it ends");
    Output { code, stdout, stderr }
}
