//! One ingest: its file, its status and the hash of what is in it. All of
//! this blocks.

use std::cell::RefCell;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gantry_core::content::IngestStatus;
use gantry_core::{Algorithm, Digest, Error, Hasher, Namespace, Result, Timestamp, faults};
use serde::{Deserialize, Serialize};

use crate::layout::{Layout, ingest_id, remove_file, remove_tree};
use crate::locks::{Held, IngestGuard};

/// Bytes that are gathered before they are written.
pub(crate) const BUFFER: usize = 1 << 20;

const DATA: &str = "data";
const STATUS: &str = "status.json";

/// What is kept of an ingest beside its bytes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) namespace: Namespace,
    pub(crate) reference: String,
    pub(crate) total: u64,
    pub(crate) expected: Option<Digest>,
    pub(crate) started_at: Timestamp,
    /// As [`IngestStatus::leased`].
    #[serde(default)]
    pub(crate) leased: bool,
}

/// Reads the status in the directory of an ingest.
pub(crate) fn read_status(dir: &Path) -> Result<Status> {
    let path = dir.join(STATUS);
    let bytes =
        fs::read(&path).map_err(|err| Error::io(format!("read {}", path.display()), err))?;
    serde_json::from_slice(&bytes)
        .map_err(|err| Error::data_loss(format!("{} is damaged", path.display())).with_source(err))
}

/// What clients see of the ingest in a directory. Its offset is that of its
/// writer, if it has one.
pub(crate) fn describe(dir: &Path, status: Status, offset: Option<u64>) -> Result<IngestStatus> {
    let data = dir.join(DATA);
    let meta =
        fs::metadata(&data).map_err(|err| Error::io(format!("look at {}", data.display()), err))?;
    let modified = meta.modified().map_or(status.started_at, Timestamp::from);
    Ok(IngestStatus {
        reference: status.reference,
        offset: offset.unwrap_or(meta.len()),
        total: status.total,
        expected: status.expected,
        started_at: status.started_at,
        updated_at: modified,
        leased: status.leased,
    })
}

/// An ingest that is being written.
pub(crate) struct Ingest {
    pub(crate) dir: PathBuf,
    pub(crate) status: Status,
    pub(crate) updated_at: Timestamp,
    file: File,
    /// Bytes in the file; the hash covers these.
    written: u64,
    hash: Hash,
    /// Bytes that are accepted and not yet in the file.
    pending: Vec<Bytes>,
    pending_len: usize,
    guard: IngestGuard,
}

enum Hash {
    Running(Box<RefCell<Running>>),
    /// The file is that of a blob with this digest, under a second name.
    Known(Digest),
}

/// The hash of the bytes in the file and of the first pieces that are pending.
struct Running {
    hasher: Hasher,
    /// How many pieces.
    pieces: usize,
}

impl Running {
    fn of_file(hasher: Hasher) -> Hash {
        Hash::Running(Box::new(RefCell::new(Running { hasher, pieces: 0 })))
    }

    fn catch_up(&mut self, pending: &[Bytes]) {
        pending.iter().skip(self.pieces).for_each(|piece| self.hasher.update(piece));
        self.pieces = pending.len();
    }
}

impl Ingest {
    /// Opens an ingest at its end, or makes it. When the store has a blob of
    /// the expected digest, the ingest has all of its bytes from the beginning:
    /// `size` is the length that it is recorded with.
    pub(crate) fn open(
        layout: &Layout,
        mut status: Status,
        size: Option<u64>,
        guard: IngestGuard,
    ) -> Result<Self> {
        let dir = layout.ingest(&ingest_id(&status.namespace, &status.reference));
        match read_status(&dir) {
            // Other content under the same name: as containerd does, it begins anew.
            Ok(before) if status.total > 0 && before.total > 0 && status.total != before.total => {
                remove_tree(&dir)?;
            }
            Ok(before) => {
                status.total = status.total.max(before.total);
                status.expected = status.expected.or(before.expected);
                status.started_at = before.started_at;
            }
            // What is there can't be told apart: begin anew.
            Err(_) => remove_tree(&dir)?,
        }
        create(&dir, &status)?;
        let data = dir.join(DATA);
        let shared = share(layout, &data, &mut status, size)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = faults::around("make the file of an ingest", || options.open(&data))
            .map_err(|err| Error::io(format!("open {}", data.display()), err))?;
        let algorithm = status.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let (hash, written) = match shared {
            Some((digest, size)) => (Hash::Known(digest), size),
            None => {
                let (hasher, len) = hash_file(&mut file, &data, algorithm, None)?;
                (Running::of_file(hasher), len)
            }
        };
        guard.set_offset(written);
        let updated_at = Timestamp::now();
        let (pending, pending_len) = (Vec::new(), 0);
        Ok(Self { dir, status, updated_at, file, written, hash, pending, pending_len, guard })
    }

