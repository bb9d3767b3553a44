//! What can be seen of containers, images and the disk: stats, df, events, prunes, info.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use gantry_grpc::gantry::engine::v1::containers_client::ContainersClient;
use gantry_grpc::gantry::engine::v1::system_client::SystemClient;
use gantry_grpc::gantry::engine::v1::{
    Container, DiskUsageRequest, DiskUsageResponse, ListContainersRequest, StatsRequest,
    StatsResponse,
};
use gantry_tests::{Daemon, Terminal, endpoint, run, start, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tonic::transport::Channel;

const SLEEP: [&str; 2] = ["sleep", "600"];
const BUSY: [&str; 3] = ["sh", "-c", "while :; do :; done"];
const HEADERS: &str = "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT";

/// Starts a detached container without a network.
#[track_caller]
fn detached(daemon: &Daemon, image: &str, name: &str, flags: &[&str], command: &[&str]) -> String {
    let mut line = vec!["run", "-d", "--network", "none", "--name", name];
    line.extend(flags);
    line.push(image);
    line.extend(command);
    daemon.gantry(&line).ok().text().to_owned()
}

/// Asks the daemon itself.
fn ask<T>(daemon: &Daemon, question: impl AsyncFnOnce(Channel) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        question(endpoint(&daemon.address()).connect().await.expect("it serves")).await
    })
}

fn disk_usage(daemon: &Daemon) -> DiskUsageResponse {
    ask(daemon, async |channel| {
        let usage = SystemClient::new(channel).disk_usage(DiskUsageRequest {}).await;
        usage.expect("an answer").into_inner()
    })
}

/// So many answers about what containers use.
fn stats(daemon: &Daemon, request: StatsRequest, count: usize) -> Vec<StatsResponse> {
    ask(daemon, async |channel| {
        let answers = ContainersClient::new(channel).stats(request).await;
        let mut answers = answers.expect("answers").into_inner();
        let mut all = Vec::new();
        while all.len() < count
            && let Some(answer) = answers.message().await.expect("an answer")
        {
            all.push(answer);
        }
        all
    })
}

fn pid_of(daemon: &Daemon, name: &str) -> u32 {
    let pid = daemon.gantry(&["inspect", "--format", "{{.State.Pid}}", name]).ok();
    pid.text().parse().expect("a process")
}

fn shim_of(daemon: &Daemon, name: &str) -> Pid {
    let status = fs::read_to_string(format!("/proc/{}/status", pid_of(daemon, name)));
    let status = status.expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    Pid::from_raw(parent.trim().parse().expect("a process"))
}

/// Allocated bytes of a directory and all that is in it; a file with several names counts once.
fn du(dir: &Path) -> u64 {
    fn add(path: &Path, seen: &mut HashSet<u64>) -> u64 {
        let found = fs::symlink_metadata(path).expect("it is there");
        if !found.is_dir() {
            let again = found.nlink() > 1 && !seen.insert(found.ino());
            return if again { 0 } else { found.blocks() * 512 };
        }
        let entries = fs::read_dir(path).expect("a directory").flatten();
        entries.fold(found.blocks() * 512, |sum, entry| sum + add(&entry.path(), seen))
    }
    add(dir, &mut HashSet::new())
}

/// Directories with the content of snapshots.
fn snapshots(daemon: &Daemon) -> Vec<PathBuf> {
    let root = daemon.root().join("io.containerd.snapshotter.v1.overlayfs/snapshots");
    let entries = fs::read_dir(root).expect("snapshots").flatten();
    entries.map(|entry| entry.path().join("fs")).filter(|dir| dir.exists()).collect()
}

/// Where a container that runs writes to.
fn upper(daemon: &Daemon, name: &str) -> PathBuf {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", pid_of(daemon, name)));
    let mounts = mounts.expect("it runs");
    let root = mounts.lines().find(|line| line.split(' ').nth(4) == Some("/")).expect("a root");
    let option = root.split([' ', ',']).find_map(|option| option.strip_prefix("upperdir="));
    option.expect("an overlay").into()
}

/// Files of its containers' cgroups that a daemon has open.
fn counters(daemon: &Daemon) -> usize {
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").flatten();
    let of = format!("{}/", daemon.cgroup());
    let paths = open.filter_map(|file| fs::read_link(file.path()).ok());
    paths.filter(|path| path.to_string_lossy().contains(&of)).count()
}

