//! What `gantry events` tells of images, volumes and of looks at containers, in Docker's words.

use gantry_tests::{Daemon, Terminal, wait_for};

/// What was told of these, each as a template shows it.
#[track_caller]
fn past(daemon: &Daemon, format: &str, filters: &[&str]) -> String {
    let mut line = vec!["events", "--since", "1h", "--until", "0s", "--format", format];
    filters.iter().for_each(|filter| line.extend(["--filter", *filter]));
    daemon.gantry(&line).ok().stdout
}

#[test]
fn images_are_told_of_once_whoever_names_them() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let repository = image.trim_end_matches(":latest");
    let id = daemon.gantry(&["image", "inspect", "-f", "{{.Id}}", &image]).ok().text().to_owned();
    let format = "{{.Action}} {{.ID}} {{.Actor.Attributes.name}}";
    let told = || past(&daemon, format, &["type=image"]);
    let mut want = format!("pull {image} {repository}\n");
    assert_eq!(told(), want);
    let other = "localhost/other:1";
    daemon.ctr(&["-n", "default", "images", "tag", &image, other]).ok();
    want += &format!("tag {id} {other}\n");
    wait_for("another client's name", || (told() == want).then_some(()));
    daemon.gantry(&["rmi", &image]).ok();
    want += &format!("untag {id} {image}\n");
    assert_eq!(told(), want);
    daemon.ctr(&["-n", "default", "images", "rm", other]).ok();
    want += &format!("untag {id} {other}\ndelete {id} {id}\n");
    wait_for("the end of that name", || (told() == want).then_some(()));
    // A container's image is pulled as well; its last name goes by this client.
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    daemon.gantry(&["rmi", &image]).ok();
    want += &format!("pull {image} {repository}\nuntag {id} {image}\ndelete {id} {id}\n");
    daemon.gantry(&["image", "prune", "-f"]).ok();
    want += "prune  <no value>\n";
    assert_eq!(told(), want);
    let pruned = ["type=image", "event=prune"];
    assert_eq!(past(&daemon, "{{.Actor.Attributes.reclaimed}}", &pruned), "0\n");
    daemon.assert_nothing_left();
}

#[test]
fn sessions_and_looks_at_a_container_are_told() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let run = ["run", "-it", "--network", "none", "--name", "tty", &image, "sh"];
    let mut terminal = Terminal::start(daemon.gantry_command(&run));
    terminal.expect("# ");
    terminal.resize(30, 100);
    let size = "{{.Actor.Attributes.height}} {{.Actor.Attributes.width}}";
    wait_for("both sizes", || {
        (past(&daemon, size, &["event=resize"]) == "24 80\n30 100\n").then_some(())
    });
    terminal.send("\x10\x11");
    assert_eq!(terminal.wait(), 0);
    let mut further = Terminal::start(daemon.gantry_command(&["exec", "-it", "tty", "sh"]));
    further.expect("# ");
    further.send("\x10\x11");
    assert_eq!(further.wait(), 0);
    let file = daemon.scratch().join("hostname").display().to_string();
    daemon.gantry(&["cp", "tty:/etc/hostname", &file]).ok();
    daemon.gantry(&["cp", &file, "tty:/"]).ok();
    let archive = daemon.scratch().join("tty.tar").display().to_string();
    daemon.gantry(&["export", "-o", &archive, "tty"]).ok();
    daemon.gantry(&["top", "tty"]).ok();
    let all = past(&daemon, "{{.Action}}", &["container=tty"]);
    // The further process goes on, or ends when it likes.
    let all: Vec<_> = all.lines().filter(|action| *action != "exec_die").collect();
    let want = [
        "create",
        "attach",
        "start",
        "resize",
        "resize",
        "detach",
        "exec_create: sh",
        "exec_start: sh",
        "exec_detach",
        "archive-path",
        "extract-to-dir",
        "export",
        "top",
    ];
    assert_eq!(all, want);
    let id = |event| past(&daemon, "{{.Actor.Attributes.execID}}", &[event]);
    assert_eq!(id("event=exec_detach"), id("event=exec_create"));
    daemon.gantry(&["rm", "-f", "tty"]).ok();
    daemon.gantry(&["container", "prune", "-f"]).ok();
    let pruned = past(&daemon, "{{.Type}} {{.Actor.Attributes.reclaimed}}", &["event=prune"]);
    assert_eq!(pruned, "container 0\n");
    daemon.assert_nothing_left();
}

#[test]
fn volumes_are_told_of_with_their_containers() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let told = || past(&daemon, "{{.Action}} {{.ID}}", &["type=volume"]);
    let run = ["run", "--rm", "--network", "none", "-v", "data:/srv", &image, "true"];
    daemon.gantry(&run).ok();
    let want = "create data\nmount data\nunmount data\n";
    wait_for("its end", || (told() == want).then_some(()));
    daemon.gantry(&["run", "--rm", "--network", "none", &image, "true"]).ok();
    daemon.gantry(&["volume", "rm", "data"]).ok();
    assert_eq!(told(), format!("{want}destroy data\n"), "the other one had none");
    let mount = past(&daemon, "{{json .Actor.Attributes}}", &["event=mount"]);
    for said in [r#""destination":"/srv""#, r#""read/write":"true""#, r#""driver":"local""#] {
        assert!(mount.contains(said), "{mount}");
    }
    daemon.assert_nothing_left();
}
