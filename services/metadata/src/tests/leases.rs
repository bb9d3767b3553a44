use gantry_core::labels::GC_EXPIRE;
use gantry_core::leases::{LEASE_RESOURCES, Leases, Resource};

use super::*;

fn resource(kind: &str, id: &str) -> Resource {
    Resource { kind: kind.into(), id: id.into() }
}

#[tokio::test]
async fn a_lease_holds_until_it_is_deleted() {
    let host = Host::new();
    let ctx = context("a");
    let expire = labels(&[(GC_EXPIRE, "2030-01-02T03:04:05Z")]);
    let lease = host.leases.create(&ctx, Some("l"), expire).await.unwrap();
    refused(host.leases.create(&ctx, Some("l"), Labels::new()).await, Kind::AlreadyExists);
    // Its name begins like the other's.
    host.leases.create(&ctx, Some("l2"), Labels::new()).await.unwrap();
    let digest = Digest::of(b"x");
    let snapshot = resource("snapshots/overlayfs", "extract-1 sha256:…");
    for held in [resource("content", digest.as_str()), snapshot.clone(), snapshot.clone()] {
        host.leases.add_resources(&ctx, "l", vec![held]).await.unwrap();
    }
    host.leases.add_resources(&ctx, "l2", vec![resource("ingests", "r")]).await.unwrap();
    assert_eq!(host.leases.resources(&ctx, "l").await.unwrap().len(), 2);
    host.leases.delete_resource(&ctx, "l", &snapshot).await.unwrap();
    assert_eq!(
        host.leases.resources(&ctx, "l").await.unwrap(),
        [resource("content", digest.as_str())]
    );
    assert_eq!(
        host.leases.list(&ctx, &Filters::parse(&["id==l"]).unwrap()).await.unwrap(),
        [lease]
    );
    host.leases.delete(&ctx, "l").await.unwrap();
    assert_eq!(
        refused(host.leases.delete(&ctx, "l").await, Kind::NotFound),
        "lease \"l\": not found"
    );
    refused(host.leases.resources(&ctx, "l").await, Kind::NotFound);
    let left = LEASE_RESOURCES.list(&*host.db, "a").unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1, resource("ingests", "r"));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let host = Host::new();
    let ctx = context("a");
    let one = host.leases.create(&ctx, None, Labels::new()).await.unwrap();
    let two = host.leases.create(&ctx, Some(""), Labels::new()).await.unwrap();
    assert_ne!(one.id, two.id);
    let expire = labels(&[(GC_EXPIRE, "tomorrow")]);
    refused(host.leases.create(&ctx, Some("x"), expire).await, Kind::InvalidArgument);
    refused(host.leases.create(&ctx, Some("a\x01b"), Labels::new()).await, Kind::InvalidArgument);
    for (kind, id, expected) in [
        ("unknown", "x", Kind::Unimplemented),
        ("snapshots", "x", Kind::InvalidArgument),
        ("snapshots/", "x", Kind::InvalidArgument),
        ("content", "x", Kind::InvalidArgument),
        ("ingests", "", Kind::InvalidArgument),
    ] {
        refused(host.leases.add_resources(&ctx, &one.id, vec![resource(kind, id)]).await, expected);
    }
    let missing = host.leases.add_resources(&ctx, "none", vec![resource("images", "x")]).await;
    refused(missing, Kind::NotFound);
}
