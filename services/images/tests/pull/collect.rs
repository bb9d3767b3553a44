//! What the collector takes and what it leaves, beside pulls and builds.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use gantry_core::collector::Collector;
use gantry_core::filter::Filters;
use gantry_core::images::Puller;
use gantry_core::leases::Resource;
use gantry_core::{Context, Digest, Kind, Labels, Namespace, Timestamp};

use crate::client::{registry, store};
use crate::fake::Fake;
use crate::image::{Blob, Compression, Entry, Image, noise};
use crate::world::World;

fn image(layers: &[(&'static str, u64)]) -> Image {
    let layers: Vec<Vec<Entry>> =
        layers.iter().map(|(name, seed)| vec![Entry::File(name, noise(*seed, 2 << 10))]).collect();
    Image::new(Compression::Gzip, &layers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_image_leaves_goes_with_its_files() {
    let one = image(&[("base", 1), ("one", 2)]);
    let two = image(&[("base", 1), ("two", 3)]);
    let fake = Fake::good().await;
    let world = World::new().await;
    let first = world.pull(&fake.push(&one, "a", "one")).await.unwrap();
    let second = world.pull(&fake.push(&two, "a", "two")).await.unwrap();
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await, (7, 3), "all of two images that share a layer");

    world.images.delete(&world.ctx, &first.name).await.unwrap();
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await, (4, 2));
    let unpacked = world.puller.unpack(&world.ctx, &second, "", None).await.unwrap();
    assert_eq!(unpacked.chain_id, Some(two.chain()));

    // A container's file system keeps what it lies on, an image's record is not needed.
    let overlayfs = world.overlayfs();
    let key = Labels::from([("containerd.io/gc.root".to_owned(), "now".to_owned())]);
    overlayfs.prepare(&world.ctx, "c", Some(two.chain().as_str()), key).await.unwrap();
    world.images.delete(&world.ctx, &second.name).await.unwrap();
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await, (0, 3));
    overlayfs.remove(&world.ctx, "c").await.unwrap();
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await, (0, 0));

    // And all comes back.
    world.pull(&fake.push(&one, "a", "one")).await.unwrap();
    assert_eq!(world.files().await, (4, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_hold_until_they_end_or_expire() {
    let world = World::new().await;
    let blob = Blob { media_type: "text/plain", bytes: b"held".to_vec() };
    let lease = |id: &'static str, seconds: i64| {
        let mut end = Timestamp::now();
        end.seconds += seconds;
        let labels = Labels::from([("containerd.io/gc.expire".to_owned(), end.to_string())]);
        let (leases, ctx) = (world.leases.clone(), world.ctx.clone());
        async move { leases.create(&ctx, Some(id), labels).await.unwrap() }
    };
    lease("over", -1).await;
    lease("on", 3600).await;
    for (id, kept) in [("on", true), ("over", false)] {
        let ctx = world.ctx.clone().with_lease(id);
        write(&world, &ctx, &blob, Labels::new()).await;
        world.collector.collect().await.unwrap();
        assert_eq!(world.content.info(&world.ctx, &blob.digest()).await.is_ok(), kept, "{id}");
        if kept {
            world.leases.delete(&world.ctx, id).await.unwrap();
            world.collector.collect().await.unwrap();
            assert_eq!(world.files().await.0, 0);
            lease("over", -1).await;
        }
    }
    assert_eq!(world.lease_count().await, 0, "the expired one went as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_goes_on_without_who_asked_for_it() {
    let one = image(&[("base", 1)]);
    let fake = Fake::good().await;
    let world = World::new().await;
    let reference = fake.push(&one, "a", "one");
    for round in 0..40 {
        let record = world.pull(&reference).await.unwrap();
        world.images.delete(&world.ctx, &record.name).await.unwrap();
        // Left at any moment.
        let limit = Duration::from_micros(round * 100);
        let _ = tokio::time::timeout(limit, world.collector.collect()).await;
        world.collector.collect().await.unwrap();
        assert_eq!(world.files().await, (0, 0), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingests_are_collected_where_there_is_nothing_else() {
    let world = World::new().await;
    let ctx = Context::new(Namespace::new("other").unwrap());
    drop(world.content.writer(&ctx, "old", 0, None).await.unwrap());
    drop(world.content.writer(&ctx, "new", 0, None).await.unwrap());
    let names = || async {
        let all = world.content.statuses(&ctx, &Filters::all()).await.unwrap();
        all.into_iter().map(|status| status.reference).collect::<Vec<_>>()
    };
    world.collector.collect().await.unwrap();
    assert_eq!(names().await, ["new", "old"]);
    let ingests = world.root().join("io.containerd.content.v1.content/ingest");
    for dir in fs::read_dir(ingests).unwrap().flatten() {
        let status = fs::read_to_string(dir.path().join("status.json")).unwrap();
        if status.contains("\"old\"") {
            let data = fs::File::open(dir.path().join("data")).unwrap();
            data.set_modified(SystemTime::now() - Duration::from_secs(25 * 60 * 60)).unwrap();
        }
    }
    world.collector.collect().await.unwrap();
    assert_eq!(names().await, ["new"]);
}

async fn write(world: &World, ctx: &Context, blob: &Blob, labels: Labels) {
    let digest = blob.digest();
    let size = blob.bytes.len() as u64;
    let reference = format!("{:?} {digest}", ctx.lease);
    let opened = world.content.writer(ctx, &reference, size, Some(&digest)).await;
    let mut writer = match opened {
        Err(err) if err.is_already_exists() => return,
        opened => opened.unwrap(),
    };
    if writer.status().offset == 0 {
        writer.write(Bytes::from(blob.bytes.clone())).await.unwrap();
    }
    match writer.commit(Some(size), Some(&digest), labels).await {
        Err(err) if !err.is_already_exists() => panic!("{err}"),
        _ => {}
    }
}

/// How often each of the racers goes round.
fn rounds() -> u64 {
    if std::env::var_os("GANTRY_TEST_LONG").is_some() { 3_000 } else { 100 }
}

/// Pulls an image that shares layers with others', sees that all of it is there, and
/// removes it.
async fn pull_and_remove(world: &World, reference: &str, image: &Image) {
    for round in 0..rounds() {
        let record = world.pull(reference).await.unwrap_or_else(|err| panic!("{round}: {err}"));
        for blob in image.blobs() {
            let found = world.content.info(&world.ctx, &blob.digest()).await;
            found.unwrap_or_else(|err| panic!("{reference}, round {round}: {err}"));
        }
        let unpacked = world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
        let chain = unpacked.chain_id.unwrap();
        world.overlayfs().stat(&world.ctx, chain.as_str()).await.unwrap();
        world.images.delete(&world.ctx, &record.name).await.unwrap();
    }
}

/// Builds as a builder does: everything is held by a lease, and only that is removed.
async fn build(world: &World, name: &str) {
    let overlayfs = world.overlayfs();
    for round in 0..rounds() {
        let id = format!("{name}-{round}");
        world.leases.create(&world.ctx, Some(&id), Labels::new()).await.unwrap();
        let ctx = world.ctx.clone().with_lease(&id);
        // Half of the blobs are there already, from another round or another builder.
        let blob = |n: u64| Blob { media_type: "x", bytes: format!("{}", n / 2).into_bytes() };
        let (config, layer) = (blob(round), blob(round + 1_000_000));
        let keeps = |digest: &Digest| {
            Labels::from([("containerd.io/gc.ref.content.0".to_owned(), digest.to_string())])
        };
        write(world, &ctx, &layer, Labels::new()).await;
        write(world, &ctx, &config, keeps(&layer.digest())).await;
        let (key, top) = (format!("{id}-active"), format!("{id}-top"));
        overlayfs.prepare(&ctx, &key, None, Labels::new()).await.unwrap();
        overlayfs.commit(&ctx, &top, &key, Labels::new(), None).await.unwrap();
        overlayfs.prepare(&ctx, &key, Some(&top), Labels::new()).await.unwrap();
        for digest in [config.digest(), layer.digest()] {
            let found = world.content.info(&ctx, &digest).await;
            found.unwrap_or_else(|err| panic!("{id}: {err}"));
        }
        overlayfs.stat(&ctx, &top).await.unwrap_or_else(|err| panic!("{id}: {err}"));
        overlayfs.mounts(&ctx, &key).await.unwrap_or_else(|err| panic!("{id}: {err}"));
        world.leases.delete(&world.ctx, &id).await.unwrap();
    }
}

/// Holds what it finds, if it finds it: what a lease was given while it was there stays.
async fn find_and_hold(world: &World, image: &Image) {
    let digest = image.layers[0].digest();
    let resource = Resource { kind: "content".into(), id: digest.to_string() };
    for round in 0..rounds() {
        let id = format!("finder-{round}");
        world.leases.create(&world.ctx, Some(&id), Labels::new()).await.unwrap();
        world.leases.add_resources(&world.ctx, &id, vec![resource.clone()]).await.unwrap();
        if world.content.info(&world.ctx, &digest).await.is_ok() {
            tokio::task::yield_now().await;
            let found = world.content.info(&world.ctx, &digest).await;
            found.unwrap_or_else(|err| panic!("{id}: {err}"));
        }
        world.leases.delete(&world.ctx, &id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_that_is_held_is_lost_in_a_race() {
    let one = image(&[("base", 1), ("middle", 2), ("one", 3)]);
    let two = image(&[("base", 1), ("middle", 2), ("two", 4)]);
    let fake = Fake::good().await;
    let world = World::new().await;
    let (first, second) = (fake.push(&one, "a", "one"), fake.push(&two, "a", "two"));
    let ended = AtomicBool::new(false);
    let race = async {
        tokio::join!(
            pull_and_remove(&world, &first, &one),
            pull_and_remove(&world, &second, &two),
            build(&world, "a"),
            build(&world, "b"),
            find_and_hold(&world, &one),
        );
        ended.store(true, Ordering::Relaxed);
    };
    let collect = async {
        while !ended.load(Ordering::Relaxed) {
            world.collector.collect().await.unwrap();
        }
    };
    tokio::join!(race, collect);
    world.collector.collect().await.unwrap();
    assert_eq!(world.files().await, (0, 0), "and nothing is left that nobody holds");
    assert_eq!(world.lease_count().await, 0);
    let kind = world.content.info(&world.ctx, &one.manifest.digest()).await.unwrap_err().kind();
    assert_eq!(kind, Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_two_images_share_stay_with_either() {
    let first = image(&[("base", 1), ("top", 2)]);
    let second = Image::of_layers("386", first.layers.clone(), first.diff_ids.clone());
    let (fake, world) = (Fake::good().await, World::new().await);
    let pulled = world.pull(&fake.push(&first, "a", "t")).await.unwrap();
    let from = registry(&fake.push(&second, "a", "second"));
    world.move_images(&from, &store("second")).await.unwrap();
    let record = world.images.get(&world.ctx, "second").await.unwrap();
    world.puller.unpack(&world.ctx, &record, "", None).await.unwrap();
    world.images.delete(&world.ctx, &pulled.name).await.unwrap();
    world.collector.collect().await.unwrap();
    world.overlayfs().stat(&world.ctx, first.chain().as_str()).await.unwrap();
    assert_eq!(world.lease_count().await, 0);
}
