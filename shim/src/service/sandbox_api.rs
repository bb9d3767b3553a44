//! containerd's sandbox service: unpack, call, pack.

use gantry_ttrpc::containerd::runtime::sandbox::v1::{
    CreateSandboxRequest, CreateSandboxResponse, PingRequest, PingResponse, PlatformRequest,
    PlatformResponse, Sandbox, SandboxMetricsRequest, SandboxMetricsResponse, SandboxStatusRequest,
    SandboxStatusResponse, ShutdownSandboxRequest, ShutdownSandboxResponse, StartSandboxRequest,
    StartSandboxResponse, StopSandboxRequest, StopSandboxResponse, WaitSandboxRequest,
    WaitSandboxResponse,
};
use gantry_ttrpc::containerd::types::Platform;
use gantry_ttrpc::{Code, Context, Status};

use super::Api;
use crate::clock;

impl Sandbox for Api {
    async fn create_sandbox(
        &self,
        _: &Context,
        request: CreateSandboxRequest,
    ) -> Result<CreateSandboxResponse, Status> {
        self.0.create_sandbox(request)?;
        Ok(CreateSandboxResponse {})
    }

    async fn start_sandbox(
        &self,
        _: &Context,
        request: StartSandboxRequest,
    ) -> Result<StartSandboxResponse, Status> {
        let at = self.0.start_sandbox(&request.sandbox_id)?;
        let created_at = Some(clock::timestamp(at));
        Ok(StartSandboxResponse { pid: 0, created_at, spec: None })
    }

    async fn platform(
        &self,
        _: &Context,
        request: PlatformRequest,
    ) -> Result<PlatformResponse, Status> {
        self.0.sandbox(&request.sandbox_id)?;
        let platform = Platform {
            os: "linux".to_owned(),
            architecture: gantry_core::architecture().to_owned(),
            ..Platform::default()
        };
        Ok(PlatformResponse { platform: Some(platform) })
    }

    async fn stop_sandbox(
        &self,
        _: &Context,
        request: StopSandboxRequest,
    ) -> Result<StopSandboxResponse, Status> {
        self.0.stop_sandbox(&request.sandbox_id, request.timeout_secs).await?;
        Ok(StopSandboxResponse {})
    }

    async fn wait_sandbox(
        &self,
        context: &Context,
        request: WaitSandboxRequest,
    ) -> Result<WaitSandboxResponse, Status> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        tokio::select! {
            exit = sandbox.wait() => Ok(WaitSandboxResponse {
                exit_status: exit.status,
                exited_at: Some(clock::timestamp(exit.at)),
            }),
            () = context.cancelled() => Err(Status::new(Code::CANCELLED, "wait: the caller has left")),
        }
    }

    async fn sandbox_status(
        &self,
        _: &Context,
        request: SandboxStatusRequest,
    ) -> Result<SandboxStatusResponse, Status> {
        let sandbox = self.0.sandbox(&request.sandbox_id)?;
        let info = request.verbose.then(|| sandbox.info(&self.0.present()));
        Ok(SandboxStatusResponse {
            sandbox_id: request.sandbox_id,
            pid: 0,
            state: sandbox.state().to_owned(),
            info: info.unwrap_or_default(),
            created_at: sandbox.started().map(clock::timestamp),
            exited_at: sandbox.exit().map(|exit| clock::timestamp(exit.at)),
            extra: None,
        })
    }

    async fn ping_sandbox(
        &self,
        _: &Context,
        request: PingRequest,
    ) -> Result<PingResponse, Status> {
        self.0.sandbox(&request.sandbox_id)?;
        Ok(PingResponse {})
    }

    async fn shutdown_sandbox(
        &self,
        _: &Context,
        request: ShutdownSandboxRequest,
    ) -> Result<ShutdownSandboxResponse, Status> {
        self.0.shut_down_sandbox(&request.sandbox_id).await?;
        Ok(ShutdownSandboxResponse {})
    }

    async fn sandbox_metrics(
        &self,
        _: &Context,
        request: SandboxMetricsRequest,
    ) -> Result<SandboxMetricsResponse, Status> {
        let metrics = Some(self.0.measure_sandbox(&request.sandbox_id)?);
        Ok(SandboxMetricsResponse { metrics })
    }
}
