use gantry_core::LabelMask;
use gantry_core::containers::Containers;
use gantry_core::content::BLOBS;
use gantry_core::images::IMAGES;
use gantry_core::leases::{LEASE_RESOURCES, LEASES, Leases, Resource};
use gantry_core::namespaces::{Namespaces, Record};
use gantry_core::snapshots;

use super::containers::container;
use super::*;

async fn names(host: &Host) -> Vec<String> {
    let all = host.namespaces.list().await.unwrap();
    all.into_iter().map(|(name, _)| name.as_str().to_owned()).collect()
}

#[tokio::test]
async fn labels_and_events_of_a_namespace() {
    let mut host = Host::new();
    let name = Namespace::new("n").unwrap();
    assert_eq!(host.namespaces.get(&name).await.unwrap(), Record::default());
    host.namespaces.create(&name, labels(&[("a", "1")])).await.unwrap();
    let again = host.namespaces.create(&name, Labels::new()).await;
    assert_eq!(refused(again, Kind::AlreadyExists), "namespace \"n\": already exists");
    let mask = LabelMask::Keys(vec!["b.c/d".into()]);
    let wanted = labels(&[("b.c/d", "2"), ("e", "3")]);
    let updated = host.namespaces.update(&name, wanted.clone(), mask).await.unwrap();
    assert_eq!(updated.labels, labels(&[("a", "1"), ("b.c/d", "2")]));
    let updated = host.namespaces.update(&name, wanted.clone(), LabelMask::All).await.unwrap();
    assert_eq!(updated.labels, wanted);
    assert_eq!(host.namespaces.get(&name).await.unwrap(), updated);
    host.namespaces.delete(&name).await.unwrap();
    refused(host.namespaces.delete(&name).await, Kind::NotFound);
    // An update to nothing makes no namespace.
    host.namespaces.update(&name, Labels::new(), LabelMask::All).await.unwrap();
    assert_eq!(names(&host).await, [""; 0]);
    assert_eq!(
        host.topics(),
        [
            "n /namespaces/create containerd.events.NamespaceCreate",
            "n /namespaces/update containerd.events.NamespaceUpdate",
            "n /namespaces/update containerd.events.NamespaceUpdate",
            "n /namespaces/delete containerd.events.NamespaceDelete",
            "n /namespaces/update containerd.events.NamespaceUpdate",
        ]
    );
}

#[tokio::test]
async fn what_is_in_a_namespace_keeps_it() {
    let host = Host::new();
    let name = Namespace::new("n").unwrap();
    // It comes to be with its first object.
    host.containers.create(&context("n"), container("c")).await.unwrap();
    assert_eq!(names(&host).await, ["n"]);
    let exists = host.namespaces.create(&name, Labels::new()).await;
    refused(exists, Kind::AlreadyExists);
    let rows = [(IMAGES.name(), "i"), (BLOBS.name(), "b"), (snapshots::TABLE, "overlayfs\x01s")];
    for (table, key) in rows {
        host.put(table, "n", key);
    }
    assert_eq!(
        refused(host.namespaces.delete(&name).await, Kind::FailedPrecondition),
        "namespace \"n\" must be empty, but it still has images, blobs, snapshots on \
         \"overlayfs\" snapshotter, containers: failed precondition"
    );
    for (table, key) in rows {
        host.delete(table, "n", key);
    }
    host.containers.delete(&context("n"), "c").await.unwrap();
    // Leases go with it.
    host.leases.create(&context("n"), Some("l"), Labels::new()).await.unwrap();
    let resource = Resource { kind: "images".into(), id: "x".into() };
    host.leases.add_resources(&context("n"), "l", vec![resource]).await.unwrap();
    host.namespaces.delete(&name).await.unwrap();
    assert_eq!(names(&host).await, [""; 0]);
    for table in [LEASES.name(), LEASE_RESOURCES.name()] {
        assert_eq!(host.db.namespaces(table).unwrap(), [""; 0]);
    }
}