/// Bytes of all blobs.
fn blobs(daemon: &Daemon) -> u64 {
    let dir = daemon.root().join("io.containerd.content.v1.content/blobs/sha256");
    let entries = fs::read_dir(dir).expect("blobs").flatten();
    entries.map(|blob| blob.metadata().expect("a blob").len()).sum()
}

#[test]
fn stats_of_containers_that_work_and_that_sleep() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let busy = detached(&daemon, &image, "busy", &["-m", "64m"], &BUSY);
    detached(&daemon, &image, "idle", &[], &SLEEP);
    let table = daemon.gantry(&["stats", "--no-stream"]).ok();
    let lines = table.lines();
    assert!(lines[0].starts_with(HEADERS), "{}", table.stdout);
    assert!(lines[0].contains("   NET I/O ") && lines[0].ends_with(" PIDS"), "{}", table.stdout);
    assert_eq!(lines.len(), 3, "{}", table.stdout);
    assert!(lines[1].starts_with(&busy[..12]) && lines[1].contains(" busy "), "{}", table.stdout);
    assert!(lines[1].contains(" / 64MiB "), "{}", table.stdout);
    assert!(lines[1].ends_with(" 1") && lines[2].ends_with(" 1"), "{}", table.stdout);
    let of = |name: &str| {
        let request = StatsRequest { containers: vec![name.into()], ..StatsRequest::default() };
        let answers = stats(&daemon, request, 3);
        let last = answers.last().expect("three answers").containers[0].clone();
        assert!(last.running && last.measured, "{last:?}");
        let grown: Vec<_> = answers.iter().map(|a| a.containers[0].cpu_nanos).collect();
        assert!(grown.is_sorted(), "{grown:?}");
        last
    };
    let (busy, idle) = (of("busy"), of("idle"));
    assert!(busy.cpus > 0.05 && busy.cpus < 1.5, "{busy:?}");
    assert!(idle.cpus < 0.05, "{idle:?}");
    assert!(busy.memory > 0 && busy.memory < 64 << 20, "{busy:?}");
    assert_eq!(busy.memory_limit, 64 << 20);
    let machine = daemon.gantry(&["info", "--format", "{{.MemTotal}}"]).ok();
    assert_eq!(idle.memory_limit.to_string(), machine.text(), "it has no limit of its own");
    assert_eq!((idle.network_received, idle.network_sent), (0, 0));
    let template = "{{.Name}} {{.PIDs}}";
    let named = ["stats", "--no-stream", "--format", template, "idle", "busy"];
    assert_eq!(daemon.gantry(&named).ok().stdout, "idle 1\nbusy 1\n", "as they were named");
}

#[test]
fn stats_of_containers_that_do_not_run_and_that_go() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let id = detached(&daemon, &image, "web", &[], &SLEEP);
    daemon.gantry(&["create", "--network", "none", "--name", "made", &image, "true"]).ok();
    let names = |flags: &[&str]| {
        let line = ["stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}}"];
        daemon.gantry(&[&line[..], flags].concat()).ok().stdout
    };
    assert!(names(&[]).starts_with("web ") && names(&[]).lines().count() == 1);
    assert!(names(&["-a"]).starts_with("made 0.00%\nweb "));
    assert_eq!(names(&["made"]), "made 0.00%\n");
    let full = daemon.gantry(&["stats", "--no-stream", "--no-trunc", "--format", "{{.ID}}"]).ok();
    assert_eq!(full.text(), id);
    let unknown = daemon.gantry(&["stats", "wbe"]).exits(1);
    assert!(unknown.stderr.contains("No such container: wbe"), "{}", unknown.stderr);
    let wrong = daemon.gantry(&["stats", "--format", "{{.Nope"]).exits(1);
    assert!(wrong.stderr.contains("template"), "{}", wrong.stderr);
    let mut follow = Terminal::start(daemon.gantry_command(&["stats", "web"]));
    follow.expect("web");
    daemon.gantry(&["rename", "web", "site"]).ok();
    follow.expect("site");
    daemon.gantry(&["rm", "-f", "site"]).ok();
    assert_eq!(follow.wait(), 0, "nothing is left to be measured");
    daemon.gantry(&["rm", "made"]).ok();
    assert_eq!(names(&[]), "");
    daemon.assert_nothing_left();
}

