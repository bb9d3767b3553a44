//! What images say of themselves, and what their files say of users.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use gantry_tests::{Output, run};
use serde_json::{Value, json};

use super::Prey;

/// Labels by which engines and their clients know what is theirs, out of an image.
#[test]
fn labels_that_are_the_engines_own() {
    let prey = Prey::new();
    let labels = json!({
        "io.gantry.name": "faked",
        "containerd.io/gc.root": "faked",
        "containerd.io/gc.expire": "2001-01-01T00:00:00Z",
        "containerd.io/restart.status": "running",
        "containerd.io/restart.loguri": "binary:///bin/sh",
        "io.containerd.image.config.stop-signal": "SIGKILL",
        "io.cri-containerd.kind": "container",
        "nerdctl/name": "faked",
        "maintainer": "somebody",
    });
    let odd = prey.odd("labels", |_| (), |config| config["Labels"] = labels);
    let line = ["run", "-d", "--name", "real", "--network", "none", &odd, "sleep", "600"];
    let id = prey.daemon.gantry(&line).ok().text().to_owned();
    let shown = ["inspect", "--format", "{{json .Config.Labels}}", "real"];
    assert_eq!(prey.daemon.gantry(&shown).ok().text(), r#"{"maintainer":"somebody"}"#);
    let record = prey.daemon.ctr(&["-n", "default", "containers", "info", &id]).ok();
    let record: Value = serde_json::from_str(&record.stdout).expect("JSON");
    let faked = |(_, value): (&String, &Value)| value == "faked" || value == "binary:///bin/sh";
    let stored = record["Labels"].as_object().expect("labels");
    assert!(!stored.iter().any(faked), "{stored:?}");
    assert_eq!(stored["io.gantry.name"], "real");
    assert_eq!(prey.daemon.gantry(&["ps", "-aq", "--filter", "name=faked"]).ok().text(), "");
    for label in ["io.gantry.name=x", "containerd.io/gc.root=x"] {
        let refused = prey.run(&["-l", label], &["true"]).exits(125);
        assert!(refused.stderr.contains("is reserved"), "{refused:?}");
    }
    prey.daemon.gantry(&["rm", "-f", "real"]).ok();
    prey.assert_clean();
}

/// CVE-2024-40635: a number that does not fit becomes root's.
#[test]
fn users_that_do_not_fit() {
    let prey = Prey::new();
    let said = "uids and gids must be in range 0-2147483647";
    for (number, user) in ["4294967296", "0:4294967295", "2147483648"].into_iter().enumerate() {
        let config = |config: &mut Value| config["User"] = json!(user);
        let odd = prey.odd(&format!("user{number}"), |_| (), config);
        let refused = prey.run_of(&odd, &[], &["id"]).exits(125);
        assert!(refused.stderr.contains(said) && refused.stdout.is_empty(), "{refused:?}");
    }
    prey.sleeper("c", &[]);
    for user in
        ["4294967296", "4294967295", "4294967296:0", "0:4294967296", "-1", "9".repeat(30).as_str()]
    {
        let flag = format!("--user={user}");
        let refused = prey.run(&[&flag], &["id"]).exits(125);
        assert!(refused.stderr.contains(said), "{user}: {refused:?}");
        let refused = prey.exec(&[&flag], "c", &["id"]);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{user}: {refused:?}");
    }
    // The same in the container's own files.
    let lines = "root:x:0:0:::\nbig:x:4294967296:0:::\nlast:x:4294967295:4294967295:::\n\
                 minus:x:-1:-1:::\nplus:x:+0:+0:::\nnone:x:::::\n";
    let odd = prey.odd("accounts", |root| write(root, "etc/passwd", lines.as_bytes()), |_| ());
    for user in ["big", "last", "minus", "none"] {
        let refused = prey.run_of(&odd, &["-u", user], &["id"]);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{user}: {refused:?}");
    }
    prey.daemon.gantry(&["rm", "-f", "c"]).ok();
    prey.assert_clean();
}

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("make it");
    fs::write(path, bytes).expect("write a file");
}

#[track_caller]
fn nobody(out: &Output, user: &str) {
    let words = format!("unable to find user {user}");
    assert!(out.code != 0 && out.stderr.contains(&words), "{out:?}");
}

