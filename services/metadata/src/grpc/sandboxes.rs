use std::sync::Arc;

use gantry_core::containers::Runtime;
use gantry_core::filter::Filters;
use gantry_core::sandboxes::{Sandbox, Sandboxes};
use gantry_grpc::containerd::services::sandbox::v1 as api;
use gantry_grpc::containerd::types;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

use super::required;

/// `containerd.services.sandbox.v1.Store`.
#[derive(Clone)]
pub struct SandboxStoreServer {
    sandboxes: Arc<dyn Sandboxes>,
}

impl SandboxStoreServer {
    /// Serves these.
    pub fn new(sandboxes: Arc<dyn Sandboxes>) -> Self {
        Self { sandboxes }
    }
}

#[tonic::async_trait]
impl api::store_server::Store for SandboxStoreServer {
    async fn create(
        &self,
        request: Request<api::StoreCreateRequest>,
    ) -> Result<Response<api::StoreCreateResponse>, Status> {
        let ctx = context::of(&request)?;
        let sandbox = unpack(required(request.into_inner().sandbox, "sandbox")?);
        let created = self.sandboxes.create(&ctx, sandbox).await.map_err(status::to_wire)?;
        Ok(Response::new(api::StoreCreateResponse { sandbox: Some(pack(created)) }))
    }

    async fn update(
        &self,
        request: Request<api::StoreUpdateRequest>,
    ) -> Result<Response<api::StoreUpdateResponse>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let sandbox = unpack(required(request.sandbox, "sandbox")?);
        let updated = self.sandboxes.update(&ctx, sandbox, &request.fields).await;
        let sandbox = Some(pack(updated.map_err(status::to_wire)?));
        Ok(Response::new(api::StoreUpdateResponse { sandbox }))
    }

    async fn delete(
        &self,
        request: Request<api::StoreDeleteRequest>,
    ) -> Result<Response<api::StoreDeleteResponse>, Status> {
        let ctx = context::of(&request)?;
        let deleted = self.sandboxes.delete(&ctx, &request.get_ref().sandbox_id).await;
        deleted.map_err(status::to_wire)?;
        Ok(Response::new(api::StoreDeleteResponse {}))
    }

    async fn list(
        &self,
        request: Request<api::StoreListRequest>,
    ) -> Result<Response<api::StoreListResponse>, Status> {
        let ctx = context::of(&request)?;
        let filters = Filters::parse(&request.get_ref().filters).map_err(status::to_wire)?;
        let found = self.sandboxes.list(&ctx, &filters).await.map_err(status::to_wire)?;
        let list = found.into_iter().map(pack).collect();
        Ok(Response::new(api::StoreListResponse { list }))
    }

    async fn get(
        &self,
        request: Request<api::StoreGetRequest>,
    ) -> Result<Response<api::StoreGetResponse>, Status> {
        let ctx = context::of(&request)?;
        let found = self.sandboxes.get(&ctx, &request.get_ref().sandbox_id).await;
        let sandbox = Some(pack(found.map_err(status::to_wire)?));
        Ok(Response::new(api::StoreGetResponse { sandbox }))
    }
}

fn pack(s: Sandbox) -> types::Sandbox {
    let runtime = types::sandbox::Runtime {
        name: s.runtime.name,
        options: s.runtime.options.map(convert::any),
    };
    types::Sandbox {
        sandbox_id: s.id,
        runtime: Some(runtime),
        spec: s.spec.map(convert::any),
        labels: s.labels,
        created_at: Some(convert::timestamp(s.created_at)),
        updated_at: Some(convert::timestamp(s.updated_at)),
        extensions: s.extensions.into_iter().map(|(k, v)| (k, convert::any(v))).collect(),
        sandboxer: s.sandboxer,
    }
}

fn unpack(s: types::Sandbox) -> Sandbox {
    let runtime = s.runtime.unwrap_or_default();
    Sandbox {
        id: s.sandbox_id,
        runtime: Runtime { name: runtime.name, options: runtime.options.map(convert::from_any) },
        spec: s.spec.map(convert::from_any),
        labels: s.labels,
        created_at: convert::from_timestamp(s.created_at.as_ref()),
        updated_at: convert::from_timestamp(s.updated_at.as_ref()),
        extensions: s.extensions.into_iter().map(|(k, v)| (k, convert::from_any(v))).collect(),
        sandboxer: s.sandboxer,
    }
}
