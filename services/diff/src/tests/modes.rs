//! Overlay, plain and detached targets.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Fixture, Tar, with_mounted};
use gantry_core::{Kind, NeedsParent};

fn is_whiteout(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::lgetxattr(path, "trusted.overlay.opaque", value.as_mut_slice()) == Ok(1)
}

fn lower(f: &Fixture) {
    let low = f.lower("low");
    fs::create_dir_all(low.join("dir/sub")).unwrap();
    for file in ["gone", "kept", "dir/old", "dir/sub/old"] {
        fs::write(low.join(file), "low").unwrap();
    }
    fs::set_permissions(low.join("dir"), fs::Permissions::from_mode(0o2751)).unwrap();
    std::os::unix::fs::chown(low.join("dir"), Some(5), Some(6)).unwrap();
    fs::set_permissions(low.join("dir"), fs::Permissions::from_mode(0o2751)).unwrap();
    symlink("/dir/sub", low.join("link")).unwrap();
}

#[tokio::test]
async fn overlay_marks_what_is_deleted() {
    let f = Fixture::new();
    lower(&f);
    let mounts = f.overlay(&["low"]);
    let layer = Tar::default()
        .file(".wh.gone", "")
        .dir("dir/")
        .file("dir/new", "up")
        .file("dir/.wh..wh..opq", "")
        .file("link/also", "through")
        .file(".wh..wh.plnk", "")
        .end();
    f.apply_to(layer, &mounts).await.unwrap();
    assert!(is_whiteout(&f.root().join("gone")));
    assert!(is_opaque(&f.root().join("dir")));
    assert!(!f.has("link"), "a link below is followed, not copied");
    with_mounted(&mounts, |root| {
        assert!(!root.join("gone").exists());
        assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "low");
        assert_eq!(fs::read_to_string(root.join("dir/new")).unwrap(), "up");
        assert!(!root.join("dir/old").exists());
        assert!(!root.join("dir/sub/old").exists());
        assert_eq!(fs::read_to_string(root.join("dir/sub/also")).unwrap(), "through");
    });
}

#[tokio::test]
async fn overlay_takes_what_it_needs_from_below() {
    let f = Fixture::new();
    lower(&f);
    fs::create_dir(f.lower("middle").join("dir")).unwrap();
    fs::write(f.lower("middle").join("dir/mid"), "mid").unwrap();
    fs::set_permissions(f.lower("middle").join("dir"), fs::Permissions::from_mode(0o711)).unwrap();
    let mounts = f.overlay(&["middle", "low"]);
    let layer = Tar::default()
        .file("dir/new", "up")
        .hard_link("second", "dir/old")
        .hard_link("dir/mid2", "dir/mid")
        .hard_link("link2", "link")
        .end();
    f.apply_to(layer, &mounts).await.unwrap();
    let dir = fs::metadata(f.root().join("dir")).unwrap();
    assert_eq!(dir.mode() & 0o7777, 0o711, "the nearest layer's attributes");
    assert_eq!(fs::metadata(f.root().join("dir/new")).unwrap().gid(), 0);
    with_mounted(&mounts, |root| {
        assert_eq!(fs::read_to_string(root.join("second")).unwrap(), "low");
        assert_eq!(fs::read_to_string(root.join("dir/mid2")).unwrap(), "mid");
        let ino = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().ino();
        assert_eq!(ino("second"), ino("dir/old"));
        assert!(root.join("link2").is_symlink());
        assert!(root.join("dir/sub/old").exists());
    });
    let missing = f.apply_to(Tar::default().hard_link("x", "dir/nothing").end(), &mounts).await;
    assert_eq!(missing.unwrap_err().kind(), Kind::InvalidArgument);
}

#[tokio::test]
async fn files_without_their_data_are_not_linked_to() {
    let f = Fixture::new();
    lower(&f);
    let mounts = f.overlay(&["low"]);
    let flags = rustix::fs::XattrFlags::empty();
    let kept = f.lower("low").join("kept");
    rustix::fs::setxattr(kept, "trusted.overlay.metacopy", b"", flags).unwrap();
    let refused = f.apply_to(Tar::default().hard_link("second", "kept").end(), &mounts).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::FailedPrecondition);
    f.apply_to(Tar::default().hard_link("third", "gone").end(), &mounts).await.unwrap();
}

