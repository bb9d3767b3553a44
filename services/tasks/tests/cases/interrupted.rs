//! Callers that go away before they are answered.

use std::pin::pin;

use futures::poll;
use gantry_core::tasks::{ExecProcess, Status, Tasks};
use gantry_core::{Any, Result};
use gantry_tasks::TaskManager;
use gantry_ttrpc::containerd::task::v3::{DeleteRequest, TaskClient};
use gantry_ttrpc::{CallOptions, Client};
use nix::sys::signal::Signal;
use tokio::net::UnixStream;

use crate::fixture::{self, Host, SHIM};

/// Asks a shim that can't answer now, and waits no longer than it takes to ask.
async fn ask_and_go<T>(host: &Host, call: impl Future<Output = Result<T>>) {
    let bundle = host.bundle("c1");
    host.signal_shim(&bundle, Signal::SIGSTOP);
    {
        let mut call = pin!(call);
        assert!(poll!(call.as_mut()).is_pending());
    }
    host.signal_shim(&bundle, Signal::SIGCONT);
}

async fn listed(host: &Host, wanted: Status) {
    let tasks = host.manager();
    let is_it = async || tasks.list(&host.ctx).await.unwrap()[0].status == wanted;
    fixture::until(&format!("{wanted:?}"), is_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_shim_did_is_known() {
    let host = Host::new(0).await;
    let (tasks, ctx) = (host.manager(), &host.ctx);
    host.container("c1", &["sleep", "1000"], SHIM);
    tasks.create(ctx, host.task("c1")).await.unwrap();
    ask_and_go(&host, tasks.start(ctx, "c1", "")).await;
    listed(&host, Status::Running).await;
    ask_and_go(&host, tasks.pause(ctx, "c1")).await;
    listed(&host, Status::Paused).await;
    ask_and_go(&host, tasks.resume(ctx, "c1")).await;
    listed(&host, Status::Running).await;
    host.end("c1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_that_does_not_answer_is_ended_with_its_task() {
    let host = Host::new(0).await;
    let (tasks, ctx) = (host.manager(), &host.ctx);
    host.container("c1", &["sleep", "1000"], SHIM);
    tasks.create(ctx, host.task("c1")).await.unwrap();
    tasks.start(ctx, "c1", "").await.unwrap();
    let bundle = host.bundle("c1");
    host.signal_shim(&bundle, Signal::SIGSTOP);
    let (exit, ended) = tokio::join!(tasks.wait(ctx, "c1", ""), tasks.end_shim(ctx, "c1"));
    ended.unwrap();
    assert_eq!(exit.unwrap().status, 137);
    assert!(!bundle.exists());
}

fn exec(code: u32) -> ExecProcess {
    let command = format!("exit {code}");
    ExecProcess {
        container_id: "c1".into(),
        exec_id: "e1".into(),
        spec: Any::process(fixture::process(&["sh", "-c", &command]).to_string().into_bytes()),
        ..ExecProcess::default()
    }
}

/// Adds a process, and waits for its end.
async fn added(host: &Host, tasks: &TaskManager, code: u32) {
    tasks.exec(&host.ctx, exec(code)).await.unwrap();
    tasks.start(&host.ctx, "c1", "e1").await.unwrap();
    assert_eq!(tasks.wait(&host.ctx, "c1", "e1").await.unwrap().status, code);
}

/// Has the shim delete the process behind the manager's back.
async fn delete_at_the_shim(host: &Host) {
    let address = std::fs::read_to_string(host.bundle("c1").join("address")).unwrap();
    let socket = UnixStream::connect(address.trim().trim_start_matches("unix://")).await.unwrap();
    let request = DeleteRequest { id: "c1".into(), exec_id: "e1".into() };
    let shim = TaskClient::new(Client::new(socket));
    shim.delete(&request, &CallOptions::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_of_a_deleted_process_is_not_its_successors() {
    let host = Host::new(0).await;
    let (tasks, ctx) = (host.manager(), &host.ctx);
    host.run("c1", &["sleep", "1000"], SHIM).await;
    added(&host, &tasks, 7).await;
    ask_and_go(&host, tasks.delete(ctx, "c1", "e1")).await;
    let forgotten = async || tasks.wait(ctx, "c1", "e1").await.is_err_and(|err| err.is_not_found());
    fixture::until("it is forgotten", &forgotten).await;

    added(&host, &tasks, 8).await;
    delete_at_the_shim(&host).await;
    assert!(tasks.delete(ctx, "c1", "e1").await.unwrap_err().is_not_found());
    assert!(forgotten().await);

    added(&host, &tasks, 9).await;
    delete_at_the_shim(&host).await;
    added(&host, &tasks, 10).await;
    host.end("c1").await;
}
