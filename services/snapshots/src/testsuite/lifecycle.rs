//! Records: what each method does and refuses.

use std::sync::Arc;

use gantry_core::db::{Durability, write_blocking};
use gantry_core::filter::Filters;
use gantry_core::leases::{LEASE_RESOURCES, LEASES, Lease};
use gantry_core::snapshots::Kind;
use gantry_core::{Context, Error, Kind as ErrorKind, LabelMask, Labels, Namespace, Timestamp};

use super::Fixture;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

pub(super) async fn a_layer_becomes_a_snapshot(f: Fixture) {
    let given = labels(&[("a", "1")]);
    let s = &f.snapshotter;
    let mounts = s.prepare(&f.ctx, "extract-1 sha256:x", None, given.clone()).await.unwrap();
    assert_eq!(s.mounts(&f.ctx, "extract-1 sha256:x").await.unwrap(), mounts);
    let info = s.stat(&f.ctx, "extract-1 sha256:x").await.unwrap();
    assert_eq!((info.kind, info.parent, info.labels), (Kind::Active, None, given));

    let committed = labels(&[("b", "2")]);
    s.commit(&f.ctx, "sha256:x", "extract-1 sha256:x", committed.clone(), None).await.unwrap();
    let info = s.stat(&f.ctx, "sha256:x").await.unwrap();
    assert_eq!((info.kind, info.labels), (Kind::Committed, committed));
    assert_eq!(kind(s.stat(&f.ctx, "extract-1 sha256:x").await), ErrorKind::NotFound);
    let err = s.mounts(&f.ctx, "sha256:x").await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");

    f.prepare("c1", Some("sha256:x")).await.unwrap();
    let info = s.stat(&f.ctx, "c1").await.unwrap();
    assert_eq!(info.parent.as_deref(), Some("sha256:x"));
    s.remove(&f.ctx, "c1").await.unwrap();
    s.remove(&f.ctx, "sha256:x").await.unwrap();
    s.cleanup().await.unwrap();
    assert_eq!(f.names().await, Vec::<String>::new());
    assert_eq!(std::fs::read_dir(f.dir()).unwrap().count(), 0);
}

