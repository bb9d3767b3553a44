//! What dead shims, shims that hang and failed clean-ups leave, and that nothing is lost of it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::sandboxes::{READY, SetUp};
use gantry_core::tasks::{Status, Tasks};
use nix::sys::signal::Signal;

use crate::fixture::{self, Host, SHIM, process_gone};

/// A host whose own shim has a program that can't clean up while there is a file `NAME.fails`.
async fn clumsy() -> (Host, PathBuf) {
    let mut host = Host::new(0).await;
    let path = host.path("shim");
    let own = host.config.shim_path.display();
    let text = format!(
        "#!/bin/sh\nfor action; do :; done\n\
         [ \"$action\" = delete ] && [ -e \"$0.fails\" ] && exit 1\nexec {own} \"$@\"\n"
    );
    fixture::script(&path, &text);
    host.config.shim_path = path.clone();
    host.restart().await;
    (host, path.with_extension("fails"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_that_fails_is_tried_again() {
    let (mut host, fails) = clumsy().await;
    fs::write(&fails, "").unwrap();
    // Of the second, whose end the shim has recorded and not told yet, the exit is known.
    for (id, record, status) in [("c1", None, 137), ("c2", Some(5), 5)] {
        host.run(id, &["sleep", "1000"], SHIM).await;
        let bundle = host.bundle(id);
        if let Some(status) = record {
            host.signal_shim(&bundle, Signal::SIGSTOP);
            let record = format!(r#"{{"pid":7,"status":{status},"seconds":9,"nanos":1}}"#);
            fs::create_dir_all(bundle.join("exits")).unwrap();
            fs::write(bundle.join("exits/init"), record).unwrap();
        }
        let tasks = host.manager();
        let waiting = tasks.wait(&host.ctx, id, "");
        host.kill_shim(id);
        assert_eq!(waiting.await.unwrap().status, status);
        assert!(bundle.join("config.json").exists(), "{id}");
        assert!(tasks.list(&host.ctx).await.unwrap().is_empty());
    }
    let pid = |id| {
        let pid = fs::read_to_string(host.bundle(id).join("init.pid")).unwrap();
        pid.trim().parse::<u32>().unwrap()
    };
    let pids = [pid("c1"), pid("c2")];
    assert!(pids.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));

    // The next of that ID does not begin on what is left, and finds it gone in the end.
    let tasks = host.manager();
    let err = tasks.create(&host.ctx, host.task("c1")).await.unwrap_err();
    assert!(err.to_string().starts_with("clean up what an earlier c1 left: "), "{err}");
    assert!(host.bundle("c1").join("init.pid").exists());
    fs::remove_file(&fails).unwrap();
    tasks.create(&host.ctx, host.task("c1")).await.unwrap();
    process_gone(pids[0]).await;
    tasks.delete(&host.ctx, "c1", "").await.unwrap();

    host.restart().await;
    process_gone(pids[1]).await;
    assert!(!host.bundle("c2").exists());
    assert_eq!(host.manager().wait(&host.ctx, "c2", "").await.unwrap().status, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_only_the_dead_shim_knew_is_told() {
    let mut host = Host::new(0).await;
    host.run("c1", &["sh", "-c", "exit 5"], SHIM).await;
    assert_eq!(host.manager().wait(&host.ctx, "c1", "").await.unwrap().status, 5);
    let mut topics = vec!["/tasks/create", "/tasks/start", "/tasks/exit"];
    host.seen(&topics).await;
    host.stop();
    // What watched for the old manager lives on in this process: it is to find nothing that
    // it could clean up, and tells as the manager of a shim that dies now does.
    let hidden = host.path("hidden");
    let shim = host.signal_shim(&host.bundle("c1"), Signal::SIGSTOP);
    fs::rename(host.bundle("c1"), &hidden).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim as i32), Signal::SIGKILL).unwrap();
    topics.extend(["/tasks/exit", "/tasks/delete"]);
    host.seen(&topics).await;
    fs::rename(&hidden, host.bundle("c1")).unwrap();
    host.restart().await;
    topics.extend(["/tasks/exit", "/tasks/delete"]);
    host.seen(&topics).await;
    assert_eq!(host.manager().wait(&host.ctx, "c1", "").await.unwrap().status, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_can_not_be_reached_now_is_not_dead() {
    use gantry_core::sandboxes::SandboxController;
    let mut host = Host::new(0).await;
    host.run("c1", &["sleep", "1000"], SHIM).await;
    host.sandbox("s1", SHIM);
    let sandbox = SetUp { id: "s1".into(), ..SetUp::default() };
    SandboxController::create(&*host.manager(), &host.ctx, sandbox).await.unwrap();
    SandboxController::start(&*host.manager(), &host.ctx, "s1").await.unwrap();
    host.stop();
    let moved = [host.bundle("c1"), host.sandbox_bundle("s1")].map(|bundle| {
        let address = fs::read_to_string(bundle.join("address")).unwrap();
        let socket = PathBuf::from(address.trim().trim_start_matches("unix://"));
        let away = socket.with_extension("away");
        fs::rename(&socket, &away).unwrap();
        // The kernel refuses for another reason than that nobody listens.
        let other = UnixDatagram::bind(&socket).unwrap();
        (socket, away, other)
    });
    host.restart().await;
    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    assert_eq!(tasks.list(&host.ctx).await.unwrap()[0].status, Status::Unknown);
    for (socket, away, _other) in &moved {
        fs::rename(away, socket).unwrap();
    }
    let ctx = &host.ctx;
    fixture::until("the task is found", async || {
        tasks.get(ctx, "c1", "").await.is_ok_and(|process| process.status == Status::Running)
    })
    .await;
    fixture::until("the sandbox is found", async || {
        sandboxes.status(ctx, "s1", false).await.is_ok_and(|status| status.state == READY)
    })
    .await;
    host.end("c1").await;
    sandboxes.shutdown(ctx, "s1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shim_that_hangs_has_is_found_out_later() {
    use gantry_core::sandboxes::SandboxController;
    let mut host = Host::new(0).await;
    host.run("c1", &["sleep", "1000"], SHIM).await;
    let pid = host.manager().list(&host.ctx).await.unwrap()[0].pid;
    host.manager().pause(&host.ctx, "c1").await.unwrap();
    host.sandbox("s1", SHIM);
    let sandbox = SetUp { id: "s1".into(), ..SetUp::default() };
    SandboxController::create(&*host.manager(), &host.ctx, sandbox).await.unwrap();
    SandboxController::start(&*host.manager(), &host.ctx, "s1").await.unwrap();
    host.stop();
    let bundles = [host.bundle("c1"), host.sandbox_bundle("s1")];
    for bundle in &bundles {
        host.signal_shim(bundle, Signal::SIGSTOP);
    }
    // Less than a call takes that is not answered.
    let start = host.restart();
    tokio::time::timeout(Duration::from_secs(5), start).await.expect("nothing holds it up");
    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    let ctx = &host.ctx;
    let listed = async || {
        let first = tasks.list(ctx).await.unwrap().remove(0);
        (first.pid, first.status)
    };
    assert_eq!(listed().await, (pid, Status::Unknown));
    for bundle in &bundles {
        host.signal_shim(bundle, Signal::SIGCONT);
    }
    // Nobody has to ask for it.
    fixture::until("it is found out", async || listed().await == (pid, Status::Paused)).await;
    assert_eq!(sandboxes.status(ctx, "s1", false).await.unwrap().state, READY);
    tasks.resume(ctx, "c1").await.unwrap();
    host.end("c1").await;
    sandboxes.shutdown(ctx, "s1").await.unwrap();
}

/// A shim that answers each call with these bytes, and goes for nothing.
const STUBBORN: &str = r#"
import os, socket, struct, sys
path = sys.argv[1]
if os.fork():
    os._exit(0)
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(8)
with open(path + ".pid", "w") as file:
    file.write(str(os.getpid()))
print("unix://" + path, flush=True)
null = os.open(os.devnull, os.O_RDWR)
for fd in range(3):
    os.dup2(null, fd)
answer = bytes.fromhex(sys.argv[2])
while True:
    peer = listener.accept()[0].makefile("rwb")
    while len(head := peer.read(10)) == 10:
        length, stream = struct.unpack(">II", head[:8])
        peer.read(length)
        peer.write(struct.pack(">IIBB", len(answer), stream, 2, 0) + answer)
        peer.flush()
"#;

/// An error: a status, field 1, with the code 13.
const REFUSES: &str = "0a04080d1200";

/// A host whose own shim is such a one.
async fn stubborn(answer: &str) -> Host {
    let mut host = Host::new(0).await;
    let path = host.path("shim");
    fs::write(host.path("shim.py"), STUBBORN).unwrap();
    let text = format!(
        "#!/bin/bash\n[ \"${{!#}}\" = start ] || exit 0\n\
         # What is found in PATH may be another script.\n\
         python=$(python3 -c 'import sys; print(sys.executable)')\n\
         exec -a \"$0\" \"$python\" \"$0.py\" \"$0.sock\" \"{answer}\"\n"
    );
    fixture::script(&path, &text);
    host.config.shim_path = path;
    host.restart().await;
    host
}

/// Waits until such a shim is gone with all that it had.
async fn ended(host: &Host) {
    let pid = fs::read_to_string(host.path("shim.sock.pid")).unwrap();
    process_gone(pid.parse().unwrap()).await;
    assert!(!host.path("shim.sock").exists());
    assert!(!host.bundle("c1").exists() && !host.sandbox_bundle("s1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_can_not_create_and_does_not_go() {
    let host = stubborn(REFUSES).await;
    host.container("c1", &["true"], SHIM);
    host.manager().create(&host.ctx, host.task("c1")).await.unwrap_err();
    ended(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandboxs_shim_that_does_not_go() {
    use gantry_core::sandboxes::SandboxController;
    let set_up = || SetUp { id: "s1".into(), ..SetUp::default() };
    let refused = async {
        let host = stubborn(REFUSES).await;
        host.sandbox("s1", SHIM);
        SandboxController::create(&*host.manager(), &host.ctx, set_up()).await.unwrap_err();
        ended(&host).await;
    };
    let taken_away = async {
        let host = stubborn("").await;
        host.sandbox("s1", SHIM);
        SandboxController::create(&*host.manager(), &host.ctx, set_up()).await.unwrap();
        host.manager().shutdown(&host.ctx, "s1").await.unwrap();
        ended(&host).await;
    };
    tokio::join!(refused, taken_away);
}
