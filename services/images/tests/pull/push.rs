//! Images to registries.

use std::time::Duration;

use gantry_core::{Kind, media_type};
use gantry_grpc::containerd::types::transfer as types;

use crate::client::{platform, registry, store};
use crate::fake::{Action, Fake};
use crate::image::{Blob, Compression, Entry, Image, index, noise};
use crate::world::{World, impatient};

fn image(architecture: &str, seed: u64) -> Image {
    let tars: Vec<Vec<u8>> = (0..3)
        .map(|i| crate::image::tar(&[Entry::File("f", noise(seed + i, 300 << 10))]))
        .collect();
    Image::of_tars(Compression::Gzip, architecture, &tars)
}

async fn keep(world: &World, image: &Image) {
    for blob in image.blobs() {
        world.store(blob).await;
    }
}

fn events(heard: &[types::Progress], event: &str) -> Vec<String> {
    heard.iter().filter(|p| p.event == event).map(|p| p.name.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_missing_is_sent_and_documents_come_last() {
    let (world, fake, image) = (World::new().await, Fake::good().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    fake.put(image.layers[1].digest().as_str(), &image.layers[1]);
    let reference = format!("{}/a/b:t", fake.host());
    let heard = world.move_images(&store("mine"), &registry(&reference)).await.unwrap();

    assert_eq!(fake.get("t").unwrap().bytes, image.manifest.bytes);
    for blob in image.blobs() {
        assert_eq!(fake.get(blob.digest().as_str()).unwrap().bytes, blob.bytes);
    }
    assert_eq!(fake.of_method("PUT", "/uploads/").len(), 3, "one layer was there");
    let all = fake.requests("/a/b/");
    let last = all.iter().rfind(|r| r.method == "PUT").unwrap();
    assert!(last.path.ends_with("/manifests/t"), "{}", last.path);
    assert_eq!(last.headers["content-type"], media_type::OCI_MANIFEST);
    let there = format!("layer-{}", image.layers[1].digest());
    assert_eq!(events(&heard, "already exists"), [there]);
    assert_eq!(events(&heard, "complete").len(), 4);
    assert!(events(&heard, "uploading").len() >= 2, "{heard:?}");
    assert_eq!(events(&heard, "pushing content"), ["mine"]);
    assert_eq!(events(&heard, "pushed content"), ["mine"]);
    let labels = world.labels(&image.layers[0].digest()).await;
    assert_eq!(labels["containerd.io/distribution.source.127.0.0.1"], "a/b");

    let before = fake.of_method("PUT", "").len();
    world.move_images(&store("mine"), &registry(&reference)).await.unwrap();
    assert_eq!(fake.of_method("PUT", "").len(), before, "nothing is sent twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_are_taken_over_from_other_repositories() {
    let (world, fake, image) = (World::new().await, Fake::good().await, image("amd64", 1));
    // The registry has them, but not in this repository.
    let hidden = Fake::scripted(|request, _| {
        let there = request.method == "HEAD" && request.path.contains("/new/blobs/");
        if there { Action::Answer(404, vec![], String::new()) } else { Action::Serve }
    })
    .await;
    world.pull(&hidden.push(&image, "old", "t")).await.unwrap();
    let name = format!("{}/old:t", hidden.host());
    let reference = format!("{}/new:t", hidden.host());
    world.move_images(&store(&name), &registry(&reference)).await.unwrap();
    let mounts = hidden.of_method("POST", "/new/blobs/uploads/?mount=");
    assert_eq!(mounts.len(), 4);
    assert!(mounts.iter().all(|r| r.path.contains("&from=old")), "{mounts:?}");
    assert!(hidden.of_method("PUT", "/uploads/").is_empty());
    // Elsewhere they have to be sent.
    let reference = format!("{}/new:t", fake.host());
    world.move_images(&store(&name), &registry(&reference)).await.unwrap();
    assert_eq!(fake.of_method("PUT", "/uploads/").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_taken_over_is_sent_at_once() {
    // It knows the blobs by other repositories, and takes over nothing.
    let fake = Fake::scripted(|request, _| match request.method.as_str() {
        "HEAD" if request.path.contains("/new/blobs/") => {
            Action::Answer(404, vec![], String::new())
        }
        "POST" => {
            let location = "/v2/new/blobs/uploads/some-id?state=x".to_owned();
            Action::Answer(202, vec![("location", location)], String::new())
        }
        _ => Action::Serve,
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    for name in ["one", "two"] {
        world.pull(&fake.push(&image, name, "t")).await.unwrap();
    }
    let name = format!("{}/one:t", fake.host());
    let reference = format!("{}/new:t", fake.host());
    world.move_images(&store(&name), &registry(&reference)).await.unwrap();
    let begun = fake.of_method("POST", "/new/blobs/uploads/");
    assert_eq!(begun.len(), 4, "{begun:?}");
    assert!(begun.iter().all(|r| r.path.contains("&from=one")), "{begun:?}");
    assert_eq!(fake.of_method("PUT", "/new/blobs/uploads/some-id").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_taken_over_where_the_right_to_that_is_refused() {
    let fake = Fake::scripted(|request, _| {
        if request.path.starts_with("/token") {
            let (pushing, foreign) = ("pull%2Cpush", "scope=repository%3Asecret%3Apull&");
            let both =
                request.path.contains(pushing) && format!("{}&", request.path).contains(foreign);
            return match both {
                true => Action::Answer(403, vec![], String::new()),
                false => Action::Answer(200, vec![], r#"{"token": "t"}"#.into()),
            };
        }
        if !request.headers.contains_key("authorization") {
            let host = &request.headers["host"];
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            return Action::Answer(401, vec![("www-authenticate", challenge)], String::new());
        }
        let hidden = request.method == "HEAD" && request.path.contains("/new/");
        if hidden { Action::Answer(404, vec![], String::new()) } else { Action::Serve }
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    world.pull(&fake.push(&image, "secret", "t")).await.unwrap();
    let name = format!("{}/secret:t", fake.host());
    let reference = format!("{}/new:t", fake.host());
    world.move_images(&store(&name), &registry(&reference)).await.unwrap();
    assert!(fake.of_method("POST", "mount=").is_empty());
    assert_eq!(fake.of_method("PUT", "/new/blobs/uploads/").len(), 4);
}

/// An index for two platforms, with an attestation.
async fn indexed(world: &World, without: Option<&str>) -> (Image, Image, Image, Blob) {
    let (amd64, arm64) = (image("amd64", 1), image("arm64", 7));
    let attestation = image("unknown", 20);
    let all = [(&amd64, Some("amd64")), (&arm64, Some("arm64")), (&attestation, None)];
    let index = index(&all);
    for (image, architecture) in all {
        if architecture.is_none() || architecture != without {
            keep(world, image).await;
        }
    }
    world.store(&index).await;
    world.name("mine", index.descriptor()).await;
    (amd64, arm64, attestation, index)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_whole_with_attestations() {
    let (world, fake) = (World::new().await, Fake::good().await);
    let (amd64, arm64, attestation, index) = indexed(&world, None).await;
    let reference = format!("{}/a:t", fake.host());
    world.move_images(&store("mine"), &registry(&reference)).await.unwrap();
    for image in [&amd64, &arm64, &attestation] {
        let manifest = fake.get(image.manifest.digest().as_str()).unwrap();
        assert_eq!(manifest.bytes, image.manifest.bytes);
    }
    let pushed = fake.of_method("PUT", "/manifests/");
    assert_eq!(pushed.len(), 4);
    assert!(pushed[3].path.ends_with("/manifests/t"), "the index comes last");
    assert_eq!(pushed[3].headers["content-type"], media_type::OCI_INDEX);
    assert_eq!(fake.get("t").unwrap().bytes, index.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_are_selected_and_what_is_missing_is_named() {
    let (world, fake) = (World::new().await, Fake::good().await);
    let (amd64, arm64, ..) = indexed(&world, Some("arm64")).await;
    let to = registry(&format!("{}/a:t", fake.host()));
    let err = world.move_images(&store("mine"), &to).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound, "{err}");
    assert!(err.to_string().contains(arm64.manifest.digest().as_str()), "{err}");
    assert!(fake.requests("").is_empty(), "nothing was sent before that was known");

    let one = types::ImageStore { platforms: vec![platform("amd64")], ..store("mine") };
    world.move_images(&one, &to).await.unwrap();
    assert!(fake.get(amd64.manifest.digest().as_str()).is_some());
    assert!(fake.get(arm64.manifest.digest().as_str()).is_none());
    let none = types::ImageStore { platforms: vec![platform("s390x")], ..store("mine") };
    let err = world.move_images(&none, &to).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.to_string().contains("linux/s390x"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_registries_need_not_have_stay() {
    let (world, fake) = (World::new().await, Fake::good().await);
    let mut image = image("amd64", 1);
    image.layers[0].media_type = media_type::DOCKER_FOREIGN_LAYER;
    let image = Image::of_layers("amd64", image.layers, image.diff_ids);
    for blob in image.blobs().skip(1) {
        world.store(blob).await;
    }
    world.name("mine", image.manifest.descriptor()).await;
    world.move_images(&store("mine"), &registry(&format!("{}/a:t", fake.host()))).await.unwrap();
    assert!(fake.get("t").is_some());
    assert!(fake.requests(image.layers[0].digest().as_str()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_tried_again() {
    let fake = Fake::scripted(|request, times| match (request.method.as_str(), times) {
        ("PUT", 0) if request.path.contains("/uploads/") => {
            Action::Answer(503, vec![], String::new())
        }
        ("PUT", 0) | ("HEAD", 0) => Action::Answer(429, vec![], String::new()),
        _ => Action::Serve,
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    world.move_images(&store("mine"), &registry(&format!("{}/a:t", fake.host()))).await.unwrap();
    assert_eq!(fake.get("t").unwrap().bytes, image.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_says_no() {
    let fake = Fake::scripted(|request, _| match request.method.as_str() {
        "POST" => Action::Answer(
            403,
            vec![],
            r#"{"errors":[{"code":"DENIED","message":"read only"}]}"#.into(),
        ),
        _ => Action::Serve,
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    let to = registry(&format!("{}/a:t", fake.host()));
    let err = world.move_images(&store("mine"), &to).await.unwrap_err();
    assert_eq!(err.kind(), Kind::PermissionDenied, "{err}");
    assert!(err.to_string().contains("read only"), "{err}");
    let err = world.move_images(&store("other"), &to).await.unwrap_err();
    assert_eq!(err.to_string(), "image \"other\": not found");
    // A blob whose bytes are not here.
    world.content.delete(&world.ctx, &image.layers[2].digest()).await.unwrap();
    let err = world.move_images(&store("mine"), &to).await.unwrap_err();
    assert_eq!(err.kind(), Kind::NotFound);
    assert!(err.to_string().contains(image.layers[2].digest().as_str()), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_push_is_asked_for() {
    let fake = Fake::scripted(|request, _| {
        if request.path.starts_with("/token") {
            let wide = request.path.contains("repository%3Aa%3Apull%2Cpush");
            let token = if wide { r#"{"token": "wide"}"# } else { r#"{"token": "narrow"}"# };
            return Action::Answer(200, vec![], token.into());
        }
        match request.headers.get("authorization").map(String::as_str) {
            Some("Bearer wide") => Action::Serve,
            _ => {
                let host = &request.headers["host"];
                let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
                Action::Answer(401, vec![("www-authenticate", challenge)], String::new())
            }
        }
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    world.move_images(&store("mine"), &registry(&format!("{}/a:t", fake.host()))).await.unwrap();
    assert!(fake.get("t").is_some());
}

/// One layer of so many bytes, in a world that does not wait for long.
async fn large(len: usize) -> (World, Image) {
    let tar = crate::image::tar(&[Entry::File("f", noise(1, len))]);
    let image = Image::of_tars(Compression::Plain, "amd64", &[tar]);
    let world = World::with(impatient()).await;
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    (world, image)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_takes_as_long_as_it_moves() {
    // All in all thrice as long as a reply may be waited for.
    let fake = Fake::slow(Duration::from_millis(50)).await;
    let (world, image) = large(2 << 20).await;
    world.move_images(&store("mine"), &registry(&format!("{}/a:t", fake.host()))).await.unwrap();
    assert_eq!(fake.get("t").unwrap().bytes, image.manifest.bytes);
    assert_eq!(fake.of_method("PUT", "/uploads/").len(), 2, "each blob once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_stands_still_ends() {
    let fake = Fake::slow(Duration::from_secs(3600)).await;
    let (world, _) = large(16 << 20).await;
    let (from, to) = (store("mine"), registry(&format!("{}/a:t", fake.host())));
    let pushed = world.move_images(&from, &to);
    let ended = tokio::time::timeout(Duration::from_secs(60), pushed).await.expect("an end");
    let err = ended.unwrap_err();
    assert_eq!(err.kind(), Kind::Unavailable, "{err}");
    assert!(err.to_string().contains("takes no more"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_may_name_something_else_is_stored() {
    let fake = Fake::scripted(|request, _| match request.method.as_str() {
        "HEAD" if request.path.ends_with("/manifests/t") => {
            let kind = media_type::OCI_MANIFEST.to_owned();
            Action::Answer(200, vec![("content-type", kind)], String::new())
        }
        _ => Action::Serve,
    })
    .await;
    let (world, image) = (World::new().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    world.move_images(&store("mine"), &registry(&format!("{}/a:t", fake.host()))).await.unwrap();
    assert_eq!(fake.get("t").unwrap().bytes, image.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_next_to_the_digest_is_stored() {
    let (world, fake, image) = (World::new().await, Fake::good().await, image("amd64", 1));
    keep(&world, &image).await;
    world.name("mine", image.manifest.descriptor()).await;
    let digest = image.manifest.digest();
    let to = registry(&format!("{}/a:t@{digest}", fake.host()));
    world.move_images(&store("mine"), &to).await.unwrap();
    assert_eq!(fake.get("t").unwrap().bytes, image.manifest.bytes);
}