pub(super) async fn names_are_taken_once(f: Fixture) {
    f.prepare("a", None).await.unwrap();
    assert_eq!(kind(f.prepare("a", None).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(f.view("a", None).await), ErrorKind::AlreadyExists);
    f.commit("base", "a").await.unwrap();
    assert_eq!(kind(f.prepare("base", None).await), ErrorKind::AlreadyExists);
    f.prepare("b", None).await.unwrap();
    assert_eq!(kind(f.commit("base", "b").await), ErrorKind::AlreadyExists);
    assert_eq!(f.names().await, ["b", "base"], "a refused commit changes nothing");
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(std::fs::read_dir(f.dir()).unwrap().count(), 2, "and leaves nothing");
}

pub(super) async fn parents_must_be_committed(f: Fixture) {
    f.prepare("active", None).await.unwrap();
    assert_eq!(kind(f.prepare("x", Some("active")).await), ErrorKind::InvalidArgument);
    assert_eq!(kind(f.prepare("x", Some("nothing")).await), ErrorKind::NotFound);
    assert_eq!(kind(f.view("x", Some("nothing")).await), ErrorKind::NotFound);
    assert_eq!(kind(f.commit("x", "nothing").await), ErrorKind::NotFound);
    f.commit("base", "active").await.unwrap();
    f.view("view", Some("base")).await.unwrap();
    assert_eq!(kind(f.commit("x", "view").await), ErrorKind::FailedPrecondition);
    assert_eq!(kind(f.commit("x", "base").await), ErrorKind::FailedPrecondition);
    assert_eq!(kind(f.snapshotter.remove(&f.ctx, "nothing").await), ErrorKind::NotFound);
    assert_eq!(kind(f.snapshotter.usage(&f.ctx, "nothing").await), ErrorKind::NotFound);
    assert_eq!(kind(f.snapshotter.mounts(&f.ctx, "nothing").await), ErrorKind::NotFound);
}

pub(super) async fn labels_change_alone(f: Fixture) {
    let s = &f.snapshotter;
    s.prepare(&f.ctx, "a", None, labels(&[("x", "1"), ("y.z/w", "2")])).await.unwrap();
    let before = s.stat(&f.ctx, "a").await.unwrap();
    let mask = LabelMask::Keys(vec!["y.z/w".into(), "x".into()]);
    let after = s.update(&f.ctx, "a", labels(&[("y.z/w", "3"), ("other", "4")]), mask).await;
    let after = after.unwrap();
    assert_eq!(after.labels, labels(&[("y.z/w", "3")]));
    assert_eq!((after.kind, after.created_at), (before.kind, before.created_at));
    assert!(after.updated_at > before.updated_at);
    let all = s.update(&f.ctx, "a", labels(&[("n", "5")]), LabelMask::All).await.unwrap();
    assert_eq!(all.labels, labels(&[("n", "5")]));
    assert_eq!(s.stat(&f.ctx, "a").await.unwrap(), all);
    let long = labels(&[("n", &"v".repeat(4096))]);
    assert_eq!(
        kind(s.update(&f.ctx, "a", long.clone(), LabelMask::All).await),
        ErrorKind::InvalidArgument
    );
    assert_eq!(kind(s.prepare(&f.ctx, "b", None, long).await), ErrorKind::InvalidArgument);
    for (name, expected) in [("b", ErrorKind::NotFound), ("", ErrorKind::InvalidArgument)] {
        let refused = s.update(&f.ctx, name, Labels::new(), LabelMask::All).await;
        assert_eq!(kind(refused), expected);
    }
}

pub(super) async fn children_hold_their_parent(f: Fixture) {
    f.layer("base", None, |_| ()).await;
    f.layer("top", Some("base"), |_| ()).await;
    f.prepare("c", Some("top")).await.unwrap();
    f.view("v", Some("base")).await.unwrap();
    let remove = async |key: &str| f.snapshotter.remove(&f.ctx, key).await;
    assert_eq!(kind(remove("base").await), ErrorKind::FailedPrecondition);
    assert_eq!(kind(remove("top").await), ErrorKind::FailedPrecondition);
    remove("c").await.unwrap();
    remove("top").await.unwrap();
    assert_eq!(kind(remove("base").await), ErrorKind::FailedPrecondition);
    remove("v").await.unwrap();
    remove("base").await.unwrap();
}

pub(super) async fn lists_are_filtered(f: Fixture) {
    let s = &f.snapshotter;
    f.layer("base", None, |_| ()).await;
    s.prepare(&f.ctx, "one", Some("base"), labels(&[("a.b/c", "x")])).await.unwrap();
    f.view("two", Some("base")).await.unwrap();
    let list = async |filters: &[&str]| -> Vec<String> {
        let found = s.list(&f.ctx, &Filters::parse(filters).unwrap()).await.unwrap();
        found.into_iter().map(|info| info.name).collect()
    };
    assert_eq!(list(&[]).await, ["base", "one", "two"]);
    assert_eq!(list(&["kind==committed"]).await, ["base"]);
    assert_eq!(list(&["parent==base"]).await, ["one", "two"]);
    assert_eq!(list(&["labels.\"a.b/c\"==x"]).await, ["one"]);
    assert_eq!(list(&["name==two", "kind==active"]).await, ["one", "two"]);
}

pub(super) async fn namespaces_do_not_see_each_other(f: Fixture) {
    f.layer("base", None, |_| ()).await;
    let other = Context::new(Namespace::new("other").unwrap());
    let s = &f.snapshotter;
    assert_eq!(kind(s.stat(&other, "base").await), ErrorKind::NotFound);
    let made = s.prepare(&other, "x", Some("base"), Labels::new()).await;
    assert_eq!(kind(made), ErrorKind::NotFound);
    s.prepare(&other, "base", None, Labels::new()).await.unwrap();
    assert_eq!(s.list(&other, &Filters::all()).await.unwrap().len(), 1);
    s.remove(&f.ctx, "base").await.unwrap();
    assert!(s.mounts(&other, "base").await.is_ok());
}

pub(super) async fn what_is_made_is_held_by_the_lease(f: Fixture) {
    let ns = f.ctx.namespace.as_str();
    let lease = Lease { id: "l".into(), created_at: Timestamp::now(), labels: Labels::new() };
    write_blocking(&f.db, Durability::Sync, &mut |tx| LEASES.put(tx, ns, "l", &lease)).unwrap();
    let ctx = f.ctx.clone().with_lease("l");
    let held = || -> Vec<(String, String)> {
        let rows = LEASE_RESOURCES.list(&f.db, ns).unwrap();
        rows.into_iter().map(|(_, r)| (r.kind, r.id)).collect()
    };
    let of = format!("snapshots/{}", f.name);
    f.snapshotter.prepare(&ctx, "a", None, Labels::new()).await.unwrap();
    assert_eq!(held(), [(of.clone(), "a".into())]);
    f.snapshotter.commit(&ctx, "base", "a", Labels::new(), None).await.unwrap();
    assert_eq!(held(), [(of, "base".into())]);
    let gone = f.ctx.clone().with_lease("gone");
    let refused = f.snapshotter.prepare(&gone, "b", None, Labels::new()).await;
    assert_eq!(kind(refused), ErrorKind::NotFound);
    assert_eq!(f.names().await, ["base"]);
}

pub(super) async fn bad_names_are_refused(f: Fixture) {
    for name in ["", "a\0b", "a\x01b", &"x".repeat(5000)] {
        assert_eq!(kind(f.prepare(name, None).await), ErrorKind::InvalidArgument, "{name:.20}");
    }
    for name in ["../../x", "/tmp/mnt", "extract-9 sha256:0", "."] {
        f.prepare(name, None).await.unwrap();
        f.snapshotter.remove(&f.ctx, name).await.unwrap();
    }
}

pub(super) async fn usage_is_measured(f: Fixture) {
    let mounts = f.prepare("a", None).await.unwrap();
    let empty = f.snapshotter.usage(&f.ctx, "a").await.unwrap();
    super::with_mounted(&mounts, |root| {
        std::fs::write(root.join("file"), vec![7; 1 << 20]).unwrap();
        std::fs::hard_link(root.join("file"), root.join("again")).unwrap();
    });
    let active = f.snapshotter.usage(&f.ctx, "a").await.unwrap();
    assert_eq!(active.inodes, empty.inodes + 1, "a second name is no second inode");
    let grown = active.size - empty.size;
    assert!((1 << 20..(1 << 20) + 65_536).contains(&grown), "{grown}");
    f.commit("base", "a").await.unwrap();
    assert_eq!(f.snapshotter.usage(&f.ctx, "base").await.unwrap(), active);
    f.prepare("b", Some("base")).await.unwrap();
    let listed = f.snapshotter.list_usage(&f.ctx).await.unwrap();
    let of = |name: &str| listed.iter().find(|found| found.info.name == name).unwrap();
    assert_eq!(of("base").usage, Some(active));
    let above = of("b");
    assert_eq!((above.usage, above.info.parent.as_deref()), (None, Some("base")));
}

pub(super) async fn prepare_and_remove_race(f: Fixture) {
    let f = Arc::new(f);
    for round in 0..20 {
        f.layer("base", None, |_| ()).await;
        let tasks: Vec<_> = (0..8)
            .map(|i| {
                let f = Arc::clone(&f);
                tokio::spawn(async move {
                    match i {
                        3 => f.snapshotter.remove(&f.ctx, "base").await,
                        _ => f.prepare(&format!("c{i}"), Some("base")).await.map(drop),
                    }
                })
            })
            .collect();
        for task in tasks {
            if let Err(err) = task.await.unwrap() {
                use ErrorKind::{Aborted, FailedPrecondition, NotFound};
                assert!(matches!(err.kind(), NotFound | FailedPrecondition | Aborted), "{err}");
            }
        }
        let names = f.names().await;
        let orphaned = !names.is_empty() && !names.iter().any(|n| n == "base");
        assert!(!orphaned, "round {round}: children without their parent: {names:?}");
        for name in names.iter().filter(|n| *n != "base") {
            assert!(f.snapshotter.mounts(&f.ctx, name).await.is_ok());
            f.snapshotter.remove(&f.ctx, name).await.unwrap();
        }
        if !names.is_empty() {
            f.snapshotter.remove(&f.ctx, "base").await.unwrap();
        }
    }
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(std::fs::read_dir(f.dir()).unwrap().count(), 0);
}

pub(super) async fn a_late_parent(f: Fixture) {
    let s = &f.snapshotter;
    f.layer("base", None, |root| std::fs::write(root.join("low"), "1").unwrap()).await;
    f.layer("other", None, |_| ()).await;
    f.prepare("own", Some("base")).await.unwrap();
    let commit = async |name: &str, key: &str, parent: &str| {
        s.commit(&f.ctx, name, key, Labels::new(), Some(parent)).await
    };
    assert_eq!(kind(commit("x", "own", "other").await), ErrorKind::FailedPrecondition);
    commit("x", "own", "base").await.unwrap();

    let mounts = f.prepare("late", None).await.unwrap();
    super::with_mounted(&mounts, |root| std::fs::write(root.join("high"), "2").unwrap());
    if !s.supports_late_parent() {
        assert_eq!(kind(commit("top", "late", "base").await), ErrorKind::FailedPrecondition);
        assert_eq!(s.stat(&f.ctx, "late").await.unwrap().kind, Kind::Active);
        return;
    }
    assert_eq!(kind(commit("top", "late", "nothing").await), ErrorKind::NotFound);
    commit("top", "late", "base").await.unwrap();
    assert_eq!(s.stat(&f.ctx, "top").await.unwrap().parent.as_deref(), Some("base"));
    let remove = s.remove(&f.ctx, "base").await;
    assert_eq!(kind(remove), ErrorKind::FailedPrecondition);
    let mounts = f.prepare("c", Some("top")).await.unwrap();
    super::with_mounted(&mounts, |root| {
        assert_eq!(std::fs::read_to_string(root.join("low")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(root.join("high")).unwrap(), "2");
    });
}

pub(super) async fn events_tell(f: Fixture) {
    f.layer("base", None, |_| ()).await;
    let _ = f.prepare("x", Some("nothing")).await;
    f.snapshotter.remove(&f.ctx, "base").await.unwrap();
    let events = f.events.0.lock().unwrap();
    let seen: Vec<_> = events.iter().map(|(t, e)| (t.as_str(), e.type_url.as_str())).collect();
    assert_eq!(
        seen,
        [
            ("/snapshot/prepare", "containerd.events.SnapshotPrepare"),
            ("/snapshot/commit", "containerd.events.SnapshotCommit"),
            ("/snapshot/remove", "containerd.events.SnapshotRemove"),
        ]
    );
}

pub(super) async fn towers_are_bounded(f: Fixture) {
    let mut parent: Option<String> = None;
    // The record alone makes the height: no need to write 500 layers.
    for height in 0..=500 {
        let name = format!("layer-{height}");
        let key = format!("key-{height}");
        let labels = Labels::new;
        let s = &f.snapshotter;
        let made = s.prepare_with(&f.ctx, &key, parent.as_deref(), labels(), Durability::Buffered);
        made.await.unwrap();
        f.commit(&name, &key).await.unwrap();
        parent = Some(name);
    }
    let err = f.prepare("one too many", parent.as_deref()).await.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(err.to_string().contains("500"), "{err}");
    assert_eq!(f.names().await.len(), 501);
}

pub(super) async fn targets_that_are_there_are_told(f: Fixture) {
    let ns = f.ctx.namespace.as_str();
    let lease = Lease { id: "l".into(), created_at: Timestamp::now(), labels: Labels::new() };
    write_blocking(&f.db, Durability::Sync, &mut |tx| LEASES.put(tx, ns, "l", &lease)).unwrap();
    let ctx = f.ctx.clone().with_lease("l");
    let target = labels(&[("containerd.io/snapshot.ref", "top")]);
    f.snapshotter.prepare(&f.ctx, "a", None, target.clone()).await.unwrap();
    // Not committed yet: two may make it at once.
    f.snapshotter.prepare(&f.ctx, "b", None, target.clone()).await.unwrap();
    f.commit("top", "a").await.unwrap();
    let told = f.snapshotter.prepare(&ctx, "c", None, target.clone()).await;
    assert_eq!(kind(told), ErrorKind::AlreadyExists);
    assert_eq!(f.names().await, ["b", "top"]);
    let held = LEASE_RESOURCES.list(&f.db, ns).unwrap();
    assert_eq!(held.iter().map(|(_, r)| r.id.as_str()).collect::<Vec<_>>(), ["top"]);
    let other = Context::new(Namespace::new("other").unwrap());
    f.snapshotter.prepare(&other, "c", None, target).await.unwrap();
}
