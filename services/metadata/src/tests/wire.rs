//! The adapters, called as tonic calls them.

use std::sync::atomic::{AtomicU32, Ordering};

use gantry_core::collector::Collector;
use gantry_grpc::containerd::services as api;
use gantry_grpc::containerd::types::Descriptor;
use gantry_grpc::context::Headers;
use prost_types::{Any, FieldMask, Timestamp};
use tonic::service::Interceptor;
use tonic::{Code, Request};

use api::containers::v1::containers_server::Containers;
use api::images::v1::images_server::Images;
use api::leases::v1::leases_server::Leases;
use api::namespaces::v1::namespaces_server::Namespaces;

use super::*;
use crate::grpc::{ContainersServer, ImagesServer, LeasesServer, NamespacesServer};

/// Counts who waited for a collection.
#[derive(Default)]
struct Waited(AtomicU32);

#[tonic::async_trait]
impl Collector for Waited {
    async fn collect(&self) -> gantry_core::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A request in the namespace `moby`.
fn request<T>(message: T) -> Request<T> {
    let headers = Headers::new(&Namespace::new("moby").unwrap()).call(Request::new(())).unwrap();
    let (metadata, extensions, ()) = headers.into_parts();
    Request::from_parts(metadata, extensions, message)
}

fn mask(path: &str) -> Option<FieldMask> {
    Some(FieldMask { paths: vec![path.into()] })
}

#[tokio::test]
async fn containers_as_ctr_and_dockerd_send_them() {
    use api::containers::v1 as m;
    let host = Host::new();
    let server = ContainersServer::new(host.containers.clone());
    let zero = Some(Timestamp { seconds: -62_135_596_800, nanos: 0 });
    let container = m::Container {
        id: "c1".into(),
        runtime: Some(m::container::Runtime {
            name: "io.containerd.runc.v2".into(),
            options: None,
        }),
        spec: Some(Any { type_url: "type.googleapis.com/x".into(), value: b"{}".to_vec() }),
        created_at: zero,
        updated_at: zero,
        ..Default::default()
    };
    let create = m::CreateContainerRequest { container: Some(container) };
    let created = server.create(request(create)).await.unwrap().into_inner().container.unwrap();
    assert!(created.created_at.unwrap().seconds > 0);
    assert_eq!(created.spec.unwrap().type_url, "x");
    let wanted = m::Container {
        id: "c1".into(),
        labels: labels(&[("com.docker/engine.bundle.path", "/b")]),
        ..Default::default()
    };
    let update = m::UpdateContainerRequest {
        container: Some(wanted),
        update_mask: mask("labels.com.docker/engine.bundle.path"),
    };
    let updated = server.update(request(update)).await.unwrap().into_inner().container.unwrap();
    assert_eq!(updated.labels.len(), 1);
    let stream = server.list_stream(request(Default::default())).await.unwrap().into_inner();
    let listed: Vec<_> = stream.collect().await;
    assert_eq!(listed[0].as_ref().unwrap().container.as_ref(), Some(&updated));
    let get = m::GetContainerRequest { id: "c2".into() };
    let err = server.get(request(get)).await.unwrap_err();
    assert_eq!(err.code(), Code::NotFound);
    assert_eq!(err.message(), "container \"c2\" in namespace \"moby\": not found");
    let err = server.get(Request::new(Default::default())).await.unwrap_err();
    assert_eq!(err.code(), Code::FailedPrecondition);
    let err = server.create(request(Default::default())).await.unwrap_err();
    assert_eq!(err.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn images_with_masks_and_targets() {
    use api::images::v1 as m;
    let host = Host::new();
    let server = ImagesServer::new(host.images.clone(), Arc::new(Waited::default()));
    let target = Descriptor {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        digest: Digest::of(b"1").to_string(),
        size: 3,
        ..Default::default()
    };
    let image = m::Image { name: "i".into(), target: Some(target.clone()), ..Default::default() };
    let create = |image| m::CreateImageRequest { image: Some(image), source_date_epoch: None };
    for bad in [
        Descriptor { digest: "sha256:x".into(), ..target.clone() },
        Descriptor { size: -1, ..target.clone() },
        Descriptor { size: 0, ..target.clone() },
    ] {
        let image = m::Image { target: Some(bad), ..image.clone() };
        let err = server.create(request(create(image))).await.unwrap_err();
        assert_eq!(err.code(), Code::InvalidArgument);
    }
    server.create(request(create(image.clone()))).await.unwrap();
    // A client that changes a label sends no target.
    let wanted = m::Image { target: None, labels: labels(&[("a", "1")]), ..image.clone() };
    let update = m::UpdateImageRequest {
        image: Some(wanted),
        update_mask: mask("labels.a"),
        source_date_epoch: None,
    };
    let updated = server.update(request(update.clone())).await.unwrap().into_inner();
    assert_eq!(updated.image.unwrap().target, Some(target.clone()));
    let all = m::UpdateImageRequest { update_mask: None, ..update };
    assert_eq!(server.update(request(all)).await.unwrap_err().code(), Code::InvalidArgument);
    let other = Descriptor { digest: Digest::of(b"2").to_string(), ..target };
    let delete = |target| m::DeleteImageRequest { name: "i".into(), sync: true, target };
    let err = server.delete(request(delete(Some(other)))).await.unwrap_err();
    assert_eq!(err.code(), Code::NotFound);
    server.delete(request(delete(None))).await.unwrap();
}

#[tokio::test]
async fn leases_and_namespaces() {
    let host = Host::new();
    let waited = Arc::new(Waited::default());
    let leases = LeasesServer::new(host.leases.clone(), waited.clone());
    let created = leases.create(request(Default::default())).await.unwrap().into_inner();
    let id = created.lease.unwrap().id;
    let resource =
        api::leases::v1::Resource { id: "k".into(), r#type: "snapshots/overlayfs".into() };
    let add =
        api::leases::v1::AddResourceRequest { id: id.clone(), resource: Some(resource.clone()) };
    leases.add_resource(request(add)).await.unwrap();
    let list = api::leases::v1::ListResourcesRequest { id: id.clone() };
    let held = leases.list_resources(request(list)).await.unwrap().into_inner();
    assert_eq!(held.resources, [resource]);

    let namespaces = NamespacesServer::new(host.namespaces.clone());
    let bad = api::namespaces::v1::GetNamespaceRequest { name: "a/b".into() };
    assert_eq!(namespaces.get(request(bad)).await.unwrap_err().code(), Code::InvalidArgument);
    let wanted = api::namespaces::v1::Namespace {
        name: "moby".into(),
        labels: labels(&[("containerd.io/defaults/snapshotter", "native")]),
    };
    let update = api::namespaces::v1::UpdateNamespaceRequest {
        namespace: Some(wanted.clone()),
        update_mask: mask("labels.containerd.io/defaults/snapshotter"),
    };
    namespaces.update(request(update.clone())).await.unwrap();
    let listed = namespaces.list(request(Default::default())).await.unwrap().into_inner();
    assert_eq!(listed.namespaces, [wanted]);
    let bad = api::namespaces::v1::UpdateNamespaceRequest { update_mask: mask("name"), ..update };
    assert_eq!(namespaces.update(request(bad)).await.unwrap_err().code(), Code::InvalidArgument);

    let delete = api::leases::v1::DeleteRequest { id, sync: true };
    leases.delete(request(delete.clone())).await.unwrap();
    assert_eq!(waited.0.load(Ordering::Relaxed), 1);
    assert_eq!(leases.delete(request(delete)).await.unwrap_err().code(), Code::NotFound);
}
