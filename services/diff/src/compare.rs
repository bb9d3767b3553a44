//! What is different between two snapshots.

use std::cell::Cell;
use std::fs::File;
use std::io::Read;

use gantry_archive::bad::show;
use gantry_archive::names::{MAX_PATH, join};
use gantry_core::{Error, Result};
use rustix::fs::FileType;

use crate::merged::{Directory, Entry};

/// Bytes of two files that are compared at once.
const PIECE: usize = 64 << 10;
/// Directories inside each other that are followed: each holds descriptors. No snapshot
/// with more can be committed either.
const MAX_DEPTH: usize = 400;

/// How something is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It was not there.
    Added,
    /// It was otherwise, or has something different in it.
    Modified,
}

/// Takes what is different: directories before what is in them, and every
/// directory above something different.
pub(crate) trait Changes {
    /// Something is there that was not, or was otherwise, or has something different
    /// in it.
    ///
    /// # Errors
    /// They end the comparison.
    fn made(&mut self, path: &[u8], how: How, dir: &Directory, entry: &Entry) -> Result<()>;

    /// Whether nobody wants to know of a path, and of what is below it.
    fn skips(&self, path: &[u8]) -> bool {
        let _ = path;
        false
    }

    /// Something is no longer there.
    ///
    /// # Errors
    /// As [`Changes::made`].
    fn deleted(&mut self, path: &[u8]) -> Result<()>;
}

/// Tells how to come from `left` to `right`. Directories that both share are not
/// looked into.
///
/// # Errors
/// What reading said, or `to`; `FailedPrecondition` for paths that no archive can hold,
/// and for too many directories inside each other.
pub(crate) fn compare(left: &Directory, right: &Directory, to: &mut dyn Changes) -> Result<()> {
    let root = Above { above: None, path: b"", depth: 0, place: None, told: Cell::new(true) };
    Walk { to }.directory(left, right, &root)
}

struct Walk<'a> {
    to: &'a mut dyn Changes,
}

/// A directory on the way, told of when something below it is different.
struct Above<'a> {
    above: Option<&'a Above<'a>>,
    path: &'a [u8],
    /// Directories above it.
    depth: usize,
    /// How it is different, where it lies, and itself there.
    place: Option<(How, &'a Directory, &'a Entry)>,
    told: Cell<bool>,
}

impl Walk<'_> {
    fn tell(&mut self, above: &Above<'_>) -> Result<()> {
        if above.told.replace(true) {
            return Ok(());
        }
        if let Some(higher) = above.above {
            self.tell(higher)?;
        }
        match above.place {
            Some((how, dir, entry)) => self.to.made(above.path, how, dir, entry),
            None => Ok(()),
        }
    }

    fn directory(&mut self, left: &Directory, right: &Directory, above: &Above<'_>) -> Result<()> {
        if above.path.len() > MAX_PATH {
            return Err(Error::failed_precondition(format!(
                "{}: its path has more than {MAX_PATH} bytes, no layer can hold it",
                show(above.path)
            )));
        }
        if above.depth >= MAX_DEPTH {
            return Err(Error::failed_precondition(format!(
                "{}: it lies more than {MAX_DEPTH} directories deep: move it further up",
                show(above.path)
            )));
        }
        let (before, after) = (left.entries(above.path)?, right.entries(above.path)?);
        for name in before.keys().filter(|name| !after.contains_key(*name)) {
            let path = join(above.path, name);
            if self.to.skips(&path) {
                continue;
            }
            self.tell(above)?;
            self.to.deleted(&path)?;
        }
        for (name, entry) in &after {
            let path = join(above.path, name);
            if self.to.skips(&path) {
                continue;
            }
            let former = before.get(name);
            let how = if former.is_some() { How::Modified } else { How::Added };
            let same = match former {
                Some(former) => same(&path, (left, former), (right, entry))?,
                None => false,
            };
            if entry.kind() != FileType::Directory {
                if !same {
                    self.tell(above)?;
                    self.to.made(&path, how, right, entry)?;
                }
                continue;
            }
            let inner = right.child(&path, entry)?;
            let outer = match former.filter(|former| former.kind() == FileType::Directory) {
                Some(former) => left.child(&path, former)?,
                None => Directory::none(),
            };
            if same && outer.is(&inner) {
                continue;
            }
            let place = Some((how, right, entry));
            let (depth, told) = (above.depth + 1, Cell::new(false));
            let here = Above { above: Some(above), path: &path, depth, place, told };
            if !same {
                self.tell(&here)?;
            }
            self.directory(&outer, &inner, &here)?;
        }
        Ok(())
    }
}

/// Whether two entries are the same but for what is in them, if they are directories.
fn same(path: &[u8], left: (&Directory, &Entry), right: (&Directory, &Entry)) -> Result<bool> {
    let ((left, before), (right, after)) = (left, right);
    if before.id() == after.id() {
        return Ok(true);
    }
    let (a, b) = (&before.stat, &after.stat);
    if (a.st_mode, a.st_uid, a.st_gid) != (b.st_mode, b.st_uid, b.st_gid) {
        return Ok(false);
    }
    let kind = after.kind();
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    if device && a.st_rdev != b.st_rdev {
        return Ok(false);
    }
    if left.xattrs(path, before)? != right.xattrs(path, after)? {
        return Ok(false);
    }
    match kind {
        FileType::Directory => Ok(true),
        FileType::Symlink => Ok(left.link(path, before)? == right.link(path, after)?),
        _ if (a.st_size, a.st_mtime) != (b.st_size, b.st_mtime) => Ok(false),
        FileType::RegularFile => {
            // Layers have times in whole seconds: of two such, only the content tells.
            let exact = a.st_mtime_nsec != 0 && b.st_mtime_nsec != 0;
            if exact {
                return Ok(a.st_mtime_nsec == b.st_mtime_nsec);
            }
            let (one, other) = (left.open(path, before)?, right.open(path, after)?);
            same_content(path, one.into(), other.into())
        }
        _ => Ok(true),
    }
}

fn same_content(path: &[u8], one: File, other: File) -> Result<bool> {
    let failed = |err| Error::io(format!("compare {}", show(path)), err);
    let (mut a, mut b) = (vec![0; PIECE], vec![0; PIECE]);
    let (mut one, mut other) = (one, other);
    loop {
        let read = one.read(&mut a).map_err(failed)?;
        if read == 0 {
            return Ok(other.read(&mut b[..1]).map_err(failed)? == 0);
        }
        match other.read_exact(&mut b[..read]) {
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
            done => done.map_err(failed)?,
        }
        if a[..read] != b[..read] {
            return Ok(false);
        }
    }
}
