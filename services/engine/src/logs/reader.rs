//! Reads a log that is being written and rotated meanwhile.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use gantry_core::{Error, Result};

use super::changes::Changes;
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

/// A follower holds at most so many files that are not at their places any
/// more, so that one that is slow does not fill the disk.
const HELD: usize = 8;
/// Between two renames of one rotation.
const MOMENT: Duration = Duration::from_millis(1);

/// A place in a log. All of its methods block.
///
/// Files that are younger than the one that is read are opened as soon as they
/// are seen, so that rotation takes nothing away that is still to be read.
/// When it was faster than that, an entry says so.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    /// Tells of rotations, to those who go on reading.
    pub(crate) changes: Option<Changes>,
    current: Option<Place>,
    /// Younger files, oldest first.
    then: VecDeque<Place>,
    /// Most files to hold.
    most: usize,
    /// Rotations until the youngest file held was seen to be the log's youngest.
    rotations: u64,
}

#[derive(Debug)]
struct Place {
    file: File,
    inode: u64,
    at: u64,
    /// The beginning of a record whose end was not read yet.
    rest: Vec<u8>,
    /// Something came before this that is gone.
    gap: bool,
}

impl Place {
    fn new(file: File, at: u64) -> io::Result<Self> {
        let inode = file.metadata()?.ino();
        Ok(Self { file, inode, at, rest: Vec::new(), gap: false })
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
    /// log that is not there yet is empty. Who goes on reading has `changes`,
    /// begun before this.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(path: &Path, tail: Option<u64>, changes: Option<Changes>) -> Result<Self> {
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
        let places = files.into_iter().rev().map(|file| Place::new(file, 0));
        let mut then = places.collect::<io::Result<VecDeque<_>>>().map_err(failed)?;
        let mut current = then.pop_front();
        if let Some(first) = &mut current {
            first.at = start;
        }
        let most = HELD.max(then.len());
        Ok(Self { path: path.to_owned(), changes, current, then, most, rotations: 0 })
    }

