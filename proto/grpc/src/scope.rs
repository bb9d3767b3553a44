//! What limited clients may call.
//!
//! A server whose connections tell who is at their other end puts a [`Peer`] into the extensions
//! of each request. [`RequestLayer`](crate::layer::RequestLayer) refuses methods that are beyond
//! its scope before anything else looks at the request: what is not in the table here is refused.
//! Which containers a method may touch is for the engine to decide, which finds the scope in
//! the request's context.

use std::fmt;
use std::sync::Arc;

use gantry_core::{Error, Scope};
use http::Extensions;

use crate::status;

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// How far it may go; everywhere when there is none.
    pub scope: Option<Arc<Scope>>,
}

/// The scope of a request's client; `None` when it has no limits.
pub fn of(extensions: &Extensions) -> Option<&Arc<Scope>> {
    extensions.get::<Peer>()?.scope.as_ref()
}

/// Refuses something that is beyond a scope, and tells the log.
pub fn refuse(scope: &Scope, what: impl fmt::Display) -> Error {
    let error = scope.refusal(what);
    tracing::warn!(peer = %scope.peer, "refused: {error}");
    error
}

/// Refuses a method that is beyond the scope of the request's client.
///
/// # Errors
/// `PermissionDenied`.
pub(crate) fn check(extensions: &Extensions, path: &str) -> Result<(), tonic::Status> {
    let Some(scope) = of(extensions) else { return Ok(()) };
    if is_open(path) || find(path).is_some_and(|method| method.is_within(scope)) {
        return Ok(());
    }
    Err(status::to_detailed(refuse(scope, path.trim_start_matches('/'))))
}

/// What a method does, as far as scopes care.
#[derive(Clone, Copy, Debug)]
struct Method {
    name: &'static str,
    /// It changes nothing, and tells nothing of what is in files.
    looks: bool,
    /// The engine holds it to containers with a label.
    by_label: bool,
}

impl Method {
    fn is_within(self, scope: &Scope) -> bool {
        (self.looks || !scope.read_only) && (self.by_label || scope.label.is_none())
    }
}

/// Looks at containers.
const fn look(name: &'static str) -> Method {
    Method { name, looks: true, by_label: true }
}

/// Changes containers, or reads their files.
const fn touch(name: &'static str) -> Method {
    Method { name, looks: false, by_label: true }
}

/// Looks at what has no labels to go by.
const fn look_at_all(name: &'static str) -> Method {
    Method { name, looks: true, by_label: false }
}

/// Changes what has no labels to go by, or reads its files.
const fn touch_all(name: &'static str) -> Method {
    Method { name, looks: false, by_label: false }
}

/// Whole services that tell nothing of anybody: health, reflection, version.
const OPEN: [&str; 4] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
    "/containerd.services.version.v1.Version/",
];

const PACKAGE: &str = "/gantry.engine.v1.";

const CONTAINERS: [Method; 26] = [
    touch("Run"),
    touch("Exec"),
    touch("Attach"),
    touch("Create"),
    touch("Start"),
    look("List"),
    look("Watch"),
    look("Inspect"),
    look("Logs"),
    touch("Stop"),
    touch("Kill"),
    touch("Remove"),
    look("Wait"),
    touch("Restart"),
    touch("Pause"),
    touch("Unpause"),
    touch("Rename"),
    touch("Update"),
    look("Top"),
    touch("Prune"),
    look("Stats"),
    look("Changes"),
    touch("Export"),
    touch("Stat"),
    touch("CopyFrom"),
    touch("CopyTo"),
];

const IMAGES: [Method; 5] =
    [touch("Pull"), look("List"), look("Inspect"), touch_all("Remove"), touch_all("Prune")];

const VOLUMES: [Method; 9] = [
    touch_all("Create"),
    look_at_all("List"),
    look_at_all("Inspect"),
    touch_all("Remove"),
    touch_all("Prune"),
    touch_all("Rename"),
    touch_all("Copy"),
    touch_all("Export"),
    touch_all("Import"),
];

const NETWORKS: [Method; 10] = [
    touch_all("Create"),
    look_at_all("List"),
    look_at_all("Inspect"),
    touch_all("Remove"),
    touch_all("Prune"),
    touch_all("Connect"),
    touch_all("Disconnect"),
    touch_all("Publish"),
    touch_all("Unpublish"),
    look_at_all("Explain"),
];

const SYSTEM: [Method; 3] = [look("Version"), look("Info"), look_at_all("DiskUsage")];

const EVENTS: [Method; 1] = [look("Subscribe")];

