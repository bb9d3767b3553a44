//! What is asked of tasks and processes that are not there, and of checkpoints.

use gantry_core::tasks::{ExecProcess, Tasks};
use gantry_core::{Any, Result};
use gantry_grpc::containerd::services::tasks::v1 as api;
use gantry_grpc::containerd::services::tasks::v1::tasks_server::Tasks as Service;
use gantry_grpc::containerd::types::Descriptor;
use gantry_tasks::grpc::TasksService;
use tonic::{Code, Request, Status};

use crate::fixture::{Host, SHIM, process};

/// The error of every verb for a process, by the verb.
async fn refused(host: &Host, id: &str, exec_id: &str) -> Vec<(&'static str, gantry_core::Error)> {
    fn failed<T>(answer: Result<T>) -> gantry_core::Error {
        answer.err().expect("there is no such process")
    }
    let (tasks, ctx) = (host.manager(), &host.ctx);
    let mut refused = vec![
        ("start", failed(tasks.start(ctx, id, exec_id).await)),
        ("delete", failed(tasks.delete(ctx, id, exec_id).await)),
        ("get", failed(tasks.get(ctx, id, exec_id).await)),
        ("kill", failed(tasks.kill(ctx, id, exec_id, 9, false).await)),
        ("resize", failed(tasks.resize(ctx, id, exec_id, 80, 24).await)),
        ("close", failed(tasks.close_stdin(ctx, id, exec_id).await)),
        ("wait", failed(tasks.wait(ctx, id, exec_id).await)),
    ];
    if exec_id.is_empty() {
        let process = ExecProcess {
            container_id: id.to_owned(),
            exec_id: "e1".into(),
            spec: Any::process(process(&["true"]).to_string().into_bytes()),
            ..ExecProcess::default()
        };
        refused.extend([
            ("exec", failed(tasks.exec(ctx, process).await)),
            ("pause", failed(tasks.pause(ctx, id).await)),
            ("resume", failed(tasks.resume(ctx, id).await)),
            ("pids", failed(tasks.pids(ctx, id).await)),
            ("update", failed(tasks.update(ctx, id, Any::default()).await)),
            ("metrics", failed(tasks.metrics(ctx, id).await)),
        ]);
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let host = Host::new(1).await;
    host.container("made", &["true"], SHIM);
    host.run("runs", &["sleep", "1000"], SHIM).await;
    for (id, exec_id, words) in [
        ("none", "", "container \"none\" in namespace \"default\": not found"),
        ("made", "", "task made not found"),
        ("none", "e9", "container \"none\" in namespace \"default\": not found"),
        ("made", "e9", "task made not found"),
        ("runs", "e9", "process \"e9\" of container runs: not found"),
    ] {
        for (verb, err) in refused(&host, id, exec_id).await {
            assert!(err.is_not_found(), "{verb} of {id:?} {exec_id:?}: {err}");
            assert_eq!(err.to_string(), words, "{verb} of {id:?} {exec_id:?}");
        }
    }
    host.end("runs").await;
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}

fn names_criu(status: &Status) {
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("needs CRIU"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_name_what_is_missing() {
    let host = Host::new(1).await;
    let service = TasksService::new(host.manager());
    let checkpoint = |id: &str| {
        let checkpoint = api::CheckpointTaskRequest {
            container_id: id.to_owned(),
            ..api::CheckpointTaskRequest::default()
        };
        service.checkpoint(request(checkpoint))
    };
    assert_eq!(checkpoint("none").await.unwrap_err().code(), Code::NotFound);
    host.run("runs", &["sleep", "1000"], SHIM).await;
    names_criu(&checkpoint("runs").await.unwrap_err());
    host.container("new", &["true"], SHIM);
    let create = api::CreateTaskRequest {
        container_id: "new".into(),
        checkpoint: Some(Descriptor::default()),
        ..api::CreateTaskRequest::default()
    };
    names_criu(&service.create(request(create)).await.unwrap_err());
    assert!(!host.bundle("new").exists());
    host.end("runs").await;
}
