//! containerd's snapshots service.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use gantry_core::filter::Filters;
use gantry_core::snapshots::{self, Kind, Snapshotter, Snapshotters};
use gantry_core::{LabelMask, Mount, Result};
use gantry_grpc::containerd::services::snapshots::v1 as api;
use gantry_grpc::containerd::types;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

/// Snapshots in one message of a list.
const PER_MESSAGE: usize = 100;

/// The service over the snapshotters that are open.
pub struct Service {
    snapshotters: Snapshotters,
}

impl Service {
    /// Serves these.
    pub fn new(snapshotters: Snapshotters) -> Self {
        Self { snapshotters }
    }

    fn get(&self, name: &str) -> Result<Arc<dyn Snapshotter>, Status> {
        self.snapshotters.get(name).map_err(status::to_wire)
    }
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn mounts(mounts: Vec<Mount>) -> Vec<types::Mount> {
    mounts.into_iter().map(Into::into).collect()
}

fn info(info: snapshots::Info) -> api::Info {
    let kind = match info.kind {
        Kind::View => api::Kind::View,
        Kind::Active => api::Kind::Active,
        Kind::Committed => api::Kind::Committed,
    };
    api::Info {
        name: info.name,
        parent: info.parent.unwrap_or_default(),
        kind: kind.into(),
        created_at: Some(convert::timestamp(info.created_at)),
        updated_at: Some(convert::timestamp(info.updated_at)),
        labels: info.labels,
    }
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Service {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let made = self
            .get(&request.snapshotter)?
            .prepare(&ctx, &request.key, given(&request.parent), request.labels)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(api::PrepareSnapshotResponse { mounts: mounts(made) }))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let made = self
            .get(&request.snapshotter)?
            .view(&ctx, &request.key, given(&request.parent), request.labels)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(api::ViewSnapshotResponse { mounts: mounts(made) }))
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let found = self
            .get(&request.snapshotter)?
            .mounts(&ctx, &request.key)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(api::MountsResponse { mounts: mounts(found) }))
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        self.get(&request.snapshotter)?
            .commit(&ctx, &request.name, &request.key, request.labels, given(&request.parent))
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        self.get(&request.snapshotter)?
            .remove(&ctx, &request.key)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let found = self
            .get(&request.snapshotter)?
            .stat(&ctx, &request.key)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(api::StatSnapshotResponse { info: Some(info(found)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let new = request.info.unwrap_or_default();
        let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
        let mask = LabelMask::of_paths(&paths, "snapshot").map_err(status::to_wire)?;
        let changed = self
            .get(&request.snapshotter)?
            .update(&ctx, &new.name, new.labels, mask)
            .await
            .map_err(status::to_wire)?;
        Ok(Response::new(api::UpdateSnapshotResponse { info: Some(info(changed)) }))
    }

    type ListStream =
        Pin<Box<dyn Stream<Item = Result<api::ListSnapshotsResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let filters = Filters::parse(&request.filters).map_err(status::to_wire)?;
        let found =
            self.get(&request.snapshotter)?.list(&ctx, &filters).await.map_err(status::to_wire)?;
        let infos: Vec<api::Info> = found.into_iter().map(info).collect();
        let messages: Vec<_> = infos
            .chunks(PER_MESSAGE)
            .map(|part| Ok(api::ListSnapshotsResponse { info: part.to_vec() }))
            .collect();
        Ok(Response::new(Box::pin(futures::stream::iter(messages))))
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let usage = self
            .get(&request.snapshotter)?
            .usage(&ctx, &request.key)
            .await
            .map_err(status::to_wire)?;
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Ok(Response::new(api::UsageResponse {
            size: number(usage.size),
            inodes: number(usage.inodes),
        }))
    }

    async fn cleanup(&self, request: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        let request = request.into_inner();
        self.get(&request.snapshotter)?.cleanup().await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }
}
