//! Where mounts and working directories come to lie.

use crate::behaviour::{add_mount, bind, process};
use crate::fixture::{Lab, image, spec};
use gantry_shim::runtime::RootfsMount;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

/// Puts a link into the root filesystem, as a layer above the image.
fn link(lab: &Lab, target: &str, at: &str) {
    let at = lab.path("upper").join(at);
    fs::create_dir_all(at.parent().expect("a directory")).expect("a directory");
    symlink(target, at).expect("a link");
}

pub(crate) fn links_that_lead_nowhere_get_their_files() {
    // Some end before their input is written.
    let hooks: fn(&mut Value) =
        |s| s["hooks"] = json!({"createRuntime": vec![json!({"path": "/bin/true"}); 30]});
    let run: fn(&mut Value) =
        |s| add_mount(s, json!({"destination": "/run", "type": "tmpfs", "options": ["mode=755"]}));
    // By itself, by libcontainer (which runs the hooks), and on a filesystem of the spec.
    for change in [|_: &mut Value| (), hooks, run] {
        let mut lab = Lab::new();
        let given = lab.path("given");
        fs::write(&given, "given\n").expect("a file");
        link(&lab, "../run/systemd/resolve/stub.conf", "etc/resolv.conf");
        link(&lab, "/run/other/hosts", "etc/hosts");
        link(&lab, "../../../../way/out", "etc/hostname");
        let with = |s: &mut Value| {
            change(s);
            for at in ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"] {
                add_mount(s, bind(&given, at, &["rbind"]));
            }
        };
        let script = "cat /etc/resolv.conf /run/other/hosts /way/out; readlink /etc/hosts";
        assert_eq!(lab.sh(with, script).out, "given\ngiven\ngiven\n/run/other/hosts\n");
        assert!(!Path::new("/way").exists() && !lab.path("way").exists());
    }
}

pub(crate) fn a_loop_of_links_is_refused() {
    let lab = Lab::new();
    let given = lab.path("given");
    fs::write(&given, "").expect("a file");
    link(&lab, "hosts", "etc/resolv.conf");
    link(&lab, "resolv.conf", "etc/hosts");
    let mut s = spec(&["true"]);
    add_mount(&mut s, bind(&given, "/etc/hosts", &["rbind"]));
    let e = lab.create(&s).map(drop).expect_err("a loop").to_string();
    assert!(e.contains("/etc/hosts") && e.contains("Too many levels of symbolic links"), "{e}");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

pub(crate) fn working_directories_are_cleaned() {
    let mut lab = Lab::new();
    for (cwd, seen) in
        [("/new/../x", "/x\n"), ("/./y/./z/", "/y/z\n"), ("/../../w", "/w\n"), ("/none/..", "/\n")]
    {
        let change = |s: &mut Value| s["process"]["cwd"] = cwd.into();
        assert_eq!(lab.sh(change, "pwd").out, seen, "{cwd}");
    }
    assert!(!lab.path("upper/new").exists() && !lab.path("upper/none").exists());
    let mut live = lab.start(&spec(&["sleep", "1000"]));
    let mut p = process(&["pwd"]);
    p["cwd"] = "/absent/../tmp/.".into();
    assert_eq!(live.try_exec(&p).expect("exec").out, "/tmp\n");
    live.kill();
}

pub(crate) fn working_directories_on_new_filesystems_are_made() {
    let mut lab = Lab::new();
    let run = |s: &mut Value| {
        let options = json!(["nosuid", "nodev", "mode=1777", "size=1m"]);
        add_mount(s, json!({"destination": "/run", "type": "tmpfs", "options": options}));
    };
    for cwd in ["/dev/shm/x", "/dev/shm", "/dev/of/mine", "/run/deep/er"] {
        let change = |s: &mut Value| {
            run(s);
            s["process"]["cwd"] = cwd.into();
        };
        let done = lab.sh(change, "pwd; grep -E ' /run ' /proc/self/mounts");
        assert!(done.out.starts_with(&format!("{cwd}\n")), "{}", done.out);
        assert!(done.out.contains(" /run tmpfs rw,nosuid,nodev,"), "{}", done.out);
    }
    assert!(!lab.path("upper/run/deep").exists() && !lab.path("upper/dev/of").exists());
}

pub(crate) fn owners_of_the_root_are_shifted() {
    let shift = ["uidmap=0:5000:100,100:9000:100".to_owned(), "gidmap=0:6000:65536".to_owned()];
    // Files of the image, what is written to them, and new ones.
    let script = "stat -c %u:%g /bin/busybox; chmod 700 /bin/plain; touch /new; stat -c %u:%g /bin/plain /new";
    let mut lab = Lab::new();
    lab.mounts[0].options.extend(shift.clone());
    let done = lab.sh(|_| {}, script);
    assert_eq!(done.out, "5000:6000\n5000:6000\n0:0\n");
    // Layers that stand nowhere but in the container.
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&lab.path("bundle").display().to_string()), "{mounts}");

    // A bind shows what is below it.
    let mut lab = Lab::new();
    let options = [vec!["rbind".to_owned(), "ro".to_owned()], shift.to_vec()].concat();
    let source = image().display().to_string();
    lab.mounts = vec![RootfsMount { kind: "bind".into(), source, target: String::new(), options }];
    let done = lab.sh(|_| {}, "stat -c %u:%g /bin/busybox; touch /new");
    assert!(done.out.starts_with("5000:6000\n") && done.out.contains("Read-only"), "{}", done.out);

    lab.mounts[0].options.push("uidmap=0:1".into());
    let refused = lab.create(&spec(&["true"])).map(drop).expect_err("half a map").to_string();
    assert!(refused.contains("uidmap=0:1") && refused.contains("0:100000:65536"), "{refused}");
    assert_eq!(lab.leftovers(), Vec::<String>::new());
}

pub(crate) fn images_are_roots() {
    let mut lab = Lab::new();
    let disk = lab.path("disk");
    fs::File::create(&disk).and_then(|f| f.set_len(32 << 20)).expect("a file");
    let made = Command::new("mkfs.ext4").arg("-qd").args([&image(), &disk]).status();
    assert!(made.is_ok_and(|s| s.success()), "mkfs.ext4");
    let source = disk.display().to_string();
    let root = |options: &[&str]| RootfsMount {
        kind: "ext4".into(),
        source: source.clone(),
        target: String::new(),
        options: options.iter().map(|o| (*o).to_owned()).collect(),
    };
    lab.mounts = vec![root(&["loop"])];
    assert_eq!(lab.sh(|_| {}, "echo kept > /srv/file; cat /srv/file").out, "kept\n");
    lab.mounts = vec![root(&["loop", "ro", "uidmap=0:5000:9", "gidmap=0:5000:9"])];
    let done = lab.sh(|_| {}, "cat /srv/file; stat -c %u /srv/file; touch /srv/new");
    assert!(done.out.starts_with("kept\n5000\n") && done.out.contains("Read-only"), "{}", done.out);
    // The devices went with their mounts.
    let devices = Command::new("losetup").arg("-j").arg(&disk).output().expect("losetup");
    assert_eq!(String::from_utf8_lossy(&devices.stdout), "");
}
