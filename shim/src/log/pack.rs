//! Compresses a rotated file, a piece at a time: the shim has one thread, and other work.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Bytes compressed at once.
pub(super) const PIECE: usize = 64 * 1024;
/// Behind the name of a compressed file.
pub(super) const SUFFIX: &str = ".gz";

/// A file that is being compressed. What was not finished is thrown away with it.
#[derive(Debug)]
pub(super) struct Packing {
    source: File,
    /// So much of it is done.
    at: u64,
    encoder: GzEncoder<File>,
    /// Where the source lies.
    plain: PathBuf,
    temporary: PathBuf,
}

impl Packing {
    /// Begins with the file at `plain`, which is open as `source` for reading.
    ///
    /// # Errors
    /// The new file cannot be made.
    pub(super) fn start(source: File, plain: &Path) -> io::Result<Self> {
        let temporary = temporary(plain);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o640)
            .open(&temporary)?;
        let encoder = GzEncoder::new(file, Compression::fast());
        Ok(Self { source, at: 0, encoder, plain: plain.to_owned(), temporary })
    }

    /// Compresses about `budget` bytes. True when that was all: the compressed file is then at
    /// its place and the other one is gone.
    ///
    /// # Errors
    /// The system's, a full disk above all: the source stays as it is.
    pub(super) fn step(&mut self, budget: usize) -> io::Result<bool> {
        let mut piece = vec![0; PIECE];
        let mut left = budget;
        while left > 0 {
            let n = self.source.read_at(&mut piece, self.at)?;
            if n == 0 {
                self.finish()?;
                return Ok(true);
            }
            self.encoder.write_all(&piece[..n])?;
            self.at += n as u64;
            left = left.saturating_sub(n);
        }
        Ok(false)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        // The source may have been safe from a power loss for long.
        self.encoder.get_ref().sync_data()?;
        fs::rename(&self.temporary, with_suffix(&self.plain, SUFFIX))?;
        fs::remove_file(&self.plain)
    }
}

impl Drop for Packing {
    fn drop(&mut self) {
        // Of one that is finished there is none.
        let _ = fs::remove_file(&self.temporary);
    }
}

/// Where a file lies while it is being made from the one at `plain`.
pub(super) fn temporary(plain: &Path) -> PathBuf {
    with_suffix(plain, ".gz.new")
}

/// A path with something behind it.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_file_is_compressed_piece_by_piece() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("c.log.1");
        let text: String = (0..50_000).map(|n| format!("line {n}\n")).collect();
        fs::write(&plain, &text).unwrap();
        let mut packing = Packing::start(File::open(&plain).unwrap(), &plain).unwrap();
        let mut steps = 1;
        while !packing.step(PIECE).unwrap() {
            assert!(plain.exists());
            steps += 1;
        }
        drop(packing);
        assert!(steps > 5, "{steps} steps");
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["c.log.1.gz"]);
        let mut back = String::new();
        let packed = File::open(dir.path().join("c.log.1.gz")).unwrap();
        assert!(packed.metadata().unwrap().len() < text.len() as u64 / 2);
        GzDecoder::new(packed).read_to_string(&mut back).unwrap();
        assert!(back == text);
    }

    #[test]
    fn what_is_not_finished_goes() {
        let dir = tempfile::tempdir().unwrap();
        let plain = dir.path().join("c.log.1");
        fs::write(&plain, vec![b'x'; 3 * PIECE]).unwrap();
        let mut packing = Packing::start(File::open(&plain).unwrap(), &plain).unwrap();
        assert!(!packing.step(PIECE).unwrap());
        drop(packing);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
