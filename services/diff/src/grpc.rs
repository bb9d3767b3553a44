//! containerd's diff service.

use std::sync::Arc;

use gantry_core::content::ContentStore;
use gantry_core::{Applier, Descriptor, DiffOptions, Differ, Error, Mount, media_type};
use gantry_grpc::containerd::services::diff::v1 as api;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

/// The service over an applier with the content that it applies, and a differ.
pub struct Service {
    applier: Arc<dyn Applier>,
    content: Arc<dyn ContentStore>,
    differ: Arc<dyn Differ>,
}

impl Service {
    /// Serves these.
    pub fn new(
        applier: Arc<dyn Applier>,
        content: Arc<dyn ContentStore>,
        differ: Arc<dyn Differ>,
    ) -> Self {
        Self { applier, content, differ }
    }
}

#[tonic::async_trait]
impl api::diff_server::Diff for Service {
    async fn apply(
        &self,
        request: Request<api::ApplyRequest>,
    ) -> Result<Response<api::ApplyResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let layer: Descriptor = request
            .diff
            .ok_or_else(|| Error::invalid_argument("apply without a layer: invalid argument"))
            .and_then(TryInto::try_into)
            .map_err(status::to_wire)?;
        let mounts: Vec<Mount> = request.mounts.into_iter().map(Into::into).collect();
        let blob =
            self.content.read(&ctx, &layer.digest, 0, None).await.map_err(status::to_wire)?;
        let applied =
            self.applier.apply(blob, &layer.media_type, &mounts).await.map_err(|err| {
                status::to_wire(err.context(format!("apply layer {}", layer.digest)))
            })?;
        let applied = Descriptor {
            media_type: media_type::OCI_LAYER.into(),
            digest: applied.diff_id,
            size: applied.size,
            annotations: Default::default(),
            platform: None,
            urls: Vec::new(),
        };
        Ok(Response::new(api::ApplyResponse { applied: Some(applied.into()) }))
    }

    async fn diff(
        &self,
        request: Request<api::DiffRequest>,
    ) -> Result<Response<api::DiffResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let mounts = |all: Vec<_>| all.into_iter().map(Into::into).collect::<Vec<Mount>>();
        let (left, right) = (mounts(request.left), mounts(request.right));
        let options = DiffOptions {
            media_type: request.media_type,
            reference: request.r#ref,
            labels: request.labels,
            newest: request.source_date_epoch.map(|time| convert::from_timestamp(Some(&time))),
        };
        let layer = self.differ.diff(&ctx, &left, &right, options).await;
        let diff = Some(layer.map_err(status::to_wire)?.into());
        Ok(Response::new(api::DiffResponse { diff }))
    }
}
