use std::sync::Arc;

use gantry_core::collector::Collector;
use gantry_core::filter::Filters;
use gantry_core::images::{Image, Images};
use gantry_core::{Descriptor, Digest};
use gantry_grpc::containerd::services::images::v1 as api;
use gantry_grpc::listing::Listing;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

use super::{missing, paths, required};
use crate::ImageRecords;

/// `containerd.services.images.v1.Images`.
#[derive(Clone)]
pub struct ImagesServer {
    images: Arc<ImageRecords>,
    collector: Arc<dyn Collector>,
}

impl ImagesServer {
    /// Serves these. `collector` is for clients that wait until what an image kept
    /// is gone.
    pub fn new(images: Arc<ImageRecords>, collector: Arc<dyn Collector>) -> Self {
        Self { images, collector }
    }
}

#[tonic::async_trait]
impl api::images_server::Images for ImagesServer {
    async fn get(
        &self,
        request: Request<api::GetImageRequest>,
    ) -> Result<Response<api::GetImageResponse>, Status> {
        let ctx = context::of(&request)?;
        let found = self.images.get(&ctx, &request.get_ref().name).await;
        let image = Some(pack(found.map_err(status::to_wire)?));
        Ok(Response::new(api::GetImageResponse { image }))
    }

    async fn list(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<Listing>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let add = |images: &mut Listing, image| images.push(&pack(image));
        let images = self.images.gather(&ctx, &filters, add).await;
        Ok(Response::new(images.map_err(status::to_wire)?))
    }

    async fn create(
        &self,
        request: Request<api::CreateImageRequest>,
    ) -> Result<Response<api::CreateImageResponse>, Status> {
        let ctx = context::of(&request)?;
        let image = required(request.into_inner().image, "image")?;
        let target = required(image.target.clone(), "image.target")?;
        let image = unpack(image, target.try_into().map_err(status::to_wire)?);
        let created = self.images.create(&ctx, image).await.map_err(status::to_wire)?;
        Ok(Response::new(api::CreateImageResponse { image: Some(pack(created)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateImageRequest>,
    ) -> Result<Response<api::UpdateImageResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let image = required(request.image, "image")?;
        let paths = paths(request.update_mask);
        // A mask that does not name the target may come without one.
        let target = match image.target.clone().filter(|t| !t.digest.is_empty()) {
            Some(target) => target.try_into().map_err(status::to_wire)?,
            None if !paths.is_empty() && !paths.iter().any(|p| p == "target") => self
                .images
                .get(&ctx, &image.name)
                .await
                .map(|stored| with_annotations(stored.target, &image))
                .map_err(status::to_wire)?,
            None => return Err(missing("image.target")),
        };
        let image = unpack(image, target);
        let updated = self.images.update(&ctx, image, &paths).await.map_err(status::to_wire)?;
        Ok(Response::new(api::UpdateImageResponse { image: Some(pack(updated)) }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let target = request.target.filter(|t| !t.digest.is_empty());
        let target = target.map(|t| Digest::parse(&t.digest)).transpose();
        let target = target.map_err(status::to_wire)?;
        let deleted = self.images.delete_target(&ctx, &request.name, target).await;
        deleted.map_err(status::to_wire)?;
        if request.sync {
            self.collector.collect().await.map_err(status::to_wire)?;
        }
        Ok(Response::new(()))
    }
}

/// The stored target, with the annotations that came with the request.
fn with_annotations(mut target: Descriptor, image: &api::Image) -> Descriptor {
    if let Some(wanted) = &image.target {
        target.annotations.clone_from(&wanted.annotations);
    }
    target
}

fn pack(image: Image) -> api::Image {
    api::Image {
        name: image.name,
        labels: image.labels,
        target: Some(image.target.into()),
        created_at: Some(convert::timestamp(image.created_at)),
        updated_at: Some(convert::timestamp(image.updated_at)),
    }
}

fn unpack(image: api::Image, target: Descriptor) -> Image {
    Image {
        name: image.name,
        labels: image.labels,
        target,
        created_at: convert::from_timestamp(image.created_at.as_ref()),
        updated_at: convert::from_timestamp(image.updated_at.as_ref()),
    }
}
