//! Registries and connections that fail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_core::Kind;
use gantry_core::collector::Collector;
use tokio::sync::Semaphore;

use crate::fake::{Action, Fake};
use crate::image::{Blob, Compression, Entry, Image, noise};
use crate::world::{World, eventually, impatient, quick, request};

const MIB: usize = 1 << 20;

/// Two layers, the upper one large.
fn large() -> Image {
    let lower = vec![Entry::Dir("etc"), Entry::File("etc/a", b"lower".to_vec())];
    let upper = vec![Entry::File("big", noise(7, 4 * MIB))];
    Image::new(Compression::Gzip, &[lower, upper])
}

fn is_blob(path: &str, blob: &Blob) -> bool {
    path.ends_with(blob.digest().as_str())
}

#[tokio::test]
async fn a_cut_connection_is_taken_up_where_it_broke() {
    let image = large();
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, times| match times {
        0 if is_blob(&request.path, &big) => Action::Cut(2 * MIB),
        1 if is_blob(&request.path, &big) => Action::Cut(MIB),
        _ => Action::Serve,
    })
    .await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();

    let starts: Vec<String> =
        fake.fetched(&image.layers[1]).iter().map(|r| r.headers["range"].clone()).collect();
    assert_eq!(starts, ["bytes=0-", "bytes=2097152-", "bytes=3145728-"]);
    assert!(world.snapshots("overlayfs").await.contains(&image.chain().to_string()));
}

#[tokio::test]
async fn a_registry_without_ranges_is_asked_for_the_whole() {
    let image = large();
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, times| match times {
        0 if is_blob(&request.path, &big) => Action::Cut(MIB),
        _ => Action::ServeWhole,
    })
    .await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    let dirs = world.directories(image.chain().as_str()).await;
    assert_eq!(std::fs::read(dirs[0].join("big")).unwrap(), noise(7, 4 * MIB));
}

#[tokio::test]
async fn after_a_restart_only_the_rest_is_fetched() {
    let image = large();
    let big = image.layers[1].clone();
    let gate = Arc::new(Semaphore::new(0));
    let fake = Fake::scripted({
        let gate = Arc::clone(&gate);
        move |request, times| match times {
            0 if is_blob(&request.path, &big) => Action::Cut(3 * MIB),
            // The second attempt of the first process waits until it is gone.
            1 if is_blob(&request.path, &big) => Action::Wait(Arc::clone(&gate)),
            _ => Action::Serve,
        }
    })
    .await;
    let reference = fake.push(&image, "a", "b");
    let world = World::new().await;
    let pull = tokio::spawn({
        let (puller, ctx, request) =
            (Arc::clone(&world.puller), world.ctx.clone(), request(&reference));
        async move {
            use gantry_core::images::Puller;
            puller.pull(&ctx, request, Arc::new(|_| {})).await
        }
    });
    eventually("two attempts", || async { fake.fetched(&image.layers[1]).len() == 2 }).await;
    pull.abort();
    assert!(pull.await.is_err());
    eventually("extractions are removed", || async {
        !world.snapshots("overlayfs").await.iter().any(|name| name.starts_with("extract-"))
    })
    .await;
    assert_eq!(world.lease_count().await, 1, "the lease holds what was fetched");
    assert_eq!(world.ingests().await.len(), 1);

    let world = world.restart(quick()).await;
    world.pull(&reference).await.unwrap();
    let last = fake.fetched(&image.layers[1]).pop().unwrap();
    assert_eq!(last.headers["range"], "bytes=3145728-");
    assert_eq!(world.ingests().await, Vec::<String>::new());
    assert_eq!(world.lease_count().await, 0, "the lease of the first attempt is ended as well");
    let dirs = world.directories(image.chain().as_str()).await;
    assert_eq!(std::fs::read(dirs[0].join("big")).unwrap(), noise(7, 4 * MIB));
}

