use gantry_core::images::{Image, Images};
use gantry_core::leases::Leases;
use gantry_core::{Descriptor, Timestamp, media_type};

use super::*;

const NAME: &str = "docker.io/library/nginx:latest";

fn image(content: &str) -> Image {
    Image {
        name: NAME.into(),
        labels: Labels::new(),
        target: Descriptor {
            media_type: media_type::OCI_INDEX.into(),
            digest: Digest::of(content.as_bytes()),
            size: 7,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        },
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    }
}

#[tokio::test]
async fn a_name_points_at_what_it_was_given() {
    let mut host = Host::new();
    let ctx = context("a");
    let created = host.images.create(&ctx, image("1")).await.unwrap();
    let exists = refused(host.images.create(&ctx, image("2")).await, Kind::AlreadyExists);
    assert_eq!(exists, format!("image {NAME:?}: already exists"));
    let updated = host.images.update(&ctx, image("2"), &paths(&["target"])).await.unwrap();
    assert_eq!(updated.target, image("2").target);
    assert_eq!(updated.created_at, created.created_at);
    let elsewhere = host.images.delete_target(&ctx, NAME, Some(created.target.digest)).await;
    refused(elsewhere, Kind::NotFound);
    host.images.delete_target(&ctx, NAME, Some(updated.target.digest)).await.unwrap();
    let gone = refused(host.images.get(&ctx, NAME).await, Kind::NotFound);
    assert_eq!(gone, format!("image {NAME:?}: not found"));
    refused(host.images.update(&ctx, image("1"), &[]).await, Kind::NotFound);
    assert_eq!(
        host.topics(),
        [
            "a /images/create containerd.services.images.v1.ImageCreate",
            "a /images/update containerd.services.images.v1.ImageUpdate",
            "a /images/delete containerd.services.images.v1.ImageDelete",
        ]
    );
}

#[tokio::test]
async fn updates_follow_their_paths() {
    let host = Host::new();
    let ctx = context("a");
    let mut first = image("1");
    first.labels = labels(&[("a", "1")]);
    let created = host.images.create(&ctx, first).await.unwrap();
    let mut wanted = image("2");
    wanted.labels = labels(&[("b.c/d", "2"), ("e", "3")]);
    wanted.target.annotations = labels(&[("x", "y")]);
    let named = paths(&["labels.b.c/d", "annotations.x"]);
    let updated = host.images.update(&ctx, wanted.clone(), &named).await.unwrap();
    assert_eq!(updated.labels, labels(&[("a", "1"), ("b.c/d", "2")]));
    assert_eq!(updated.target.digest, created.target.digest);
    assert_eq!(updated.target.annotations, labels(&[("x", "y")]));
    let unknown = host.images.update(&ctx, wanted.clone(), &paths(&["name"])).await;
    refused(unknown, Kind::InvalidArgument);
    let updated = host.images.update(&ctx, wanted.clone(), &[]).await.unwrap();
    assert_eq!((updated.target, updated.labels), (wanted.target, wanted.labels));
    assert_eq!(updated.created_at, created.created_at);
}

#[tokio::test]
async fn targets_are_checked() {
    let host = Host::new();
    let ctx = context("a");
    let mut bad = [image("1"), image("1"), image("1")];
    bad[0].name.clear();
    bad[1].target.size = 0;
    bad[2].target.media_type.clear();
    for image in bad {
        refused(host.images.create(&ctx, image).await, Kind::InvalidArgument);
    }
    refused(host.images.create(&ctx.clone().with_lease("none"), image("1")).await, Kind::NotFound);
    assert_eq!(host.images.list(&ctx, &Filters::all()).await.unwrap(), []);
    host.leases.create(&ctx, Some("l"), Labels::new()).await.unwrap();
    host.images.create(&ctx.clone().with_lease("l"), image("1")).await.unwrap();
    let held = host.leases.resources(&ctx, "l").await.unwrap();
    assert_eq!((held[0].kind.as_str(), held[0].id.as_str()), ("images", NAME));
}
