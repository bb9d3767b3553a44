//! Who we are to registries.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gantry_core::Kind;
use gantry_core::images::PullRequest;

use crate::fake::{Action, Fake, Request};
use crate::image::{Compression, Entry, Image};
use crate::world::{Reports, World, quick, request};

fn small() -> Image {
    Image::new(Compression::Gzip, &[vec![Entry::File("a", b"b".to_vec())]])
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn authorization(request: &Request) -> &str {
    request.headers.get("authorization").map_or("", String::as_str)
}

fn refuse(challenge: String) -> Action {
    let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    Action::Answer(401, vec![("www-authenticate", challenge)], body.into())
}

/// A registry that wants a user name and a password.
async fn basic_registry() -> Fake {
    Fake::scripted(|request, _| {
        if authorization(request) == basic("user", "secret") {
            Action::Serve
        } else {
            refuse("Basic realm=\"here\"".into())
        }
    })
    .await
}

/// A registry that wants a token, which it gives out itself.
async fn token_registry() -> Fake {
    Fake::scripted(|request, _| {
        if request.path.starts_with("/token") {
            let known = authorization(request) == basic("user", "secret")
                || request.body.contains("refresh_token=identity");
            return if known {
                Action::Answer(200, vec![], r#"{"token": "t", "access_token": "t"}"#.into())
            } else {
                refuse(String::new())
            };
        }
        if authorization(request) == "Bearer t" {
            Action::Serve
        } else {
            let host = &request.headers["host"];
            refuse(format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
        }
    })
    .await
}

fn as_user(reference: &str, password: &str) -> PullRequest {
    let credentials = Some(("user".to_owned(), password.to_owned()));
    PullRequest { credentials, ..request(reference) }
}

#[tokio::test]
async fn user_name_and_password() {
    for fake in [basic_registry().await, token_registry().await] {
        let reference = fake.push(&small(), "a", "b");
        let world = World::new().await;
        let reports = Reports::default();
        for (request, kind) in [
            (request(&reference), Kind::Unauthenticated),
            (as_user(&reference, "wrong"), Kind::Unauthenticated),
        ] {
            let err = world.pull_with(request, &reports).await.unwrap_err();
            assert_eq!(err.kind(), kind, "{err}");
            assert!(err.to_string().contains("credentials"), "{err}");
            assert!(!err.to_string().contains("wrong"), "{err}");
        }
        world.pull_with(as_user(&reference, "secret"), &reports).await.unwrap();
    }
}

#[tokio::test]
async fn from_dockers_configuration() {
    let fake = token_registry().await;
    let reference = fake.push(&small(), "a", "b");
    let dir = tempfile::tempdir().unwrap();
    let entries = [
        format!(r#"{{"auth": "{}"}}"#, STANDARD.encode("user:secret")),
        r#"{"identitytoken": "identity"}"#.to_owned(),
    ];
    for entry in entries {
        let text = format!(r#"{{"auths": {{"{}": {entry}}}}}"#, fake.host());
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        let docker_config = Some(dir.path().to_owned());
        let world = World::with(gantry_images::Config { docker_config, ..quick() }).await;
        world.pull(&reference).await.unwrap();
    }
    let exchange = fake.requests("/token").into_iter().find(|r| r.method == "POST").unwrap();
    assert!(exchange.body.contains("grant_type=refresh_token"), "{}", exchange.body);
    assert!(exchange.body.contains("scope=repository%3Aa%3Apull"), "{}", exchange.body);
}

#[tokio::test]
async fn a_token_that_expired_is_renewed() {
    let fake = Fake::scripted(|request, times| {
        if request.path.starts_with("/token") {
            let token = format!(r#"{{"token": "t{times}"}}"#);
            return Action::Answer(200, vec![], token);
        }
        // Blobs need the second token.
        let wanted = if request.path.contains("/blobs/") { "Bearer t1" } else { "Bearer t" };
        if authorization(request).starts_with(wanted) {
            Action::Serve
        } else {
            let host = &request.headers["host"];
            refuse(format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
        }
    })
    .await;
    let world = World::new().await;
    world.pull(&fake.push(&small(), "a", "b")).await.unwrap();
}

#[tokio::test]
async fn each_pull_has_a_token_of_its_own() {
    let issued = AtomicUsize::new(0);
    let fake = Fake::scripted(move |request, _| {
        if request.path.starts_with("/token") {
            let token = format!("a.b.{}", issued.fetch_add(1, Relaxed) + 1);
            return Action::Answer(200, vec![], format!(r#"{{"token": "{token}"}}"#));
        }
        // Only the latest is good.
        if authorization(request) == format!("Bearer a.b.{}", issued.load(Relaxed)) {
            return Action::Serve;
        }
        let host = &request.headers["host"];
        refuse(format!("Bearer realm=\"http://{host}/token\",service=\"s\""))
    })
    .await;
    let world = World::new().await;
    let other = Image::new(Compression::Gzip, &[vec![Entry::File("other", b"b".to_vec())]]);
    for (image, name) in [(small(), "a"), (other, "b")] {
        world.pull(&fake.push(&image, name, "t")).await.unwrap();
    }
    assert_eq!(fake.requests("/token").len(), 2);
}

#[tokio::test]
async fn credentials_stay_with_their_host() {
    let image = small();
    let other = Fake::good().await;
    other.push(&image, "a", "b");
    let target = other.host();
    let fake = Fake::scripted(move |request, _| {
        if authorization(request) != basic("user", "secret") {
            return refuse("Basic realm=\"here\"".into());
        }
        if request.path.contains("/blobs/") {
            let to = format!("http://{target}{}", request.path);
            return Action::Answer(307, vec![("location", to)], String::new());
        }
        Action::Serve
    })
    .await;
    let world = World::new().await;
    let reference = fake.push(&image, "a", "b");
    world.pull_with(as_user(&reference, "secret"), &Reports::default()).await.unwrap();
    let arrived = other.requests("/blobs/");
    assert!(arrived.len() >= 2, "the redirects were followed");
    for request in arrived {
        assert_eq!(authorization(&request), "", "{}", request.path);
    }
}

#[tokio::test]
async fn refused_in_so_many_words() {
    let fake = Fake::scripted(|request, _| match request.path.as_str() {
        "/v2/" => Action::Serve,
        _ => Action::Answer(
            403,
            vec![],
            r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#.into(),
        ),
    })
    .await;
    let world = World::new().await;
    let err = world.pull(&format!("{}/a:b", fake.host())).await.unwrap_err();
    assert_eq!(err.kind(), Kind::PermissionDenied);
    assert!(err.to_string().contains("not for you"), "{err}");
}

#[tokio::test]
async fn what_a_registry_names_as_scope_is_asked_for() {
    let fake = Fake::scripted(|request, times| {
        if request.path.starts_with("/token") {
            let wide = request.path.contains("scope=repository%3Aproxy%2Fa%3Apull");
            let kind = if wide { "wide" } else { "narrow" };
            return Action::Answer(200, vec![], format!(r#"{{"token": "{kind}{times}"}}"#));
        }
        // Blobs need another token, for which the scope is not named again.
        let wanted = if request.path.contains("/blobs/") { "Bearer wide1" } else { "Bearer wide" };
        if authorization(request).starts_with(wanted) {
            return Action::Serve;
        }
        let scope = match request.path.as_str() {
            "/v2/" => "",
            _ => ",scope=\"repository:other:pull repository:proxy/a:pull\"",
        };
        let host = &request.headers["host"];
        refuse(format!("Bearer realm=\"http://{host}/token\",service=\"s\"{scope}"))
    })
    .await;
    let world = World::new().await;
    world.pull(&fake.push(&small(), "a", "b")).await.unwrap();
    let asked = fake.requests("/token").pop().unwrap().path;
    assert!(asked.contains("scope=repository%3Aa%3Apull&"), "{asked}");
}
