//! containerd's tasks service over the trait.

use std::sync::Arc;

use futures::future::join_all;
use gantry_core::filter::{Filterable, Filters};
use gantry_core::tasks::{
    CreateTask, ExecProcess, Exit, Process, Status as TaskStatus, Stdio, Tasks,
};
use gantry_grpc::containerd::services::tasks::v1 as api;
use gantry_grpc::containerd::services::tasks::v1::tasks_server::Tasks as Service;
use gantry_grpc::containerd::types::Metric;
use gantry_grpc::containerd::v1::types as wire;
use gantry_grpc::context;
use gantry_grpc::convert;
use gantry_grpc::status::to_wire;
use tonic::{Request, Response, Status};

/// The service of `containerd.services.tasks.v1`.
pub struct TasksService {
    tasks: Arc<dyn Tasks>,
}

impl TasksService {
    /// Serves these tasks.
    pub fn new(tasks: Arc<dyn Tasks>) -> Self {
        Self { tasks }
    }
}

/// What an answer is.
type Answer<T> = Result<Response<T>, Status>;

/// What a filter of `Metrics` can ask for.
struct Measured<'a> {
    id: &'a str,
    namespace: &'a str,
}

impl Filterable for Measured<'_> {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["id"] => Some(self.id.to_owned()),
            ["namespace"] => Some(self.namespace.to_owned()),
            _ => None,
        }
    }
}

fn process(p: Process) -> wire::Process {
    let exited = !p.exit.at.is_unset();
    wire::Process {
        id: if p.exec_id.is_empty() { p.container_id.clone() } else { p.exec_id },
        container_id: p.container_id,
        pid: p.pid,
        status: match p.status {
            TaskStatus::Unknown => wire::Status::Unknown,
            TaskStatus::Created => wire::Status::Created,
            TaskStatus::Running => wire::Status::Running,
            TaskStatus::Stopped => wire::Status::Stopped,
            TaskStatus::Paused => wire::Status::Paused,
            TaskStatus::Pausing => wire::Status::Pausing,
        }
        .into(),
        stdin: p.stdio.stdin,
        stdout: p.stdio.stdout,
        stderr: p.stdio.stderr,
        terminal: p.stdio.terminal,
        exit_status: p.exit.status,
        exited_at: exited.then(|| convert::timestamp(p.exit.at)),
    }
}

fn deleted(id: String, (pid, exit): (u32, Exit)) -> api::DeleteResponse {
    let exited_at = Some(convert::timestamp(exit.at));
    api::DeleteResponse { id, pid, exit_status: exit.status, exited_at }
}