    /// Where the bytes are.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join(DATA)
    }

    /// Bytes accepted.
    pub(crate) fn offset(&self) -> u64 {
        self.written + self.pending_len as u64
    }

    /// Takes bytes without blocking. `true` asks for a [`Ingest::flush`].
    pub(crate) fn push(&mut self, bytes: Bytes) -> bool {
        self.pending_len += bytes.len();
        self.pending.push(bytes);
        self.guard.set_offset(self.offset());
        self.pending_len >= BUFFER
    }

    /// Gives back what was pushed last, when it could not be flushed.
    pub(crate) fn pop(&mut self) -> Result<()> {
        self.pending_len -= self.pending.pop().map_or(0, |bytes| bytes.len());
        self.guard.set_offset(self.offset());
        let hashed = match &mut self.hash {
            Hash::Running(running) => running.get_mut().pieces,
            Hash::Known(_) => 0,
        };
        if hashed > self.pending.len() {
            let (data, algorithm) = (self.data(), self.algorithm());
            let (hasher, _) = hash_file(&mut self.file, &data, algorithm, None)?;
            self.hash = Running::of_file(hasher);
        }
        Ok(())
    }

    /// Writes what was pushed. When that fails, all of it stays pushed.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if self.pending_len == 0 {
            self.pending.clear();
            return Ok(());
        }
        self.unshare()?;
        if let Err(err) = write_all(&mut self.file, &self.pending) {
            // A part may have arrived; the next attempt begins where this one did.
            let back = self
                .file
                .set_len(self.written)
                .and_then(|()| self.file.seek(SeekFrom::Start(self.written)));
            back.map_err(|err| Error::io(format!("truncate {}", self.data().display()), err))?;
            let what = format!("write {} at {}", self.data().display(), self.written);
            return Err(Error::io(what, err));
        }
        if let Hash::Running(running) = &mut self.hash {
            let running = running.get_mut();
            running.catch_up(&self.pending);
            running.pieces = 0;
        }
        self.written += self.pending_len as u64;
        self.pending.clear();
        self.pending_len = 0;
        self.updated_at = Timestamp::now();
        Ok(())
    }

    /// Goes back to `offset`.
    pub(crate) fn truncate(&mut self, offset: u64) -> Result<()> {
        if offset > self.offset() {
            return Err(Error::out_of_range(format!(
                "ref {}: offset {offset} is behind the {} bytes written: out of range",
                self.status.reference,
                self.offset()
            )));
        }
        self.flush()?;
        if offset == self.written {
            return Ok(());
        }
        self.unshare()?;
        let data = self.data();
        let failed = |err| Error::io(format!("truncate {}", data.display()), err);
        self.file.set_len(offset).map_err(failed)?;
        let algorithm = self.algorithm();
        let (hasher, len) = hash_file(&mut self.file, &data, algorithm, None)?;
        self.hash = Running::of_file(hasher);
        self.written = len;
        self.guard.set_offset(len);
        Ok(())
    }

    /// The digest of all bytes accepted. Hashes those that are pending, once.
    pub(crate) fn digest(&self) -> Digest {
        match &self.hash {
            // Nothing is pushed before it is unshared.
            Hash::Known(digest) => digest.clone(),
            Hash::Running(running) => {
                let mut running = running.borrow_mut();
                running.catch_up(&self.pending);
                running.hasher.clone().finish()
            }
        }
    }

    /// The digest of the file by this algorithm.
    pub(crate) fn digest_by(&mut self, algorithm: Algorithm) -> Result<Digest> {
        if self.algorithm() == algorithm {
            return Ok(self.digest());
        }
        let data = self.data();
        let (hasher, _) = hash_file(&mut self.file, &data, algorithm, None)?;
        Ok(hasher.finish())
    }

    /// Makes the bytes durable and read-only.
    pub(crate) fn seal(&self) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |err| Error::io(format!("sync {}", self.data().display()), err);
        if self.is_shared() {
            return Ok(());
        }
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).map_err(failed)?;
        faults::around("sync an ingest", || self.file.sync_all()).map_err(failed)
    }

    /// Throws the ingest away.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_tree(&self.dir)
    }

    fn algorithm(&self) -> Algorithm {
        match &self.hash {
            Hash::Known(digest) => digest.algorithm(),
            Hash::Running(_) => {
                self.status.expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm)
            }
        }
    }

    /// Whether its file is a blob's: call [`Ingest::unshare`] before a push.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.hash, Hash::Known(_))
    }

    /// Gives the ingest a file of its own, when it has a blob's.
    pub(crate) fn unshare(&mut self) -> Result<()> {
        let linked = self.file.metadata().is_ok_and(|meta| meta.nlink() > 1);
        if !linked && !self.is_shared() {
            return Ok(());
        }
        let (data, copy) = (self.data(), self.dir.join("data.new"));
        remove_file(&copy)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&copy)
            .map_err(|err| Error::io(format!("create {}", copy.display()), err))?;
        let algorithm = self.algorithm();
        let (hasher, len) = hash_file(&mut self.file, &data, algorithm, Some(&mut file))?;
        faults::around("give an ingest its own file", || fs::rename(&copy, &data))
            .map_err(|err| Error::io(format!("rename {}", copy.display()), err))?;
        self.file = file;
        self.hash = Running::of_file(hasher);
        self.written = len;
        Ok(())
    }

    /// What others may know of it.
    pub(crate) fn held(&self) -> Arc<Held> {
        self.guard.held()
    }
}

