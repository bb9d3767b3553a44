//! containerd's mounts service.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use gantry_core::filter::Filters;
use gantry_core::mounts::{Activate, Activation, ActiveMount, MountManager};
use gantry_core::{LabelMask, Result};
use gantry_grpc::containerd::services::mounts::v1 as api;
use gantry_grpc::containerd::types;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

/// `containerd.services.mounts.v1.Mounts`.
#[derive(Clone)]
pub struct Service(Arc<dyn MountManager>);

impl Service {
    /// Serves this manager.
    pub fn new(manager: Arc<dyn MountManager>) -> Self {
        Self(manager)
    }
}

fn active(active: ActiveMount) -> types::ActiveMount {
    types::ActiveMount {
        mount: Some(active.mount.into()),
        mounted_at: Some(convert::timestamp(active.mounted_at)),
        mount_point: active.mount_point,
        data: active.data,
    }
}

fn pack(activation: Activation) -> Option<types::ActivationInfo> {
    Some(types::ActivationInfo {
        name: activation.name,
        active: activation.active.into_iter().map(active).collect(),
        system: activation.system.into_iter().map(Into::into).collect(),
        labels: activation.labels,
    })
}

#[tonic::async_trait]
impl api::mounts_server::Mounts for Service {
    async fn activate(
        &self,
        request: Request<api::ActivateRequest>,
    ) -> Result<Response<api::ActivateResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let wanted = Activate {
            mounts: request.mounts.into_iter().map(Into::into).collect(),
            labels: request.labels,
            temporary: request.temporary,
        };
        let made = self.0.activate(&ctx, &request.name, wanted).await.map_err(status::to_wire)?;
        Ok(Response::new(api::ActivateResponse { info: pack(made) }))
    }

    async fn deactivate(
        &self,
        request: Request<api::DeactivateRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        self.0.deactivate(&ctx, &request.get_ref().name).await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let ctx = context::of(&request)?;
        let found = self.0.info(&ctx, &request.get_ref().name).await.map_err(status::to_wire)?;
        Ok(Response::new(api::InfoResponse { info: pack(found) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let new = request.info.unwrap_or_default();
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mask = LabelMask::of_paths(&paths, "mount").map_err(status::to_wire)?;
        let changed = self.0.update(&ctx, &new.name, new.labels, mask).await;
        Ok(Response::new(api::UpdateResponse { info: pack(changed.map_err(status::to_wire)?) }))
    }

    type ListStream = Pin<Box<dyn Stream<Item = Result<api::ListMessage, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.0.list(&ctx, &filters).await.map_err(status::to_wire)?;
        let messages = found.into_iter().map(|one| Ok(api::ListMessage { info: pack(one) }));
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }
}