#[tonic::async_trait]
impl Service for TasksService {
    async fn create(
        &self,
        request: Request<api::CreateTaskRequest>,
    ) -> Answer<api::CreateTaskResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        if r.checkpoint.is_some() {
            return Err(no_criu("create a task from a checkpoint"));
        }
        let container_id = r.container_id.clone();
        let task = CreateTask {
            container_id: r.container_id,
            rootfs: r.rootfs.into_iter().map(Into::into).collect(),
            stdio: Stdio {
                stdin: r.stdin,
                stdout: r.stdout,
                stderr: r.stderr,
                terminal: r.terminal,
            },
            options: r.options.map(convert::from_any),
            runtime_path: r.runtime_path,
            container: None,
        };
        let pid = self.tasks.create(&ctx, task).await.map_err(to_wire)?;
        Ok(Response::new(api::CreateTaskResponse { container_id, pid }))
    }

    async fn start(&self, request: Request<api::StartRequest>) -> Answer<api::StartResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let pid = self.tasks.start(&ctx, &r.container_id, &r.exec_id).await.map_err(to_wire)?;
        Ok(Response::new(api::StartResponse { pid }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteTaskRequest>,
    ) -> Answer<api::DeleteResponse> {
        let ctx = context::of(&request)?;
        let id = request.into_inner().container_id;
        let answer = self.tasks.delete(&ctx, &id, "").await.map_err(to_wire)?;
        Ok(Response::new(deleted(id, answer)))
    }

    async fn delete_process(
        &self,
        request: Request<api::DeleteProcessRequest>,
    ) -> Answer<api::DeleteResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let answer = self.tasks.delete(&ctx, &r.container_id, &r.exec_id).await.map_err(to_wire)?;
        Ok(Response::new(deleted(r.exec_id, answer)))
    }

    async fn get(&self, request: Request<api::GetRequest>) -> Answer<api::GetResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let found = self.tasks.get(&ctx, &r.container_id, &r.exec_id).await.map_err(to_wire)?;
        Ok(Response::new(api::GetResponse { process: Some(process(found)) }))
    }

    async fn list(
        &self,
        request: Request<api::ListTasksRequest>,
    ) -> Answer<api::ListTasksResponse> {
        let ctx = context::of(&request)?;
        let tasks = self.tasks.list(&ctx).await.map_err(to_wire)?;
        let tasks = tasks.into_iter().map(process).collect();
        Ok(Response::new(api::ListTasksResponse { tasks }))
    }

    async fn kill(&self, request: Request<api::KillRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let killed = self.tasks.kill(&ctx, &r.container_id, &r.exec_id, r.signal, r.all).await;
        killed.map(Response::new).map_err(to_wire)
    }

    async fn exec(&self, request: Request<api::ExecProcessRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let process = ExecProcess {
            container_id: r.container_id,
            exec_id: r.exec_id,
            stdio: Stdio {
                stdin: r.stdin,
                stdout: r.stdout,
                stderr: r.stderr,
                terminal: r.terminal,
            },
            spec: r.spec.map(convert::from_any).unwrap_or_default(),
        };
        self.tasks.exec(&ctx, process).await.map(Response::new).map_err(to_wire)
    }

    async fn resize_pty(&self, request: Request<api::ResizePtyRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let resized = self.tasks.resize(&ctx, &r.container_id, &r.exec_id, r.width, r.height).await;
        resized.map(Response::new).map_err(to_wire)
    }

    async fn close_io(&self, request: Request<api::CloseIoRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        if !r.stdin {
            // Nothing is closed, but of a process that is there.
            let found = self.tasks.get(&ctx, &r.container_id, &r.exec_id).await;
            return found.map(|_| Response::new(())).map_err(to_wire);
        }
        let closed = self.tasks.close_stdin(&ctx, &r.container_id, &r.exec_id).await;
        closed.map(Response::new).map_err(to_wire)
    }

    async fn pause(&self, request: Request<api::PauseTaskRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let id = request.into_inner().container_id;
        self.tasks.pause(&ctx, &id).await.map(Response::new).map_err(to_wire)
    }

    async fn resume(&self, request: Request<api::ResumeTaskRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let id = request.into_inner().container_id;
        self.tasks.resume(&ctx, &id).await.map(Response::new).map_err(to_wire)
    }

    async fn list_pids(
        &self,
        request: Request<api::ListPidsRequest>,
    ) -> Answer<api::ListPidsResponse> {
        let ctx = context::of(&request)?;
        let id = request.into_inner().container_id;
        let pids = self.tasks.pids(&ctx, &id).await.map_err(to_wire)?;
        let info =
            |(pid, info): (u32, Option<_>)| wire::ProcessInfo { pid, info: info.map(convert::any) };
        let processes = pids.into_iter().map(info).collect();
        Ok(Response::new(api::ListPidsResponse { processes }))
    }

    async fn checkpoint(
        &self,
        request: Request<api::CheckpointTaskRequest>,
    ) -> Answer<api::CheckpointTaskResponse> {
        let ctx = context::of(&request)?;
        let id = request.into_inner().container_id;
        self.tasks.get(&ctx, &id, "").await.map_err(to_wire)?;
        Err(no_criu("checkpoint a task"))
    }

    async fn update(&self, request: Request<api::UpdateTaskRequest>) -> Answer<()> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let Some(resources) = r.resources.map(convert::from_any) else {
            self.tasks.get(&ctx, &r.container_id, "").await.map_err(to_wire)?;
            let words = "update a task: resources are missing: invalid argument";
            return Err(Status::invalid_argument(words));
        };
        let updated = self.tasks.update(&ctx, &r.container_id, resources).await;
        updated.map(Response::new).map_err(to_wire)
    }

    async fn metrics(&self, request: Request<api::MetricsRequest>) -> Answer<api::MetricsResponse> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.into_inner().filters).map_err(to_wire)?;
        let tasks = self.tasks.list(&ctx).await.map_err(to_wire)?;
        let namespace = ctx.namespace.as_str();
        let wanted = tasks.iter().map(|task| task.container_id.as_str());
        let wanted = wanted.filter(|id| filters.matches(&Measured { id, namespace }));
        let measured = join_all(wanted.map(|id| self.tasks.metrics(&ctx, id))).await;
        // A task that ended meanwhile, or whose shim does not answer, is left out.
        let metrics = measured.into_iter().flatten().map(|m| Metric {
            timestamp: Some(convert::timestamp(m.timestamp)),
            id: m.container_id,
            data: Some(convert::any(m.data)),
        });
        Ok(Response::new(api::MetricsResponse { metrics: metrics.collect() }))
    }

    async fn wait(&self, request: Request<api::WaitRequest>) -> Answer<api::WaitResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let exit = self.tasks.wait(&ctx, &r.container_id, &r.exec_id).await.map_err(to_wire)?;
        Ok(Response::new(api::WaitResponse {
            exit_status: exit.status,
            exited_at: Some(convert::timestamp(exit.at)),
        }))
    }
}

fn no_criu(what: &str) -> Status {
    Status::unimplemented(format!(
        "{what}: this needs CRIU, which is not supported: not implemented"
    ))
}