#[tokio::test]
async fn whiteouts_spare_what_the_layer_brings() {
    for order in [0, 1] {
        let f = Fixture::new();
        lower(&f);
        let mounts = f.overlay(&["low"]);
        let brings = |tar: Tar| tar.dir("dir/").file("dir/new", "up").file("kept", "up");
        let deletes = |tar: Tar| tar.file(".wh.dir", "").file(".wh.kept", "");
        let tar = Tar::default();
        let tar = if order == 0 { deletes(brings(tar)) } else { brings(deletes(tar)) };
        f.apply_to(tar.end(), &mounts).await.unwrap();
        with_mounted(&mounts, |root| {
            assert_eq!(fs::read_to_string(root.join("dir/new")).unwrap(), "up", "{order}");
            assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "up", "{order}");
            assert!(!root.join("dir/old").exists(), "{order}");
        });
    }
}

#[tokio::test]
async fn a_deleted_directory_on_a_path_is_made_anew() {
    let f = Fixture::new();
    lower(&f);
    let mounts = f.overlay(&["low"]);
    let layer = Tar::default().file(".wh.dir", "").file("dir/new", "up").end();
    f.apply_to(layer, &mounts).await.unwrap();
    with_mounted(&mounts, |root| {
        assert!(root.join("dir/new").exists() && !root.join("dir/old").exists());
    });
}

#[tokio::test]
async fn an_opaque_root_hides_everything_below() {
    let f = Fixture::new();
    lower(&f);
    let mounts = f.overlay(&["low"]);
    let layer = Tar::default().file("kept", "up").file(".wh..wh..opq", "").dir("dir/").end();
    f.apply_to(layer, &mounts).await.unwrap();
    with_mounted(&mounts, |root| {
        let mut names: Vec<_> =
            fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dir", "kept"]);
        assert_eq!(fs::read_dir(root.join("dir")).unwrap().count(), 0);
    });
}

#[tokio::test]
async fn plain_deletes_what_was_there() {
    let f = Fixture::new();
    f.apply(
        Tar::default()
            .file("gone", "1")
            .dir("dir/")
            .file("dir/old", "1")
            .dir("dir/sub/")
            .file("dir/sub/old", "1")
            .dir("tree/")
            .file("tree/leaf", "1")
            .end(),
    )
    .await
    .unwrap();
    let second = Tar::default()
        .dir("dir/")
        .file("dir/new", "2")
        .file("dir/.wh..wh..opq", "")
        .file(".wh.gone", "")
        .file(".wh.tree", "")
        .file(".wh.never-there", "")
        .end();
    f.apply(second).await.unwrap();
    assert!(!f.has("gone") && !f.has("tree") && !f.has("never-there"));
    assert!(!f.has("dir/old") && !f.has("dir/sub"));
    assert_eq!(f.read("dir/new"), "2");
}

#[tokio::test]
async fn detached_layers_mark_and_stack() {
    let f = Fixture::new();
    lower(&f);
    let layer = Tar::default()
        .file(".wh.gone", "")
        .dir("dir/")
        .file("dir/new", "up")
        .file("dir/.wh..wh..opq", "")
        .hard_link("dir/again", "dir/new")
        .symlink("own", "dir")
        .file("own/through", "up")
        .end();
    f.detached(layer).await.unwrap();
    with_mounted(&f.overlay(&["low"]), |root| {
        assert!(!root.join("gone").exists() && !root.join("dir/old").exists());
        assert_eq!(fs::read_to_string(root.join("dir/again")).unwrap(), "up");
        assert_eq!(fs::read_to_string(root.join("dir/through")).unwrap(), "up");
        assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "low");
    });
}

#[tokio::test]
async fn detached_layers_say_when_they_need_their_parent() {
    for layer in [
        Tar::default().file("dir/new", "up").end(),
        Tar::default().hard_link("second", "kept").end(),
        Tar::default().symlink("link", "/elsewhere").file("link/x", "").end(),
        Tar::default().file("dir/.wh.old", "").end(),
        Tar::default().file(".wh..wh..opq", "").end(),
    ] {
        let f = Fixture::new();
        let err = f.detached(layer).await.unwrap_err();
        assert!(NeedsParent::is(&err), "{err}");
        assert_eq!(err.kind(), Kind::FailedPrecondition);
    }
    let f = Fixture::new();
    let err = f.detached(Tar::default().file("a\0", "").file("x", "").0[..700].to_vec()).await;
    assert!(!NeedsParent::is(&err.unwrap_err()));
}
