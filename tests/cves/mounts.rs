//! Mounts: links in their places and sources, /proc.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::json;

use super::{Exchange, Prey, SECRET};

/// How often a race is run.
const ROUNDS: usize = 30;

/// CVE-2021-30465: what a mount is put on is exchanged for a link between the look at it and
/// the mount, by another container that has the volume as well.
#[test]
fn places_that_are_exchanged_for_links() {
    let prey = Prey::new();
    let top = prey.volume("shared");
    fs::create_dir(top.join("dir")).expect("make a directory");
    symlink(&prey.host, top.join("link")).expect("make a link");
    fs::write(prey.volume("inner").join("mark"), "inner").expect("write a file");
    let exchange = Exchange::begin(top.join("dir"), top.join("link"));
    let script = "cat /v/dir/x/mark /v/link/x/mark /v/*/secret 2>/dev/null; true";
    let ways = [["-v", "inner:/v/dir/x"], ["-v", "inner:/v/dir/x:ro"], ["--tmpfs", "/v/dir/x"]];
    let mut mounted = 0;
    for (round, way) in ways.iter().cycle().take(ROUNDS).enumerate() {
        let flags = [&["-v", "shared:/v"][..], way].concat();
        let out = prey.run(&flags, &["sh", "-c", script]);
        assert!(!out.stdout.contains(SECRET), "round {round}: {out:?}");
        mounted += usize::from(out.stdout.contains("inner"));
        prey.assert_untouched();
    }
    drop(exchange);
    assert!(mounted > 0, "it works at least once");
    prey.assert_clean();
}

/// CVE-2021-25741 and its like: the path below a volume is exchanged for a link.
#[test]
fn sources_that_are_exchanged_for_links() {
    let prey = Prey::new();
    let decoy = prey.daemon.scratch().join("decoy");
    fs::create_dir_all(decoy.join("sub")).expect("make a directory");
    fs::write(decoy.join("sub/file"), SECRET).expect("write a file");
    let top = prey.volume("shared");
    fs::create_dir_all(top.join("dir/sub")).expect("make a directory");
    fs::write(top.join("dir/sub/file"), "of the volume").expect("write a file");
    symlink(&decoy, top.join("link")).expect("make a link");
    let exchange = Exchange::begin(top.join("dir"), top.join("link"));
    let mut read = 0;
    for below in ["dir/sub", "dir/sub/file"].iter().cycle().take(ROUNDS) {
        let mount = format!("type=volume,src=shared,dst=/in,volume-subpath={below}");
        let out = prey.run(&["--mount", &mount], &["sh", "-c", "cat /in/file || cat /in"]);
        assert!(!out.stdout.contains(SECRET), "{below}: {out:?}");
        read += usize::from(out.stdout.contains("of the volume"));
    }
    drop(exchange);
    assert!(read > 0, "it works at least once");
    prey.assert_clean();
}

#[test]
fn places_lead_nowhere_upwards() {
    let prey = Prey::new();
    prey.volume("data");
    let source = prey.daemon.scratch().join("source");
    fs::create_dir(&source).expect("make a directory");
    let up = |name: &str| format!("/x{}{}/{name}", "/..".repeat(20), prey.place());
    let volume = format!("data:{}", up("a"));
    let bind = format!("type=bind,src={},dst={}", source.display(), up("b"));
    for (flags, name) in [
        (["-v", volume.as_str()], "a"),
        (["--mount", &bind], "b"),
        (["--tmpfs", &up("c")], "c"),
        (["-w", &up("d")], "d"),
    ] {
        let seen = format!("{}/{name}", prey.place());
        prey.run(&flags, &["test", "-d", &seen]).ok();
        prey.assert_untouched();
    }
    prey.sleeper("donor", &["-v", &volume]);
    let seen = format!("{}/a", prey.place());
    prey.run(&["--volumes-from", "donor"], &["test", "-d", &seen]).ok();
    prey.daemon.gantry(&["rm", "-f", "donor"]).ok();
    prey.assert_clean();
}

