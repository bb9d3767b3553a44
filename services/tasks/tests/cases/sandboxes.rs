//! The sandbox controller with our own shim.

use std::time::Duration;

use gantry_core::sandboxes::{NOT_READY, READY, SandboxController, SetUp};
use gantry_core::tasks::{Status, Tasks};
use gantry_core::{Any, Kind, architecture};

use super::dialects::shim;
use crate::fixture::{Host, SHIM, process_gone};

fn set_up(id: &str) -> SetUp {
    SetUp { id: id.into(), ..SetUp::default() }
}

/// A sandbox that takes containers.
async fn started(host: &Host, id: &str) {
    host.sandbox(id, SHIM);
    let manager = host.manager();
    SandboxController::create(&*manager, &host.ctx, set_up(id)).await.unwrap();
    SandboxController::start(&*manager, &host.ctx, id).await.unwrap();
}

/// A container of a sandbox, which runs; its first process.
async fn member(host: &Host, id: &str, sandbox: &str) -> u32 {
    host.container(id, &["sleep", "1000"], SHIM);
    host.change(id, |container| container.sandbox = sandbox.into());
    let tasks = host.manager();
    let pid = Tasks::create(&*tasks, &host.ctx, host.task(id)).await.unwrap();
    Tasks::start(&*tasks, &host.ctx, id, "").await.unwrap();
    pid
}