fn is_open(path: &str) -> bool {
    OPEN.iter().any(|service| path.starts_with(service))
}

fn find(path: &str) -> Option<Method> {
    let (service, name) = path.strip_prefix(PACKAGE)?.split_once('/')?;
    let methods: &[Method] = match service {
        "Containers" => &CONTAINERS,
        "Images" => &IMAGES,
        "Volumes" => &VOLUMES,
        "Networks" => &NETWORKS,
        "System" => &SYSTEM,
        "Events" => &EVENTS,
        _ => return None,
    };
    methods.iter().find(|method| method.name == name).copied()
}

#[cfg(test)]
mod tests {
    use gantry_core::{LabelScope, Namespace};
    use prost::Message;

    use super::*;

    fn extensions(read_only: bool, label: bool) -> Extensions {
        let namespace = Namespace::new("default").unwrap();
        let label = label.then(|| LabelScope { key: "ci".into(), value: "true".into(), namespace });
        let scope = Scope { door: "socket /s".into(), peer: "uid=1".into(), read_only, label };
        let mut extensions = Extensions::new();
        extensions.insert(Peer { scope: Some(Arc::new(scope)) });
        extensions
    }

    fn allowed(extensions: &Extensions, method: &str) -> bool {
        let path = match method.split_once('.') {
            Some(_) => format!("/{method}"),
            None => format!("{PACKAGE}{method}"),
        };
        match check(extensions, &path) {
            Ok(()) => true,
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::PermissionDenied);
                assert!(status.message().contains("beyond the scope of socket /s"), "{status}");
                false
            }
        }
    }

    #[test]
    fn who_has_no_scope_may_all() {
        let path = "/containerd.services.content.v1.Content/Delete";
        assert!(check(&Extensions::new(), path).is_ok());
        let mut full = Extensions::new();
        full.insert(Peer::default());
        assert!(check(&full, path).is_ok());
    }

    #[test]
    fn who_looks_changes_nothing() {
        let looks = extensions(true, false);
        for method in [
            "Containers/List",
            "Containers/Logs",
            "Volumes/List",
            "System/DiskUsage",
            "Networks/Explain",
        ] {
            assert!(allowed(&looks, method), "{method}");
        }
        for method in
            ["Containers/Exec", "Containers/Attach", "Containers/CopyFrom", "Volumes/Export"]
        {
            assert!(!allowed(&looks, method), "{method}");
        }
    }

    #[test]
    fn who_goes_by_a_label_touches_nothing_without_labels() {
        let by_label = extensions(false, true);
        for method in ["Containers/Run", "Containers/CopyTo", "Images/Pull", "System/Info"] {
            assert!(allowed(&by_label, method), "{method}");
        }
        for method in [
            "Images/Remove",
            "Volumes/List",
            "Volumes/Create",
            "System/DiskUsage",
            "Networks/Publish",
        ] {
            assert!(!allowed(&by_label, method), "{method}");
        }
        let both = extensions(true, true);
        assert!(allowed(&both, "Containers/Inspect"));
        assert!(!allowed(&both, "Containers/Start") && !allowed(&both, "Volumes/List"));
    }

    #[test]
    fn other_apis_and_unknown_methods_are_closed() {
        for limited in [extensions(true, false), extensions(false, true)] {
            for method in [
                "containerd.services.containers.v1.Containers/List",
                "containerd.services.tasks.v1.Tasks/Exec",
                "gantry.engine.v1.Containers/New",
                "gantry.engine.v1.New/List",
                "gantry.engine.v1.Containers/List/x",
                "grpc.health.v1.HealthX/Check",
            ] {
                assert!(!allowed(&limited, method), "{method}");
            }
            assert!(allowed(&limited, "grpc.health.v1.Health/Check"));
            assert!(allowed(&limited, "containerd.services.version.v1.Version/Version"));
        }
    }

    /// Who adds a method decides what limited clients may do with it.
    #[test]
    fn every_method_is_in_the_table_and_nothing_else() {
        let set = prost_types::FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).unwrap();
        let files = set.file.iter().filter(|file| file.package() == "gantry.engine.v1");
        let mut count = 0;
        for service in files.flat_map(|file| &file.service) {
            for method in &service.method {
                let path = format!("{PACKAGE}{}/{}", service.name(), method.name());
                assert!(find(&path).is_some(), "{path} is not in the table of scope.rs");
                count += 1;
            }
        }
        let all = [&CONTAINERS[..], &IMAGES, &VOLUMES, &NETWORKS, &SYSTEM, &EVENTS];
        assert_eq!(count, all.iter().map(|methods| methods.len()).sum::<usize>());
    }
}
