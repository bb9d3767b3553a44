use gantry_core::containers::{Container, Containers, Runtime};
use gantry_core::{Any, Timestamp};

use super::*;

pub(super) fn container(id: &str) -> Container {
    Container {
        id: id.into(),
        image: "docker.io/library/busybox:latest".into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        spec: Some(Any::spec(b"{}".to_vec())),
        snapshotter: "overlayfs".into(),
        snapshot_key: id.into(),
        // Go's zero time, as clients send it.
        created_at: Timestamp { seconds: -62_135_596_800, nanos: 0 },
        ..Container::default()
    }
}

#[tokio::test]
async fn a_record_lives_in_its_namespace() {
    let mut host = Host::new();
    let (a, b) = (context("a"), context("b"));
    let created = host.containers.create(&a, container("c1")).await.unwrap();
    assert!(created.created_at.seconds > 0 && created.created_at == created.updated_at);
    assert_eq!(host.containers.get(&a, "c1").await.unwrap(), created);
    let again = host.containers.create(&a, container("c1")).await;
    assert_eq!(refused(again, Kind::AlreadyExists), "container \"c1\": already exists");
    host.containers.create(&b, container("c1")).await.unwrap();
    host.containers.delete(&a, "c1").await.unwrap();
    let gone = "container \"c1\" in namespace \"a\": not found";
    assert_eq!(refused(host.containers.get(&a, "c1").await, Kind::NotFound), gone);
    assert_eq!(refused(host.containers.delete(&a, "c1").await, Kind::NotFound), gone);
    assert_eq!(host.containers.list(&b, &Filters::all()).await.unwrap().len(), 1);
    assert_eq!(
        host.topics(),
        [
            "a /containers/create containerd.events.ContainerCreate",
            "b /containers/create containerd.events.ContainerCreate",
            "a /containers/delete containerd.events.ContainerDelete",
        ]
    );
}

#[tokio::test]
async fn what_is_incomplete_is_refused() {
    let host = Host::new();
    let ctx = context("a");
    let good = container("c1");
    let runtime = Runtime::default();
    let long = labels(&[("k", &"v".repeat(4096))]);
    let bad = [
        Container { id: "a/b".into(), ..good.clone() },
        Container { id: String::new(), ..good.clone() },
        Container { runtime, ..good.clone() },
        Container { spec: None, ..good.clone() },
        Container { snapshotter: String::new(), ..good.clone() },
        Container { labels: long, ..good.clone() },
        Container { extensions: [(String::new(), Any::default())].into(), ..good },
    ];
    for container in bad {
        refused(host.containers.create(&ctx, container).await, Kind::InvalidArgument);
    }
    assert_eq!(host.containers.list(&ctx, &Filters::all()).await.unwrap(), []);
}

#[tokio::test]
async fn an_update_changes_what_its_paths_name() {
    let mut host = Host::new();
    let ctx = context("a");
    let mut first = container("c1");
    first.labels = labels(&[("keep", "1"), ("drop", "2")]);
    let created = host.containers.create(&ctx, first).await.unwrap();
    let extension = |text: &str| Any { type_url: "t".into(), value: text.into() };
    let wanted = Container {
        id: "c1".into(),
        labels: labels(&[("com.docker/engine.bundle.path", "/x"), ("other", "3")]),
        extensions: [("a.b/c".to_owned(), extension("1")), ("d".to_owned(), extension("2"))].into(),
        image: "other".into(),
        spec: Some(Any::spec(b"[]".to_vec())),
        ..Container::default()
    };
    let named = ["labels.com.docker/engine.bundle.path", "labels.drop", "extensions.a.b/c", "spec"];
    let updated = host.containers.update(&ctx, wanted.clone(), &paths(&named)).await.unwrap();
    let expected = Container {
        labels: labels(&[("keep", "1"), ("com.docker/engine.bundle.path", "/x")]),
        extensions: [("a.b/c".to_owned(), extension("1"))].into(),
        spec: wanted.spec.clone(),
        updated_at: updated.updated_at,
        ..created.clone()
    };
    assert_eq!(updated, expected);
    assert!(updated.updated_at >= created.updated_at);

    let unknown = host.containers.update(&ctx, wanted.clone(), &paths(&["id"])).await;
    refused(unknown, Kind::InvalidArgument);
    // Without paths the immutable fields must agree.
    let all = host.containers.update(&ctx, wanted.clone(), &[]).await;
    assert!(refused(all, Kind::InvalidArgument).contains("Snapshotter field is immutable"));
    let wanted = Container {
        snapshotter: created.snapshotter.clone(),
        snapshot_key: "new".into(),
        runtime: created.runtime.clone(),
        ..wanted
    };
    let updated = host.containers.update(&ctx, wanted.clone(), &[]).await.unwrap();
    assert_eq!((updated.image, updated.snapshot_key), ("other".into(), "new".into()));
    assert_eq!((updated.labels, updated.created_at), (wanted.labels.clone(), created.created_at));
    let missing = Container { id: "none".into(), ..wanted };
    refused(host.containers.update(&ctx, missing, &paths(&["spec"])).await, Kind::NotFound);
    assert_eq!(host.topics().len(), 3);
}

#[tokio::test]
async fn lists_are_filtered() {
    let host = Host::new();
    let ctx = context("a");
    for id in ["web1", "web2", "db"] {
        let mut container = container(id);
        container.labels = labels(&[("com.x/name", id)]);
        host.containers.create(&ctx, container).await.unwrap();
    }
    for (filter, expected) in
        [("id~=^web", 2), ("id==db", 1), ("labels.\"com.x/name\"==web1", 1), ("image==x", 0)]
    {
        let filters = Filters::parse(&[filter]).unwrap();
        let found = host.containers.list(&ctx, &filters).await.unwrap();
        assert_eq!(found.len(), expected, "{filter}");
    }
}
