//! The files of a log by their names. They may be renamed and compressed at any moment.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::place::{Form, Place};

/// Files of one log; more are never looked for.
const MAX_FILES: u32 = 1000;
/// A rotation may happen while the files are opened; the next attempt is
/// then made. So many in a row mean something else.
pub(crate) const ATTEMPTS: usize = 100;
/// Between two renames of one rotation.
const MOMENT: Duration = Duration::from_millis(1);
/// Behind the name of a compressed file.
const PACKED: &str = ".gz";

/// A file of a log.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: File,
    /// It is compressed.
    pub(crate) packed: bool,
}

/// What goes on where a file ended.
#[derive(Debug)]
pub(crate) enum Next {
    /// It is the youngest.
    Nothing,
    /// This one.
    File(Found),
    /// It was rotated away: this is the oldest of so many that are left.
    Oldest(Found, u64),
}

/// The name of the n-th file, the youngest of which has no number.
pub(crate) fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 { path.to_owned() } else { with_suffix(path, &format!(".{n}")) }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The n-th file and whether that is compressed, by what `get` gets of a path.
fn nth<T>(
    path: &Path,
    n: u32,
    get: impl Fn(&Path) -> io::Result<T>,
) -> io::Result<Option<(T, bool)>> {
    let plain = numbered(path, n);
    let packed = with_suffix(&plain, PACKED);
    for (name, is_packed) in [(plain, false), (packed, true)] {
        match get(&name) {
            Ok(got) => return Ok(Some((got, is_packed))),
            // The youngest is never compressed.
            Err(err) if err.kind() == io::ErrorKind::NotFound && n > 0 => {}
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// Opens the n-th file.
///
/// # Errors
/// The system's; one that is missing is none.
pub(crate) fn open(path: &Path, n: u32) -> io::Result<Option<Found>> {
    let found = nth(path, n, open_one)?;
    Ok(found.map(|(file, packed)| Found { file, packed }))
}

fn open_one(path: &Path) -> io::Result<File> {
    File::open(path)
}

fn metadata(path: &Path, n: u32) -> Option<Metadata> {
    nth(path, n, Path::metadata).ok().flatten().map(|(meta, _)| meta)
}

fn exists(path: &Path, n: u32) -> bool {
    metadata(path, n).is_some()
}

fn is_at(path: &Path, n: u32, inode: u64) -> bool {
    metadata(path, n).is_some_and(|meta| meta.ino() == inode)
}

/// All files of a log as of one moment, youngest first.
///
/// # Errors
/// The system's.
pub(crate) fn open_all(path: &Path, form: Form) -> io::Result<Vec<Place>> {
    let mut places: Vec<Place> = Vec::new();
    for _ in 0..ATTEMPTS {
        places.clear();
        for n in 0..MAX_FILES {
            match open(path, n)? {
                Some(found) => places.push(Place::new(found, form)?),
                // Between two renames the youngest is missing.
                None if n == 0 && exists(path, 1) => {}
                None => break,
            }
        }
        let still = |(n, place): (u32, &Place)| is_at(path, n, place.inode());
        if (0..).zip(&places).all(still) {
            return Ok(places);
        }
        std::thread::sleep(MOMENT);
    }
    // They are rotated all the time. Files only move away from the beginning, so none was
    // missed, but one may have been met twice.
    let mut known = Vec::new();
    let mut once = Vec::new();
    for mut place in places {
        let identity = place.identity()?;
        if !known.contains(&identity) {
            known.push(identity);
            once.push(place);
        }
    }
    Ok(once)
}

/// What goes on where a file ended.
///
/// # Errors
/// The system's.
pub(crate) fn successor(path: &Path, place: &mut Place) -> io::Result<Next> {
    let inode = place.inode();
    for _ in 0..ATTEMPTS {
        if is_at(path, 0, inode) {
            return Ok(Next::Nothing);
        }
        let mut there = 1;
        while there < MAX_FILES && exists(path, there) && !is_at(path, there, inode) {
            there += 1;
        }
        if is_at(path, there, inode) {
            let next = open(path, there - 1)?;
            // Still in the same place: what was opened is its successor.
            if let Some(next) = next.filter(|_| is_at(path, there, inode)) {
                return Ok(Next::File(next));
            }
        } else if let Some((n, packed)) = locate(path, place)? {
            let inode = packed.inode();
            let next = open(path, n - 1)?;
            if let Some(next) = next.filter(|_| is_at(path, n, inode)) {
                return Ok(Next::File(next));
            }
        } else if exists(path, 0) && !exists(path, there + 1) {
            // It was rotated away: the oldest that is left goes on.
            if let Some(found) = open(path, there - 1)? {
                return Ok(Next::Oldest(found, there.into()));
            }
        }
        // In the middle of a rotation.
        std::thread::sleep(MOMENT);
    }
    // Its files are not as rotation leaves them.
    Ok(open(path, 0)?.map_or(Next::Nothing, |found| Next::Oldest(found, 1)))
}

/// Where a file is that was compressed since it was opened: its number, and its beginning.
///
/// # Errors
/// The system's.
pub(crate) fn locate(path: &Path, place: &mut Place) -> io::Result<Option<(u32, Place)>> {
    let identity = place.identity()?;
    if identity == 0 {
        return Ok(None);
    }
    for n in 1..MAX_FILES {
        let Some(found) = open(path, n)? else { break };
        if !found.packed {
            continue;
        }
        let mut candidate = Place::new(found, place.form())?;
        if candidate.identity()? == identity {
            return Ok(Some((n, candidate)));
        }
    }
    Ok(None)
}
