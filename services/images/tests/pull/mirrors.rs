//! Registries with mirrors, and what requests say of registries.

use std::path::Path;
use std::sync::Arc;

use gantry_core::collector::Collector;
use gantry_core::{Kind, Labels, media_type};
use gantry_grpc::any;
use gantry_grpc::containerd::types::transfer as types;

use crate::client::{platform, registry, store};
use crate::fake::{Action, Fake};
use crate::image::{Blob, Compression, Entry, Image, index, noise};
use crate::world::{World, quick};

fn image(seed: u64) -> Image {
    of(gantry_core::architecture(), seed)
}

fn of(architecture: &str, seed: u64) -> Image {
    let tar = crate::image::tar(&[Entry::File("f", noise(seed, 200 << 10))]);
    Image::of_tars(Compression::Gzip, architecture, &[tar])
}

fn write(directory: &Path, registry: &str, text: &str) {
    let directory = directory.join(registry);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("hosts.toml"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_comes_first_and_the_registry_is_asked_for_the_rest() {
    let image = image(1);
    let (server, mirror) = (Fake::good().await, Fake::good().await);
    let reference = server.push(&image, "a", "t");
    // The mirror may not say what a tag means, and lacks the layer.
    mirror.push(&image, "a", "t");
    let lacking = Fake::scripted(|request, _| match request.path.contains("/blobs/") {
        true => Action::Answer(404, vec![], String::new()),
        false => Action::Serve,
    })
    .await;
    lacking.push(&image, "a", "t");
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[host.\"http://127.0.0.1:1\"]\n[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n\
         [host.\"http://{}/deep/path\"]\noverride_path = true\ncapabilities = [\"pull\"]\n\
         [host.\"http://{}/deep/path\".header]\nx-own = \"yes\"\n",
        lacking.host(),
        mirror.host(),
        mirror.host(),
    );
    write(dir.path(), &format!("{}_", server.host().replace(':', "_")), &text);
    let config = gantry_images::Config { hosts: Some(dir.path().into()), ..quick() };
    let world = World::with(config).await;
    world.pull(&reference).await.unwrap();

    assert!(lacking.of_method("HEAD", "").is_empty(), "it may not resolve");
    assert!(!lacking.requests("/v2/a/manifests/").is_empty());
    assert!(lacking.requests("?ns=127.0.0.1%3A").len() > 1);
    let blobs = mirror.requests("/deep/path/a/blobs/");
    assert!(!blobs.is_empty() && blobs.iter().all(|r| r.headers["x-own"] == "yes"));
    assert!(server.requests("/blobs/").is_empty(), "the mirrors had them all");
    assert!(!server.requests("/manifests/t").is_empty());
}

/// A world in which `server` has these mirrors, each with a header of its own.
async fn mirrored(dir: &Path, server: &Fake, mirrors: &[&Fake]) -> World {
    let entry = |mirror: &&Fake| {
        let host = format!("host.\"http://{}\"", mirror.host());
        format!("[{host}]\ncapabilities = [\"pull\"]\n[{host}.header]\nx-key = \"k\"\n")
    };
    write(dir, &server.host(), &mirrors.iter().map(entry).collect::<String>());
    World::with(gantry_images::Config { hosts: Some(dir.into()), ..quick() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_for_the_host_that_they_are_given_for() {
    let (image, dir) = (image(1), tempfile::tempdir().unwrap());
    let (server, elsewhere) = (Fake::good().await, Fake::good().await);
    elsewhere.push(&image, "a", "t");
    let target = elsewhere.host();
    let mirror = Fake::scripted(move |request, _| {
        let (own, moved) = (&request.headers["host"], request.path.replace("/v2/", "/moved/"));
        let to = match (request.path.contains("/blobs/"), request.path.starts_with("/v2/")) {
            (false, _) => return Action::Serve,
            (true, true) => format!("http://{own}{moved}"),
            (true, false) => format!("http://{target}{}", request.path),
        };
        Action::Answer(307, vec![("location", to)], String::new())
    })
    .await;
    mirror.push(&image, "a", "t");
    let world = mirrored(dir.path(), &server, &[&mirror]).await;
    let headers = [("x-request".to_owned(), "1".to_owned())].into();
    let resolver = types::RegistryResolver { headers, ..Default::default() };
    let reference = server.push(&image, "a", "t");
    let from = types::OciRegistry { reference, resolver: Some(resolver) };
    world.move_images(&from, &store("mine")).await.unwrap();

    let has = |name: &'static str| move |r: &crate::fake::Request| r.headers.contains_key(name);
    assert!(server.requests("/v2/").iter().all(has("x-request")));
    assert!(server.requests("/blobs/").is_empty(), "the mirror had them all");
    let asked = mirror.requests("");
    assert!(!mirror.requests("/moved/").is_empty());
    assert!(asked.iter().all(has("x-key")), "{asked:?}");
    assert!(!asked.iter().any(has("x-request")), "{asked:?}");
    let asked = elsewhere.requests("/moved/a/blobs/");
    assert_eq!(asked.len(), 2, "a layer and the configuration");
    assert!(asked.iter().all(has("range")), "{asked:?}");
    assert!(!asked.iter().any(|r| has("x-key")(r) || has("x-request")(r)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_come_to_an_end() {
    // Two hosts that point at each other.
    let other = Arc::new(std::sync::OnceLock::<String>::new());
    let round = |to: Arc<std::sync::OnceLock<String>>| {
        move |request: &crate::fake::Request, _: usize| {
            let to = format!("http://{}{}", to.get().unwrap(), request.path);
            Action::Answer(307, vec![("location", to)], String::new())
        }
    };
    let first = Fake::scripted(round(Arc::clone(&other))).await;
    let back = Arc::new(std::sync::OnceLock::from(first.host()));
    let second = Fake::scripted(round(back)).await;
    other.set(second.host()).unwrap();
    let world = World::new().await;
    let err = world.pull(&format!("{}/a:t", first.host())).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unavailable, "{err}");
    assert!(err.to_string().contains("redirects too often"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_with_other_bytes_is_passed_over() {
    let (image, dir) = (image(1), tempfile::tempdir().unwrap());
    let (server, wrong) = (Fake::good().await, Fake::scripted(|_, _| Action::Corrupt).await);
    wrong.push(&image, "a", "t");
    // One that breaks off as well: what the next host sends is not enough.
    let broken = Fake::scripted(|request, times| match request.path.contains("/blobs/") {
        true if times > 0 => Action::Answer(404, vec![], String::new()),
        _ => Action::Cut(100 << 10),
    })
    .await;
    let mut other = image.clone();
    other.layers[0].bytes.iter_mut().for_each(|byte| *byte ^= 1);
    broken.put(image.layers[0].digest().as_str(), &other.layers[0]);
    let world = mirrored(dir.path(), &server, &[&broken, &wrong]).await;
    let record = world.pull(&server.push(&image, "a", "t")).await.unwrap();
    assert_eq!(record.target.digest, image.manifest.digest());
    assert_eq!(world.snapshots("overlayfs").await, [image.chain().to_string()]);
    let asked = [&broken, &wrong, &server].map(|fake| fake.fetched(&image.layers[0]));
    let starts =
        asked.map(|all| all.iter().map(|r| r.headers["range"].clone()).collect::<Vec<_>>());
    assert_eq!(starts[0], ["bytes=0-", "bytes=102400-"]);
    assert_eq!(starts[1], ["bytes=102400-", "bytes=0-"]);
    assert_eq!(starts[2], ["bytes=0-"]);
    assert_eq!(world.ingests().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_go_to_who_may_store() {
    let image = image(1);
    let (server, mirror, world) = (Fake::good().await, Fake::good().await, World::new().await);
    for blob in image.blobs() {
        world.store(blob).await;
    }
    world.name("mine", image.manifest.descriptor()).await;
    let dir = tempfile::tempdir().unwrap();
    let text = format!("[host.\"http://{}\"]\ncapabilities = [\"pull\"]\n", mirror.host());
    write(dir.path(), &server.host(), &text);
    let resolver = |directory: &str| types::RegistryResolver {
        host_dir: directory.into(),
        headers: [("x-request".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let to = |directory: &str| types::OciRegistry {
        reference: format!("{}/a:t", server.host()),
        resolver: Some(resolver(directory)),
    };
    let directory = dir.path().to_str().unwrap();
    world.move_images(&store("mine"), &to(directory)).await.unwrap();
    assert!(server.get("t").is_some() && mirror.requests("").is_empty());
    assert!(server.requests("/v2/").iter().all(|r| r.headers["x-request"] == "1"));

    write(dir.path(), &server.host(), "capabilities = [\"pull\"]");
    let err = world.move_images(&store("mine"), &to(directory)).await.unwrap_err();
    assert_eq!(err.kind(), Kind::FailedPrecondition, "{err}");
    assert!(err.to_string().contains("hosts.toml"), "{err}");
    write(dir.path(), &server.host(), "server = 1");
    let err = world.move_images(&to(directory), &store("x")).await.unwrap_err();
    assert!(err.to_string().contains("hosts.toml"), "{err}");
    let err = world.move_images(&to("relative"), &store("x")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_gives_credentials_when_a_registry_asks() {
    let fake = Fake::scripted(|request, _| {
        match request.headers.get("authorization").map(String::as_str) {
            Some("Own scheme") => Action::Serve,
            _ => {
                let challenge = vec![("www-authenticate", "Basic realm=\"r\"".to_owned())];
                Action::Answer(401, challenge, String::new())
            }
        }
    })
    .await;
    let world = World::new().await;
    let reference = fake.push(&image(1), "a", "t");
    let (id, mut end) = world.stream();
    let resolver = types::RegistryResolver { auth_stream: id, ..Default::default() };
    let from = types::OciRegistry { reference: reference.clone(), resolver: Some(resolver) };
    let answering = tokio::spawn(async move {
        let asked = end.from.next().await.expect("a question");
        let answer = types::AuthResponse {
            auth_type: types::AuthType::Header.into(),
            secret: "Own scheme".into(),
            ..Default::default()
        };
        end.to.send(any::pack(&answer)).await.expect("it listens");
        assert!(end.from.next().await.is_none(), "it asks once");
        any::unpack::<types::AuthRequest>(&asked).expect("a question")
    });
    world.move_images(&from, &store("mine")).await.unwrap();
    drop(world);
    let asked = answering.await.unwrap();
    assert_eq!((asked.host, asked.reference), (fake.host(), reference));
    assert_eq!(asked.wwwauthenticate, ["Basic realm=\"r\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_are_fetched_as_is_asked() {
    let (amd64, arm64, attestation) = (image(1), image(2), image(3));
    let index = index(&[(&amd64, Some("amd64")), (&arm64, Some("arm64")), (&attestation, None)]);
    let fake = Fake::good().await;
    for image in [&amd64, &arm64, &attestation] {
        fake.push(image, "a", "some");
    }
    fake.put("t", &index);
    fake.put(index.digest().as_str(), &index);
    let from = registry(&format!("{}/a:t", fake.host()));

    let world = World::new().await;
    let mut one = types::ImageStore { platforms: vec![platform("arm64")], ..store("one") };
    one.extra_references = vec![types::ImageReference { name: "two".into(), ..Default::default() }];
    world.move_images(&from, &one).await.unwrap();
    assert_eq!(world.records().await, ["one", "two"]);
    let has =
        async |digest: gantry_core::Digest| world.content.info(&world.ctx, &digest).await.is_ok();
    assert!(has(arm64.layers[0].digest()).await);
    assert!(!has(amd64.manifest.digest()).await);
    let meta = types::ImageStore { all_metadata: true, ..one };
    world.move_images(&from, &meta).await.unwrap();
    assert!(has(amd64.config.digest()).await && !has(amd64.layers[0].digest()).await);
    let heard = world.move_images(&from, &store("all")).await.unwrap();
    assert!(has(amd64.layers[0].digest()).await && has(attestation.layers[0].digest()).await);
    assert_eq!(heard.last().map(|p| p.event.as_str()), Some("saved"));
    world.collector.collect().await.unwrap();
    assert!(has(attestation.layers[0].digest()).await, "the record keeps them");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_replaced_and_images_unpacked() {
    let (world, first, second) = (World::new().await, image(1), image(2));
    for blob in first.blobs().chain(second.blobs()) {
        world.store(blob).await;
    }
    world.name("first", first.manifest.descriptor()).await;
    world.name("second", second.manifest.descriptor()).await;
    let mut to = store("name");
    to.labels.insert("k".into(), "v".into());
    world.move_images(&store("first"), &to).await.unwrap();
    let tagged = world.images.get(&world.ctx, "name").await.unwrap();
    assert_eq!(tagged.labels, Labels::from([("k".into(), "v".into())]));
    world.move_images(&store("second"), &store("name")).await.unwrap();
    let tagged = world.images.get(&world.ctx, "name").await.unwrap();
    assert_eq!((tagged.target.digest, tagged.labels.len()), (second.manifest.digest(), 0));
    assert_eq!(tagged.target.media_type, media_type::OCI_MANIFEST);
    let err = world.move_images(&store("first"), &store("")).await.unwrap_err();
    assert_eq!(err.to_string(), "no image name found: not found");

    let unpacks = vec![types::UnpackConfiguration::default()];
    let only = types::ImageStore { unpacks, ..store("first") };
    let before = world.images.get(&world.ctx, "first").await.unwrap();
    world.move_images(&store("first"), &only).await.unwrap();
    assert_eq!(world.images.get(&world.ctx, "first").await.unwrap(), before);
    assert_eq!(world.snapshots("overlayfs").await, [first.chain().to_string()]);
}

/// A store that unpacks into this snapshotter.
fn unpacked(name: &str, snapshotter: &str) -> types::ImageStore {
    let unpack = types::UnpackConfiguration { snapshotter: snapshotter.into(), platform: None };
    types::ImageStore { unpacks: vec![unpack], ..store(name) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_stays_as_long_as_its_new_image_is_not_unpacked() {
    let (world, fake, old, new) = (World::new().await, Fake::good().await, image(1), image(2));
    for blob in old.blobs() {
        world.store(blob).await;
    }
    let before = world.name("mine", old.manifest.descriptor()).await;
    let from = registry(&fake.push(&new, "a", "t"));
    let err = world.move_images(&from, &unpacked("mine", "nope")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument, "{err}");
    assert_eq!(world.images.get(&world.ctx, "mine").await.unwrap(), before);
    let err = world.move_images(&store("mine"), &unpacked("other", "nope")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument, "{err}");
    assert_eq!(world.records().await, ["mine"]);

    let heard = world.move_images(&from, &unpacked("mine", "")).await.unwrap();
    let last: Vec<&str> = heard.iter().rev().take(3).map(|p| p.event.as_str()).collect();
    assert_eq!(last, ["saved", "unpacked", "unpacking"]);
    let after = world.images.get(&world.ctx, "mine").await.unwrap();
    assert_eq!(after.target.digest, new.manifest.digest());
    assert_eq!(world.snapshots("overlayfs").await, [new.chain().to_string()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_this_machine_is_stored_all_the_same() {
    let (world, fake, foreign) = (World::new().await, Fake::good().await, of("s390x", 1));
    let list = index(&[(&foreign, Some("s390x"))]);
    let changed = |part: &str, kind: &str| {
        let mut manifest: serde_json::Value =
            serde_json::from_slice(&foreign.manifest.bytes).unwrap();
        *manifest.pointer_mut(part).unwrap() = kind.into();
        Blob { bytes: manifest.to_string().into_bytes(), ..foreign.manifest.clone() }
    };
    let chart = changed("/config/mediaType", "application/vnd.cncf.helm.config.v1+json");
    let other = changed("/layers/0/mediaType", "application/x-other");
    fake.push(&foreign, "a", "image");
    for blob in [&foreign.manifest, &list, &chart, &other] {
        fake.put("t", blob);
        fake.put(blob.digest().as_str(), blob);
        let from = registry(&format!("{}/a:t", fake.host()));
        world.move_images(&from, &unpacked("mine", "")).await.unwrap();
        let record = world.images.get(&world.ctx, "mine").await.unwrap();
        assert_eq!(record.target.digest, blob.digest());
    }
    assert!(world.snapshots("overlayfs").await.is_empty());

    let lacking = image(3);
    world.store(&lacking.manifest).await;
    world.name("lacking", lacking.manifest.descriptor()).await;
    let err = world.move_images(&store("lacking"), &unpacked("x", "")).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_has_no_more_layers_than_it_may() {
    let world = World::with(gantry_images::Config { max_layers: 2, ..quick() }).await;
    let fake = Fake::good().await;
    for (count, fits) in [(2, true), (3, false)] {
        let layers = (0..count).map(|i| vec![Entry::File("f", noise(10 * count + i, 1000))]);
        let image = Image::new(Compression::Gzip, &layers.collect::<Vec<_>>());
        let index = index(&[(&image, Some("amd64"))]);
        let from = fake.push(&image, "a", "image");
        fake.put("t", &index);
        fake.put(index.digest().as_str(), &index);
        for blob in image.blobs().chain([&index]) {
            world.store(blob).await;
        }
        let name = format!("here-{count}");
        world.name(&name, index.descriptor()).await;
        let tagged = registry(&format!("{}/a:t", fake.host()));
        let moves = [
            world.move_images(&registry(&from), &store("x")).await.map(drop),
            world.move_images(&tagged, &store("x")).await.map(drop),
            world
                .move_images(&store(&name), &registry(&format!("{}/b:t", fake.host())))
                .await
                .map(drop),
            world.export(&store(&name), Default::default()).await.map(drop),
        ];
        for moved in moves {
            let kind = moved.err().map(|err| err.kind());
            assert_eq!(kind, (!fits).then_some(Kind::ResourceExhausted));
        }
    }
}
