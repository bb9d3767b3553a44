//! Descriptors, working directories behind them, and the programs that run around containers.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Stdio;

use gantry_tests::{Terminal, paths, start, wait_for};
use serde_json::json;

use super::{Prey, SECRET};

/// Descriptors that a runtime may have open while it makes a process.
const DESCRIPTORS: std::ops::Range<u32> = 3..18;

/// CVE-2024-21626: a working directory that is reached through a descriptor of the runtime's, and
/// from there the files of the host.
#[test]
fn working_directories_behind_descriptors() {
    let prey = Prey::new();
    let odd = prey.odd(
        "cwd",
        |root| {
            for n in DESCRIPTORS {
                let link = root.join(format!("w{n}"));
                symlink(format!("/proc/self/fd/{n}"), link).expect("make a link");
            }
        },
        |config| config["WorkingDir"] = json!("/w7"),
    );
    let up = "../".repeat(20);
    let steal = format!("cat {up}{}/secret; true", prey.place().trim_start_matches('/'));
    let words = ["sh", "-c", steal.as_str()];
    prey.sleeper("c", &[]);
    let links = ["run", "-d", "--name", "links", "--network", "none", "-w", "/", &odd];
    prey.daemon.gantry(&[&links[..], &["sleep", "600"]].concat()).ok();
    let check = |out: gantry_tests::Output, what: &str| {
        assert!(!out.stdout.contains(SECRET), "{what}: {out:?}");
    };
    check(prey.run_of(&odd, &[], &words), "of the image");
    for n in DESCRIPTORS {
        let (direct, link) = (format!("/proc/self/fd/{n}"), format!("/w{n}"));
        check(prey.run(&["-w", &direct], &words), &direct);
        check(prey.run_of(&odd, &["-w", &link], &words), &link);
        check(prey.exec(&["-w", &direct], "c", &words), &direct);
        check(prey.exec(&["-w", &link], "links", &words), &link);
    }
    // Where it may be, it is.
    let there = prey.exec(&["-w", "/proc/1/fd"], "c", &["pwd"]);
    assert!(there.code != 0 || there.text() == "/proc/1/fd", "{there:?}");
    prey.daemon.gantry(&["rm", "-f", "c", "links"]).ok();
    prey.assert_clean();
}

/// Processes of a container, as the host numbers them, with their command lines.
fn processes(prey: &Prey, name: &str) -> Vec<(String, String)> {
    let top = prey.daemon.gantry(&["top", name, "-eo", "pid,args"]).ok();
    let split = |line: &str| {
        let (pid, args) = line.trim().split_once(char::is_whitespace)?;
        Some((pid.to_owned(), args.trim().to_owned()))
    };
    top.stdout.lines().skip(1).filter_map(split).collect()
}

/// Descriptors of directories, and any but the three streams, are ways out.
#[track_caller]
fn assert_streams_only(prey: &Prey, name: &str, wanted: &[&str]) {
    let all = processes(prey, name);
    for args in wanted {
        assert!(all.iter().any(|(_, found)| found.contains(args)), "{args} is not in {all:?}");
    }
    for (pid, args) in all {
        let dir = format!("/proc/{pid}/fd");
        let open = fs::read_dir(&dir).expect("it runs").flatten();
        let open: BTreeSet<_> =
            open.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(open.iter().eq(["0", "1", "2"]), "{args}: {open:?}");
        for stream in open {
            let meta = fs::metadata(format!("{dir}/{stream}")).expect("it is open");
            assert!(!meta.is_dir(), "{args}: {stream}");
        }
    }
}

