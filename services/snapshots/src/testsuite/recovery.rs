//! States that a crash leaves behind.

use std::fs;

use gantry_core::Kind;

use super::{Fixture, with_mounted};

pub(super) async fn everything_is_there_after_a_restart(mut f: Fixture) {
    f.layer("base", None, |root| fs::write(root.join("a"), "1").unwrap()).await;
    let mounts = f.prepare("c", Some("base")).await.unwrap();
    with_mounted(&mounts, |root| fs::write(root.join("b"), "2").unwrap());
    let before = f.snapshotter.stat(&f.ctx, "base").await.unwrap();
    f.reopen().await;
    assert_eq!(f.names().await, ["base", "c"]);
    assert_eq!(f.snapshotter.stat(&f.ctx, "base").await.unwrap(), before);
    assert_eq!(f.snapshotter.mounts(&f.ctx, "c").await.unwrap(), mounts);
    with_mounted(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "2");
    });
    let new = f.prepare("d", Some("base")).await.unwrap();
    assert_ne!(new, mounts, "directories are not used twice");
}

/// A crash between making the directory and storing the record, and one
/// between removing the record and removing the directory, look the same.
pub(super) async fn orphans_are_swept(mut f: Fixture) {
    f.layer("base", None, |_| ()).await;
    for name in ["77", "78/fs/deep", "rm-79/fs"] {
        fs::create_dir_all(f.dir().join(name)).unwrap();
    }
    fs::write(f.dir().join("78/fs/deep/file"), "x").unwrap();
    f.reopen().await;
    assert!(!f.dir().join("77").exists() && !f.dir().join("78").exists());
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(fs::read_dir(f.dir()).unwrap().count(), 1);
    assert_eq!(f.names().await, ["base"]);
}

/// A power loss: the record is on the disk, the new directory is not.
pub(super) async fn a_lost_directory_is_made_anew(mut f: Fixture) {
    f.layer("base", None, |root| fs::write(root.join("a"), "1").unwrap()).await;
    let base: Vec<_> = fs::read_dir(f.dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    let mounts = f.prepare("c", Some("base")).await.unwrap();
    for entry in fs::read_dir(f.dir()).unwrap().map(Result::unwrap) {
        if !base.contains(&entry.file_name()) {
            fs::remove_dir_all(entry.path()).unwrap();
        }
    }
    f.reopen().await;
    assert_eq!(f.snapshotter.mounts(&f.ctx, "c").await.unwrap(), mounts);
    with_mounted(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        fs::write(root.join("b"), "2").unwrap();
    });
}

/// The directory of an active snapshot without its content directory: a
/// crash in the middle of making or deleting it.
pub(super) async fn half_removed_is_removed(mut f: Fixture) {
    f.prepare("c", None).await.unwrap();
    let dir = fs::read_dir(f.dir()).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir(dir.join("fs")).unwrap();
    f.reopen().await;
    let mounts = f.snapshotter.mounts(&f.ctx, "c").await.unwrap();
    with_mounted(&mounts, |root| fs::write(root.join("a"), "1").unwrap());
    f.snapshotter.remove(&f.ctx, "c").await.unwrap();
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(fs::read_dir(f.dir()).unwrap().count(), 0);
}

/// Somebody deleted everything behind the records.
pub(super) async fn lost_layers_are_made_again(mut f: Fixture) {
    f.layer("base", None, |root| fs::write(root.join("a"), "1").unwrap()).await;
    f.layer("top", Some("base"), |root| fs::write(root.join("b"), "2").unwrap()).await;
    f.prepare("c", Some("top")).await.unwrap();
    for entry in fs::read_dir(f.dir()).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    f.reopen().await;
    for name in ["base", "top"] {
        let lost = f.snapshotter.stat(&f.ctx, name).await.unwrap_err();
        assert_eq!(lost.kind(), Kind::NotFound, "{lost}");
        assert_eq!(f.prepare("d", Some(name)).await.unwrap_err().kind(), Kind::NotFound);
    }
    f.layer("base", None, |root| fs::write(root.join("a"), "1").unwrap()).await;
    f.layer("top", Some("base"), |root| fs::write(root.join("b"), "2").unwrap()).await;
    assert_eq!(f.names().await, ["base", "c", "top"]);
    let mounts = f.prepare("d", Some("top")).await.unwrap();
    with_mounted(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("b")).unwrap(), "2");
    });
    let again = f.commit("top", "d").await.unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists, "what is there is not replaced");
}
