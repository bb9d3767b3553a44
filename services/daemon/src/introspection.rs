//! What a client may find out about the daemon: version and parts.

use std::collections::BTreeMap;

use gantry_core::architecture;
use gantry_core::filter::{Filterable, Filters};
use gantry_grpc::containerd::services::introspection::v1 as api;
use gantry_grpc::containerd::services::version::v1 as version;
use gantry_grpc::containerd::types::Platform;
use gantry_grpc::status::to_wire;
use tonic::{Request, Response, Status};

/// The daemon's own release.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A part of the daemon, under containerd's type and ID.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    kind: &'static str,
    id: String,
    exports: BTreeMap<String, String>,
    capabilities: Vec<String>,
}

impl Part {
    /// A part without further properties.
    pub(crate) fn new(kind: &'static str, id: &str) -> Self {
        Self { kind, id: id.to_owned(), exports: BTreeMap::new(), capabilities: Vec::new() }
    }

    /// The same with the directory that holds its data.
    pub(crate) fn root(mut self, root: &std::path::Path) -> Self {
        self.exports.insert("root".into(), root.display().to_string());
        self
    }
}

impl Filterable for Part {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["type"] => Some(self.kind.to_owned()),
            ["id"] => Some(self.id.clone()),
            ["capabilities"] => Some(self.capabilities.join(",")),
            _ => None,
        }
    }
}

/// The introspection and version services.
#[derive(Clone)]
pub(crate) struct Introspection {
    uuid: String,
    parts: std::sync::Arc<Vec<Part>>,
}

impl Introspection {
    /// Introspection of these parts, under this installation's ID.
    pub(crate) fn new(uuid: String, parts: Vec<Part>) -> Self {
        Self { uuid, parts: std::sync::Arc::new(parts) }
    }
}

fn platform() -> Platform {
    Platform { os: "linux".into(), architecture: architecture().into(), ..Platform::default() }
}

fn to_plugin(part: &Part) -> api::Plugin {
    api::Plugin {
        r#type: part.kind.to_owned(),
        id: part.id.clone(),
        platforms: vec![platform()],
        exports: part.exports.clone(),
        capabilities: part.capabilities.clone(),
        ..api::Plugin::default()
    }
}

#[tonic::async_trait]
impl api::introspection_server::Introspection for Introspection {
    async fn plugins(
        &self,
        request: Request<api::PluginsRequest>,
    ) -> Result<Response<api::PluginsResponse>, Status> {
        let filters = Filters::parse(&request.get_ref().filters).map_err(to_wire)?;
        let plugins = self.parts.iter().filter(|p| filters.matches(*p)).map(to_plugin).collect();
        Ok(Response::new(api::PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<api::ServerResponse>, Status> {
        use std::os::unix::fs::MetadataExt;
        let pidns = std::fs::metadata("/proc/self/ns/pid").map(|m| m.ino()).unwrap_or_default();
        Ok(Response::new(api::ServerResponse {
            uuid: self.uuid.clone(),
            pid: u64::from(std::process::id()),
            pidns,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(
        &self,
        request: Request<api::PluginInfoRequest>,
    ) -> Result<Response<api::PluginInfoResponse>, Status> {
        let wanted = request.get_ref();
        let part =
            self.parts.iter().find(|p| p.kind == wanted.r#type && p.id == wanted.id).ok_or_else(
                || Status::not_found(format!("plugin {}.{}: not found", wanted.r#type, wanted.id)),
            )?;
        Ok(Response::new(api::PluginInfoResponse { plugin: Some(to_plugin(part)), extra: None }))
    }
}

#[tonic::async_trait]
impl version::version_server::Version for Introspection {
    async fn version(&self, _: Request<()>) -> Result<Response<version::VersionResponse>, Status> {
        Ok(Response::new(version::VersionResponse {
            version: VERSION.into(),
            revision: option_env!("GANTRY_REVISION").unwrap_or_default().into(),
        }))
    }
}
