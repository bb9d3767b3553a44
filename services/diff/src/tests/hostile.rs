//! One test per trick.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::{Fixture, Tar, gzip};
use gantry_core::{Applied, Error, Kind, Result};
use tar::EntryType;

fn refused(result: Result<Applied>) -> Error {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument, "{err}");
    err
}

impl Fixture {
    fn assert_outside_untouched(&self) {
        assert_eq!(fs::read_to_string(self.outside()).unwrap(), "untouched");
        let mode = fs::metadata(self.outside()).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        let mut names: Vec<_> =
            fs::read_dir(self.top.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["outside", "root"], "something was made outside of the root");
    }
}

#[tokio::test]
async fn dot_dot_stays_within() {
    let f = Fixture::new();
    let layer = Tar::default().file("../outside", "x").file("a/../../../outside2", "y").end();
    f.apply(layer).await.unwrap();
    assert_eq!((f.read("outside"), f.read("outside2")), ("x".into(), "y".into()));
    f.assert_outside_untouched();
}

#[tokio::test]
async fn absolute_paths_stay_within() {
    let f = Fixture::new();
    let absolute = f.outside();
    f.apply(
        Tar::default().pax(&[("path", absolute.to_str().unwrap().as_bytes())]).file("a", "x").end(),
    )
    .await
    .unwrap();
    assert_eq!(f.read(absolute.to_str().unwrap().trim_start_matches('/')), "x");
    f.assert_outside_untouched();
}

#[tokio::test]
async fn links_to_the_outside_lead_within() {
    for target in ["..", "../..", "/", "../../../../..", "/../.."] {
        let f = Fixture::new();
        let layer = Tar::default()
            .symlink("out", target)
            .file("out/outside", "x")
            .dir("d/")
            .symlink("d/out", target)
            .file("d/out/deep", "y")
            .end();
        f.apply(layer).await.unwrap();
        assert_eq!((f.read("outside"), f.read("deep")), ("x".into(), "y".into()), "{target}");
        f.assert_outside_untouched();
    }
}

#[tokio::test]
async fn an_absolute_link_resolves_in_the_root() {
    let f = Fixture::new();
    let target = f.top.path().to_str().unwrap().to_owned();
    f.apply(Tar::default().symlink("out", &target).file("out/outside", "x").end()).await.unwrap();
    assert_eq!(f.read(&format!("{}/outside", target.trim_start_matches('/'))), "x");
    f.assert_outside_untouched();
}

#[tokio::test]
async fn a_link_that_was_there_is_not_followed_out() {
    let f = Fixture::new();
    symlink(f.top.path(), f.root().join("planted")).unwrap();
    symlink(f.outside(), f.root().join("file")).unwrap();
    let layer = Tar::default().file("planted/outside", "x").file("file", "y").end();
    f.apply(layer).await.unwrap();
    assert_eq!(f.read("file"), "y");
    assert!(!f.root().join("file").is_symlink());
    f.assert_outside_untouched();
}

#[tokio::test]
async fn hard_links_to_the_outside_find_nothing() {
    let f = Fixture::new();
    for target in ["../outside", f.outside().to_str().unwrap()] {
        refused(f.apply(Tar::default().hard_link("got", target).end()).await);
    }
    let through = Tar::default().symlink("up", "..").hard_link("got", "up/outside").end();
    refused(f.apply(through).await);
    let link = Tar::default().symlink("s", "../outside").hard_link("s2", "s").file("s2", "x").end();
    f.apply(link).await.unwrap();
    assert!(f.root().join("s").is_symlink());
    refused(f.apply(Tar::default().hard_link("got", "/").end()).await);
    refused(f.apply(Tar::default().dir("d/").hard_link("got", "d").end()).await);
    f.assert_outside_untouched();
}

#[tokio::test]
async fn whiteouts_of_the_outside_delete_nothing() {
    let f = Fixture::new();
    f.apply(Tar::default().file("keep", "1").end()).await.unwrap();
    for path in ["../.wh.outside", "a/../../.wh.outside"] {
        f.apply(Tar::default().file(path, "").end()).await.unwrap();
    }
    f.apply(Tar::default().symlink("up", "..").file("up/.wh.outside", "").end()).await.unwrap();
    for path in [".wh...", ".wh..", ".wh.", "d/.wh...", ".wh.a/b"] {
        refused(f.apply(Tar::default().file(path, "").end()).await);
    }
    assert_eq!(f.read("keep"), "1");
    f.assert_outside_untouched();
    symlink(f.top.path(), f.root().join("planted")).unwrap();
    f.apply(Tar::default().file("planted/.wh..wh..opq", "").end()).await.unwrap();
    f.apply(Tar::default().file(".wh.planted", "").end()).await.unwrap();
    assert!(!f.has("planted"));
    f.assert_outside_untouched();
}