#[test]
fn a_live_table_is_redrawn_and_files_are_closed_behind_it() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut table = Terminal::start(daemon.gantry_command(&["stats"]));
    table.expect("\x1b[H");
    table.expect("CONTAINER ID");
    detached(&daemon, &image, "late", &[], &SLEEP);
    table.expect("late");
    assert!(counters(&daemon) > 0, "they stay open");
    kill(Pid::from_raw(table.pid() as i32), Signal::SIGINT).expect("end it");
    assert_eq!(table.wait(), 130);
    wait_for("files to be closed", || (counters(&daemon) == 0).then_some(()));
}

#[test]
fn a_stopped_shim_delays_nobody_who_looks() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    for name in ["stuck", "fine"] {
        detached(&daemon, &image, name, &[], &SLEEP);
    }
    let shim = shim_of(&daemon, "stuck");
    kill(shim, Signal::SIGSTOP).expect("stop the shim");
    let begin = Instant::now();
    let both = ["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"];
    assert_eq!(daemon.gantry(&both).ok().stdout, "fine 1\nstuck 1\n", "its counters are there");
    for line in [&["ps", "-s"][..], &["inspect", "-s", "stuck", "fine"], &["system", "df", "-v"]] {
        daemon.gantry(line).ok();
    }
    let taken = begin.elapsed();
    kill(shim, Signal::SIGCONT).expect("let it go on");
    assert!(taken < Duration::from_secs(5), "{taken:?}");
}

#[test]
fn df_is_what_du_says() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let write = "dd if=/dev/zero of=/big bs=1k count=700 2>/dev/null; mkdir /d; ln /big /d/again; \
                 for n in $(seq 300); do echo $n > /d/$n; done; sync; touch /done; sleep 600";
    detached(&daemon, &image, "writer", &[], &["sh", "-c", write]);
    detached(&daemon, &image, "idle", &[], &SLEEP);
    daemon.gantry(&["create", "--network", "none", "--name", "made", &image, "true"]).ok();
    wait_for("the files", || {
        (daemon.gantry(&["exec", "writer", "test", "-e", "/done"]).code == 0).then_some(())
    });
    nix::unistd::sync();
    let usage = disk_usage(&daemon);
    let size = |name: &str| {
        let found = usage.containers.iter().find(|c| c.name == name).expect("it is there");
        (found.size_rw.expect("a size"), found.size_root.expect("a size"))
    };
    for name in ["writer", "idle"] {
        assert_eq!(size(name).0, du(&upper(&daemon, name)), "{name}");
    }
    assert!(size("writer").0 > 700 << 10, "{:?}", size("writer"));
    let written: u64 = usage.containers.iter().map(|c| c.size_rw.expect("a size")).sum();
    let all: u64 = snapshots(&daemon).iter().map(|dir| du(dir)).sum();
    let layers = all - written;
    assert_eq!(usage.layers_size, layers + blobs(&daemon), "layers, unpacked and packed");
    assert_eq!(size("idle").1, layers + size("idle").0, "the image and what it has written");
    assert_eq!((usage.images.len(), usage.images[0].containers), (1, 3));
    assert_eq!(usage.images[0].unique_size, usage.layers_size);
    assert_eq!(usage.layers_reclaimable, 0, "all is needed");
    // Again, from what is known by now.
    assert_eq!(disk_usage(&daemon), usage);
    let told: Vec<Container> = ask(&daemon, async |channel| {
        let request = ListContainersRequest { all: true, size: true, ..Default::default() };
        let listed = ContainersClient::new(channel).list(request).await.expect("a list");
        listed.into_inner().containers
    });
    for container in told {
        assert_eq!((container.size_rw, container.size_root), {
            let (written, whole) = size(&container.name);
            (Some(written), Some(whole))
        });
    }
    let inspected =
        daemon.gantry(&["inspect", "-s", "--format", "{{.SizeRw}} {{.SizeRootFs}}", "writer"]);
    let (written, whole) = size("writer");
    assert_eq!(inspected.ok().text(), format!("{written} {whole}"));
    for name in ["writer", "idle", "made"] {
        daemon.gantry(&["rm", "-f", name]).ok();
    }
    let usage = disk_usage(&daemon);
    assert_eq!(usage.layers_reclaimable, usage.layers_size, "nobody needs the image");
    daemon.gantry(&["image", "prune", "-af"]).ok();
    wait_for("the disk to be freed", || {
        let usage = disk_usage(&daemon);
        (usage.layers_size == 0 && snapshots(&daemon).is_empty()).then_some(())
    });
}