/// Files that are read to find a user: those that hang, never end, or lie on the host.
#[test]
fn accounts_in_odd_files() {
    // It opens no such file itself.
    const USER: [&str; 4] = ["stat", "-Lc", "%u", "/proc/self"];
    let prey = Prey::new();
    let decoy = prey.daemon.scratch().join("decoy");
    fs::write(&decoy, "ghost:x:0:0:::\n").expect("write a file");
    let upwards = "../".repeat(20) + decoy.to_str().expect("UTF-8").trim_start_matches('/');
    let node = |words: &[&str], at: &Path| {
        run(Command::new(words[0]).arg(at).args(&words[1..])).ok();
    };
    let make = |kind: &str, at: &Path| match kind {
        "fifo" => node(&["mkfifo"], at),
        "zero" => node(&["mknod", "c", "1", "5"], at),
        "directory" => fs::create_dir(at).expect("make a directory"),
        "absolute" => symlink(&decoy, at).expect("make a link"),
        "upwards" => symlink(&upwards, at).expect("make a link"),
        _ => symlink("/proc/1/environ", at).expect("make a link"),
    };
    for kind in ["fifo", "zero", "directory", "absolute", "upwards", "kernel"] {
        let files = |root: &Path| {
            fs::create_dir(root.join("etc")).expect("make a directory");
            make(kind, &root.join("etc/passwd"));
            make(kind, &root.join("etc/group"));
        };
        let odd = prey.odd(&format!("passwd-{kind}"), files, |_| ());
        assert_eq!(prey.run_of(&odd, &[], &USER).ok().text(), "0", "{kind}");
        assert_eq!(prey.run_of(&odd, &["-u", "7:8"], &USER).ok().text(), "7", "{kind}");
        nobody(&prey.run_of(&odd, &["-u", "ghost"], &["id"]), "ghost");
        let group = prey.run_of(&odd, &["-u", "7:ghosts"], &["id"]);
        assert!(group.stderr.contains("unable to find group ghosts"), "{kind}: {group:?}");
    }
    // One that runs puts such a file there.
    prey.sleeper("c", &[]);
    prey.exec(&[], "c", &["sh", "-c", "rm /etc/passwd && mkfifo /etc/passwd"]).ok();
    nobody(&prey.exec(&["-u", "app"], "c", &["id"]), "app");
    assert_eq!(prey.exec(&[], "c", &USER).ok().text(), "0");
    prey.daemon.gantry(&["rm", "-f", "c"]).ok();
    // A long one is read so far.
    let filler = "x:x:9:9:::\n".repeat((20 << 20) / 11);
    let lines = format!("early:x:7:7:::\n{filler}late:x:8:8:::\n");
    let odd = prey.odd("long", |root| write(root, "etc/passwd", lines.as_bytes()), |_| ());
    assert_eq!(prey.run_of(&odd, &["-u", "early"], &USER).ok().text(), "7");
    nobody(&prey.run_of(&odd, &["-u", "late"], &["id"]), "late");
    prey.assert_clean();
}

/// CVE-2022-24769 and CVE-2022-36109: rights that a program could fall back on.
#[test]
fn rights_that_nobody_asked_for() {
    let prey = Prey::new();
    prey.sleeper("c", &[]);
    prey.sleeper("all", &["--privileged"]);
    let sets = ["sh", "-c", "grep -E '^Cap(Inh|Amb)' /proc/self/status"];
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000";
    for flags in [
        &["-u", "1000"][..],
        &["--cap-add", "NET_ADMIN"],
        &["--cap-add=ALL"],
        &["--privileged"],
        &[],
    ] {
        assert_eq!(prey.run(flags, &sets).ok().text(), none, "{flags:?}");
    }
    for (flags, name) in
        [(&["-u", "1000"][..], "c"), (&["--privileged"], "c"), (&[], "c"), (&[], "all")]
    {
        assert_eq!(prey.exec(flags, name, &sets).ok().text(), none, "{flags:?}");
    }
    // Who is in a group by number alone could leave it by a set-group-ID program, if it were
    // not among the others as well.
    let groups = ["sh", "-c", "id -g; sed -n 's/^Groups://p' /proc/self/status"];
    let among = |out: Output, wanted: &str| {
        let lines = out.lines();
        let others: Vec<_> = lines[1].split_whitespace().collect();
        assert!(lines[0] == wanted && others.contains(&wanted), "{out:?}");
    };
    for (flags, group) in [
        (&["-u", "1000:1000"][..], "1000"),
        (&["-u", "1000"], "1000"),
        (&["-u", "app:audio"], "29"),
        (&["-u", "4711:4712"], "4712"),
        (&["-u", "4711"], "0"),
        (&["-u", "4711:4712", "--group-add", "29"], "4712"),
        (&[], "0"),
    ] {
        among(prey.run(flags, &groups).ok(), group);
    }
    among(prey.exec(&["-u", "4711:4712"], "c", &groups).ok(), "4712");
    prey.daemon.gantry(&["rm", "-f", "c", "all"]).ok();
    prey.assert_clean();
}