/// The shim that is a process' parent.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn life_of_a_sandbox() {
    for warm in [0, 1] {
        let host = Host::new(warm).await;
        let manager = host.manager();
        let sandboxes: &dyn SandboxController = &*manager;
        let ctx = &host.ctx;
        let missing = sandboxes.create(ctx, set_up("s1")).await.unwrap_err();
        assert_eq!(missing.to_string(), "sandbox \"s1\": not found");
        host.sandbox("s1", SHIM);
        sandboxes.create(ctx, set_up("s1")).await.unwrap();
        let again = sandboxes.create(ctx, set_up("s1")).await.unwrap_err();
        assert_eq!(again.kind(), Kind::AlreadyExists);
        assert!(host.sandbox_bundle("s1").join("bootstrap.json").exists());
        assert_eq!(sandboxes.status(ctx, "s1", false).await.unwrap().state, NOT_READY);

        let started = sandboxes.start(ctx, "s1").await.unwrap();
        assert!(started.endpoint.address.starts_with("unix:///"));
        // One that is asked the way of containerd's answers as it is asked.
        assert_eq!(started.endpoint.version, 2 + warm as u32);
        let twice = sandboxes.start(ctx, "s1").await.unwrap_err();
        assert_eq!(twice.kind(), Kind::FailedPrecondition);
        let status = sandboxes.status(ctx, "s1", true).await.unwrap();
        assert_eq!((status.state.as_str(), status.created_at), (READY, started.created_at));
        assert!(status.info.contains_key("shim_pid") && status.exited_at.is_unset());
        let platform = sandboxes.platform(ctx, "s1").await.unwrap();
        assert_eq!(
            (platform.os.as_str(), platform.architecture.as_str()),
            ("linux", architecture())
        );
        assert_eq!(sandboxes.metrics(ctx, "s1").await.unwrap().data, Any::default());
        sandboxes.update(ctx, "s1", &[]).await.unwrap();

        let (exit, stopped) = tokio::join!(sandboxes.wait(ctx, "s1"), sandboxes.stop(ctx, "s1", 0));
        stopped.unwrap();
        let exit = exit.unwrap();
        assert!(exit.status == 0 && !exit.at.is_unset());
        let status = sandboxes.status(ctx, "s1", false).await.unwrap();
        assert_eq!((status.state.as_str(), status.exited_at), (NOT_READY, exit.at));
        sandboxes.stop(ctx, "s1", 0).await.unwrap();
        sandboxes.shutdown(ctx, "s1").await.unwrap();
        assert!(!host.sandbox_bundle("s1").exists());
        assert!(sandboxes.shutdown(ctx, "s1").await.unwrap_err().is_not_found());
        assert!(sandboxes.wait(ctx, "s1").await.unwrap_err().is_not_found());
        assert!(sandboxes.platform(ctx, "s1").await.unwrap_err().is_not_found());
        assert!(sandboxes.metrics(ctx, "s1").await.unwrap_err().is_not_found());
        assert!(sandboxes.update(ctx, "s1", &[]).await.unwrap_err().is_not_found());
        assert_eq!(sandboxes.status(ctx, "s1", false).await.unwrap().state, NOT_READY);
        sandboxes.stop(ctx, "s1", 0).await.unwrap();
        assert_eq!(
            host.sandbox_topics(),
            ["/sandboxes/create", "/sandboxes/start", "/sandboxes/exit"]
        );
        // The ID is free again.
        sandboxes.create(ctx, set_up("s1")).await.unwrap();
        sandboxes.shutdown(ctx, "s1").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_sandbox_share_its_shim_and_end_with_it() {
    let host = Host::new(1).await;
    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    let ctx = &host.ctx;
    host.container("c0", &["true"], SHIM);
    host.change("c0", |container| container.sandbox = "s1".into());
    // No sandbox of the controller's: its shim is one of its own.
    tasks.create(ctx, host.task("c0")).await.unwrap();
    assert!(!host.bundle("c0").join("sandbox").exists());
    tasks.delete(ctx, "c0", "").await.unwrap();
    host.sandbox("s1", SHIM);
    let early = tasks.create(ctx, host.task("c0")).await.unwrap_err();
    assert!(early.is_not_found() && early.to_string().contains("\"s1\""), "{early}");

    started(&host, "s1").await;
    let pids = [member(&host, "c1", "s1").await, member(&host, "c2", "s1").await];
    assert_eq!(parent(pids[0]), parent(pids[1]));
    let init = std::fs::read_to_string(host.bundle("c1").join("init.pid")).unwrap();
    assert_eq!(init, pids[0].to_string());
    let metrics = sandboxes.metrics(ctx, "s1").await.unwrap();
    assert!(metrics.data.type_url.starts_with("io.containerd.cgroups.v"), "{metrics:?}");
    let info = sandboxes.status(ctx, "s1", true).await.unwrap().info;
    assert!(info["containers"].contains("c1") && info["containers"].contains("c2"), "{info:?}");

    // One that goes takes neither the other nor the sandbox along.
    host.end("c1").await;
    assert!(!host.bundle("c1").exists());
    assert_eq!(tasks.get(ctx, "c2", "").await.unwrap().status, Status::Running);
    let (exit, stopped) = tokio::join!(tasks.wait(ctx, "c2", ""), sandboxes.stop(ctx, "s1", 0));
    stopped.unwrap();
    assert_eq!(exit.unwrap().status, 137);
    let late = tasks.create(ctx, host.task("c0")).await.unwrap_err();
    assert_eq!(late.kind(), Kind::FailedPrecondition, "{late}");
    assert_eq!(tasks.delete(ctx, "c2", "").await.unwrap().1.status, 137);
    sandboxes.shutdown(ctx, "s1").await.unwrap();
    process_gone(pids[1]).await;
    assert!(!host.bundle("c0").exists() && !host.bundle("c2").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn older_shims_find_their_sandbox_when_they_are_started() {
    let host = Host::new(0).await;
    let shim = shim(&host, "unset MAX_SHIM_VERSION; exec $own \"$@\" </dev/null");
    let runtime = shim.to_str().unwrap();
    let ctx = &host.ctx;
    host.sandbox("s1", runtime);
    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    sandboxes.create(ctx, set_up("s1")).await.unwrap();
    host.container("c1", &["sleep", "1000"], runtime);
    host.change("c1", |container| container.sandbox = "s1".into());
    tasks.create(ctx, host.task("c1")).await.unwrap();
    let bundle = host.bundle("c1");
    assert!(bundle.join("shim.pid").exists() && !bundle.join("sandbox").exists());
    tasks.delete(ctx, "c1", "").await.unwrap();
    sandboxes.shutdown(ctx, "s1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_outlives_the_daemon() {
    let mut host = Host::new(1).await;
    started(&host, "lives").await;
    let pid = member(&host, "c1", "lives").await;
    started(&host, "orphan").await;
    started(&host, "lost").await;
    let lost = member(&host, "c2", "lost").await;
    host.stop();
    host.forget_sandbox("orphan");
    // What watched for the old manager lives on in this process, where a daemon's would
    // be gone: it is to find nothing that it could clean up.
    let bundles = [host.sandbox_bundle("lost"), host.bundle("c2")];
    let hidden = ["a", "b"].map(|name| host.path(name));
    for (bundle, hidden) in bundles.iter().zip(&hidden) {
        std::fs::rename(bundle, hidden).unwrap();
    }
    let shim = nix::unistd::Pid::from_raw(parent(lost) as i32);
    nix::sys::signal::kill(shim, nix::sys::signal::Signal::SIGKILL).unwrap();
    host.heard("/sandboxes/exit").await;
    host.heard("/tasks/delete").await;
    for (bundle, hidden) in bundles.iter().zip(&hidden) {
        std::fs::rename(hidden, bundle).unwrap();
    }
    host.restart().await;

    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    let ctx = &host.ctx;
    assert_eq!(sandboxes.status(ctx, "lives", false).await.unwrap().state, READY);
    assert_eq!(tasks.get(ctx, "c1", "").await.unwrap().pid, pid);
    assert!(!host.sandbox_bundle("orphan").exists() && !host.sandbox_bundle("lost").exists());
    assert_eq!(sandboxes.wait(ctx, "lost").await.unwrap().status, 137);
    assert_eq!(sandboxes.status(ctx, "lost", false).await.unwrap().state, NOT_READY);
    assert_eq!(tasks.wait(ctx, "c2", "").await.unwrap().status, 137);
    process_gone(lost).await;
    sandboxes.shutdown(ctx, "lost").await.unwrap();
    // It takes containers as before, and its end is noticed.
    member(&host, "c3", "lives").await;
    host.end("c3").await;
    host.end("c1").await;
    let waiting = {
        let (manager, ctx) = (host.manager(), ctx.clone());
        tokio::spawn(async move { SandboxController::wait(&*manager, &ctx, "lives").await })
    };
    sandboxes.stop(ctx, "lives", 0).await.unwrap();
    let exit = tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap();
    assert_eq!(exit.unwrap().status, 0);
    sandboxes.shutdown(ctx, "lives").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_whose_shim_is_killed() {
    let host = Host::new(0).await;
    let manager = host.manager();
    let (tasks, sandboxes): (&dyn Tasks, &dyn SandboxController) = (&*manager, &*manager);
    let ctx = &host.ctx;
    started(&host, "s1").await;
    let pid = member(&host, "c1", "s1").await;
    let waits = {
        let (manager, ctx) = (host.manager(), ctx.clone());
        tokio::spawn(async move {
            tokio::join!(
                SandboxController::wait(&*manager, &ctx, "s1"),
                Tasks::wait(&*manager, &ctx, "c1", "")
            )
        })
    };
    host.heard("/tasks/start").await;
    host.kill_sandbox("s1");
    let (sandbox, task) =
        tokio::time::timeout(Duration::from_secs(20), waits).await.unwrap().unwrap();
    assert_eq!((sandbox.unwrap().status, task.unwrap().status), (137, 137));
    host.heard("/sandboxes/exit").await;
    process_gone(pid).await;
    assert!(!host.sandbox_bundle("s1").exists());
    assert_eq!(sandboxes.status(ctx, "s1", false).await.unwrap().state, NOT_READY);
    assert!(sandboxes.metrics(ctx, "s1").await.unwrap_err().is_not_found());
    assert!(tasks.create(ctx, host.task("c1")).await.unwrap_err().is_not_found());
    sandboxes.shutdown(ctx, "s1").await.unwrap();
    // The ID is free again.
    sandboxes.create(ctx, set_up("s1")).await.unwrap();
    sandboxes.shutdown(ctx, "s1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sandbox_can_not_have_is_refused() {
    let host = Host::new(1).await;
    let manager = host.manager();
    let sandboxes: &dyn SandboxController = &*manager;
    let ctx = &host.ctx;
    host.sandbox("s1", SHIM);
    let rootfs = SetUp { rootfs: host.task("s1").rootfs, ..set_up("s1") };
    let err = sandboxes.create(ctx, rootfs).await.unwrap_err();
    assert!(err.kind() == Kind::Unimplemented && err.to_string().contains("rootfs"), "{err}");
    let options = Some(Any { type_url: "x.Y".into(), value: vec![1] });
    let err = sandboxes.create(ctx, SetUp { options, ..set_up("s1") }).await.unwrap_err();
    assert!(err.kind() == Kind::InvalidArgument && err.to_string().contains("x.Y"), "{err}");
    // A shim that knows nothing of sandboxes.
    host.sandbox("s2", "/bin/false");
    assert!(sandboxes.create(ctx, set_up("s2")).await.is_err());
    for id in ["s1", "s2"] {
        assert!(!host.sandbox_bundle(id).exists(), "{id}");
    }
    assert_eq!(host.sandbox_topics(), [] as [&str; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_starts() {
    let host = Host::new(1).await;
    let manager = host.manager();
    let sandboxes: &dyn SandboxController = &*manager;
    let ctx = &host.ctx;
    host.sandbox("s1", SHIM);
    sandboxes.create(ctx, set_up("s1")).await.unwrap();
    let (one, two) = tokio::join!(sandboxes.start(ctx, "s1"), sandboxes.start(ctx, "s1"));
    let (done, refused) = if one.is_ok() { (one, two) } else { (two, one) };
    done.unwrap();
    assert_eq!(refused.unwrap_err().kind(), Kind::FailedPrecondition);
    assert_eq!(sandboxes.status(ctx, "s1", false).await.unwrap().state, READY);
    sandboxes.shutdown(ctx, "s1").await.unwrap();
}