    /// Some more entries; none when all that is there has been read.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn batch(&mut self) -> Result<Vec<LogEntry>> {
        self.read().map_err(|err| self.failed(err))
    }

    /// Opens what has become the log's since the last look. To be called while
    /// what was read is not taken.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn keep_up(&mut self) -> Result<()> {
        self.gather().map_err(|err| self.failed(err))
    }

    fn failed(&self, err: io::Error) -> Error {
        Error::io(format!("read the log {}", self.path.display()), err)
    }

    fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        loop {
            // What is younger was renamed away from before what is read now,
            // so nothing is written to a file once its successor is known.
            self.gather()?;
            let Some(place) = &mut self.current else { return Ok(Vec::new()) };
            match place.read()? {
                // A block may lie within one long record.
                Some(entries) if entries.is_empty() => continue,
                Some(entries) => return Ok(entries),
                None => {}
            }
            let Some(next) = self.then.pop_front() else { return Ok(Vec::new()) };
            let gap = next.gap;
            *place = next;
            if gap {
                return Ok(vec![LogEntry::missing()]);
            }
        }
    }

    /// Opens all files that are younger than those that are held.
    fn gather(&mut self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let rotations = self.count_rotations()?;
            let Some(newest) = self.then.back().or(self.current.as_ref()) else {
                let Some(file) = open(&self.path)? else { return Ok(()) };
                self.current = Some(Place::new(file, 0)?);
                continue;
            };
            let next = successor(&self.path, newest.inode)?;
            if self.count_rotations()? != rotations {
                continue;
            }
            let (file, files) = match next {
                Next::Nothing => {
                    self.rotations = rotations;
                    return Ok(());
                }
                Next::File(file) => (file, 0),
                Next::Oldest(file, files) => (file, files),
            };
            let mut place = Place::new(file, 0)?;
            // As many as are there now have come: what came first is next.
            place.gap = files > 0 && rotations.saturating_sub(self.rotations) > files;
            if files > 0 {
                // It was the youngest when all but those behind it had come.
                self.rotations = rotations.saturating_sub(files - 1).max(self.rotations);
            } else {
                self.rotations = self.rotations.saturating_add(1).min(rotations);
            }
            self.then.push_back(place);
            if self.then.len() > self.most {
                self.then.pop_front();
                if let Some(first) = self.then.front_mut() {
                    first.gap = true;
                }
            }
        }
        Ok(())
    }

    fn count_rotations(&mut self) -> io::Result<u64> {
        self.changes.as_mut().map_or(Ok(0), Changes::rotations)
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

/// What goes on where a file ended.
enum Next {
    /// It is the youngest.
    Nothing,
    /// This one.
    File(File),
    /// It was rotated away: this is the oldest of so many that are left.
    Oldest(File, u64),
}

/// What goes on where the file with this inode ended.
fn successor(path: &Path, inode: u64) -> io::Result<Next> {
    let is_at = |n: u32| numbered(path, n).metadata().is_ok_and(|m| m.ino() == inode);
    for _ in 0..ATTEMPTS {
        if is_at(0) {
            return Ok(Next::Nothing);
        }
        let mut there = 1;
        while there < MAX_FILES && numbered(path, there).exists() && !is_at(there) {
            there += 1;
        }
        if is_at(there) {
            let next = open(&numbered(path, there - 1))?;
            // Still in the same place: what was opened is its successor.
            if let Some(next) = next.filter(|_| is_at(there)) {
                return Ok(Next::File(next));
            }
        } else if path.exists() && !numbered(path, there + 1).exists() {
            // It was rotated away: the oldest that is left goes on.
            if let Some(file) = open(&numbered(path, there - 1))? {
                return Ok(Next::Oldest(file, there.into()));
            }
        }
        // In the middle of a rotation.
        std::thread::sleep(MOMENT);
    }
    // Its files are not as rotation leaves them.
    Ok(open(path)?.map_or(Next::Nothing, |file| Next::Oldest(file, 1)))
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
            for entry in entries {
                text += if entry.gap { "gap\n" } else { std::str::from_utf8(&entry.data).unwrap() };
            }
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
        let read = |tail| all(&mut Reader::open(&log.path, tail, None).unwrap());
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
        let mut reader = Reader::open(&log.path, Some(0), None).unwrap();
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

    #[tokio::test]
    async fn what_was_rotated_away_is_told() {
        for files in [1, 2, 3] {
            let dir = tempfile::tempdir().unwrap();
            let mut log = Log::new(dir.path(), files);
            log.write("0\n");
            let changes = Changes::of(&log.path).unwrap();
            let mut reader = Reader::open(&log.path, None, Some(changes)).unwrap();
            assert_eq!(all(&mut reader), "0\n");
            let mut next = 1;
            let mut rotate = |times: u32| {
                for _ in 0..times {
                    log.rotate();
                    log.write(&format!("{next}\n"));
                    next += 1;
                }
                next
            };
            // The whole rotation, and nothing is lost.
            let end = rotate(files);
            let want: String = (1..end).map(|n| format!("{n}\n")).collect();
            assert_eq!(all(&mut reader), want, "{files} files");
            let end = rotate(files + 1);
            let want: String = (end - files..end).map(|n| format!("{n}\n")).collect();
            assert_eq!(all(&mut reader), format!("gap\n{want}"), "{files} files");
            let end = rotate(1);
            assert_eq!(all(&mut reader), format!("{}\n", end - 1));
        }
    }

    #[tokio::test]
    async fn what_is_seen_in_time_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), 2);
        let changes = Changes::of(&log.path).unwrap();
        let mut reader = Reader::open(&log.path, None, Some(changes)).unwrap();
        let mut rotate = |from: usize, to: usize, reader: &mut Reader| {
            for n in from..to {
                log.write(&format!("{n}\n"));
                log.rotate();
                reader.keep_up().unwrap();
            }
        };
        rotate(0, HELD, &mut reader);
        let want: String = (0..HELD).map(|n| format!("{n}\n")).collect();
        assert_eq!(all(&mut reader), want);
        // Not without end.
        rotate(0, HELD + 3, &mut reader);
        assert!(all(&mut reader).contains("gap\n"));
    }

    #[test]
    fn a_log_that_does_not_exist_yet_and_a_torn_record() {
        let dir = tempfile::tempdir().unwrap();
        let mut reader = Reader::open(&dir.path().join("c-json.log"), Some(5), None).unwrap();
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