/// Bytes that were accepted are kept for the next writer.
impl Drop for Ingest {
    fn drop(&mut self) {
        if let Err(err) = self.flush() {
            tracing::warn!(reference = self.status.reference, %err, "lost the end of an ingest");
        }
    }
}

/// Whether a directory holds an ingest that can go on.
pub(crate) fn is_whole(dir: &Path) -> bool {
    read_status(dir).is_ok() && dir.join(DATA).exists()
}

/// Whether a directory holds an ingest that was committed. One that shares a blob of another
/// namespace, whose file has two names as well, is not.
pub(crate) fn is_done(dir: &Path, has: impl Fn(&Namespace, &Digest) -> bool) -> bool {
    let linked = fs::metadata(dir.join(DATA)).is_ok_and(|meta| meta.nlink() > 1);
    linked
        && read_status(dir).is_ok_and(|status| match &status.expected {
            Some(expected) => has(&status.namespace, expected),
            // Without a digest nothing is shared.
            None => true,
        })
}

/// Makes the directory with its status.
fn create(dir: &Path, status: &Status) -> Result<()> {
    match faults::around("make an ingest", || DirBuilder::new().mode(0o700).create(dir)) {
        Err(err) if err.kind() != ErrorKind::AlreadyExists => {
            return Err(Error::io(format!("create directory {}", dir.display()), err));
        }
        _ => {}
    }
    let json = serde_json::to_vec(status)
        .map_err(|err| Error::internal("encode the status of an ingest").with_source(err))?;
    let (new, path) = (dir.join("status.new"), dir.join(STATUS));
    let write = || fs::write(&new, json).and_then(|()| fs::rename(&new, &path));
    faults::around("write the status of an ingest", write)
        .map_err(|err| Error::io(format!("write {}", path.display()), err))
}

/// Links the expected blob into the ingest, if the store has it.
fn share(
    layout: &Layout,
    data: &Path,
    status: &mut Status,
    size: Option<u64>,
) -> Result<Option<(Digest, u64)>> {
    let Some(digest) = status.expected.clone() else { return Ok(None) };
    let Ok(meta) = fs::metadata(layout.blob(&digest)) else { return Ok(None) };
    let differs = |wanted: u64| wanted != meta.len();
    if (status.total > 0 && differs(status.total)) || size.is_some_and(differs) {
        return Ok(None);
    }
    remove_file(data)?;
    let link = || fs::hard_link(layout.blob(&digest), data);
    match faults::around("share a blob with an ingest", link) {
        Ok(()) => {}
        // It went just now.
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(Error::io(format!("link blob {digest}"), err)),
    }
    status.total = meta.len();
    Ok(Some((digest, meta.len())))
}

/// Hashes a file from its beginning to its end, where it leaves it, and copies it on the way.
fn hash_file(
    file: &mut File,
    path: &Path,
    algorithm: Algorithm,
    mut copy: Option<&mut File>,
) -> Result<(Hasher, u64)> {
    let failed = |err| Error::io(format!("read {}", path.display()), err);
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; BUFFER];
    let mut len = 0;
    file.rewind().map_err(failed)?;
    loop {
        let n = match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher, len)),
            Ok(n) => n,
            Err(err) if err.kind() == ErrorKind::Interrupted => continue,
            Err(err) => return Err(failed(err)),
        };
        hasher.update(&buffer[..n]);
        if let Some(copy) = &mut copy {
            copy.write_all(&buffer[..n])
                .map_err(|err| Error::io(format!("copy {}", path.display()), err))?;
        }
        len += n as u64;
    }
}

/// Writes all pieces, many with one call.
fn write_all(file: &mut File, pieces: &[Bytes]) -> std::io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut rest, n),
            Err(err) if err.kind() == ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}
