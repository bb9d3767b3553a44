use std::sync::Arc;

use gantry_grpc::convert::timestamp;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::system_server::System as Service;
use gantry_grpc::status::to_detailed as to_wire;
use tonic::{Request, Response};

use super::{Answer, System, context_of, look};
use crate::Info;

/// Who makes cgroups: our shim does, without systemd.
const CGROUP_DRIVER: &str = "cgroupfs";
const OS: &str = "linux";

fn info(info: Info) -> api::InfoResponse {
    let machine = info.machine;
    api::InfoResponse {
        warnings: machine.warnings(),
        containers: info.containers,
        running: info.running,
        paused: info.paused,
        stopped: info.containers - info.running - info.paused,
        images: info.images,
        root: info.root,
        state: info.state,
        snapshotter: info.snapshotter,
        cgroup_version: machine.cgroup_version,
        kernel: machine.kernel,
        os_name: machine.os_name,
        arch: machine.arch,
        cpus: machine.cpus,
        memory: machine.memory,
        name: machine.name,
        version: info.version,
        id: info.id,
        os_type: OS.to_owned(),
        os_version: machine.os_version,
        cgroup_driver: CGROUP_DRIVER.to_owned(),
        log_driver: info.log_drivers.first().cloned().unwrap_or_default(),
        log_drivers: info.log_drivers,
        volume_drivers: info.volume_drivers,
        network_drivers: info.network_drivers,
        runtime: info.runtime,
        runtimes: info.runtimes,
        security_options: info.security_options,
        time: Some(timestamp(machine.time)),
        missing_limits: machine.missing_limits,
        ip_forwarding: machine.ip_forwarding,
    }
}

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
            os: OS.to_owned(),
            arch: gantry_core::architecture().to_owned(),
            kernel: version.kernel,
        }))
    }

    async fn info(&self, request: Request<api::InfoRequest>) -> Answer<api::InfoResponse> {
        let ctx = context_of(&request)?;
        Ok(Response::new(info(self.engine.info(&ctx).await.map_err(to_wire)?)))
    }

    async fn disk_usage(
        &self,
        request: Request<api::DiskUsageRequest>,
    ) -> Answer<api::DiskUsageResponse> {
        let ctx = context_of(&request)?;
        let engine = Arc::clone(&self.engine);
        let usage = engine.disk_usage(&ctx).await.map_err(to_wire)?;
        Ok(Response::new(look::disk_usage(usage)))
    }
}
