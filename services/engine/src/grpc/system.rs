use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::system_server::System as Service;
use gantry_grpc::status::to_detailed as to_wire;
use tonic::{Request, Response};

use super::{Answer, System, context_of};

#[tonic::async_trait]
impl Service for System {
    async fn version(
        &self,
        _request: Request<api::VersionRequest>,
    ) -> Answer<api::VersionResponse> {
        let version = self.engine.version();
        Ok(Response::new(api::VersionResponse {
            version: version.version,
            revision: version.revision,
            api_version: version.api_version,
            os: "linux".to_owned(),
            arch: gantry_core::architecture().to_owned(),
            kernel: version.kernel,
        }))
    }

    async fn info(&self, request: Request<api::InfoRequest>) -> Answer<api::InfoResponse> {
        let ctx = context_of(&request)?;
        let info = self.engine.info(&ctx).await.map_err(to_wire)?;
        Ok(Response::new(api::InfoResponse {
            containers: info.containers,
            running: info.running,
            paused: info.paused,
            stopped: info.containers - info.running - info.paused,
            images: info.images,
            root: info.root,
            state: info.state,
            snapshotter: info.snapshotter,
            cgroup_version: info.cgroup_version,
            kernel: info.kernel,
            os_name: info.os_name,
            arch: info.arch,
            cpus: info.cpus,
            memory: info.memory,
            name: info.name,
            warnings: info.warnings,
        }))
    }
}