#[tokio::test]
async fn other_bytes_than_promised_are_not_kept() {
    let image = large();
    let big = image.layers[1].clone();
    let fake =
        Fake::scripted(
            move |request, _| {
                if is_blob(&request.path, &big) { Action::Corrupt } else { Action::Serve }
            },
        )
        .await;
    let world = World::new().await;
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::DataLoss, "{err}");
    assert!(err.to_string().contains(image.layers[1].digest().as_str()), "{err}");
    assert!(err.to_string().contains("does not match its digest"), "{err}");
    assert!(err.to_string().contains(&fake.host()), "{err}");
    assert_eq!(world.ingests().await, Vec::<String>::new());
    let left = world.snapshots("overlayfs").await;
    assert!(!left.iter().any(|name| name.starts_with("extract-")), "{left:?}");
    assert!(!left.contains(&image.chain().to_string()));
}

#[tokio::test]
async fn a_full_disk_gets_its_space_back() {
    let layers = [1, 2, 3].map(|n| vec![Entry::File("f", noise(n, 3 * MIB))]);
    let image = Image::new(Compression::Gzip, &layers);
    let fake = Fake::good().await;
    let (world, disk) = World::on_small_disk(6 * MIB).await;
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::ResourceExhausted, "{err}");
    assert!(err.to_string().contains("unfinished layers were removed"), "{err}");
    assert_eq!((world.ingests().await, disk.partial()), (Vec::<String>::new(), 0));
}

#[tokio::test]
async fn a_damaged_partial_ingest_is_fetched_anew() {
    let image = large();
    let layer = &image.layers[1];
    let fake = Fake::good().await;
    let reference = fake.push(&image, "a", "b");
    let world = World::new().await;
    let ingest = format!("layer-{}", layer.digest());
    let size = layer.bytes.len() as u64;
    let mut writer =
        world.content.writer(&world.ctx, &ingest, size, Some(&layer.digest())).await.unwrap();
    writer.write(bytes::Bytes::from_static(b"not the layer")).await.unwrap();
    drop(writer);

    world.pull(&reference).await.unwrap();
    let starts: Vec<String> =
        fake.fetched(layer).iter().map(|r| r.headers["range"].clone()).collect();
    assert_eq!(starts, ["bytes=13-", "bytes=0-"]);
}

#[tokio::test]
async fn a_layer_that_is_not_what_the_configuration_says() {
    let mut image = large();
    let mut diff_ids = image.diff_ids.clone();
    diff_ids[1] = gantry_core::Digest::of(b"something else");
    image = Image::of_layers("amd64", image.layers, diff_ids);
    let fake = Fake::good().await;
    let world = World::new().await;
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::DataLoss, "{err}");
    let left = world.snapshots("overlayfs").await;
    assert!(!left.contains(&image.chain().to_string()), "{left:?}");
    assert!(!left.iter().any(|name| name.starts_with("extract-")), "{left:?}");
    assert!(world.images.list(&world.ctx, &Default::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let image = large();
    let fake = Fake::scripted(|request, times| match times {
        _ if request.path == "/v2/" => Action::Serve,
        0 => Action::Answer(429, vec![("retry-after", "0".into())], String::new()),
        1 => Action::Answer(503, vec![], "overloaded".into()),
        _ => Action::Serve,
    })
    .await;
    let world = World::new().await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    assert_eq!(fake.fetched(&image.layers[0]).len(), 3);
}

#[tokio::test]
async fn what_does_not_pass_is_said() {
    let image = large();
    let fake = Fake::scripted(|request, _| match request.path.as_str() {
        "/v2/" => Action::Serve,
        _ => Action::Answer(503, vec![], "overloaded".into()),
    })
    .await;
    let world = World::new().await;
    let reference = fake.push(&image, "a", "b");
    let err = world.pull(&reference).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unavailable);
    let words = format!("failed to resolve reference \"{reference}\": registry {}", fake.host());
    assert!(err.to_string().starts_with(&words), "{err}");
    assert_eq!(fake.requests("/manifests/").len(), 3, "attempts are bounded");
    world.assert_clean().await;
}

