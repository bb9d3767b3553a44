//! The files of a log: the one that is written, and those before it, `.1` the youngest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use super::pack::{self, Packing, with_suffix};
use super::{Form, Options};

/// So many bytes are compressed for each one that is written: a file is done long before the
/// next one is full.
const PACKED_PER_WRITTEN: usize = 4;

/// The files of a log. They change only where the caller says that a record ends.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    pub(super) file: File,
    /// Bytes in the current file.
    size: u64,
    /// When its first record was written; `None` while it has none.
    began: Option<Duration>,
    max_size: u64,
    max_file: u32,
    max_age: Duration,
    compress: bool,
    /// The file that was rotated last, while it is being compressed.
    packing: Option<Packing>,
}

impl Files {
    /// Opens a log for appending, making its directory if need be.
    ///
    /// # Errors
    /// The file cannot be opened or mended.
    pub(super) fn open(options: &Options, form: &Form, now: Duration) -> io::Result<Self> {
        let path = &options.path;
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file = open(path)?;
        let mut size = form.mend(&mut file)?;
        let began = (size > 0).then(|| born(&file).unwrap_or(now));
        if size == 0 {
            let header = form.header(now);
            // On a full disk the records come first; they can do without it.
            match file.write_all(&header) {
                Ok(()) => size = header.len() as u64,
                Err(_) => file.set_len(0)?,
            }
        }
        let mut files = Self {
            path: path.clone(),
            file,
            size,
            began,
            max_size: options.max_size,
            max_file: options.max_file.max(1),
            max_age: options.max_age,
            compress: options.compress && options.max_file > 1,
            packing: None,
        };
        files.resume_packing();
        Ok(files)
    }

    /// Goes on with what an earlier shim had not finished.
    fn resume_packing(&mut self) {
        if !self.compress {
            return;
        }
        let last = self.numbered(1, "");
        let _ = fs::remove_file(pack::temporary(&last));
        let source = File::open(&last).ok();
        self.packing = source.and_then(|source| Packing::start(source, &last).ok());
    }

    /// Whether the current file is to be rotated before a record of `next` bytes is written.
    pub(super) fn is_due(&self, next: usize, now: Duration) -> bool {
        let Some(began) = self.began else { return false };
        let full = self.max_size > 0 && self.size + next as u64 > self.max_size;
        let old = !self.max_age.is_zero() && now.saturating_sub(began) >= self.max_age;
        full || old
    }

    /// Bytes that the current file has room for.
    pub(super) fn room(&self) -> usize {
        match self.max_size {
            0 => usize::MAX,
            max => usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX),
        }
    }

    /// Writes some of `bytes`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn write(&mut self, bytes: &[u8], now: Duration) -> io::Result<usize> {
        let n = self.file.write(bytes)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.size += n as u64;
        self.began.get_or_insert(now);
        Ok(n)
    }

    /// Moves the files along. The new one is made first, with what it begins with, so that a
    /// full disk stops the rotation before it has changed anything.
    ///
    /// # Errors
    /// The system's; the current file is then written on.
    pub(super) fn rotate(&mut self, header: &[u8]) -> io::Result<()> {
        let fresh = with_suffix(&self.path, ".new");
        let mut file = open(&fresh)?;
        // An earlier try may have left something.
        file.set_len(0)?;
        file.write_all(header)?;
        self.shift()?;
        // With one file this replaces it: a follower can still read its end.
        fs::rename(&fresh, &self.path)?;
        let rotated = std::mem::replace(&mut self.file, file);
        self.size = header.len() as u64;
        self.began = None;
        if self.compress {
            self.packing = Packing::start(rotated, &self.numbered(1, "")).ok();
        }
        Ok(())
    }

    /// Gives each file the number behind its own; the last one goes.
    fn shift(&mut self) -> io::Result<()> {
        if let Some(mut packing) = self.packing.take() {
            // Usually this was done long ago. What can't be compressed stays as it is.
            let _ = packing.step(usize::MAX);
        }
        for n in (1..self.max_file).rev() {
            let plain = self.shift_one(n, "")?;
            if !self.compress {
                continue;
            }
            let packed = self.shift_one(n, pack::SUFFIX)?;
            // What was at this place may have been of the other form.
            if plain != packed {
                let other = if plain { pack::SUFFIX } else { "" };
                let _ = fs::remove_file(self.numbered(n, other));
            }
        }
        Ok(())
    }

    /// Moves a file to the place `n`; false when there is none.
    fn shift_one(&self, n: u32, suffix: &str) -> io::Result<bool> {
        match fs::rename(self.numbered(n - 1, suffix), self.numbered(n, suffix)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Compresses a piece of what is to be compressed, after so many bytes were written.
    pub(super) fn pack(&mut self, written: usize) {
        let Some(packing) = &mut self.packing else { return };
        let budget = written.saturating_mul(PACKED_PER_WRITTEN).max(pack::PIECE);
        // What can't be compressed stays as it is.
        if packing.step(budget).unwrap_or(true) {
            self.packing = None;
        }
    }

    /// The name of the n-th file; the current one has no number.
    fn numbered(&self, n: u32, suffix: &str) -> PathBuf {
        let number = if n == 0 { String::new() } else { format!(".{n}") };
        with_suffix(&self.path, &(number + suffix))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// When a file was made: about when its first record was written.
fn born(file: &File) -> Option<Duration> {
    let meta = file.metadata().ok()?;
    let born = meta.created().or_else(|_| meta.modified()).ok()?;
    born.duration_since(UNIX_EPOCH).ok()
}
