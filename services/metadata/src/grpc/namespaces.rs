use std::sync::Arc;

use gantry_core::namespaces::{Namespaces, Record};
use gantry_core::{LabelMask, Namespace};
use gantry_grpc::containerd::services::namespaces::v1 as api;
use gantry_grpc::status;
use tonic::{Request, Response, Status};

use super::{paths, required};

/// `containerd.services.namespaces.v1.Namespaces`.
#[derive(Clone)]
pub struct NamespacesServer {
    namespaces: Arc<dyn Namespaces>,
}

impl NamespacesServer {
    /// Serves these.
    pub fn new(namespaces: Arc<dyn Namespaces>) -> Self {
        Self { namespaces }
    }
}

#[tonic::async_trait]
impl api::namespaces_server::Namespaces for NamespacesServer {
    async fn get(
        &self,
        request: Request<api::GetNamespaceRequest>,
    ) -> Result<Response<api::GetNamespaceResponse>, Status> {
        let name = parse(&request.get_ref().name)?;
        let record = self.namespaces.get(&name).await.map_err(status::to_wire)?;
        let namespace = Some(pack(&name, record));
        Ok(Response::new(api::GetNamespaceResponse { namespace }))
    }

    // The request's filter is not used by any client, and by containerd neither.
    async fn list(
        &self,
        _: Request<api::ListNamespacesRequest>,
    ) -> Result<Response<api::ListNamespacesResponse>, Status> {
        let found = self.namespaces.list().await.map_err(status::to_wire)?;
        let namespaces = found.into_iter().map(|(name, record)| pack(&name, record)).collect();
        Ok(Response::new(api::ListNamespacesResponse { namespaces }))
    }

    async fn create(
        &self,
        request: Request<api::CreateNamespaceRequest>,
    ) -> Result<Response<api::CreateNamespaceResponse>, Status> {
        let wanted = required(request.into_inner().namespace, "namespace")?;
        let name = parse(&wanted.name)?;
        let created = self.namespaces.create(&name, wanted.labels).await;
        let namespace = Some(pack(&name, created.map_err(status::to_wire)?));
        Ok(Response::new(api::CreateNamespaceResponse { namespace }))
    }

    async fn update(
        &self,
        request: Request<api::UpdateNamespaceRequest>,
    ) -> Result<Response<api::UpdateNamespaceResponse>, Status> {
        let request = request.into_inner();
        let wanted = required(request.namespace, "namespace")?;
        let name = parse(&wanted.name)?;
        let paths = paths(request.update_mask);
        let mask = LabelMask::of_paths(&paths, "namespace").map_err(status::to_wire)?;
        let updated = self.namespaces.update(&name, wanted.labels, mask).await;
        let namespace = Some(pack(&name, updated.map_err(status::to_wire)?));
        Ok(Response::new(api::UpdateNamespaceResponse { namespace }))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteNamespaceRequest>,
    ) -> Result<Response<()>, Status> {
        let name = parse(&request.get_ref().name)?;
        self.namespaces.delete(&name).await.map_err(status::to_wire)?;
        Ok(Response::new(()))
    }
}

fn parse(name: &str) -> Result<Namespace, Status> {
    Namespace::new(name).map_err(status::to_wire)
}

fn pack(name: &Namespace, record: Record) -> api::Namespace {
    api::Namespace { name: name.as_str().to_owned(), labels: record.labels }
}
