use std::sync::Arc;

use futures::StreamExt;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::images_server::Images as Service;
use gantry_grpc::status::to_detailed as to_wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::containers::finish;
use super::{Answer, Answers, Images, context_of, convert, look};
use crate::ImageFilter;

#[tonic::async_trait]
impl Service for Images {
    type PullStream = Answers<api::PullProgress>;

    async fn pull(&self, request: Request<api::PullImageRequest>) -> Answer<Self::PullStream> {
        let ctx = context_of(&request)?;
        let wanted = convert::pull_request(request.into_inner())?;
        // Progress must not wait for the caller. There is no more of it than
        // the pull's own pace of telling.
        let (sender, receiver) = mpsc::unbounded_channel();
        let told = sender.clone();
        let sink = Arc::new(move |progress| {
            // The caller may have gone, which ends the pull below.
            let _ = told.send(Ok(convert::progress(progress)));
        });
        let engine = Arc::clone(&self.engine);
        let work = async move {
            tokio::select! {
                pulled = engine.pull(&ctx, wanted, sink) => {
                    if let Err(err) = pulled {
                        let _ = sender.send(Err(to_wire(err)));
                    }
                }
                () = sender.closed() => tracing::debug!("the caller of a pull has gone"),
            }
        };
        tokio::spawn(work.in_current_span());
        Ok(Response::new(UnboundedReceiverStream::new(receiver).boxed()))
    }

    async fn list(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Answer<api::ListImagesResponse> {
        let ctx = context_of(&request)?;
        let filter = ImageFilter::listing(&request.into_inner().filters).map_err(to_wire)?;
        let images = self.engine.select_images(&ctx, &filter).await.map_err(to_wire)?;
        let images = images.into_iter().map(convert::image).collect();
        Ok(Response::new(api::ListImagesResponse { images }))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectImageRequest>,
    ) -> Result<Response<api::InspectImageResponse>, Status> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().image;
        let (summary, json) = self.engine.inspect_image(&ctx, &text).await.map_err(to_wire)?;
        let image = Some(convert::image(summary));
        Ok(Response::new(api::InspectImageResponse { image, json }))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveImageRequest>,
    ) -> Answer<api::RemoveImageResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let removed =
            self.engine.remove_image(&ctx, &wire.image, wire.force).await.map_err(to_wire)?;
        let deleted = removed.deleted.into_iter().collect();
        Ok(Response::new(api::RemoveImageResponse { untagged: removed.untagged, deleted }))
    }

    async fn prune(
        &self,
        request: Request<api::PruneImagesRequest>,
    ) -> Answer<api::PruneImagesResponse> {
        let ctx = context_of(&request)?;
        let filter = ImageFilter::prune(&request.into_inner().filters).map_err(to_wire)?;
        let engine = Arc::clone(&self.engine);
        let pruned = finish(async move { engine.prune_images(&ctx, &filter).await }).await?;
        Ok(Response::new(look::pruned_images(pruned)))
    }
}
