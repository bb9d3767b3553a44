//! Calls to the sandbox service of a shim, each with its limit of time.

use std::time::Duration;

use gantry_core::sandboxes::{Endpoint, SandboxStatus, SetUp, Started};
use gantry_core::tasks::{Exit, Metrics};
use gantry_core::{Platform, Result};
use gantry_ttrpc::CallOptions;
use gantry_ttrpc::containerd::runtime::sandbox::v1 as api;
use gantry_ttrpc::convert;

use crate::shim::Shim;

/// A sandbox may be a virtual machine, which has to boot.
const SLOW: Duration = Duration::from_secs(120);
/// Everything else.
const QUICK: Duration = Duration::from_secs(10);

/// The sandbox service behind a connection.
pub(super) struct Remote<'a> {
    shim: &'a Shim,
    service: api::SandboxClient,
    id: &'a str,
}

impl<'a> Remote<'a> {
    /// The service, for one sandbox.
    pub(super) fn of(shim: &'a Shim, id: &'a str) -> Self {
        Self { shim, service: api::SandboxClient::new(shim.connection().clone()), id }
    }

    fn limit(&self, limit: Duration) -> CallOptions {
        self.shim.options(Some(limit))
    }

    fn id(&self) -> String {
        self.id.to_owned()
    }

    /// Where tasks are taken: at the same address.
    pub(super) fn endpoint(&self) -> Endpoint {
        let endpoint = &self.shim.endpoint;
        Endpoint {
            address: endpoint.address.clone(),
            version: u32::try_from(endpoint.version).unwrap_or_default(),
        }
    }

    /// Sets up the sandbox in this bundle.
    pub(super) async fn create(&self, bundle: &str, sandbox: SetUp) -> Result<()> {
        let request = api::CreateSandboxRequest {
            sandbox_id: sandbox.id,
            bundle_path: bundle.to_owned(),
            rootfs: sandbox.rootfs.into_iter().map(Into::into).collect(),
            options: sandbox.options.map(convert::any),
            netns_path: sandbox.netns_path,
            annotations: sandbox.annotations,
        };
        self.service.create_sandbox(&request, &self.limit(SLOW)).await?;
        Ok(())
    }

    /// Starts it.
    pub(super) async fn start(&self) -> Result<Started> {
        let request = api::StartSandboxRequest { sandbox_id: self.id() };
        let started = self.service.start_sandbox(&request, &self.limit(SLOW)).await?;
        Ok(Started {
            pid: started.pid,
            created_at: convert::from_timestamp(started.created_at.as_ref()),
            spec: started.spec.map(convert::from_any),
            endpoint: self.endpoint(),
        })
    }

    /// What its containers run on.
    pub(super) async fn platform(&self) -> Result<Platform> {
        let request = api::PlatformRequest { sandbox_id: self.id() };
        let answer = self.service.platform(&request, &self.limit(QUICK)).await?;
        Ok(answer.platform.unwrap_or_default().into())
    }

    /// Ends it, by force after so many seconds.
    pub(super) async fn stop(&self, seconds: u32) -> Result<()> {
        let request = api::StopSandboxRequest { sandbox_id: self.id(), timeout_secs: seconds };
        let limit = SLOW + Duration::from_secs(u64::from(seconds));
        self.service.stop_sandbox(&request, &self.limit(limit)).await?;
        Ok(())
    }

    /// Answers when it has ended, without a limit.
    pub(super) async fn wait(&self) -> Result<Exit> {
        let request = api::WaitSandboxRequest { sandbox_id: self.id() };
        let ended = self.service.wait_sandbox(&request, &self.shim.options(None)).await?;
        let at = convert::from_timestamp(ended.exited_at.as_ref());
        Ok(Exit { status: ended.exit_status, at })
    }

    /// Its state.
    pub(super) async fn status(&self, verbose: bool) -> Result<SandboxStatus> {
        let request = api::SandboxStatusRequest { sandbox_id: self.id(), verbose };
        let status = self.service.sandbox_status(&request, &self.limit(QUICK)).await?;
        Ok(SandboxStatus {
            pid: status.pid,
            state: status.state,
            info: status.info,
            created_at: convert::from_timestamp(status.created_at.as_ref()),
            exited_at: convert::from_timestamp(status.exited_at.as_ref()),
            extra: status.extra.map(convert::from_any),
            endpoint: self.endpoint(),
        })
    }

    /// Whether it answers at all.
    pub(super) async fn ping(&self) -> Result<()> {
        let request = api::PingRequest { sandbox_id: self.id() };
        self.service.ping_sandbox(&request, &self.limit(QUICK)).await?;
        Ok(())
    }

    /// Ends the shim.
    pub(super) async fn shutdown(&self) -> Result<()> {
        let request = api::ShutdownSandboxRequest { sandbox_id: self.id() };
        self.service.shutdown_sandbox(&request, &self.limit(SLOW)).await?;
        Ok(())
    }

    /// Measures.
    pub(super) async fn metrics(&self) -> Result<Metrics> {
        let request = api::SandboxMetricsRequest { sandbox_id: self.id() };
        let answer = self.service.sandbox_metrics(&request, &self.limit(QUICK)).await?;
        let metrics = answer.metrics.unwrap_or_default();
        Ok(Metrics {
            container_id: if metrics.id.is_empty() { self.id() } else { metrics.id },
            timestamp: convert::from_timestamp(metrics.timestamp.as_ref()),
            data: convert::from_any(metrics.data.unwrap_or_default()),
        })
    }
}
