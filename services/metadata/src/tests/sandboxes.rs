use gantry_core::Any;
use gantry_core::containers::Runtime;
use gantry_core::namespaces::Namespaces;
use gantry_core::sandboxes::{Sandbox, Sandboxes};

use super::*;
use crate::SandboxService;

fn sandbox(id: &str) -> Sandbox {
    Sandbox {
        id: id.into(),
        runtime: Runtime { name: "io.containerd.runc.v2".into(), options: None },
        labels: labels(&[("app", id)]),
        ..Sandbox::default()
    }
}

#[tokio::test]
async fn a_record_is_made_changed_and_removed() {
    let host = Host::new();
    let sandboxes = SandboxService::new(host.db.clone());
    let (a, b) = (context("a"), context("b"));
    let created = sandboxes.create(&a, sandbox("s1")).await.unwrap();
    assert!(created.created_at.seconds > 0);
    assert_eq!(sandboxes.get(&a, "s1").await.unwrap(), created);
    let again = sandboxes.create(&a, sandbox("s1")).await;
    assert_eq!(refused(again, Kind::AlreadyExists), "sandbox \"s1\": already exists");
    let gone = "sandbox \"s1\": not found";
    assert_eq!(refused(sandboxes.get(&b, "s1").await, Kind::NotFound), gone);

    let mut wanted = sandbox("s1");
    wanted.labels = labels(&[("app", "x"), ("tier", "y")]);
    wanted.extensions.insert("e".into(), Any::spec(b"1".to_vec()));
    let one = sandboxes.update(&a, wanted.clone(), &["labels.tier".into()]).await.unwrap();
    assert_eq!(one.labels, labels(&[("app", "s1"), ("tier", "y")]));
    assert!(one.extensions.is_empty());
    let all = sandboxes.update(&a, wanted.clone(), &[]).await.unwrap();
    assert_eq!((all.labels, all.extensions.len()), (wanted.labels.clone(), 1));
    let bad = sandboxes.update(&a, wanted.clone(), &["created_at".into()]).await;
    assert!(refused(bad, Kind::InvalidArgument).contains("created_at"));
    wanted.id = "other".into();
    refused(sandboxes.update(&a, wanted, &[]).await, Kind::NotFound);

    sandboxes.create(&a, sandbox("s2")).await.unwrap();
    let filters = Filters::parse(&["labels.app==s2"]).unwrap();
    let found = sandboxes.list(&a, &filters).await.unwrap();
    assert_eq!(found.iter().map(|s| s.id.as_str()).collect::<Vec<_>>(), ["s2"]);
    let name = Namespace::new("a").unwrap();
    let kept = host.namespaces.delete(&name).await;
    assert!(refused(kept, Kind::FailedPrecondition).contains("sandboxes"));
    sandboxes.delete(&a, "s1").await.unwrap();
    assert_eq!(refused(sandboxes.delete(&a, "s1").await, Kind::NotFound), gone);
}

#[tokio::test]
async fn what_is_incomplete_is_refused() {
    let host = Host::new();
    let sandboxes = SandboxService::new(host.db.clone());
    let ctx = context("a");
    let nameless = Sandbox { runtime: Runtime::default(), ..sandbox("s") };
    for bad in [nameless, sandbox(""), sandbox("a/b")] {
        refused(sandboxes.create(&ctx, bad).await, Kind::InvalidArgument);
    }
    assert!(sandboxes.list(&ctx, &Filters::all()).await.unwrap().is_empty());
}