#[test]
fn the_tables_of_df() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    detached(&daemon, &image, "web", &["-v", "data:/data"], &SLEEP);
    daemon.gantry(&["volume", "create", "spare"]).ok();
    let table = daemon.gantry(&["system", "df"]).ok();
    let lines = table.lines();
    assert_eq!(lines.len(), 5, "{}", table.stdout);
    for (line, begin) in lines.iter().zip([
        "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE",
        "Images          1         1         ",
        "Containers      1         1         ",
        "Local Volumes   2         1         ",
        "Build Cache     0         0         0B        0B",
    ]) {
        assert!(line.starts_with(begin), "{}", table.stdout);
    }
    let verbose = daemon.gantry(&["system", "df", "-v"]).ok().stdout;
    for title in [
        "Images space usage:\n\nREPOSITORY",
        "SHARED SIZE   UNIQUE SIZE",
        "\nContainers space usage:\n\nCONTAINER ID   IMAGE",
        "\nLocal Volumes space usage:\n\nVOLUME NAME   LINKS     SIZE\ndata          1",
        "\nBuild cache usage: 0B\n",
    ] {
        assert!(verbose.contains(title), "{title}: {verbose}");
    }
    let json = daemon.gantry(&["system", "df", "--format", "json"]).ok();
    let first: Value = serde_json::from_str(json.lines()[0]).expect("JSON");
    assert_eq!((&first["Type"], &first["TotalCount"]), (&"Images".into(), &"1".into()));
    let sizes = daemon.gantry(&["ps", "-s", "--format", "{{.Size}}"]).ok();
    assert!(sizes.text().contains("kB (virtual "), "{}", sizes.stdout);
}

#[test]
fn images_are_chosen_by_filters_and_removed_when_nobody_uses_them() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let repository = image.trim_end_matches(":latest");
    let names = |filters: &[&str]| {
        let mut line = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        filters.iter().for_each(|filter| line.extend(["-f", *filter]));
        daemon.gantry(&line).ok().stdout
    };
    let one = format!("{image}\n");
    let (named, since) = (format!("reference={repository}"), format!("since={image}"));
    for filters in [
        &["dangling=false"][..],
        &[named.as_str()],
        &["reference=*/busybox:lat*"],
        &["reference=nope", "reference=*/busy*"],
        &["until=0s"],
    ] {
        assert_eq!(names(filters), one, "{filters:?}");
    }
    let none = ["dangling=true", "reference=busybox", "label=nope", since.as_str()];
    for filter in none {
        assert_eq!(names(&[filter]), "", "{filter}");
    }
    daemon.gantry(&["images", "-f", "nope=1"]).exits(1);
    let unknown = daemon.gantry(&["images", "-f", "before=nope"]).exits(1);
    assert!(unknown.stderr.contains("No such image"), "{}", unknown.stderr);
    // By its digest alone it has no tag.
    let digest = daemon.gantry(&["images", "--digests", "--format", "{{.Digest}}"]).ok();
    let by_digest = format!("{repository}@{}", digest.text());
    // What is here by a tag need not be pulled to be found by its digest.
    let found = ["run", "--rm", "--pull", "never", "--network", "none", &by_digest, "true"];
    daemon.gantry(&found).ok();
    daemon.gantry(&["pull", "-q", &by_digest]).ok();
    assert_eq!(names(&["dangling=true"]), "", "the image still has one");
    let counted = daemon.gantry(&["info", "--format", "{{.Images}}"]).ok();
    assert_eq!(counted.text(), "1", "it has two names");
    let nothing = daemon.gantry(&["image", "prune", "-f"]).ok();
    assert_eq!(nothing.stdout, "Total reclaimed space: 0B\n");
    daemon.gantry(&["rmi", &image]).ok();
    assert_eq!(names(&["dangling=true"]), format!("{repository}:<none>\n"));
    detached(&daemon, &by_digest, "user", &[], &SLEEP);
    let kept = daemon.gantry(&["image", "prune", "-a", "-f"]).ok();
    assert_eq!(kept.stdout, "Total reclaimed space: 0B\n", "a container was made from it");
    daemon.gantry(&["rm", "-f", "user"]).ok();
    let kept = daemon.gantry(&["image", "prune", "-f", "--filter", "label=nope"]).ok();
    assert_eq!(kept.stdout, "Total reclaimed space: 0B\n");
    let usage = disk_usage(&daemon);
    let pruned = daemon.gantry(&["image", "prune", "-f"]).ok();
    let lines = pruned.lines();
    assert_eq!(lines[0], "Deleted Images:", "{}", pruned.stdout);
    assert_eq!(lines[1], format!("untagged: {by_digest}"));
    assert!(lines[2].starts_with("deleted: sha256:") && lines[3].is_empty(), "{}", pruned.stdout);
    let megabytes = usage.layers_size as f64 / 1e6;
    let decimals = 3 - megabytes.log10().floor() as usize;
    let megabytes = format!("{megabytes:.decimals$}");
    let megabytes = megabytes.trim_end_matches('0').trim_end_matches('.');
    assert_eq!(lines[4], format!("Total reclaimed space: {megabytes}MB"), "{usage:?}");
    assert_eq!(names(&[]), "");
}

