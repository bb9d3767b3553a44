use std::sync::Arc;

use gantry_core::collector::Collector;
use gantry_core::filter::Filters;
use gantry_core::leases::{Lease, Leases, Resource};
use gantry_grpc::containerd::services::leases::v1 as api;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

use super::required;

/// `containerd.services.leases.v1.Leases`.
#[derive(Clone)]
pub struct LeasesServer {
    leases: Arc<dyn Leases>,
    collector: Arc<dyn Collector>,
}

impl LeasesServer {
    /// Serves these. `collector` is for clients that wait until what a lease held
    /// is gone.
    pub fn new(leases: Arc<dyn Leases>, collector: Arc<dyn Collector>) -> Self {
        Self { leases, collector }
    }
}

#[tonic::async_trait]
impl api::leases_server::Leases for LeasesServer {
    async fn create(
        &self,
        request: Request<api::CreateRequest>,
    ) -> Result<Response<api::CreateResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let id = Some(request.id.as_str()).filter(|id| !id.is_empty());
        let created = self.leases.create(&ctx, id, request.labels).await;
        let lease = Some(pack(created.map_err(status::to_wire)?));
        Ok(Response::new(api::CreateResponse { lease }))
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        self.leases.delete(&ctx, &request.id).await.map_err(status::to_wire)?;
        if request.sync {
            self.collector.collect().await.map_err(status::to_wire)?;
        }
        Ok(Response::new(()))
    }

    async fn list(
        &self,
        request: Request<api::ListRequest>,
    ) -> Result<Response<api::ListResponse>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.leases.list(&ctx, &filters).await.map_err(status::to_wire)?;
        let leases = found.into_iter().map(pack).collect();
        Ok(Response::new(api::ListResponse { leases }))
    }

    async fn add_resource(
        &self,
        request: Request<api::AddResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let resource = unpack(required(request.resource, "resource")?);
        let added = self.leases.add_resources(&ctx, &request.id, vec![resource]).await;
        added.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn delete_resource(
        &self,
        request: Request<api::DeleteResourceRequest>,
    ) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let resource = unpack(required(request.resource, "resource")?);
        let deleted = self.leases.delete_resource(&ctx, &request.id, &resource).await;
        deleted.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn list_resources(
        &self,
        request: Request<api::ListResourcesRequest>,
    ) -> Result<Response<api::ListResourcesResponse>, Status> {
        let ctx = context::of(&request)?;
        let held = self.leases.resources(&ctx, &request.get_ref().id).await;
        let held = held.map_err(status::to_wire)?;
        let resources =
            held.into_iter().map(|r| api::Resource { id: r.id, r#type: r.kind }).collect();
        Ok(Response::new(api::ListResourcesResponse { resources }))
    }
}

fn pack(lease: Lease) -> api::Lease {
    let created_at = Some(convert::timestamp(lease.created_at));
    api::Lease { id: lease.id, created_at, labels: lease.labels }
}

fn unpack(resource: api::Resource) -> Resource {
    Resource { kind: resource.r#type, id: resource.id }
}
