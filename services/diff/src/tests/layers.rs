//! What a layer may hold.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::{Fixture, Tar, digest, gzip, zstd};
use gantry_core::Kind;
use tar::EntryType;

fn small() -> Vec<u8> {
    Tar::default().dir("etc/").file("etc/motd", "hello").symlink("motd", "/etc/motd").end()
}

#[tokio::test]
async fn every_compression_gives_the_same() {
    let plain = small();
    let gzip_twice = [gzip(&plain[..600]), gzip(&plain[600..])].concat();
    let skippable =
        [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], zstd(&plain).as_slice()].concat();
    for layer in [plain.clone(), gzip(&plain), zstd(&plain), gzip_twice, skippable] {
        let f = Fixture::new();
        assert_eq!(f.apply(layer).await.unwrap(), digest(&plain));
        assert_eq!(f.read("etc/motd"), "hello");
        assert_eq!(fs::read_link(f.root().join("motd")).unwrap().to_str(), Some("/etc/motd"));
    }
}

#[tokio::test]
async fn padding_and_what_follows_count_for_the_digest() {
    let f = Fixture::new();
    let mut layer = small();
    layer.resize(layer.len() + 10_240, 0);
    layer.extend_from_slice(b"and something behind the end");
    assert_eq!(f.apply(gzip(&layer)).await.unwrap(), digest(&layer));
    let f = Fixture::new();
    assert_eq!(f.apply(Vec::new()).await.unwrap(), digest(b""));
    let f = Fixture::new();
    let bare = Tar::default().file("a", "1").0;
    assert_eq!(f.apply(bare.clone()).await.unwrap(), digest(&bare));
    assert_eq!(f.read("a"), "1");
}

#[tokio::test]
async fn owners_modes_and_times() {
    let f = Fixture::new();
    let layer = Tar::default()
        .with(EntryType::Directory, "./", |h| h.set_mode(0o1750))
        .pax(&[("mtime", b"1500000000.123456789"), ("uid", b"70000")])
        .with(EntryType::Directory, "dir/", |h| h.set_mode(0o2770))
        .pax(&[("mtime", b"1400000000.5"), ("atime", b"1450000000.25")])
        .with(EntryType::Regular, "dir/setuid", |h| {
            h.set_mode(0o6711);
            h.set_uid(12);
            h.set_gid(34);
        })
        .file("dir/plain", "x")
        .pax(&[("mtime", b"-1.25")])
        .symlink("link", "nowhere")
        .end();
    f.apply(layer).await.unwrap();
    let meta = |path: &str| fs::symlink_metadata(f.root().join(path)).unwrap();
    assert_eq!(meta("").mode() & 0o7777, 0o1750);
    let dir = meta("dir");
    assert_eq!((dir.mode() & 0o7777, dir.uid(), dir.gid()), (0o2770, 70_000, 0));
    assert_eq!((dir.mtime(), dir.mtime_nsec()), (1_500_000_000, 123_456_789));
    let setuid = meta("dir/setuid");
    assert_eq!((setuid.mode() & 0o7777, setuid.uid(), setuid.gid()), (0o6711, 12, 34));
    assert_eq!((setuid.mtime(), setuid.mtime_nsec()), (1_400_000_000, 500_000_000));
    assert_eq!((setuid.atime(), setuid.atime_nsec()), (1_450_000_000, 250_000_000));
    assert_eq!((meta("dir/plain").mode() & 0o7777, meta("dir/plain").gid()), (0o644, 0));
    assert_eq!((meta("link").mtime(), meta("link").mtime_nsec()), (-2, 750_000_000));
}

#[tokio::test]
async fn attributes_and_capabilities() {
    // cap_net_raw+ep, as setcap writes it.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let f = Fixture::new();
    let layer = Tar::default()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.note", b"a\0b"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ])
        .with(EntryType::Regular, "ping", |h| h.set_uid(5))
        .pax(&[("SCHILY.xattr.user.dir", b"d"), ("SCHILY.xattr.trusted.overlay.redirect", b"/x")])
        .dir("dir/")
        .pax(&[("SCHILY.xattr.trusted.link", b"l")])
        .symlink("link", "nowhere")
        .end();
    f.apply(layer).await.unwrap();
    let get = |path: &str, name: &str| {
        let mut value = vec![0; 100];
        let path = f.root().join(path);
        let len = rustix::fs::lgetxattr(&path, name, value.as_mut_slice()).ok()?;
        value.truncate(len);
        Some(value)
    };
    assert_eq!(get("ping", "security.capability").unwrap(), capability, "chown came first");
    assert_eq!(get("ping", "user.note").unwrap(), b"a\0b");
    assert_eq!(get("ping", "trusted.overlay.opaque"), None, "overlay's own are left out");
    assert_eq!(get("dir", "user.dir").unwrap(), b"d");
    assert_eq!(get("dir", "trusted.overlay.redirect"), None);
    assert_eq!(get("link", "trusted.link").unwrap(), b"l");
}

#[tokio::test]
async fn devices_and_fifos() {
    let f = Fixture::new();
    let device = |kind| {
        move |h: &mut tar::Header| {
            h.set_entry_type(kind);
            h.set_mode(0o666);
            h.set_device_major(1).unwrap();
            h.set_device_minor(3).unwrap();
        }
    };
    let layer = Tar::default()
        .with(EntryType::Char, "null", device(EntryType::Char))
        .with(EntryType::Block, "disk", device(EntryType::Block))
        .with(EntryType::Fifo, "pipe", |h| h.set_mode(0o1622))
        .end();
    f.apply(layer).await.unwrap();
    let meta = |path: &str| fs::symlink_metadata(f.root().join(path)).unwrap();
    assert!(meta("null").file_type().is_char_device());
    assert_eq!((meta("null").rdev(), meta("null").mode() & 0o7777), (0x103, 0o666));
    assert!(meta("disk").file_type().is_block_device());
    assert!(meta("pipe").file_type().is_fifo());
    assert_eq!(meta("pipe").mode() & 0o7777, 0o1622);
}