#[tokio::test]
async fn a_refusal_without_an_end() {
    let image = large();
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, _| match is_blob(&request.path, &big) {
        true => Action::Endless(404),
        false => Action::Serve,
    })
    .await;
    let world = World::with(impatient()).await;
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
    assert_eq!(fake.fetched(&image.layers[1]).len(), 1);
}

#[tokio::test]
async fn attempts_at_an_image_share_a_lease() {
    let image = large();
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, times| match times {
        _ if !is_blob(&request.path, &big) => Action::Serve,
        0 => Action::Cut(2 * MIB),
        // The rest of the first pull, and all of the second.
        1..=6 => Action::Answer(503, vec![], String::new()),
        _ => Action::Serve,
    })
    .await;
    let (reference, world) = (fake.push(&image, "a", "b"), World::new().await);
    let mut held = Vec::new();
    for _ in 0..2 {
        let err = world.pull(&reference).await.unwrap_err();
        assert_eq!(err.kind(), Kind::Unavailable, "{err}");
        let leases = world.leases.list(&world.ctx, &Default::default()).await.unwrap();
        assert_eq!(leases.len(), 1);
        held = world.leases.resources(&world.ctx, &leases[0].id).await.unwrap();
    }
    let has = |kind: &str, id: &str| held.iter().any(|r| r.kind == kind && r.id == id);
    assert!(has("content", image.layers[0].digest().as_str()), "{held:?}");
    world.collector.collect().await.unwrap();
    world.pull(&reference).await.unwrap();
    assert_eq!(fake.fetched(&image.layers[0]).len(), 1, "the first attempt's is still here");
    let last = fake.fetched(&image.layers[1]).pop().unwrap();
    assert_eq!(last.headers["range"], "bytes=2097152-");
    assert_eq!(world.lease_count().await, 0);
}

#[tokio::test]
async fn a_registry_that_says_nothing() {
    let image = large();
    let fake = Fake::scripted(|_, _| Action::Hang).await;
    let world = World::with(impatient()).await;
    let began = Instant::now();
    let err = world.pull(&fake.push(&image, "a", "b")).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(err.kind(), Kind::Unavailable, "{err}");
    assert!(err.to_string().contains(&fake.host()), "{err}");
    world.assert_clean().await;
}

#[tokio::test]
async fn a_layer_that_stalls_is_asked_for_again() {
    let image = large();
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, times| match times {
        0 if is_blob(&request.path, &big) => Action::Hang,
        _ => Action::Serve,
    })
    .await;
    let world = World::with(impatient()).await;
    world.pull(&fake.push(&image, "a", "b")).await.unwrap();
    assert_eq!(fake.fetched(&image.layers[1]).len(), 2);
}

#[tokio::test]
async fn nobody_there() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::new().await;
    let err = world.pull(&format!("{closed}/a:b")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unavailable);
    assert!(err.to_string().contains(&format!("can't connect to registry {closed}")), "{err}");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_no_snapshots() {
    let image = large();
    let gate = Arc::new(Semaphore::new(0));
    let big = image.layers[1].clone();
    let fake = Fake::scripted(move |request, _| {
        if is_blob(&request.path, &big) { Action::Wait(Arc::clone(&gate)) } else { Action::Serve }
    })
    .await;
    let world = World::new().await;
    let reference = fake.push(&image, "a", "b");
    let pulling = world.pull(&reference);
    tokio::select! {
        done = pulling => panic!("{done:?}"),
        () = eventually("the upper layer is asked for", || async {
            fake.fetched(&image.layers[1]).len() == 1
        }) => {}
    }
    eventually("extractions are removed", || async {
        !world.snapshots("overlayfs").await.iter().any(|name| name.starts_with("extract-"))
    })
    .await;
    assert!(world.images.get(&world.ctx, &reference).await.is_err());
}
