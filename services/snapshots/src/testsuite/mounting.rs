//! What is seen through the mounts.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use gantry_core::snapshots::Kind;

use super::{Fixture, with_mounted};

pub(super) async fn layers_show_through(f: Fixture) {
    f.layer("one", None, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/a"), "from one").unwrap();
        fs::write(root.join("b"), "from one").unwrap();
        symlink("dir/a", root.join("link")).unwrap();
        fs::hard_link(root.join("b"), root.join("b2")).unwrap();
        chown(root.join("b"), Some(1000), Some(1001)).unwrap();
        fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o4751)).unwrap();
    })
    .await;
    f.layer("two", Some("one"), |root| fs::write(root.join("dir/c"), "from two").unwrap()).await;
    let mounts = f.prepare("container", Some("two")).await.unwrap();
    with_mounted(&mounts, |root| {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
        assert_eq!(read("link"), "from one");
        assert_eq!(read("dir/c"), "from two");
        let b = fs::metadata(root.join("b")).unwrap();
        assert_eq!((b.uid(), b.gid(), b.mode() & 0o7777, b.nlink()), (1000, 1001, 0o4751, 2));
        assert_eq!(b.ino(), fs::metadata(root.join("b2")).unwrap().ino());
        fs::write(root.join("dir/a"), "changed").unwrap();
    });
    let mounts = f.prepare("another", Some("two")).await.unwrap();
    with_mounted(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("dir/a")).unwrap(), "from one");
    });
}

pub(super) async fn deletions_hide(f: Fixture) {
    f.layer("one", None, |root| {
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/a"), "1").unwrap();
        fs::write(root.join("b"), "1").unwrap();
    })
    .await;
    f.layer("two", Some("one"), |root| {
        fs::remove_file(root.join("b")).unwrap();
        fs::remove_dir_all(root.join("dir")).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
    })
    .await;
    for parent in ["two", "one"] {
        let key = format!("c-{parent}");
        let mounts = f.prepare(&key, Some(parent)).await.unwrap();
        with_mounted(&mounts, |root| {
            assert!(root.join("dir").is_dir());
            assert_eq!(root.join("dir/a").exists(), parent == "one");
            assert_eq!(root.join("b").exists(), parent == "one");
        });
    }
}

pub(super) async fn views_are_read_only(f: Fixture) {
    f.layer("one", None, |root| fs::write(root.join("a"), "1").unwrap()).await;
    f.layer("two", Some("one"), |root| fs::write(root.join("b"), "2").unwrap()).await;
    for (key, parent) in [("v0", None), ("v1", Some("one")), ("v2", Some("two"))] {
        let mounts = f.view(key, parent).await.unwrap();
        assert_eq!(f.snapshotter.mounts(&f.ctx, key).await.unwrap(), mounts);
        assert_eq!(f.snapshotter.stat(&f.ctx, key).await.unwrap().kind, Kind::View);
        with_mounted(&mounts, |root| {
            assert_eq!(root.join("a").exists(), parent.is_some());
            assert_eq!(root.join("b").exists(), parent == Some("two"));
            let refused = fs::write(root.join("c"), "3").unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
    }
}

pub(super) async fn the_root_directory_inherits(f: Fixture) {
    f.layer("one", None, |root| {
        chown(root, Some(7), Some(8)).unwrap();
        fs::set_permissions(root, fs::Permissions::from_mode(0o1711)).unwrap();
    })
    .await;
    f.layer("two", Some("one"), |_| ()).await;
    let mounts = f.prepare("c", Some("two")).await.unwrap();
    with_mounted(&mounts, |root| {
        let root = fs::metadata(root).unwrap();
        assert_eq!((root.uid(), root.gid(), root.mode() & 0o7777), (7, 8, 0o1711));
    });
}