#[tokio::test]
async fn attributes_go_to_no_link_target() {
    let f = Fixture::new();
    let mode = |path, kind| {
        let layer = Tar::default().symlink("s", "../outside");
        layer.with(kind, path, |h| h.set_mode(0o777)).end()
    };
    for kind in [EntryType::Regular, EntryType::Fifo, EntryType::Directory] {
        f.apply(mode("s", kind)).await.unwrap();
        assert!(!f.root().join("s").is_symlink());
    }
    f.apply(
        Tar::default()
            .with(EntryType::Symlink, "s", |h| {
                h.as_old_mut().linkname[..10].copy_from_slice(b"../outside");
                h.set_mode(0o777);
                h.set_uid(77);
            })
            .end(),
    )
    .await
    .unwrap();
    f.assert_outside_untouched();
}

#[tokio::test]
async fn names_with_nul_or_newline() {
    let f = Fixture::new();
    refused(f.apply(Tar::default().pax(&[("path", b"a\0b")]).file("x", "").end()).await);
    refused(f.apply(Tar::default().pax(&[("linkpath", b"a\0b")]).symlink("x", "y").end()).await);
    assert_eq!(fs::read_dir(f.root()).unwrap().count(), 0);
    f.apply(Tar::default().file("a\nb", "1").end()).await.unwrap();
    assert_eq!(f.read("a\nb"), "1");
}

#[tokio::test]
async fn a_path_100_000_deep() {
    let f = Fixture::new();
    let deep = "d/".repeat(100_000);
    let err = refused(
        f.apply(Tar::default().pax(&[("path", deep.as_bytes())]).file("x", "").end()).await,
    );
    assert!(err.to_string().contains("4096"), "{err}");
    assert!(err.to_string().len() < 500, "the path is not repeated in full");
    // Growing through a link instead of in one name.
    let mut layer = Tar::default().symlink("l", "d/d/d/d/d/d/d/d/d/d");
    let long = "l/".repeat(30) + "x";
    layer = layer.file(&long, "");
    let result = f.apply(layer.end()).await;
    assert!(result.is_ok() || result.unwrap_err().kind() == Kind::InvalidArgument);
    f.assert_outside_untouched();
}

#[tokio::test]
async fn links_in_a_circle() {
    let f = Fixture::new();
    let layer = Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "").end();
    let err = refused(f.apply(layer).await);
    assert!(err.to_string().contains("links"), "{err}");
}

#[tokio::test]
async fn a_decompression_bomb() {
    let mut f = Fixture::new();
    f.limits.max_size = 1 << 20;
    let bomb = gzip(&Tar::default().file("zeros", vec![0; 64 << 20]).end());
    assert!(bomb.len() < 1 << 20);
    let err = f.apply(bomb).await.unwrap_err();
    assert_eq!(err.kind(), Kind::ResourceExhausted, "{err}");
    let written = fs::metadata(f.root().join("zeros")).map_or(0, |m| m.len());
    assert!(written <= 1 << 20);
}

#[tokio::test]
async fn too_many_entries() {
    let mut f = Fixture::new();
    f.limits.max_entries = 10;
    let layer = (0..11).fold(Tar::default(), |tar, i| tar.file(&format!("f{i}"), ""));
    let err = f.apply(layer.end()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::ResourceExhausted, "{err}");
    assert_eq!(fs::read_dir(f.root()).unwrap().count(), 10);
}

