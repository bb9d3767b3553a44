//! Reads a log that is being written and rotated meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};

use super::entry::LogEntry;
use super::tail::Counter;

/// Bytes read at a time.
const BLOCK: usize = 64 * 1024;
/// A record is never longer; what is, is damage.
const LONGEST: usize = 1 << 20;
/// Files of one log; more are never looked for.
const MAX_FILES: u32 = 1000;
/// A rotation may happen while the files are opened; the next attempt is
/// then made. So many in a row mean something else.
const ATTEMPTS: usize = 100;

/// A place in a log. All of its methods block.
///
/// An open file is followed wherever rotation renames it: nothing is written
/// to it any more then, and what comes next is in the file that is one
/// number younger.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    current: Option<Place>,
    /// Younger files that were there at the beginning, oldest first.
    then: VecDeque<File>,
}

#[derive(Debug)]
struct Place {
    file: File,
    inode: u64,
    at: u64,
    /// The beginning of a record whose end was not read yet.
    rest: Vec<u8>,
}

impl Place {
    fn new(file: File, at: u64) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode, at, rest: Vec::new() })
    }

    /// The next block's entries; nothing at the end.
    fn read(&mut self) -> io::Result<Option<Vec<LogEntry>>> {
        let mut block = vec![0; BLOCK];
        let n = self.file.read_at(&mut block, self.at)?;
        if n == 0 {
            return Ok(None);
        }
        self.at += n as u64;
        self.rest.extend_from_slice(&block[..n]);
        let mut entries = Vec::new();
        let mut begin = 0;
        while let Some(len) = self.rest[begin..].iter().position(|b| *b == b'\n') {
            entries.extend(LogEntry::parse(&self.rest[begin..begin + len]));
            begin += len + 1;
        }
        self.rest.drain(..begin);
        if self.rest.len() > LONGEST {
            self.rest.clear();
        }
        Ok(Some(entries))
    }
}

