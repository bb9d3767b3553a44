//! Layers made of what is different: applied again, they give the same.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use gantry_core::{Applier, Kind, Mount};
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use tempfile::TempDir;

use crate::LayerApplier;
use crate::compare::{Changes, How, compare};
use crate::layer::LayerWriter;
use crate::merged::{Directory, Entry};

fn mount(kind: &str, source: &Path, options: Vec<String>) -> Mount {
    Mount {
        kind: kind.into(),
        source: source.display().to_string(),
        target: String::new(),
        options,
    }
}

fn bind(dir: &Path) -> Vec<Mount> {
    vec![mount("bind", dir, vec!["rbind".into(), "rw".into()])]
}

fn overlay(lower: &[&Path], upper: &Path) -> Vec<Mount> {
    let lower: Vec<_> = lower.iter().map(|dir| dir.display().to_string()).collect();
    let options = [
        format!("lowerdir={}", lower.join(":")),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", upper.with_extension("work").display()),
    ];
    vec![mount("overlay", Path::new("overlay"), options.into())]
}

/// Notes what it is told.
#[derive(Default)]
struct Notes(Vec<String>);

impl Changes for Notes {
    fn made(&mut self, path: &[u8], _: How, _: &Directory, _: &Entry) -> gantry_core::Result<()> {
        self.0.push(String::from_utf8_lossy(path).into_owned());
        Ok(())
    }

    fn deleted(&mut self, path: &[u8]) -> gantry_core::Result<()> {
        self.0.push(format!("-{}", String::from_utf8_lossy(path)));
        Ok(())
    }
}

fn differences(left: &[Mount], right: &[Mount]) -> Vec<String> {
    let mut notes = Notes::default();
    let (left, right) = (Directory::of_mounts(left).unwrap(), Directory::of_mounts(right).unwrap());
    compare(&left, &right, &mut notes).unwrap();
    notes.0
}

fn layer(left: &[Mount], right: &[Mount]) -> Vec<u8> {
    let (left, right) = (Directory::of_mounts(left).unwrap(), Directory::of_mounts(right).unwrap());
    let mut writer = LayerWriter::new(Vec::new(), None);
    compare(&left, &right, &mut writer).unwrap();
    writer.finish().unwrap()
}

async fn apply(layer: Vec<u8>, to: &Path) {
    let bytes = Box::pin(futures::stream::iter([Ok(layer.into())]));
    LayerApplier::default().apply(bytes, "", &bind(to)).await.unwrap();
}

fn base(dir: &Path) {
    for path in ["same/deep", "changed", "gone", "replaced", "becomes-file"] {
        fs::create_dir_all(dir.join(path)).unwrap();
    }
    fs::write(dir.join("same/deep/file"), "x").unwrap();
    fs::write(dir.join("changed/kept"), "kept").unwrap();
    fs::write(dir.join("changed/removed"), "r").unwrap();
    fs::write(dir.join("changed/edited"), "before").unwrap();
    fs::write(dir.join("gone/a"), "a").unwrap();
    fs::write(dir.join("replaced/old"), "old").unwrap();
    fs::write(dir.join("replaced/both"), "both").unwrap();
    fs::write(dir.join("becomes-dir"), "file").unwrap();
    fs::write(dir.join("becomes-file/x"), "x").unwrap();
    symlink("same", dir.join("link")).unwrap();
    // Two bases are the same to the nanosecond.
    let time = UNIX_EPOCH + Duration::new(1_600_000_000, 1);
    for path in ["same/deep/file", "changed/kept"] {
        File::options().write(true).open(dir.join(path)).unwrap().set_modified(time).unwrap();
    }
}