#[tokio::test]
async fn bad_pax_lengths() {
    let f = Fixture::new();
    for records in
        [&b"999999999999 path=a\n"[..], b"-5 path=a\n", b"0 path=a\n", b"5 path=a\n", b"x"]
    {
        let layer = Tar::default().special(EntryType::XHeader, records).file("x", "");
        refused(f.apply(layer.end()).await);
    }
    let mut huge = Tar::header(EntryType::XHeader, "x");
    huge.set_size(1 << 40);
    refused(f.apply(Tar::default().raw(huge, b"").end()).await);
    for (key, value) in [("size", &b"-1"[..]), ("size", b"9223372036854775808"), ("mtime", b"x")] {
        refused(f.apply(Tar::default().pax(&[(key, value)]).file("x", "").end()).await);
    }
    assert_eq!(fs::read_dir(f.root()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_huge_attribute() {
    let f = Fixture::new();
    let value = vec![b'v'; 100_000];
    let layer = Tar::default().pax(&[("SCHILY.xattr.user.huge", &value)]).file("x", "").end();
    let err = refused(f.apply(layer).await);
    assert!(err.to_string().contains("user.huge"), "{err}");
}

#[tokio::test]
async fn a_huge_attribute_of_a_directory_is_refused_at_once() {
    let f = Fixture::new();
    let value = vec![b'v'; 100_000];
    let layer = Tar::default().pax(&[("SCHILY.xattr.user.huge", &value)]).dir("d/").end();
    let err = refused(f.apply(layer).await);
    assert!(err.to_string().contains("user.huge"), "{err}");
    assert!(!f.has("d"));
}

#[tokio::test]
async fn what_is_kept_until_the_end_is_bounded() {
    let exhausted = |result: Result<Applied>| {
        let err = result.unwrap_err();
        assert_eq!(err.kind(), Kind::ResourceExhausted, "{err}");
    };
    let mut f = Fixture::new();
    f.limits.max_kept = 1 << 20;
    let value = vec![0; 60_000];
    let layer = (0..20).fold(Tar::default(), |tar, i| {
        tar.pax(&[("SCHILY.xattr.trusted.x", &value)]).dir(&format!("d{i}/"))
    });
    exhausted(f.apply(layer.end()).await);
    assert!(f.has("d15") && !f.has("d19"));

    // Paths count as well: here those of files, since the directory is not empty.
    let long = "n".repeat(240);
    let layer = (0..5_000).fold(Tar::default(), |tar, i| {
        tar.pax(&[("path", format!("{long}{i}").as_bytes())]).file("x", "")
    });
    exhausted(f.apply(layer.end()).await);
}

#[tokio::test]
async fn a_truncated_stream() {
    let whole = Tar::default().file("a", vec![7; 100_000]).end();
    for layer in [whole[..50_000].to_vec(), whole[..700].to_vec(), whole[..100].to_vec()] {
        let f = Fixture::new();
        refused(f.apply(layer).await);
    }
    let compressed = gzip(&whole);
    let f = Fixture::new();
    refused(f.apply(compressed[..compressed.len() - 9].to_vec()).await);
    let mut damaged = compressed;
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    refused(Fixture::new().apply(damaged).await);
}

#[tokio::test]
async fn garbage() {
    refused(Fixture::new().apply(vec![b'x'; 5000]).await);
    let mut bad_sum = Tar::default().file("a", "1").end();
    bad_sum[0] = b'b';
    refused(Fixture::new().apply(bad_sum).await);
    let behind_gzip = [gzip(&Tar::default().file("a", "1").end()), b"garbage".to_vec()].concat();
    refused(Fixture::new().apply(behind_gzip).await);
    let hole = [vec![0; 512], Tar::default().file("a", "1").end()].concat();
    refused(Fixture::new().apply(hole).await);
}

#[tokio::test]
async fn owners_out_of_range() {
    let f = Fixture::new();
    for id in ["-1", "4294967295", "4294967296", "99999999999999999999"] {
        for key in ["uid", "gid"] {
            let layer = Tar::default().pax(&[(key, id.as_bytes())]).file("x", "");
            refused(f.apply(layer.end()).await);
        }
    }
    let negative = Tar::default().with(EntryType::Regular, "x", |h| {
        h.as_old_mut().uid = [0xff; 8];
    });
    refused(f.apply(negative.end()).await);
    assert!(!f.has("x"));
}

#[tokio::test]
async fn the_root_stays_a_directory() {
    let f = Fixture::new();
    for path in ["./", "/", "..", "a/.."] {
        refused(f.apply(Tar::default().symlink(path, "/etc").end()).await);
    }
    refused(f.apply(Tar::default().file("a", "").file("a/b", "").end()).await);
    f.assert_outside_untouched();
}

#[tokio::test]
async fn an_error_of_the_stream_is_the_error() {
    use gantry_core::Applier;
    let f = Fixture::new();
    let pieces = vec![
        Ok(gzip(&Tar::default().file("a", "1").end())[..20].to_vec().into()),
        Err(Error::unavailable("the registry went away")),
    ];
    let layer = Box::pin(futures::stream::iter(pieces));
    let err = crate::LayerApplier::default().apply(layer, "gzip", &f.bind()).await.unwrap_err();
    assert_eq!(err.kind(), Kind::Unavailable, "{err}");
}
