//! What images may hold, and who shares the work on it.

use gantry_core::images::{Image as Record, PullRequest, Puller};
use gantry_core::{Kind, LabelMask, Labels, Timestamp, media_type};

use crate::fake::Fake;
use crate::image::{Blob, Compression, Entry, Image, index, noise};
use crate::world::{Reports, World, request};

fn layers(count: u64) -> Image {
    let layers: Vec<Vec<Entry>> =
        (0..count).map(|i| vec![Entry::File("f", noise(i + 1, 600 << 10))]).collect();
    Image::new(Compression::Gzip, &layers)
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_at_the_same_time_share_the_work() {
    let image = layers(6);
    let fake = Fake::good().await;
    let world = World::new().await;
    let references: Vec<String> =
        (0..4).map(|i| fake.push(&image, &format!("r{i}"), "t")).collect();
    let pulls = references.iter().map(|reference| world.pull(reference));
    for done in futures::future::join_all(pulls).await {
        done.unwrap();
    }
    for layer in &image.layers {
        assert_eq!(fake.fetched(layer).len(), 1);
    }
    assert_eq!(world.snapshots("overlayfs").await.len(), 6, "and no extraction is left");
    assert_eq!(world.lease_count().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_needs_the_one_below() {
    let lower = vec![Entry::Dir("d"), Entry::File("d/original", b"x".to_vec())];
    let upper = vec![Entry::Dir("d"), Entry::HardLink("d/other", "d/original")];
    let top = vec![Entry::File("d/deeper", b"y".to_vec())];
    let image = Image::new(Compression::Gzip, &[lower, upper, top]);
    let fake = Fake::good().await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    let dirs = world.directories(image.chain().as_str()).await;
    assert_eq!(std::fs::read(dirs[1].join("d/other")).unwrap(), b"x");
    assert_eq!(world.snapshots("overlayfs").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_layer_twice() {
    let tar = crate::image::tar(&[Entry::File("f", noise(9, 100 << 10))]);
    let image = Image::of_tars(Compression::Gzip, "amd64", &[tar.clone(), tar]);
    let fake = Fake::good().await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    assert_eq!(fake.fetched(&image.layers[0]).len(), 1);
    assert_eq!(world.snapshots("overlayfs").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn into_another_snapshotter() {
    let image = layers(3);
    let fake = Fake::good().await;
    let world = World::new().await;
    let record = world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    let unpacked = world.puller.unpack(&world.ctx, &record, "native", None).await.unwrap();
    assert_eq!(unpacked.chain_id, Some(image.chain()));
    assert_eq!(world.snapshots("native").await.len(), 3);
    let config = world.labels(&image.config.digest()).await;
    assert_eq!(config["containerd.io/gc.ref.snapshot.native"], image.chain().as_str());
    assert_eq!(config["containerd.io/gc.ref.snapshot.overlayfs"], image.chain().as_str());
    let err = world.puller.unpack(&world.ctx, &record, "nope", None).await.unwrap_err();
    assert_eq!(err.to_string(), "snapshotter not loaded: nope: invalid argument");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_has_its_own_default() {
    let world = World::new().await;
    let labels = Labels::from([("containerd.io/defaults/snapshotter".into(), "native".into())]);
    world.namespaces.create(&world.ctx.namespace, labels).await.unwrap();
    let fake = Fake::good().await;
    world.pull(&fake.push(&layers(2), "a", "b")).await.unwrap();
    assert_eq!(world.snapshots("native").await.len(), 2);
    assert!(world.snapshots("overlayfs").await.is_empty());
}

/// What a client does that stores content and a record by itself.
async fn import(world: &World, image: &Image) -> Record {
    for blob in image.blobs() {
        let (digest, size) = (blob.digest(), blob.bytes.len() as u64);
        let mut writer = world
            .content
            .writer(&world.ctx, &format!("import-{digest}"), size, Some(&digest))
            .await
            .unwrap();
        writer.write(bytes::Bytes::from(blob.bytes.clone())).await.unwrap();
        writer.commit(Some(size), Some(&digest), Labels::new()).await.unwrap();
    }
    let record = Record {
        name: "example.com/imported:1".into(),
        labels: Labels::new(),
        target: image.manifest.descriptor(),
        created_at: Timestamp::default(),
        updated_at: Timestamp::default(),
    };
    world.images.create(&world.ctx, record).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_imported_image_is_unpacked_when_it_is_wanted() {
    let image = layers(4);
    let world = World::new().await;
    let record = import(&world, &image).await;
    let both = futures::future::join(
        world.puller.unpack(&world.ctx, &record, "", None),
        world.puller.unpack(&world.ctx, &record, "", None),
    );
    let (a, b) = both.await;
    assert_eq!(a.unwrap().chain_id, Some(image.chain()));
    assert_eq!(b.unwrap().chain_id, Some(image.chain()));
    assert_eq!(world.snapshots("overlayfs").await.len(), 4);
    assert_eq!(world.lease_count().await, 0);
    let labels = world.labels(&image.layers[0].digest()).await;
    assert_eq!(labels["containerd.io/uncompressed"], image.diff_ids[0].as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_may_be_for_another_platform() {
    let mut mine = layers(1);
    mine = Image::of_layers("amd64", mine.layers, mine.diff_ids);
    let tar = crate::image::tar(&[Entry::File("f", noise(3, 100 << 10))]);
    let other = Image::of_tars(Compression::Gzip, "arm64", &[tar]);
    let fake = Fake::good().await;
    let world = World::new().await;
    let platform = |architecture: &str| {
        let architecture = architecture.to_owned();
        Some(gantry_core::Platform { architecture, os: "linux".into(), ..Default::default() })
    };
    let wanted = platform("arm64");
    let refused = async |record: &Record| {
        let unpacked = world.puller.unpack(&world.ctx, record, "", wanted.as_ref()).await;
        let err = unpacked.unwrap_err();
        assert_eq!(err.kind(), Kind::NotFound);
        let words = "was found but does not match the specified platform: wanted linux/arm64, \
                     actual: linux/amd64";
        assert!(err.to_string().ends_with(words), "{err}");
    };
    // One image, and an index of which only one was fetched.
    let amd64 = PullRequest { platform: platform("amd64"), ..request("") };
    let reference = fake.push(&mine, "a", "b");
    let pulled = Reports::default();
    let record = world.pull_with(PullRequest { reference, ..amd64.clone() }, &pulled).await;
    refused(&record.unwrap()).await;
    fake.push(&other, "a", "other");
    let index = index(&[(&mine, Some("amd64")), (&other, Some("arm64"))]);
    fake.put("both", &index);
    fake.put(index.digest().as_str(), &index);
    let reference = format!("{}/a:both", fake.host());
    let wanted_here = PullRequest { reference: reference.clone(), ..amd64 };
    refused(&world.pull_with(wanted_here, &pulled).await.unwrap()).await;

    let arm64 = PullRequest { reference, platform: wanted.clone(), ..request("") };
    let record = world.pull_with(arm64, &Reports::default()).await.unwrap();
    let unpacked = world.puller.unpack(&world.ctx, &record, "", wanted.as_ref()).await.unwrap();
    assert_eq!(unpacked.chain_id, Some(other.chain()));
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_missing_is_named() {
    let image = layers(2);
    let world = World::new().await;
    let record = import(&world, &image).await;
    let gone = image.layers[1].digest();
    world.content.delete(&world.ctx, &gone).await.unwrap();
    let err = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
    assert!(err.to_string().contains(gone.as_str()), "{err}");
    assert!(err.to_string().contains("pull the image again"), "{err}");
    let left = world.snapshots("overlayfs").await;
    assert!(!left.iter().any(|name| name.starts_with("extract-")), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_clients_and_other_sources_stay() {
    let image = layers(1);
    let fake = Fake::good().await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "one", "t")).await.unwrap();
    let digest = image.layers[0].digest();
    let own = Labels::from([("mine".to_owned(), "x".to_owned())]);
    world
        .content
        .update(&world.ctx, &digest, own, LabelMask::Keys(vec!["mine".into()]))
        .await
        .unwrap();
    world.pull(&fake.push(&image, "another", "t")).await.unwrap();
    let labels = world.labels(&digest).await;
    assert_eq!(labels["mine"], "x");
    assert_eq!(labels["containerd.io/distribution.source.127.0.0.1"], "another,one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_an_image_is_refused() {
    let fake = Fake::good().await;
    let world = World::new().await;
    let mut table = vec![
        (r#"{"schemaVersion": 1, "name": "a"}"#.to_owned(), Kind::Unimplemented, "schema 1"),
        ("<html>".to_owned(), Kind::InvalidArgument, "malformed"),
    ];
    let artifact = Image::new(Compression::Gzip, &[vec![Entry::Dir("d")]]);
    let text = String::from_utf8(artifact.manifest.bytes.clone()).unwrap();
    let helm = text.replace(media_type::OCI_CONFIG, "application/vnd.cncf.helm.config.v1+json");
    table.push((helm, Kind::FailedPrecondition, "not a container image"));
    for (i, (text, kind, words)) in table.into_iter().enumerate() {
        let blob = Blob { media_type: "application/json", bytes: text.into_bytes() };
        let blob =
            if i == 2 { Blob { media_type: media_type::OCI_MANIFEST, ..blob } } else { blob };
        fake.put(&format!("t{i}"), &blob);
        fake.put(blob.digest().as_str(), &blob);
        let reference = format!("{}/a:t{i}", fake.host());
        let err = world.pull(&reference).await.unwrap_err();
        assert_eq!(err.kind(), kind, "{err}");
        assert!(err.to_string().contains(words), "{err}");
    }
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_names_other_layers() {
    let image = layers(2);
    let image = Image::of_layers("amd64", image.layers, image.diff_ids[..1].to_vec());
    let fake = Fake::good().await;
    let world = World::new().await;
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
    assert!(err.to_string().contains("has 2 layers"), "{err}");
    world.assert_clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_layers() {
    let image = Image::of_layers("amd64", Vec::new(), Vec::new());
    let fake = Fake::good().await;
    let world = World::new().await;
    let record = world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    assert_eq!(unpacked.chain_id, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_of_the_caller_is_used() {
    let image = layers(1);
    let fake = Fake::good().await;
    let world = World::new().await;
    world.leases.create(&world.ctx, Some("mine"), Labels::new()).await.unwrap();
    let ctx = world.ctx.clone().with_lease("mine");
    let wanted = request(&fake.push(&image, "a", "b"));
    world.puller.pull(&ctx, wanted, Reports::default().sink()).await.unwrap();
    let held = world.leases.resources(&world.ctx, "mine").await.unwrap();
    let has = |kind: &str, id: &str| held.iter().any(|r| r.kind == kind && r.id == id);
    assert!(has("content", image.layers[0].digest().as_str()), "{held:?}");
    assert!(has("content", image.manifest.digest().as_str()), "{held:?}");
    assert!(has("snapshots/overlayfs", image.chain().as_str()), "{held:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_in_every_form() {
    for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
        let entries: Vec<Vec<Entry>> =
            (0..2).map(|i| vec![Entry::File("f", noise(i, 100 << 10))]).collect();
        let image = Image::new(compression, &entries);
        let (fake, world) = (Fake::good().await, World::new().await);
        world.pull(&fake.push(&image, "a", "b")).await.unwrap();
        let dirs = world.directories(image.chain().as_str()).await;
        assert_eq!(std::fs::read(dirs[0].join("f")).unwrap(), noise(1, 100 << 10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_its_registry_lacks_comes_from_elsewhere() {
    let image = layers(2);
    let (fake, other, world) = (Fake::good().await, Fake::good().await, World::new().await);
    let layer = &image.layers[0];
    other.put(layer.digest().as_str(), layer);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let url = format!("http://{}/some/{}", other.host(), layer.digest());
    manifest["layers"][0]["mediaType"] = media_type::DOCKER_FOREIGN_LAYER.into();
    manifest["layers"][0]["urls"] = serde_json::json!([url]);
    let bytes = manifest.to_string().into_bytes();
    let manifest = Blob { bytes, ..image.manifest.clone() };
    for blob in [&image.layers[1], &image.config, &manifest] {
        fake.put(blob.digest().as_str(), blob);
    }
    fake.put("b", &manifest);
    world.pull(&format!("{}/a:b", fake.host())).await.unwrap();
    assert_eq!(other.fetched(layer).len() + other.requests("/some/").len(), 1);
    assert_eq!(world.snapshots("overlayfs").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn attestations_are_no_images() {
    let (image, attestation) = (layers(1), layers(2));
    let (fake, world) = (Fake::good().await, World::new().await);
    fake.push(&image, "a", "one");
    let index = index(&[(&attestation, None), (&image, Some(gantry_core::architecture()))]);
    fake.put("b", &index);
    fake.put(index.digest().as_str(), &index);
    let record = world.pull(&format!("{}/a:b", fake.host())).await.unwrap();
    assert_eq!(record.target.digest, index.digest());
    assert!(fake.requests(attestation.manifest.digest().as_str()).is_empty());
}
