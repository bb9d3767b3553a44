//! What a client may find out about the daemon: version and parts.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_core::architecture;
use gantry_core::filter::{Filterable, Filters};
use gantry_grpc::containerd::services::introspection::v1 as api;
use gantry_grpc::containerd::services::version::v1 as version;
use gantry_grpc::containerd::types::{Platform, RuntimeRequest};
use gantry_grpc::status::to_wire;
use gantry_grpc::{any, convert};
use gantry_tasks::TaskManager;
use tonic::{Request, Response, Status};

/// The daemon's own release.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The part that runs tasks: it can be asked what a runtime is.
const TASKS: (&str, &str) = ("io.containerd.runtime.v2", "task");

/// A part of the daemon, under containerd's type and ID.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    kind: &'static str,
    id: String,
    exports: BTreeMap<String, String>,
    capabilities: Vec<String>,
    platform: Option<Platform>,
}

impl Part {
    /// A part without further properties.
    pub(crate) fn new(kind: &'static str, id: &str) -> Self {
        let id = id.to_owned();
        Self { kind, id, exports: BTreeMap::new(), capabilities: Vec::new(), platform: None }
    }

    /// The same with what it can beyond the usual.
    pub(crate) fn capabilities(mut self, capabilities: Vec<String>) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// The same with further properties.
    pub(crate) fn exports(mut self, exports: &BTreeMap<String, String>) -> Self {
        self.exports.extend(exports.clone());
        self
    }

    /// The same for another platform than this machine's, written as `linux/arm/v7`.
    pub(crate) fn platform(mut self, platform: Option<&str>) -> Self {
        self.platform = platform.map(|text| {
            let mut parts = text.split('/').map(str::to_owned);
            let mut next = || parts.next().unwrap_or_default();
            let (os, architecture, variant) = (next(), next(), next());
            Platform { os, architecture, variant, ..Platform::default() }
        });
        self
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
    parts: Arc<Vec<Part>>,
    tasks: Arc<TaskManager>,
}

impl Introspection {
    /// Introspection of these parts, under this installation's ID. Runtimes are asked
    /// through `tasks`.
    pub(crate) fn new(uuid: String, parts: Vec<Part>, tasks: Arc<TaskManager>) -> Self {
        Self { uuid, parts: Arc::new(parts), tasks }
    }

    /// What a part answers to a question. Only that for tasks knows one: what a
    /// runtime is.
    async fn ask(
        &self,
        part: &Part,
        request: &api::PluginInfoRequest,
    ) -> gantry_core::Result<Option<gantry_core::Any>> {
        let Some(question) = &request.options else { return Ok(None) };
        if (part.kind, part.id.as_str()) != TASKS {
            return Err(gantry_core::Error::unimplemented(format!(
                "plugin {}.{} takes no options: not implemented",
                part.kind, part.id
            )));
        }
        let request: RuntimeRequest = any::unpack(question)?;
        let options = request.options.map(convert::from_any);
        self.tasks.runtime_info(&request.runtime_path, options).await.map(Some)
    }
}

fn platform() -> Platform {
    Platform { os: "linux".into(), architecture: architecture().into(), ..Platform::default() }
}

fn to_plugin(part: &Part) -> api::Plugin {
    // The others do the same everywhere.
    let platforms =
        ["snapshotter", "differ", "runtime"].map(|kind| format!("io.containerd.{kind}."));
    let bound = platforms.iter().any(|kind| part.kind.starts_with(kind));
    let own = part.platform.clone().or_else(|| bound.then(platform));
    api::Plugin {
        r#type: part.kind.to_owned(),
        id: part.id.clone(),
        platforms: own.into_iter().collect(),
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
        let extra = self.ask(part, wanted).await.map_err(to_wire)?.map(convert::any);
        Ok(Response::new(api::PluginInfoResponse { plugin: Some(to_plugin(part)), extra }))
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
