//! containerd's task service, versions 2 and 3: unpack, call, pack.

use gantry_ttrpc::containerd::runc::v1::ProcessDetails;
use gantry_ttrpc::containerd::task::v3::{
    CheckpointTaskRequest, CloseIoRequest, ConnectRequest, ConnectResponse, CreateTaskRequest,
    CreateTaskResponse, DeleteRequest, DeleteResponse, ExecProcessRequest, KillRequest,
    PauseRequest, PidsRequest, PidsResponse, ResizePtyRequest, ResumeRequest, ShutdownRequest,
    StartRequest, StartResponse, StateRequest, StateResponse, StatsRequest, StatsResponse, Task,
    UpdateTaskRequest, WaitRequest, WaitResponse,
};
use gantry_ttrpc::containerd::v1::types::ProcessInfo;
use gantry_ttrpc::{Code, Context, Status, any};
use oci_spec::runtime::LinuxResources;

use super::Api;
use crate::clock;
use crate::error::{self, Error};
use crate::reaper::Exit;
use crate::runtime::Metrics;

impl Task for Api {
    async fn state(&self, _: &Context, request: StateRequest) -> Result<StateResponse, Status> {
        let (container, process) = self.0.process(&request.id, &request.exec_id)?;
        let exit = process.exit();
        Ok(StateResponse {
            id: request.id,
            bundle: container.bundle.display().to_string(),
            pid: process.pid() as u32,
            status: process.status(container.paused.get()).into(),
            stdin: process.names.stdin.clone(),
            stdout: process.names.stdout.clone(),
            stderr: process.names.stderr.clone(),
            terminal: process.names.terminal,
            exit_status: exit.map_or(0, |exit| exit.status),
            exited_at: exit.map(at),
            exec_id: request.exec_id,
        })
    }

    async fn create(
        &self,
        context: &Context,
        request: CreateTaskRequest,
    ) -> Result<CreateTaskResponse, Status> {
        let pid = self.0.create(context, request).await?;
        Ok(CreateTaskResponse { pid: pid as u32 })
    }

    async fn start(&self, _: &Context, request: StartRequest) -> Result<StartResponse, Status> {
        let pid = self.0.start(&request.id, &request.exec_id).await?;
        Ok(StartResponse { pid: pid as u32 })
    }

    async fn delete(&self, _: &Context, request: DeleteRequest) -> Result<DeleteResponse, Status> {
        let deleted = self.0.delete(&request.id, &request.exec_id).await?;
        Ok(DeleteResponse {
            pid: deleted.pid as u32,
            exit_status: deleted.exit.status,
            exited_at: Some(at(deleted.exit)),
        })
    }

    async fn pids(&self, _: &Context, request: PidsRequest) -> Result<PidsResponse, Status> {
        let container = self.0.container(&request.id)?;
        let pids = self.0.runtime.pids(&container.state).map_err(Error::from)?;
        let processes = container.processes.borrow();
        let info = |pid: i32| {
            let execd = processes.values().find(|p| p.pid() == pid && !p.is_init());
            let details = execd.map(|p| any::pack(&ProcessDetails { exec_id: p.exec_id.clone() }));
            ProcessInfo { pid: pid as u32, info: details }
        };
        Ok(PidsResponse { processes: pids.into_iter().map(info).collect() })
    }

    async fn pause(&self, _: &Context, request: PauseRequest) -> Result<(), Status> {
        Ok(self.0.pause(&request.id).await?)
    }

    async fn resume(&self, _: &Context, request: ResumeRequest) -> Result<(), Status> {
        Ok(self.0.resume(&request.id).await?)
    }

    async fn checkpoint(&self, _: &Context, request: CheckpointTaskRequest) -> Result<(), Status> {
        self.0.container(&request.id)?;
        Err(error::unimplemented(format!(
            "checkpoint of {}: it needs CRIU, which is not supported",
            request.id
        ))
        .into())
    }

    async fn kill(&self, _: &Context, request: KillRequest) -> Result<(), Status> {
        Ok(self.0.kill(&request.id, &request.exec_id, request.signal, request.all).await?)
    }

    async fn exec(&self, _: &Context, request: ExecProcessRequest) -> Result<(), Status> {
        Ok(self.0.exec(request).await?)
    }

    async fn resize_pty(&self, _: &Context, request: ResizePtyRequest) -> Result<(), Status> {
        let (_, process) = self.0.process(&request.id, &request.exec_id)?;
        let side = |name: &str, value: u32| {
            u16::try_from(value)
                .map_err(|_| error::invalid(format!("resize: {name} {value} is too large")))
        };
        process.streams.resize(side("width", request.width)?, side("height", request.height)?);
        Ok(())
    }

    async fn close_io(&self, _: &Context, request: CloseIoRequest) -> Result<(), Status> {
        let (_, process) = self.0.process(&request.id, &request.exec_id)?;
        if request.stdin {
            process.streams.close_stdin();
        }
        Ok(())
    }

    async fn update(&self, _: &Context, request: UpdateTaskRequest) -> Result<(), Status> {
        let container = self.0.running(&request.id, "update")?;
        let resources =
            request.resources.ok_or_else(|| error::invalid("update: the resources are missing"))?;
        let resources: LinuxResources = serde_json::from_slice(&resources.value).map_err(|e| {
            error::invalid(format!("update of {}: the resources are not valid: {e}", request.id))
        })?;
        Ok(self.0.runtime.update(&container.state, &resources).map_err(Error::from)?)
    }

    async fn wait(&self, context: &Context, request: WaitRequest) -> Result<WaitResponse, Status> {
        let (_, process) = self.0.process(&request.id, &request.exec_id)?;
        tokio::select! {
            exit = process.wait() => Ok(WaitResponse { exit_status: exit.status, exited_at: Some(at(exit)) }),
            () = context.cancelled() => Err(Status::new(Code::CANCELLED, "wait: the caller has left")),
        }
    }

    async fn stats(&self, _: &Context, request: StatsRequest) -> Result<StatsResponse, Status> {
        // Also one that has ended: its cgroups are there until it is deleted.
        let (container, init) = self.0.process(&request.id, "")?;
        let runs = init.exit().is_none();
        let stats = match self.0.runtime.stats(&container.state, runs).map_err(Error::from)? {
            Metrics::V1(metrics) => any::pack(metrics.as_ref()),
            Metrics::V2(metrics) => any::pack(metrics.as_ref()),
        };
        Ok(StatsResponse { stats: Some(stats) })
    }

    async fn connect(
        &self,
        _: &Context,
        request: ConnectRequest,
    ) -> Result<ConnectResponse, Status> {
        let (_, init) = self.0.process(&request.id, "")?;
        Ok(ConnectResponse {
            shim_pid: std::process::id(),
            task_pid: init.pid() as u32,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    async fn shutdown(&self, _: &Context, _: ShutdownRequest) -> Result<(), Status> {
        self.0.stop_if_empty();
        Ok(())
    }
}

fn at(exit: Exit) -> prost_types::Timestamp {
    clock::timestamp(exit.at)
}