#[test]
fn a_system_is_pruned_after_a_question() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    detached(&daemon, &image, "runs", &[], &SLEEP);
    let ended = ["run", "--network", "none", "--name", "ended", "-v", "/anonymous", &image];
    daemon.gantry(&[&ended[..], &["sh", "-c", "echo x > /f"]].concat()).ok();
    let id = daemon.gantry(&["ps", "-aq", "--no-trunc", "-f", "name=ended"]).ok();
    let no = daemon.gantry(&["system", "prune"]).ok();
    assert!(no.stdout.starts_with("WARNING! This will remove:\n  - all stopped containers\n"));
    assert!(no.stdout.ends_with("\nAre you sure you want to continue? [y/N] "), "{}", no.stdout);
    assert_eq!(daemon.gantry(&["ps", "-aq"]).ok().lines().len(), 2, "nothing was removed");
    let until = ["system", "prune", "--volumes", "-f", "--filter", "until=1h"];
    let refused = daemon.gantry(&until).exits(1);
    assert!(refused.stderr.contains("not supported with \"--volumes\""), "{}", refused.stderr);
    let none = daemon.gantry(&["system", "prune", "-f", "--filter", "until=1h"]).ok();
    assert_eq!(none.stdout, "Total reclaimed space: 0B\n", "all is younger");
    let mut command = daemon.gantry_command(&["system", "prune", "-a", "--volumes"]);
    let mut client = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    client.stdin.take().expect("piped").write_all(b"y\n").expect("answer");
    let told = std::io::read_to_string(client.stdout.take().expect("piped")).expect("what it says");
    let (_, told) = told.split_once("[y/N] ").expect("a question");
    let begin = format!("Deleted Containers:\n{}\n\nDeleted Volumes:\n", id.text());
    assert!(told.starts_with(&begin), "{told}");
    assert!(
        told.lines().last().is_some_and(|l| l.starts_with("Total reclaimed space: ")),
        "{told}"
    );
    assert!(!told.contains("Deleted Images"), "{told}");
    let names = daemon.gantry(&["ps", "-a", "--format", "{{.Names}}"]).ok();
    assert_eq!(names.text(), "runs");
    assert_eq!(daemon.gantry(&["volume", "ls", "-q"]).ok().text(), "");
    let nothing = daemon.gantry(&["container", "prune", "-f"]).ok();
    assert_eq!(nothing.stdout, "Total reclaimed space: 0B\n");
}