/// What a container did to it, as overlay keeps it.
fn upper(dir: &Path) {
    let whiteout = |path: &str| {
        let mode = Mode::from_raw_mode(0);
        mknodat(CWD, dir.join(path), FileType::CharacterDevice, mode, makedev(0, 0)).unwrap();
    };
    fs::create_dir_all(dir.join("changed/new")).unwrap();
    whiteout("changed/removed");
    fs::write(dir.join("changed/edited"), "after!").unwrap();
    let long = "n".repeat(200);
    fs::write(dir.join("changed/new").join(&long), vec![7; 300_000]).unwrap();
    fs::hard_link(dir.join("changed/new").join(&long), dir.join("changed/other-name")).unwrap();
    symlink("t".repeat(150), dir.join("changed/long-link")).unwrap();
    whiteout("gone");
    fs::create_dir(dir.join("replaced")).unwrap();
    let opaque = "trusted.overlay.opaque";
    setxattr(dir.join("replaced"), opaque, b"y", XattrFlags::empty()).unwrap();
    fs::write(dir.join("replaced/both"), "other").unwrap();
    fs::create_dir(dir.join("becomes-dir")).unwrap();
    fs::write(dir.join("becomes-dir/in"), "in").unwrap();
    fs::write(dir.join("becomes-file"), "file").unwrap();
    let mode = Mode::from_raw_mode(0o600);
    mknodat(CWD, dir.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, dir.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    fs::write(dir.join("owned"), "o").unwrap();
    chown(dir.join("owned"), Some(3_000_000), Some(7)).unwrap();
    fs::set_permissions(dir.join("owned"), fs::Permissions::from_mode(0o4755)).unwrap();
    setxattr(dir.join("owned"), "trusted.mine", b"\0v\n", XattrFlags::empty()).unwrap();
    let sparse = File::create(dir.join("sparse")).unwrap();
    sparse.write_at(b"end", 1 << 20).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_gives_what_it_was_made_of() {
    let top = TempDir::new().unwrap();
    let dir = |name: &str| {
        let dir = top.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    };
    let (below, above, copy) = (dir("below"), dir("above"), dir("copy"));
    base(&below);
    base(&copy);
    upper(&above);
    let (left, right) = (bind(&below), overlay(&[&below], &above));
    let told = differences(&left, &right);
    let about_same = told.iter().any(|path| path.contains("same") || path.contains("kept"));
    assert!(!about_same, "{told:?}");
    for path in ["-changed/removed", "-gone", "-replaced/old", "changed", "replaced", "owned"] {
        assert!(told.iter().any(|t| t == path), "{path} in {told:?}");
    }
    apply(layer(&left, &right), &copy).await;
    assert_eq!(differences(&right, &bind(&copy)), [""; 0]);
    assert_eq!(differences(&bind(&copy), &right), [""; 0]);
    let links = |path: &str| rustix::fs::stat(copy.join(path)).unwrap().st_nlink;
    assert_eq!(links("changed/other-name"), 2, "names of one file stay so");
    assert_eq!(fs::read(copy.join("sparse")).unwrap().len(), (1 << 20) + 3);

    // From nothing, as for the lowest layer, and over several layers.
    let whole = dir("whole");
    apply(layer(&[], &right), &whole).await;
    assert_eq!(differences(&right, &bind(&whole)), [""; 0]);
    let next = dir("next");
    fs::write(next.join("top"), "t").unwrap();
    let stacked = overlay(&[&above, &below], &next);
    let lower = vec![mount(
        "overlay",
        Path::new("overlay"),
        vec![format!("lowerdir={}:{}", above.display(), below.display())],
    )];
    assert_eq!(differences(&lower, &stacked), ["top"]);
    assert_eq!(differences(&lower, &right), [""; 0]);
}

#[test]
fn equal_times_in_whole_seconds_say_nothing() {
    let (one, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let time = UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    for (dir, text) in [(&one, "abc"), (&other, "abd")] {
        fs::write(dir.path().join("f"), text).unwrap();
        File::options().write(true).open(dir.path().join("f")).unwrap().set_modified(time).unwrap();
    }
    assert_eq!(differences(&bind(one.path()), &bind(other.path())), ["f"]);
    fs::write(other.path().join("f"), "abc").unwrap();
    let file = File::options().write(true).open(other.path().join("f")).unwrap();
    file.set_modified(time).unwrap();
    assert_eq!(differences(&bind(one.path()), &bind(other.path())), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attribute_whose_name_no_record_can_hold_is_left_out() {
    let (made, copy) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    fs::write(made.path().join("f"), "x").unwrap();
    for (name, value) in [("trusted.a=b", b"forged"), ("trusted.c", b"honest")] {
        setxattr(made.path().join("f"), name, value, XattrFlags::empty()).unwrap();
    }
    apply(layer(&[], &bind(made.path())), copy.path()).await;
    let mut value = [0; 16];
    let mut get = |name: &str| {
        let len = rustix::fs::getxattr(copy.path().join("f"), name, value.as_mut_slice());
        len.map(|len| value[..len].to_vec())
    };
    assert_eq!(get("trusted.c").unwrap(), b"honest");
    assert_eq!(get("trusted.a"), Err(rustix::io::Errno::NODATA));
}

#[test]
fn files_without_their_data_are_refused() {
    let top = TempDir::new().unwrap();
    let (low, up) = (top.path().join("low"), top.path().join("up"));
    for dir in [&low, &up] {
        fs::create_dir(dir).unwrap();
        File::create(dir.join("f")).unwrap().set_len(4096).unwrap();
    }
    fs::set_permissions(up.join("f"), fs::Permissions::from_mode(0o600)).unwrap();
    let refused = || {
        let right = Directory::of_mounts(&overlay(&[&low], &up)).unwrap();
        let left = Directory::of_mounts(&bind(&low)).unwrap();
        compare(&left, &right, &mut LayerWriter::new(Vec::new(), None)).err().map(|e| e.kind())
    };
    assert_eq!(refused(), None);
    setxattr(up.join("f"), "trusted.overlay.metacopy", b"", XattrFlags::empty()).unwrap();
    assert_eq!(refused(), Some(Kind::FailedPrecondition));
}

#[test]
fn directories_too_deep_are_refused() {
    let top = TempDir::new().unwrap();
    let depth = |depth: usize| {
        let dir = top.path().join(depth.to_string());
        fs::create_dir_all(dir.join("d/".repeat(depth))).unwrap();
        let right = Directory::of_mounts(&bind(&dir)).unwrap();
        compare(&Directory::none(), &right, &mut Notes::default()).err().map(|err| err.kind())
    };
    assert_eq!(depth(399), None);
    assert_eq!(depth(400), Some(Kind::FailedPrecondition));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let dir = TempDir::new().unwrap();
    let erofs = [mount("erofs", dir.path(), Vec::new())];
    let refused = |mounts: &[Mount]| Directory::of_mounts(mounts).err().unwrap().kind();
    assert_eq!(refused(&erofs), Kind::Unimplemented);
    assert_eq!(refused(&[bind(dir.path()), bind(dir.path())].concat()), Kind::Unimplemented);
    assert_eq!(refused(&bind(&dir.path().join("none"))), Kind::NotFound);
    let moved = dir.path().join("moved");
    fs::create_dir(&moved).unwrap();
    setxattr(&moved, "trusted.overlay.redirect", b"old", XattrFlags::empty()).unwrap();
    let mounts = overlay(&[], dir.path());
    let (left, right) = (Directory::none(), Directory::of_mounts(&mounts).unwrap());
    let refused = compare(&left, &right, &mut Notes::default()).unwrap_err();
    assert_eq!(refused.kind(), Kind::FailedPrecondition, "{refused}");
}
