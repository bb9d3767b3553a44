//! The task manager against real shims: our own, warm and cold, and
//! containerd's.
//!
//! The root file system is the host's own, read-only, so nothing has to be fetched. Needs root.

mod cases;
mod fixture;

use std::time::Duration;

use fixture::{Host, SHIM};
use gantry_core::tasks::{ExecProcess, Status, Tasks};
use gantry_core::{Any, Kind};
use gantry_ttrpc::containerd::runc::v1::Options;
use gantry_ttrpc::{any, convert};
use nix::sys::signal::Signal;

#[tokio::test(flavor = "multi_thread")]
async fn life_of_a_task() {
    for warm in [0, 1] {
        let host = Host::new(warm).await;
        let tasks = host.manager();
        host.container("c1", &["sh", "-c", "exit 3"], SHIM);
        let pid = tasks.create(&host.ctx, host.task("c1")).await.unwrap();
        assert!(pid > 1);
        let again = tasks.create(&host.ctx, host.task("c1")).await.unwrap_err();
        assert_eq!(again.kind(), Kind::AlreadyExists);
        let listed = tasks.list(&host.ctx).await.unwrap();
        assert_eq!((listed[0].pid, listed[0].status), (pid, Status::Created));

        let waits = (tasks.wait(&host.ctx, "c1", ""), tasks.wait(&host.ctx, "c1", ""));
        assert_eq!(tasks.start(&host.ctx, "c1", "").await.unwrap(), pid);
        let (one, two) = tokio::join!(waits.0, waits.1);
        assert_eq!((one.unwrap().status, two.unwrap().status), (3, 3));
        assert_eq!(tasks.list(&host.ctx).await.unwrap()[0].status, Status::Stopped);
        let (_, exit) = tasks.delete(&host.ctx, "c1", "").await.unwrap();
        assert_eq!(exit.status, 3);
        assert!(!exit.at.is_unset());
        assert!(tasks.list(&host.ctx).await.unwrap().is_empty());
        assert!(!host.bundle("c1").exists());
        let gone = tasks.wait(&host.ctx, "c1", "").await.unwrap_err();
        assert_eq!((gone.kind(), gone.to_string().as_str()), (Kind::NotFound, "task c1 not found"));
        host.seen(&["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_beside_the_first() {
    let host = Host::new(1).await;
    let tasks = host.manager();
    host.run("c1", &["sleep", "1000"], SHIM).await;
    let process = ExecProcess {
        container_id: "c1".into(),
        exec_id: "e1".into(),
        spec: Any::process(fixture::process(&["sh", "-c", "exit 7"]).to_string().into_bytes()),
        ..ExecProcess::default()
    };
    tasks.exec(&host.ctx, process.clone()).await.unwrap();
    let again = tasks.exec(&host.ctx, process).await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    let (exit, started) =
        tokio::join!(tasks.wait(&host.ctx, "c1", "e1"), tasks.start(&host.ctx, "c1", "e1"));
    assert!(started.unwrap() > 1);
    assert_eq!(exit.unwrap().status, 7);
    assert_eq!(tasks.delete(&host.ctx, "c1", "e1").await.unwrap().1.status, 7);

    let running = tasks.delete(&host.ctx, "c1", "").await.unwrap_err();
    assert_eq!(running.kind(), Kind::FailedPrecondition);
    tasks.pause(&host.ctx, "c1").await.unwrap();
    assert_eq!(tasks.list(&host.ctx).await.unwrap()[0].status, Status::Paused);
    tasks.resume(&host.ctx, "c1").await.unwrap();
    assert_eq!(tasks.pids(&host.ctx, "c1").await.unwrap().len(), 1);
    let metrics = tasks.metrics(&host.ctx, "c1").await.unwrap();
    assert!(metrics.data.type_url.starts_with("io.containerd.cgroups.v"));
    host.end("c1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_is_killed() {
    let host = Host::new(1).await;
    let tasks = host.manager();
    host.run("c1", &["sleep", "1000"], SHIM).await;
    let pid = tasks.list(&host.ctx).await.unwrap()[0].pid;
    let waiting = {
        let (tasks, ctx) = (host.manager(), host.ctx.clone());
        tokio::spawn(async move { tasks.wait(&ctx, "c1", "").await })
    };
    // A killed shim takes along what it has not told yet.
    host.seen(&["/tasks/create", "/tasks/start"]).await;
    host.kill_shim("c1");
    let exit = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!(exit.unwrap().status, 137);
    host.seen(&["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]).await;
    assert!(tasks.list(&host.ctx).await.unwrap().is_empty());
    assert!(!host.bundle("c1").exists());
    fixture::process_gone(pid).await;
    // The ID is free again.
    host.run("c1", &["sleep", "1000"], SHIM).await;
    host.end("c1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_restarted() {
    let mut host = Host::new(1).await;
    host.run("lives", &["sleep", "1000"], SHIM).await;
    host.run("ended", &["sh", "-c", "exit 5"], SHIM).await;
    assert_eq!(host.manager().wait(&host.ctx, "ended", "").await.unwrap().status, 5);
    host.run("orphan", &["sleep", "1000"], SHIM).await;
    host.run("lost", &["sleep", "1000"], SHIM).await;

    host.stop();
    host.forget("orphan");
    host.kill_shim("lost");
    host.restart().await;

    let tasks = host.manager();
    let listed = tasks.list(&host.ctx).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|p| (p.container_id.as_str(), p.status)).collect();
    assert_eq!(listed, [("ended", Status::Stopped), ("lives", Status::Running)]);
    // Its exit is told once, to the one who cares.
    assert_eq!(tasks.wait(&host.ctx, "lost", "").await.unwrap().status, 137);
    assert!(tasks.wait(&host.ctx, "lost", "").await.unwrap_err().is_not_found());
    assert!(!host.bundle("lost").exists() && !host.bundle("orphan").exists());
    assert_eq!(tasks.delete(&host.ctx, "ended", "").await.unwrap().1.status, 5);
    host.end("lives").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_hangs_and_that_nobody_wants() {
    let mut host = Host::new(0).await;
    host.run("c1", &["sleep", "1000"], SHIM).await;
    let pid = host.manager().list(&host.ctx).await.unwrap()[0].pid;
    let shim = host.signal_shim(&host.bundle("c1"), Signal::SIGSTOP);
    host.stop();
    host.forget("c1");
    let start = host.restart();
    tokio::time::timeout(Duration::from_secs(5), start).await.expect("nothing holds it up");
    host.container("c1", &["true"], SHIM);
    let taken = host.manager().create(&host.ctx, host.task("c1")).await.unwrap_err();
    assert_eq!(taken.kind(), Kind::AlreadyExists);
    fixture::process_gone(shim).await;
    fixture::process_gone(pid).await;
    assert!(!host.bundle("c1").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_deletes() {
    let host = Host::new(1).await;
    let tasks = host.manager();
    host.container("c1", &["true"], SHIM);
    tasks.create(&host.ctx, host.task("c1")).await.unwrap();
    let (one, two) =
        tokio::join!(tasks.delete(&host.ctx, "c1", ""), tasks.delete(&host.ctx, "c1", ""));
    let (done, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    assert_eq!(done.unwrap().1.status, 137);
    assert_eq!(refused.unwrap_err().to_string(), "task c1 not found");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_own_shim() {
    let host = Host::new(0).await;
    let tasks = host.manager();
    const RUNC: &str = "/usr/bin/containerd-shim-runc-v2";
    host.container("c0", &["true"], RUNC);
    let mut shifted = host.task("c0");
    shifted.rootfs[0].options.push("uidmap=0:5000:1".into());
    let err = tasks.create(&host.ctx, shifted).await.unwrap_err();
    assert!(err.kind() == Kind::Unimplemented && err.to_string().contains("uidmap="), "{err}");
    assert!(!host.bundle("c0").exists());
    let options = any::pack(&Options { no_new_keyring: true, ..Options::default() });
    host.change("c0", |c| c.runtime.options = Some(convert::from_any(options)));
    tasks.create(&host.ctx, host.task("c0")).await.unwrap();
    tasks.delete(&host.ctx, "c0", "").await.unwrap();

    host.run("c1", &["sleep", "1000"], RUNC).await;
    assert_eq!(tasks.get(&host.ctx, "c1", "").await.unwrap().status, Status::Running);
    host.end("c1").await;
    assert!(!host.bundle("c1").exists());
    host.run("c2", &["sleep", "1000"], RUNC).await;
    host.kill_shim("c2");
    let exit = tasks.wait(&host.ctx, "c2", "").await.unwrap();
    assert_eq!(exit.status, 137);
    host.gone("c2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_nothing() {
    let host = Host::new(0).await;
    let tasks = host.manager();
    host.container("c1", &["true"], "io.containerd.nope.v1");
    let err = tasks.create(&host.ctx, host.task("c1")).await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "failed to start shim: failed to resolve runtime path: runtime \"io.containerd.nope.v1\" \
         binary not installed \"containerd-shim-nope-v1\": file does not exist: unknown"
    );
    let err = tasks.create(&host.ctx, host.task("c9")).await.unwrap_err();
    assert_eq!(err.to_string(), "container \"c9\" in namespace \"default\": not found");
    // A shim that does not speak as shims do.
    host.container("c2", &["true"], "/bin/false");
    assert!(tasks.create(&host.ctx, host.task("c2")).await.is_err());
    assert!(!host.bundle("c1").exists() && !host.bundle("c2").exists());
    // A mount that fails within the shim.
    host.container("c3", &["true"], SHIM);
    let mut task = host.task("c3");
    task.rootfs[0].source = "/nonexistent".into();
    assert!(tasks.create(&host.ctx, task).await.is_err());
    assert!(!host.bundle("c3").exists());
    assert!(tasks.list(&host.ctx).await.unwrap().is_empty());
}