impl Reader {
    /// Opens a log at its beginning, or where its last `tail` lines begin. A
    /// log that is not there yet is empty.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(path: &Path, tail: Option<u64>) -> Result<Self> {
        let failed = |err| Error::io(format!("read the log {}", path.display()), err);
        let mut files = open_all(path).map_err(failed)?;
        let mut start = 0;
        if let Some(wanted) = tail {
            let mut counter = Counter::new(wanted);
            for n in 0..files.len() {
                if let Some(at) = counter.scan(&files[n]).map_err(failed)? {
                    start = at;
                    files.truncate(n + 1);
                    break;
                }
            }
        }
        files.reverse();
        let mut then = VecDeque::from(files);
        let first = then.pop_front().map(|file| Place::new(file, start));
        let current = first.transpose().map_err(failed)?;
        Ok(Self { path: path.to_owned(), current, then })
    }

    /// Some more entries; none when all that is there has been read.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn batch(&mut self) -> Result<Vec<LogEntry>> {
        self.read().map_err(|err| Error::io(format!("read the log {}", self.path.display()), err))
    }

    fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        loop {
            let Some(place) = &mut self.current else {
                match open(&self.path)? {
                    Some(file) => self.current = Some(Place::new(file, 0)?),
                    None => return Ok(Vec::new()),
                }
                continue;
            };
            match place.read()? {
                // A block may lie within one long record.
                Some(entries) if entries.is_empty() => continue,
                Some(entries) => return Ok(entries),
                None => {}
            }
            if let Some(next) = self.then.pop_front() {
                *place = Place::new(next, 0)?;
                continue;
            }
            let Some(next) = successor(&self.path, place.inode)? else { return Ok(Vec::new()) };
            // The file was renamed before this look at it, so nothing comes
            // after what is read now.
            match place.read()? {
                Some(entries) if entries.is_empty() => {}
                Some(entries) => return Ok(entries),
                None => *place = Place::new(next, 0)?,
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// The name of the n-th file: the youngest has no number.
fn numbered(path: &Path, n: u32) -> PathBuf {
    if n == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

/// All files of a log as of one moment, youngest first.
fn open_all(path: &Path) -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    for _ in 0..ATTEMPTS {
        files.clear();
        for n in 0..MAX_FILES {
            match open(&numbered(path, n))? {
                Some(file) => files.push(file),
                // Between two renames the youngest is missing.
                None if n == 0 && numbered(path, 1).exists() => {}
                None => break,
            }
        }
        let first = files.first().map(|file| file.metadata().map(|m| m.ino())).transpose()?;
        let now = path.metadata().ok().map(|m| m.ino());
        if first == now {
            break;
        }
    }
    Ok(files)
}

/// The file that goes on where the one with this inode ended; `None` while
/// that is the youngest.
fn successor(path: &Path, inode: u64) -> io::Result<Option<File>> {
    let is_at = |n: u32| numbered(path, n).metadata().is_ok_and(|m| m.ino() == inode);
    for _ in 0..ATTEMPTS {
        if is_at(0) {
            return Ok(None);
        }
        let mut there = 1;
        while there < MAX_FILES && numbered(path, there).exists() && !is_at(there) {
            there += 1;
        }
        if is_at(there) {
            let next = open(&numbered(path, there - 1))?;
            // Still in the same place: what was opened is its successor.
            if is_at(there) {
                return Ok(next);
            }
            continue;
        }
        // It was rotated away: the oldest that is left goes on.
        let oldest = (0..there).rev().find_map(|n| open(&numbered(path, n)).transpose());
        return oldest.transpose();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;

    struct Log {
        path: PathBuf,
        files: u32,
        file: File,
    }

    impl Log {
        fn new(dir: &Path, files: u32) -> Self {
            let path = dir.join("c-json.log");
            let file = File::create(&path).unwrap();
            Self { path, files, file }
        }

        fn write(&mut self, text: &str) {
            let log = serde_json::to_string(text).unwrap();
            let time = "2026-01-02T03:04:05Z";
            writeln!(self.file, "{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{time}\"}}")
                .unwrap();
        }

        fn rotate(&mut self) {
            for n in (1..self.files).rev() {
                let _ = fs::rename(numbered(&self.path, n - 1), numbered(&self.path, n));
            }
            let fresh = self.path.with_extension("new");
            self.file = File::create(&fresh).unwrap();
            fs::rename(fresh, &self.path).unwrap();
        }
    }

    fn all(reader: &mut Reader) -> String {
        let mut text = String::new();
        loop {
            let entries = reader.batch().unwrap();
            if entries.is_empty() {
                return text;
            }
            entries.iter().for_each(|e| text += std::str::from_utf8(&e.data).unwrap());
        }
    }

    #[test]
    fn across_rotated_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), 3);
        for n in 0..9 {
            log.write(&format!("{n}\n"));
            if n % 3 == 2 && n < 8 {
                log.rotate();
            }
        }
        let read = |tail| all(&mut Reader::open(&log.path, tail).unwrap());
        assert_eq!(read(None), "0\n1\n2\n3\n4\n5\n6\n7\n8\n");
        assert_eq!(read(Some(2)), "7\n8\n");
        assert_eq!(read(Some(5)), "4\n5\n6\n7\n8\n");
        assert_eq!(read(Some(99)), "0\n1\n2\n3\n4\n5\n6\n7\n8\n");
        assert_eq!(read(Some(0)), "");
    }

    #[test]
    fn rotation_while_following() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), 4);
        let mut reader = Reader::open(&log.path, Some(0)).unwrap();
        let (mut want, mut got) = (String::new(), String::new());
        for n in 0..200 {
            let line = format!("line {n}\n");
            log.write(&line);
            want += &line;
            if n % 5 == 0 {
                log.rotate();
            }
            // Up to two rotations between two looks.
            if n % 9 == 0 {
                got += &all(&mut reader);
            }
        }
        got += &all(&mut reader);
        assert_eq!(got, want);
    }

    #[test]
    fn what_was_rotated_away_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), 2);
        log.write("0\n");
        let mut reader = Reader::open(&log.path, None).unwrap();
        assert_eq!(all(&mut reader), "0\n");
        for n in 1..6 {
            log.rotate();
            log.write(&format!("{n}\n"));
        }
        assert_eq!(all(&mut reader), "4\n5\n");
    }

    #[test]
    fn a_log_that_does_not_exist_yet_and_a_torn_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(&dir.path().join("c-json.log"), Some(5)).unwrap();
        assert_eq!(all(&mut reader), "");
        let mut log = Log::new(dir.path(), 1);
        log.write("a\n");
        write!(log.file, "{{\"log\":\"b").unwrap();
        assert_eq!(all(&mut reader), "a\n");
        writeln!(log.file, "\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05Z\"}}")
            .unwrap();
        assert_eq!(all(&mut reader), "b\n");
    }
}
