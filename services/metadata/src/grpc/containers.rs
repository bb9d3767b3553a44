use std::sync::Arc;

use futures::stream;
use gantry_core::containers::{Container, Containers, Runtime};
use gantry_core::filter::Filters;
use gantry_grpc::containerd::services::containers::v1 as api;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

use super::{paths, required};

/// `containerd.services.containers.v1.Containers`.
#[derive(Clone)]
pub struct ContainersServer {
    containers: Arc<dyn Containers>,
}

impl ContainersServer {
    /// Serves these.
    pub fn new(containers: Arc<dyn Containers>) -> Self {
        Self { containers }
    }

    async fn select(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Vec<api::Container>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.containers.list(&ctx, &filters).await.map_err(status::to_wire)?;
        Ok(found.into_iter().map(pack).collect())
    }
}

type ListStream = stream::Iter<std::vec::IntoIter<Result<api::ListContainerMessage, Status>>>;

#[tonic::async_trait]
impl api::containers_server::Containers for ContainersServer {
    async fn get(
        &self,
        request: Request<api::GetContainerRequest>,
    ) -> Result<Response<api::GetContainerResponse>, Status> {
        let ctx = context::of(&request)?;
        let found = self.containers.get(&ctx, &request.get_ref().id).await;
        let container = Some(pack(found.map_err(status::to_wire)?));
        Ok(Response::new(api::GetContainerResponse { container }))
    }

    async fn list(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<api::ListContainersResponse>, Status> {
        let containers = self.select(request).await?;
        Ok(Response::new(api::ListContainersResponse { containers }))
    }

    type ListStreamStream = ListStream;

    async fn list_stream(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Result<Response<ListStream>, Status> {
        let found = self.select(request).await?;
        let messages: Vec<_> = found
            .into_iter()
            .map(|container| Ok(api::ListContainerMessage { container: Some(container) }))
            .collect();
        Ok(Response::new(stream::iter(messages)))
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Result<Response<api::CreateContainerResponse>, Status> {
        let ctx = context::of(&request)?;
        let container = unpack(required(request.into_inner().container, "container")?);
        let created = self.containers.create(&ctx, container).await.map_err(status::to_wire)?;
        Ok(Response::new(api::CreateContainerResponse { container: Some(pack(created)) }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Result<Response<api::UpdateContainerResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let container = unpack(required(request.container, "container")?);
        let paths = paths(request.update_mask);
        let updated = self.containers.update(&ctx, container, &paths).await;
        let container = Some(pack(updated.map_err(status::to_wire)?));
        Ok(Response::new(api::UpdateContainerResponse { container }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContainerRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        self.containers.delete(&ctx, &request.get_ref().id).await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }
}

fn pack(c: Container) -> api::Container {
    let runtime = api::container::Runtime {
        name: c.runtime.name,
        options: c.runtime.options.map(convert::any),
    };
    api::Container {
        id: c.id,
        labels: c.labels,
        image: c.image,
        runtime: Some(runtime),
        spec: c.spec.map(convert::any),
        snapshotter: c.snapshotter,
        snapshot_key: c.snapshot_key,
        created_at: Some(convert::timestamp(c.created_at)),
        updated_at: Some(convert::timestamp(c.updated_at)),
        extensions: c.extensions.into_iter().map(|(k, v)| (k, convert::any(v))).collect(),
        sandbox: c.sandbox,
    }
}

fn unpack(c: api::Container) -> Container {
    let runtime = c.runtime.unwrap_or_default();
    Container {
        id: c.id,
        labels: c.labels,
        image: c.image,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(convert::from_any) },
        spec: c.spec.map(convert::from_any),
        snapshotter: c.snapshotter,
        snapshot_key: c.snapshot_key,
        created_at: convert::from_timestamp(c.created_at.as_ref()),
        updated_at: convert::from_timestamp(c.updated_at.as_ref()),
        extensions: c.extensions.into_iter().map(|(k, v)| (k, convert::from_any(v))).collect(),
        sandbox: c.sandbox,
    }
}