#[test]
fn events_of_the_past_and_as_they_come() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let mut live =
        Terminal::start(daemon.gantry_command(&["events", "--filter", "type=container"]));
    let template = ["events", "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}"];
    let run = ["run", "--rm", "--network", "none", "--name", "short", "-l", "env=test", &image];
    // It may not listen yet when the first one is told.
    wait_for("the first event", || {
        daemon.gantry(&[&run[..], &["sh", "-c", "exit 7"]].concat()).exits(7);
        live.poll();
        live.rest().contains("container start").then_some(())
    });
    live.expect("container die");
    kill(Pid::from_raw(live.pid() as i32), Signal::SIGINT).expect("end it");
    live.wait();
    let past = |filters: &[&str]| {
        let mut line = template.to_vec();
        line.extend(["--since", "1h", "--until", "0s"]);
        filters.iter().for_each(|filter| line.extend(["--filter", *filter]));
        daemon.gantry(&line).ok().stdout
    };
    let once =
        ["create", "attach", "start", "die", "destroy"].map(|a| format!("container {a} short\n"));
    let all = past(&["container=short"]);
    assert!(all.starts_with(&once.concat()), "{all}");
    assert!(past(&["event=die", "label=env=test"]).starts_with("container die short\n"));
    for none in [&["event=die", "container=other"][..], &["label=env=prod"], &["type=volume"]] {
        assert_eq!(past(none), "", "{none:?}");
    }
    let repository = image.trim_end_matches(":latest");
    assert_eq!(past(&["type=image"]), format!("image pull {repository}\n"));
    let of_image = past(&[&format!("image={repository}")]);
    assert!(of_image.contains("container start short"), "{of_image}");
    let line = daemon.gantry(&["events", "--since", "1h", "--until", "0s", "-f", "event=die"]).ok();
    let first = line.lines()[0].to_owned();
    let words: Vec<_> = first.split(' ').collect();
    assert!(words[0].ends_with('Z') && words[0].len() == "2026-11-22T10:00:00.000000000Z".len());
    assert_eq!(words[1..3], ["container", "die"], "{first}");
    assert_eq!(words[3].len(), 64);
    let attributes = format!("(env=test, exitCode=7, image={image}, name=short)");
    assert!(first.ends_with(&attributes), "{first}");
    let json = daemon
        .gantry(&[
            "events",
            "--since",
            "1h",
            "--until",
            "0s",
            "-f",
            "event=die",
            "--format",
            "json",
        ])
        .ok();
    let json: Value = serde_json::from_str(json.lines()[0]).expect("JSON");
    assert_eq!((&json["Type"], &json["status"]), (&"container".into(), &"die".into()));
    assert_eq!(json["Actor"]["Attributes"]["exitCode"], "7");
    assert_eq!(json["id"].as_str(), Some(words[3]));
    daemon.gantry(&["events", "--filter", "nope=1"]).exits(1);
    daemon.gantry(&["events", "--format", "{{"]).exits(64);
    daemon.assert_nothing_left();
}

#[test]
fn events_tell_what_is_done_with_a_container() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    let command = ["sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"];
    let run = ["run", "-d", "--network", "none", "--name", "old", &image];
    daemon.gantry(&[&run[..], &command].concat()).ok();
    let up = |times: usize| {
        wait_for("its trap", || {
            let logs = daemon.gantry(&["logs", "new"]).stdout;
            (logs.matches("up").count() == times).then_some(())
        });
    };
    daemon.gantry(&["rename", "old", "new"]).ok();
    up(1);
    daemon.gantry(&["exec", "new", "sh", "-c", "exit 3"]).exits(3);
    let past = |format: &str, filters: &[&str]| {
        let mut line = vec!["events", "--since", "1h", "--until", "0s", "--format", format];
        filters.iter().for_each(|filter| line.extend(["--filter", *filter]));
        daemon.gantry(&line).ok().stdout
    };
    let died = "{{.Actor.Attributes.exitCode}}";
    wait_for("the end is told", || (past(died, &["event=exec_die"]) == "3\n").then_some(()));
    daemon.gantry(&["kill", "-s", "USR2", "new"]).exits(0);
    daemon.gantry(&["restart", "new"]).ok();
    up(2);
    daemon.gantry(&["stop", "new"]).ok();
    daemon.gantry(&["rm", "new"]).ok();
    let signal = "{{.Actor.Attributes.signal}}";
    assert_eq!(past(signal, &["event=kill"]), "12\n15\n15\n");
    assert_eq!(past("{{.Actor.Attributes.oldName}}", &["event=rename"]), "old\n");
    let ids = past("{{.Actor.Attributes.execID}}", &["event=exec_create", "event=exec_die"]);
    let ids: Vec<_> = ids.lines().collect();
    assert!(ids.len() == 2 && ids[0] == ids[1] && ids[0].len() == 64, "{ids:?}");
    let all = past("{{.Action}}", &["type=container"]);
    let want = [
        "create",
        "start",
        "rename",
        "exec_create: sh -c exit 3",
        "exec_start: sh -c exit 3",
        "exec_die",
        "kill",
        "kill",
        "die",
        "stop",
        "start",
        "restart",
        "kill",
        "die",
        "stop",
        "destroy",
    ];
    assert_eq!(all.lines().collect::<Vec<_>>(), want);
    daemon.assert_nothing_left();
}