#[tokio::test]
async fn hard_links_share_an_inode() {
    let f = Fixture::new();
    let layer = Tar::default()
        .file("a", "1")
        .dir("d/")
        .hard_link("d/b", "/a")
        .symlink("s", "a")
        .hard_link("s2", "s")
        .hard_link("a", "a")
        .symlink("to-d", "d")
        .hard_link("c", "to-d/b")
        .end();
    f.apply(layer).await.unwrap();
    let ino = |path: &str| fs::symlink_metadata(f.root().join(path)).unwrap().ino();
    assert_eq!(ino("a"), ino("d/b"));
    assert_eq!(ino("a"), ino("c"));
    assert_eq!(ino("s"), ino("s2"), "the link itself gets a second name");
    assert_eq!(f.read("a"), "1");
}

#[tokio::test]
async fn long_names_of_both_kinds() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(255));
    let target = "t".repeat(3000);
    let gnu = Tar::default()
        .special(EntryType::GNULongName, format!("{long}\0").as_bytes())
        .file("short", "gnu")
        .special(EntryType::GNULongLink, target.as_bytes())
        .symlink("link", "short")
        .end();
    let pax = Tar::default()
        .pax(&[("path", long.as_bytes()), ("comment", b"x")])
        .file("short", "pax")
        .pax(&[("linkpath", target.as_bytes())])
        .symlink("link", "short")
        .end();
    for (layer, content) in [(gnu, "gnu"), (pax, "pax")] {
        let f = Fixture::new();
        f.apply(layer).await.unwrap();
        assert_eq!(f.read(&long), content);
        let read = fs::read_link(f.root().join("link")).unwrap();
        assert_eq!(read.to_str().unwrap(), target);
    }
}

#[tokio::test]
async fn sparse_files_of_all_forms() {
    let mut old = Tar::header(EntryType::GNUSparse, "sparse");
    let mut gnu = tar::Header::new_gnu();
    gnu.as_mut_bytes()[..257].copy_from_slice(&old.as_bytes()[..257]);
    old = gnu;
    old.set_size(6);
    let fields = old.as_gnu_mut().unwrap();
    fields.sparse[0].set_offset(0);
    fields.sparse[0].set_length(3);
    fields.sparse[1].set_offset(1 << 20);
    fields.sparse[1].set_length(3);
    fields.set_real_size(2 << 20);
    let old = Tar::default().raw(old, b"abcdef").file("next", "n").end();

    let size = (2_u64 << 20).to_string();
    let map = [("GNU.sparse.name", &b"sparse"[..]), ("GNU.sparse.size", size.as_bytes())];
    let named = |more: &[(&str, &[u8])]| {
        let records: Vec<_> = map.iter().copied().chain(more.iter().copied()).collect();
        Tar::default().pax(&records)
    };
    let v00 = named(&[
        ("GNU.sparse.numblocks", b"2"),
        ("GNU.sparse.offset", b"0"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.offset", b"1048576"),
        ("GNU.sparse.numbytes", b"3"),
    ]);
    let v01 = named(&[("GNU.sparse.map", b"0,3,1048576,3")]);
    let v10 = named(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", size.as_bytes()),
    ]);
    let mut in_data = b"2\n0\n3\n1048576\n3\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend_from_slice(b"abcdef");
    let layers = [
        old,
        v00.file("other", "abcdef").file("next", "n").end(),
        v01.file("other", "abcdef").file("next", "n").end(),
        v10.file("other", in_data).file("next", "n").end(),
    ];
    for (i, layer) in layers.into_iter().enumerate() {
        let f = Fixture::new();
        f.apply(layer).await.unwrap_or_else(|err| panic!("form {i}: {err}"));
        let data = fs::read(f.root().join("sparse")).unwrap();
        assert_eq!(data.len(), 2 << 20, "form {i}");
        assert_eq!((&data[..4], &data[1 << 20..(1 << 20) + 4]), (&b"abc\0"[..], &b"def\0"[..]));
        let blocks = fs::metadata(f.root().join("sparse")).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "form {i} has no holes");
        assert_eq!(f.read("next"), "n", "form {i}");
    }
}

#[tokio::test]
async fn later_entries_take_the_place_of_earlier_ones() {
    let f = Fixture::new();
    let layer = Tar::default()
        .file("a", "file")
        .dir("a/")
        .file("a/b", "1")
        .file("a/b", "2")
        .dir("c/")
        .file("c/d", "1")
        .symlink("c", "a")
        .file("c/e", "through the link")
        .dir("f/")
        .with(EntryType::Directory, "f/", |h| h.set_mode(0o700))
        .file("f", "file after all")
        .end();
    f.apply(layer).await.unwrap();
    assert_eq!(f.read("a/b"), "2");
    assert_eq!(f.read("a/e"), "through the link");
    assert!(!f.has("a/d"));
    assert_eq!(f.read("f"), "file after all");
}

#[tokio::test]
async fn what_is_not_known_is_named() {
    let f = Fixture::new();
    let err = f.apply(Tar::default().with(EntryType::new(b'V'), "v", |_| ()).end()).await;
    let err = err.unwrap_err();
    assert_eq!(err.kind(), Kind::InvalidArgument);
    assert!(err.to_string().contains("'V'"), "{err}");
    let global =
        Tar::default().special(EntryType::XGlobalHeader, b"15 comment=abc\n").file("a", "1");
    f.apply(global.end()).await.unwrap();
    assert_eq!(f.read("a"), "1");
}