/// Variables and arguments with what ends a line or a text elsewhere.
#[test]
fn variables_that_are_several() {
    let prey = Prey::new();
    let env = json!(["A=1\nB=2\nLD_PRELOAD=/evil", "PATH=/bin", "C=x\u{1b}[2J", "", "=x", "D"]);
    let odd = prey.odd("env", |_| (), |config| config["Env"] = env);
    let script = "printf '%s' \"$A\" | wc -l; echo \"[$B$LD_PRELOAD]\"; tr '\\0' '~' < /proc/1/environ; true";
    let out = prey.run_of(&odd, &[], &["sh", "-c", script]).ok();
    assert_eq!(out.lines()[..2], ["2", "[]"], "{out:?}");
    assert!(out.stdout.contains("~A=1\nB=2\nLD_PRELOAD=/evil~"), "{out:?}");
    let line = ["run", "-d", "--name", "c", "--network", "none", &odd, "sleep", "600"];
    prey.daemon.gantry(&line).ok();
    let shown = prey.daemon.gantry(&["inspect", "c"]).ok();
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    let all = shown[0]["Config"]["Env"].as_array().expect("variables");
    assert!(all.contains(&json!("A=1\nB=2\nLD_PRELOAD=/evil")), "{all:?}");
    prey.daemon.gantry(&["rm", "-f", "c"]).ok();
    for (name, key, value) in [
        ("env-nul", "Env", json!(["A=1\u{0}B=2"])),
        ("cmd-nul", "Cmd", json!(["echo", "a\u{0}b"])),
        ("entry-nul", "Entrypoint", json!(["/bin/e\u{0}cho"])),
        ("cwd-nul", "WorkingDir", json!("/a\u{0}b")),
    ] {
        let odd = prey.odd(name, |_| (), |config| config[key] = value);
        let out = prey.run_of(&odd, &[], &[]);
        assert!(out.code != 0 && out.stdout.is_empty(), "{name}: {out:?}");
    }
    prey.assert_clean();
}

/// What comes out of images and from other users does not command a terminal.
#[test]
fn nothing_commands_the_terminal() {
    let prey = Prey::new();
    let evil = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m";
    let label = evil.to_owned();
    let odd = prey.odd("terminal", |_| (), move |config| config["Labels"] = json!({"k": label}));
    let script = format!("while :; do sleep 1; done # {evil}");
    let own = format!("l={evil}");
    let line = ["run", "-d", "--name", "c", "--network", "none", "-l", &own, &odd];
    prey.daemon.gantry(&[&line[..], &["sh", "-c", &script]].concat()).ok();
    let table = "table {{.Names}}\\t{{.Command}}\\t{{.Labels}}";
    for line in [
        &["ps", "-a"][..],
        &["ps", "-a", "--no-trunc"],
        &["ps", "-a", "--format", table],
        &["images"],
        &["top", "c"],
        &["system", "df", "-v"],
        &["events", "--since", "1h", "--until", "0s"],
        &["inspect", &format!("none{evil}")],
        &["exec", "-u", &format!("none{evil}"), "c", "true"],
        &["exec", "c", &format!("none{evil}")],
        &["volume", "inspect", &format!("none{evil}")],
        &["pull", &format!("localhost:1/{evil}")],
    ] {
        let out = prey.daemon.gantry(line);
        let commands = |c: char| matches!(c, '\u{1b}' | '\u{7}' | '\u{9b}');
        assert!(!out.stdout.contains(commands), "{line:?}: {out:?}");
        assert!(!out.stderr.contains(commands), "{line:?}: {out:?}");
    }
    // JSON is what it is for all who read it.
    let shown = prey.daemon.gantry(&["inspect", "c"]).ok();
    assert!(!shown.stdout.contains(['\u{1b}', '\u{7}']), "{shown:?}");
    let shown: Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown[0]["Config"]["Labels"]["k"], evil);
    prey.daemon.gantry(&["rm", "-f", "c"]).ok();
    prey.assert_clean();
}