/// What an image has at a volume's place is copied to it: not what a link there leads to
/// on the host.
#[test]
fn volumes_are_filled_from_the_image_alone() {
    let prey = Prey::new();
    let upwards = format!("{}{}", "../".repeat(20), prey.place().trim_start_matches('/'));
    let hostile = json!({"/x/../../../../v": {}, "": {}, "/": {}, "relative": {}, "/abs": {}});
    let odd = prey.odd(
        "links",
        |root| {
            symlink(&prey.host, root.join("abs")).expect("make a link");
            symlink(&upwards, root.join("rel")).expect("make a link");
        },
        |config| config["Volumes"] = hostile,
    );
    for at in ["abs", "rel"] {
        let top = prey.volume(at);
        let volume = format!("{at}:/{at}");
        let out =
            prey.run_of(&odd, &["-v", &volume], &["sh", "-c", "cat /abs/* /rel/*; true"]).ok();
        assert!(!out.stdout.contains(SECRET), "{out:?}");
        assert!(!top.join("secret").exists());
    }
    prey.assert_clean();
}

/// CVE-2019-16884, CVE-2019-19921 and their like: a container that has a /proc of its own making
/// is not confined by what is written to that, or is hidden there.
#[test]
fn nothing_is_mounted_over_proc() {
    let prey = Prey::new();
    prey.volume("data");
    let attributes = format!("{}:/proc/self/attr", prey.place());
    for flags in [
        ["--tmpfs", "/proc"],
        ["--tmpfs", "/proc/acpi"],
        ["--mount", "type=tmpfs,dst=/proc/"],
        ["-v", "data:/proc"],
        ["-v", "data:/proc/sys:ro"],
        ["-v", "data:/x/../proc/self"],
        ["-v", &attributes],
    ] {
        let out = prey.run(&flags, &["true"]).exits(125);
        assert!(out.stderr.contains("cannot be mounted because it is"), "{flags:?}: {out:?}");
    }
    // By way of a link in the image.
    let link = |root: &std::path::Path| symlink("proc", root.join("x")).expect("make a link");
    let odd = prey.odd("proc", link, |_| ());
    for flags in [
        ["-v", "data:/x"],
        ["-v", "data:/x:ro"],
        ["-v", "data:/x/sys"],
        ["-v", "data:/x/sys:ro"],
        ["--tmpfs", "/x"],
        ["--tmpfs", "/x/sys"],
    ] {
        let out = prey.run_of(&odd, &flags, &["true"]).exits(125);
        assert!(out.stderr.contains("proc"), "{flags:?}: {out:?}");
    }
    // What makes up readings for a container may do so.
    let uptime = prey.daemon.scratch().join("uptime");
    fs::write(&uptime, "1.00 1.00\n").expect("write a file");
    let reading = format!("{}:/proc/uptime", uptime.display());
    assert_eq!(prey.run(&["-v", &reading], &["cat", "/proc/uptime"]).ok().text(), "1.00 1.00");
    prey.assert_clean();
}

/// Links in the image in place of directories that mounts go to lead into the image.
#[test]
fn places_behind_links_of_the_image() {
    let prey = Prey::new();
    prey.volume("data");
    let odd = prey.odd(
        "places",
        |root| {
            fs::create_dir(root.join("etc")).expect("make a directory");
            for name in ["hosts", "resolv.conf", "hostname"] {
                let file = prey.host.join(name);
                symlink(file, root.join("etc").join(name)).expect("make a link");
            }
            symlink(&prey.host, root.join("out")).expect("make a link");
        },
        |_| (),
    );
    for flags in [
        &["-v", "data:/out/x"][..],
        &["-v", "data:/out/x:ro"],
        &["--tmpfs", "/out/x"],
        &["--tmpfs", "/out"],
        &["-w", "/out/x"],
    ] {
        prey.run_of(&odd, flags, &["sh", "-c", "cat /etc/hosts; touch /out/new"]).ok();
        prey.assert_untouched();
    }
    prey.assert_clean();
}