#[test]
fn times_are_in_the_callers_zone() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    daemon.gantry(&["create", "--name", "c", "--network", "none", &image, "true"]).ok();
    let shown = |zone: &str, line: &[&str]| {
        run(daemon.gantry_command(line).env("TZ", zone)).ok().text().to_owned()
    };
    let made = ["ps", "-a", "--format", "{{.CreatedAt}}"];
    let (here, tokyo) = (shown("UTC0", &made), shown("JST-9", &made));
    assert!(here.ends_with(" +0000 UTC"), "{here}");
    assert!(tokyo.ends_with(" +0900 +0900") && tokyo[11..19] != here[11..19], "{tokyo}, {here}");
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", "event=create"];
    let event = shown("JST-9", &events);
    assert!(event.contains("+09:00 container create "), "{event}");
}

#[test]
fn groups_hold_the_same_commands() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    detached(&daemon, &image, "web", &[], &SLEEP);
    let said = |line: &[&str]| daemon.gantry(line).ok().stdout;
    for (group, own) in [
        (&["container", "ls", "-q"][..], &["ps", "-q"][..]),
        (&["container", "ps", "-aq"], &["ps", "-aq"]),
        (&["image", "ls"], &["images"]),
        (&["image", "list", "-q"], &["images", "-q"]),
        (&["container", "inspect", "web"], &["inspect", "web"]),
        (&["image", "inspect", image.as_str()], &["inspect", image.as_str()]),
        (&["system", "info", "--format", "{{.ID}}"], &["info", "--format", "{{.ID}}"]),
    ] {
        assert_eq!(said(group), said(own), "{group:?}");
    }
    let wrong = daemon.gantry(&["image", "inspect", "web"]).exits(1);
    assert!(wrong.stderr.contains("No such image: web"), "{}", wrong.stderr);
    assert!(said(&["container", "--help"]).contains("\n  ls "));
    let help = said(&["container", "ls", "--help"]);
    assert!(help.contains("Usage: gantry container ls [OPTIONS]"), "{help}");
    daemon.gantry(&["container", "nope"]).exits(1);
    daemon.gantry(&["container", "stop", "-t", "0", "web"]).ok();
    daemon.gantry(&["container", "rm", "web"]).ok();
    daemon.gantry(&["image", "rm", &image]).ok();
    daemon.assert_nothing_left();
}

#[test]
fn info_and_version_say_what_docker_says() {
    let daemon = Daemon::start();
    let image = daemon.busybox();
    detached(&daemon, &image, "web", &[], &SLEEP);
    let info = daemon.gantry(&["info"]).ok().stdout;
    for line in [
        "\nServer:\n Containers: 1\n  Running: 1\n  Paused: 0\n  Stopped: 0\n Images: 1\n",
        "\n Storage Driver: overlayfs\n Logging Driver: json-file\n Cgroup Driver: cgroupfs\n",
        "\n  Volume: local\n",
        "\n Security Options:\n  seccomp\n   Profile: builtin\n",
        "\n Live Restore Enabled: true\n",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert!(info.starts_with("Client:\n Version:"), "{info}");
    let said = |command: &str, format: &str| {
        daemon.gantry(&[command, "--format", format]).ok().text().to_owned()
    };
    let cpus = std::thread::available_parallelism().expect("processors").to_string();
    assert_eq!(
        said("info", "{{.NCPU}} {{.ContainersRunning}} {{.Driver}}"),
        format!("{cpus} 1 overlayfs")
    );
    assert_eq!(said("info", "{{.DockerRootDir}}"), daemon.root().display().to_string());
    assert_eq!(said("version", "{{.Server.Version}}"), said("version", "{{.Client.Version}}"));
    let id = said("info", "{{.ID}}");
    assert_eq!(id.len(), 36, "{id}");
    let json: Value = serde_json::from_str(&said("info", "json")).expect("JSON");
    assert_eq!((&json["ID"], &json["Swarm"]["LocalNodeState"]), (&id.into(), &"inactive".into()));
    let version = run(&mut daemon.gantry_command(&["version"])).ok().stdout;
    assert!(version.contains("\nServer:\n Engine:\n  Version:          "), "{version}");
}