#[test]
fn only_the_streams_are_open() {
    let prey = Prey::new();
    // By this variable programs are told of descriptors that were left open for them.
    prey.sleeper("plain", &["-e", "LISTEN_FDS=9", "-e", "LISTEN_PID=1"]);
    prey.sleeper("terminal", &["-t"]);
    prey.sleeper("init", &["--init"]);
    let check = ["--health-cmd", "sleep 603", "--health-interval", "100ms"];
    prey.sleeper("checked", &[&check[..], &["--health-timeout", "600s"]].concat());
    prey.exec(&["-d"], "plain", &["sleep", "601"]).ok();
    let mut inside = Terminal::start(prey.daemon.gantry_command(&[
        "exec",
        "-it",
        "plain",
        "sh",
        "-c",
        "echo up; exec sleep 602",
    ]));
    inside.expect("up");
    wait_for("the last process", || {
        let all = processes(&prey, "plain");
        all.iter().any(|(_, args)| args == "sleep 602").then_some(())
    });
    wait_for("a check", || {
        let all = processes(&prey, "checked");
        all.iter().any(|(_, args)| args == "sleep 603").then_some(())
    });
    assert_streams_only(&prey, "plain", &["sleep 600", "sleep 601", "sleep 602"]);
    assert_streams_only(&prey, "terminal", &["sleep 600"]);
    assert_streams_only(&prey, "init", &["docker-init", "sleep 600"]);
    assert_streams_only(&prey, "checked", &["sleep 600", "sleep 603"]);
    let all = ["plain", "terminal", "init", "checked"];
    prey.daemon.gantry(&[&["rm", "-f"], &all[..]].concat()).ok();
    prey.assert_clean();
}

/// Tries to change a program that runs, by its number, and again when it has ended: then
/// nothing but its mount protects it. Says what came of it.
const OVERWRITE: &str = r#"
for p in /proc/[0-9]*; do
    case "$(tr '\0' ' ' < $p/cmdline)" in "/proc/self/exe -info "*) found=$p ;; esac
done
exec 9< $found/exe && echo opened
chmod 777 $found/exe && echo CHANGED
echo x >> $found/exe && echo WRITTEN
touch /ready
while [ -d $found ]; do usleep 10000; done
echo x >> /proc/self/fd/9 && echo WRITTEN
chmod 777 /proc/self/fd/9 && echo CHANGED
true
"#;

/// CVE-2019-5736: what a container executes as /proc/self/exe is the runtime's own program.
#[test]
fn programs_around_containers_are_out_of_reach() {
    let prey = Prey::new();
    let shim = paths::program("containerd-shim-gantry-v2");
    let before = (fs::read(&shim).expect("read"), fs::metadata(&shim).expect("look").mode());
    prey.sleeper("c", &[]);
    // It waits for its input.
    let exec = ["exec", "-i", "c", "/proc/self/exe", "-info"];
    let mut command = prey.daemon.gantry_command(&exec);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = start(&mut command);
    let input = running.stdin.take().expect("it is piped");
    wait_for("the program", || {
        let all = processes(&prey, "c");
        all.iter().any(|(_, args)| args == "/proc/self/exe -info").then_some(())
    });
    let said = std::thread::scope(|scope| {
        let attack = scope.spawn(|| prey.exec(&[], "c", &["sh", "-c", OVERWRITE]));
        wait_for("the attack", || {
            (attack.is_finished() || prey.exec(&[], "c", &["test", "-e", "/ready"]).code == 0)
                .then_some(())
        });
        drop(input);
        attack.join().expect("it ends")
    });
    assert_eq!(said.stdout, "opened\n", "{said:?}");
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
    // So is the first process that the engine brings along.
    prey.sleeper("init", &["--init"]);
    let change = "for f in /sbin/docker-init /proc/1/exe; do
        chmod 777 $f && echo CHANGED; echo x >> $f && echo WRITTEN; mv $f /x && echo MOVED
        umount /sbin/docker-init && echo UNMOUNTED
    done; true";
    let said = prey.exec(&[], "init", &["sh", "-c", change]).ok();
    assert_eq!(said.stdout, "", "{said:?}");
    prey.daemon.gantry(&["rm", "-f", "c", "init"]).ok();
    let after = (fs::read(&shim).expect("read"), fs::metadata(&shim).expect("look").mode());
    assert!(before == after, "the shim's program has changed");
    prey.assert_clean();
}
