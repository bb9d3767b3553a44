//! `containerd.services.content.v1.Content`.

mod write;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt, future, stream};
use gantry_core::content::{ContentStore, Info, IngestStatus};
use gantry_core::filter::Filters;
use gantry_core::{Digest, LabelMask};
use gantry_grpc::containerd::services::content::v1 as api;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status, Streaming};

/// How many records one message of a list holds.
const INFOS_PER_MESSAGE: usize = 100;

/// Serves a content store.
#[derive(Clone)]
pub struct ContentServer {
    store: Arc<dyn ContentStore>,
}

impl ContentServer {
    /// Serves this one.
    pub fn new(store: Arc<dyn ContentStore>) -> Self {
        Self { store }
    }
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl api::content_server::Content for ContentServer {
    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let ctx = context::of(&request)?;
        let digest = parse(&request.get_ref().digest)?;
        let info = self.store.info(&ctx, &digest).await.map_err(status::to_wire)?;
        Ok(Response::new(api::InfoResponse { info: Some(pack(info)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let info = request.info.unwrap_or_default();
        let digest = parse(&info.digest)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        let mask = LabelMask::of_paths(&paths, "content info").map_err(status::to_wire)?;
        let updated = self.store.update(&ctx, &digest, info.labels, mask).await;
        let info = Some(pack(updated.map_err(status::to_wire)?));
        Ok(Response::new(api::UpdateResponse { info }))
    }

    type ListStream = Replies<api::ListContentResponse>;

    async fn list(
        &self,
        request: Request<api::ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.store.list(&ctx, &filters).await.map_err(status::to_wire)?;
        let messages = stream::iter(found.into_iter().map(pack))
            .chunks(INFOS_PER_MESSAGE)
            .map(|info| Ok(api::ListContentResponse { info }));
        Ok(Response::new(Box::pin(messages)))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let digest = parse(&request.get_ref().digest)?;
        self.store.delete(&ctx, &digest).await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    type ReadStream = Replies<api::ReadContentResponse>;

    async fn read(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let digest = parse(&request.digest)?;
        // As in containerd, a negative offset is the beginning, and a size
        // that is not positive means all.
        let offset = u64::try_from(request.offset).unwrap_or(0);
        let len = u64::try_from(request.size).ok().filter(|size| *size > 0);
        let pieces = self.store.read(&ctx, &digest, offset, len).await;
        let messages = pieces.map_err(status::to_wire)?.scan(offset, |at, piece| {
            let reply = piece.map_err(status::to_wire).map(|data| {
                let offset = *at;
                *at += data.len() as u64;
                api::ReadContentResponse { offset: size(offset), data }
            });
            future::ready(Some(reply))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let ctx = context::of(&request)?;
        let found = self.store.status(&ctx, &request.get_ref().r#ref).await;
        let status = Some(pack_status(found.map_err(status::to_wire)?));
        Ok(Response::new(api::StatusResponse { status }))
    }

    async fn list_statuses(
        &self,
        request: Request<api::ListStatusesRequest>,
    ) -> Result<Response<api::ListStatusesResponse>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.store.statuses(&ctx, &filters).await.map_err(status::to_wire)?;
        let statuses = found.into_iter().map(pack_status).collect();
        Ok(Response::new(api::ListStatusesResponse { statuses }))
    }

    type WriteStream = Replies<api::WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<api::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let ctx = context::of(&request)?;
        let session = write::Session::new(Arc::clone(&self.store), ctx, request.into_inner());
        Ok(Response::new(Box::pin(session.replies())))
    }

    async fn abort(&self, request: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        self.store.cancel(&ctx, &request.get_ref().r#ref).await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }
}

fn parse(digest: &str) -> Result<Digest, Status> {
    Digest::parse(digest).map_err(|err| status::to_wire(err.context("digest")))
}

/// A length on the wire; nothing that exists is longer than fits.
fn size(len: u64) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn pack(info: Info) -> api::Info {
    api::Info {
        digest: info.digest.to_string(),
        size: size(info.size),
        created_at: Some(convert::timestamp(info.created_at)),
        updated_at: Some(convert::timestamp(info.updated_at)),
        labels: info.labels,
    }
}

fn pack_status(status: IngestStatus) -> api::Status {
    api::Status {
        started_at: Some(convert::timestamp(status.started_at)),
        updated_at: Some(convert::timestamp(status.updated_at)),
        r#ref: status.reference,
        offset: size(status.offset),
        total: size(status.total),
        expected: status.expected.map(String::from).unwrap_or_default(),
    }
}
