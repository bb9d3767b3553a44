//! Layers as builders make them, and as attackers would.

mod differences;
mod hostile;
mod layers;
mod modes;
mod speed;

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use gantry_core::{Applied, Applier, Digest, Mount, Result};
use tar::{EntryType, Header};
use tempfile::TempDir;

use crate::{LayerApplier, Limits};

/// Builds archives block by block, so that nothing is too odd to be built.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn header(kind: EntryType, path: &str) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    }

    /// Appends a header as it is, with a right checksum, and data.
    fn raw(mut self, mut header: Header, data: &[u8]) -> Self {
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn with(self, kind: EntryType, path: &str, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Self::header(kind, path);
        change(&mut header);
        self.raw(header, b"")
    }

    fn file(self, path: &str, data: impl AsRef<[u8]>) -> Self {
        let data = data.as_ref();
        let mut header = Self::header(EntryType::Regular, path);
        header.set_size(data.len() as u64);
        self.raw(header, data)
    }

    fn dir(self, path: &str) -> Self {
        self.with(EntryType::Directory, path, |_| ())
    }

    fn link(self, kind: EntryType, path: &str, target: &str) -> Self {
        self.with(kind, path, |h| {
            h.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Symlink, path, target)
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.link(EntryType::Link, path, target)
    }

    /// An extended header for the next entry.
    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.special(EntryType::XHeader, &data)
    }

    fn special(self, kind: EntryType, data: &[u8]) -> Self {
        let mut header = Self::header(kind, "special");
        header.set_size(data.len() as u64);
        self.raw(header, data)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// A directory that a layer goes to, and what is beside it.
struct Fixture {
    top: TempDir,
    limits: Limits,
}

impl Fixture {
    fn new() -> Self {
        let fixture = Self { top: tempfile::tempdir().unwrap(), limits: Limits::default() };
        std::fs::create_dir(fixture.root()).unwrap();
        std::fs::write(fixture.outside(), "untouched").unwrap();
        fixture
    }

    fn root(&self) -> PathBuf {
        self.top.path().join("root")
    }

    /// A file beside the root that no layer may read, change or remove.
    fn outside(&self) -> PathBuf {
        self.top.path().join("outside")
    }

    fn bind(&self) -> Vec<Mount> {
        mount("bind", &self.root(), vec!["rw".into(), "rbind".into()])
    }

    /// Mounts of an overlay over lower directories, the nearest first, that
    /// are made if need be.
    fn overlay(&self, lower: &[&str]) -> Vec<Mount> {
        let dirs: Vec<_> = lower.iter().map(|name| self.lower(name)).collect();
        let dirs: Vec<_> = dirs.iter().map(|dir| dir.to_str().unwrap()).collect();
        let upper = self.root();
        let work = self.top.path().join("work");
        std::fs::create_dir_all(&work).unwrap();
        let options = vec![
            "index=off".into(),
            format!("workdir={}", work.display()),
            format!("upperdir={}", upper.display()),
            format!("lowerdir={}", dirs.join(":")),
        ];
        mount("overlay", Path::new("overlay"), options)
    }

    fn lower(&self, name: &str) -> PathBuf {
        let dir = self.top.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        dir
    }

    async fn apply_to(&self, layer: Vec<u8>, mounts: &[Mount]) -> Result<Applied> {
        LayerApplier::new(self.limits).apply(stream(layer), "layer", mounts).await
    }

    async fn apply(&self, layer: Vec<u8>) -> Result<Applied> {
        self.apply_to(layer, &self.bind()).await
    }

    async fn detached(&self, layer: Vec<u8>) -> Result<Applied> {
        LayerApplier::new(self.limits).apply_detached(stream(layer), "layer", &self.bind()).await
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).symlink_metadata().is_ok()
    }
}

fn mount(kind: &str, source: &Path, options: Vec<String>) -> Vec<Mount> {
    let source = source.to_str().unwrap().to_owned();
    vec![Mount { kind: kind.into(), source, target: String::new(), options }]
}

/// The layer in pieces that fit nothing.
fn stream(layer: Vec<u8>) -> gantry_core::content::BlobStream {
    let layer = Bytes::from(layer);
    let piece = 7777;
    let pieces: Vec<_> = (0..layer.len())
        .step_by(piece)
        .map(|at| Ok(layer.slice(at..layer.len().min(at + piece))))
        .collect();
    Box::pin(futures::stream::iter(pieces))
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

fn digest(data: &[u8]) -> Applied {
    Applied { diff_id: Digest::of(data), size: data.len() as u64 }
}

/// Looks at an overlay as it is mounted, in a mount namespace of its own.
fn with_mounted<R: Send>(mounts: &[Mount], body: impl FnOnce(&Path) -> R + Send) -> R {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            use rustix::thread::UnshareFlags;
            #[allow(deprecated)]
            rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).unwrap();
            let target = tempfile::tempdir().unwrap();
            let data = std::ffi::CString::new(mounts[0].options.join(",")).unwrap();
            let flags = MountFlags::empty();
            mount("overlay", target.path(), "overlay", flags, Some(data.as_c_str())).unwrap();
            let result = body(target.path());
            rustix::mount::unmount(target.path(), UnmountFlags::DETACH).unwrap();
            result
        });
        thread.join().unwrap()
    })
}
