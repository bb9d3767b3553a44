//! containerd's sandbox controller service over the trait.

use std::sync::Arc;

use gantry_core::sandboxes::{SandboxController, SetUp};
use gantry_core::{Error, Result};
use gantry_grpc::containerd::services::sandbox::v1 as api;
use gantry_grpc::containerd::services::sandbox::v1::controller_server::Controller as Service;
use gantry_grpc::containerd::types::Metric;
use gantry_grpc::context;
use gantry_grpc::convert;
use gantry_grpc::status::to_wire;
use tonic::{Request, Response, Status};

/// The name of the only controller. It is the default one, too.
const SHIM: &str = "shim";

/// The service `containerd.services.sandbox.v1.Controller`.
pub struct ControllerService {
    shim: Arc<dyn SandboxController>,
}

impl ControllerService {
    /// Serves this controller, as `shim`.
    pub fn new(shim: Arc<dyn SandboxController>) -> Self {
        Self { shim }
    }

    fn named(&self, sandboxer: &str) -> Result<&dyn SandboxController> {
        match sandboxer {
            "" | SHIM => Ok(&*self.shim),
            other => Err(Error::not_found(format!(
                "failed to get sandbox controller by {other}: not found"
            ))),
        }
    }
}

/// What an answer is.
type Answer<T> = std::result::Result<Response<T>, Status>;

#[tonic::async_trait]
impl Service for ControllerService {
    async fn create(
        &self,
        request: Request<api::ControllerCreateRequest>,
    ) -> Answer<api::ControllerCreateResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let sandbox_id = r.sandbox_id.clone();
        let sandbox = SetUp {
            id: r.sandbox_id,
            rootfs: r.rootfs.into_iter().map(Into::into).collect(),
            options: r.options.map(convert::from_any),
            netns_path: r.netns_path,
            annotations: r.annotations,
        };
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        controller.create(&ctx, sandbox).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerCreateResponse { sandbox_id }))
    }

    async fn start(
        &self,
        request: Request<api::ControllerStartRequest>,
    ) -> Answer<api::ControllerStartResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        let started = controller.start(&ctx, &r.sandbox_id).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerStartResponse {
            sandbox_id: r.sandbox_id,
            pid: started.pid,
            created_at: Some(convert::timestamp(started.created_at)),
            labels: Default::default(),
            address: started.endpoint.address,
            version: started.endpoint.version,
            spec: started.spec.map(convert::any),
        }))
    }

    async fn platform(
        &self,
        request: Request<api::ControllerPlatformRequest>,
    ) -> Answer<api::ControllerPlatformResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        let platform = controller.platform(&ctx, &r.sandbox_id).await.map_err(to_wire)?;
        let platform = Some(platform.into());
        Ok(Response::new(api::ControllerPlatformResponse { platform }))
    }

    async fn stop(
        &self,
        request: Request<api::ControllerStopRequest>,
    ) -> Answer<api::ControllerStopResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        controller.stop(&ctx, &r.sandbox_id, r.timeout_secs).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerStopResponse {}))
    }

    async fn wait(
        &self,
        request: Request<api::ControllerWaitRequest>,
    ) -> Answer<api::ControllerWaitResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        let exit = controller.wait(&ctx, &r.sandbox_id).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerWaitResponse {
            exit_status: exit.status,
            exited_at: Some(convert::timestamp(exit.at)),
        }))
    }

    async fn status(
        &self,
        request: Request<api::ControllerStatusRequest>,
    ) -> Answer<api::ControllerStatusResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        let status = controller.status(&ctx, &r.sandbox_id, r.verbose).await.map_err(to_wire)?;
        let set = |at: gantry_core::Timestamp| (!at.is_unset()).then(|| convert::timestamp(at));
        Ok(Response::new(api::ControllerStatusResponse {
            sandbox_id: r.sandbox_id,
            pid: status.pid,
            state: status.state,
            info: status.info,
            created_at: set(status.created_at),
            exited_at: set(status.exited_at),
            extra: status.extra.map(convert::any),
            address: status.endpoint.address,
            version: status.endpoint.version,
        }))
    }

    async fn shutdown(
        &self,
        request: Request<api::ControllerShutdownRequest>,
    ) -> Answer<api::ControllerShutdownResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        controller.shutdown(&ctx, &r.sandbox_id).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerShutdownResponse {}))
    }

    async fn metrics(
        &self,
        request: Request<api::ControllerMetricsRequest>,
    ) -> Answer<api::ControllerMetricsResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        let m = controller.metrics(&ctx, &r.sandbox_id).await.map_err(to_wire)?;
        let metrics = Metric {
            timestamp: Some(convert::timestamp(m.timestamp)),
            id: m.container_id,
            data: Some(m.data).filter(|data| !data.type_url.is_empty()).map(convert::any),
        };
        Ok(Response::new(api::ControllerMetricsResponse { metrics: Some(metrics) }))
    }

    async fn update(
        &self,
        request: Request<api::ControllerUpdateRequest>,
    ) -> Answer<api::ControllerUpdateResponse> {
        let ctx = context::of(&request)?;
        let r = request.into_inner();
        let controller = self.named(&r.sandboxer).map_err(to_wire)?;
        controller.update(&ctx, &r.sandbox_id, &r.fields).await.map_err(to_wire)?;
        Ok(Response::new(api::ControllerUpdateResponse {}))
    }
}
