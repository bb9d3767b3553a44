//! Docker's json-file format: one JSON object a line, with the text, the
//! stream and the time, in files that rotate by size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Stream;
use crate::clock;

/// A longer line is stored in parts, of which only the last has the newline.
const MAX_PART: usize = 16 * 1024;

/// A log in Docker's json-file format.
///
/// Records are encoded at once and wait in a buffer until they are written;
/// a file is changed only between records, so rotation never cuts one.
#[derive(Debug)]
pub struct JsonFile {
    path: PathBuf,
    file: File,
    /// Bytes in the current file.
    size: u64,
    max_size: u64,
    max_file: u32,
    /// Unfinished line of each stream.
    partial: [Vec<u8>; 2],
    /// Encoded records that are not written yet.
    pending: Vec<u8>,
    /// How much of `pending` is written.
    written: usize,
}

impl JsonFile {
    /// Opens `path` for appending, making its directory if need be. A record
    /// cut by a crash is closed off, so that what follows stays readable.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path, max_size: u64, max_file: u32) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
        let mut size = file.metadata()?.len();
        if size > 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                file.write_all(b"\n")?;
                size += 1;
            }
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            max_size,
            max_file: max_file.max(1),
            partial: [Vec::new(), Vec::new()],
            pending: Vec::new(),
            written: 0,
        })
    }

    /// See [`super::Driver::push`].
    pub fn push(&mut self, stream: Stream, mut bytes: &[u8]) {
        let slot = stream as usize;
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, rest) = bytes.split_at(end + 1);
            self.partial[slot].extend_from_slice(line);
            self.emit(stream);
            bytes = rest;
        }
        self.partial[slot].extend_from_slice(bytes);
        // With a whole character of look-ahead, to know where one is cut.
        self.emit_parts(stream, MAX_PART + 4);
    }

    /// See [`super::Driver::end`].
    pub fn end(&mut self, stream: Stream) {
        if !self.partial[stream as usize].is_empty() {
            self.emit(stream);
        }
    }

    /// See [`super::Driver::backlog`].
    pub fn backlog(&self) -> usize {
        self.pending.len() - self.written
    }

    /// See [`super::Driver::flush`].
    pub fn flush(&mut self) -> io::Result<()> {
        if let Err(e) = self.write_pending() {
            // All but the last byte that was written: it tells where a record ends.
            self.pending.drain(..self.written.saturating_sub(1));
            self.written = self.written.min(1);
            return Err(e);
        }
        self.pending.clear();
        // A burst must not keep its buffer for the rest of the shim's life.
        self.pending.shrink_to(MAX_PART);
        self.written = 0;
        Ok(())
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            let record = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |at| at + 1);
            let at_start_of_record = self.written == 0 || self.pending[self.written - 1] == b'\n';
            if at_start_of_record && self.is_full(record) {
                // A rotation that fails costs size, never records.
                let _ = self.rotate();
            }
            let end = self.written + self.batch(record);
            let n = self.file.write(&self.pending[self.written..end])?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += n;
            self.size += n as u64;
        }
        Ok(())
    }

    fn is_full(&self, next: usize) -> bool {
        self.max_size > 0 && self.size > 0 && self.size + next as u64 > self.max_size
    }

    /// How many bytes, whole records from the current place on, fit the file;
    /// at least the first record, which ends at `first`.
    fn batch(&self, first: usize) -> usize {
        let rest = &self.pending[self.written..];
        let room = match self.max_size {
            0 => rest.len(),
            max => {
                usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX).min(rest.len())
            }
        };
        match rest[..room].iter().rposition(|b| *b == b'\n') {
            Some(at) => (at + 1).max(first),
            None => first,
        }
    }

    /// Moves the files along. The new one is made first, so that a full disk
    /// stops the rotation before it has changed anything.
    fn rotate(&mut self) -> io::Result<()> {
        let mut fresh = self.path.as_os_str().to_owned();
        fresh.push(".new");
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&fresh)?;
        for n in (1..self.max_file).rev() {
            let from = if n == 1 { self.path.clone() } else { numbered(&self.path, n - 1) };
            match fs::rename(from, numbered(&self.path, n)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        // With one file this replaces it: a follower can still read its end.
        fs::rename(&fresh, &self.path)?;
        self.file = file;
        self.size = 0;
        Ok(())
    }

    /// Encodes the stream's line, in parts if it is long, and empties it.
    fn emit(&mut self, stream: Stream) {
        self.emit_parts(stream, MAX_PART + 1);
        let slot = stream as usize;
        let mut line = std::mem::take(&mut self.partial[slot]);
        if !line.is_empty() {
            self.encode(stream, &line);
        }
        line.clear();
        line.shrink_to(MAX_PART);
        self.partial[slot] = line;
    }

    /// Encodes parts of a full size while the line has `at_least` bytes.
    fn emit_parts(&mut self, stream: Stream, at_least: usize) {
        let slot = stream as usize;
        if self.partial[slot].len() < at_least {
            return;
        }
        let line = std::mem::take(&mut self.partial[slot]);
        let mut rest = line.as_slice();
        while rest.len() >= at_least {
            let (part, tail) = rest.split_at(char_boundary(rest, MAX_PART));
            self.encode(stream, part);
            rest = tail;
        }
        self.partial[slot] = rest.to_vec();
    }

    fn encode(&mut self, stream: Stream, line: &[u8]) {
        self.pending.extend_from_slice(b"{\"log\":");
        // Writing JSON of a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut self.pending, &String::from_utf8_lossy(line));
        self.pending.extend_from_slice(b",\"stream\":\"");
        self.pending.extend_from_slice(stream.name().as_bytes());
        self.pending.extend_from_slice(b"\",\"time\":\"");
        clock::rfc3339(clock::now(), &mut self.pending);
        self.pending.extend_from_slice(b"\"}\n");
    }
}

/// The last place at or before `at` that does not cut a UTF-8 character.
fn char_boundary(bytes: &[u8], at: usize) -> usize {
    (at.saturating_sub(3)..=at).rev().find(|i| bytes[*i] & 0xC0 != 0x80).unwrap_or(at)
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Record {
        log: String,
        stream: String,
        time: String,
    }

    fn read(path: &Path) -> Vec<Record> {
        let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn joined(path: &Path, files: u32) -> String {
        let older = (1..files).rev().map(|n| numbered(path, n));
        older.chain([path.to_owned()]).flat_map(|p| read(&p)).map(|r| r.log).collect()
    }

    #[test]
    fn records_carry_stream_and_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/c.log");
        let mut log = JsonFile::open(&path, 0, 1).unwrap();
        log.push(Stream::Stdout, b"one\ntw");
        log.push(Stream::Stderr, b"\"err\"\n");
        log.push(Stream::Stdout, b"o\n\xff");
        log.end(Stream::Stdout);
        log.flush().unwrap();
        let records = read(&path);
        let got: Vec<_> = records.iter().map(|r| (r.log.as_str(), r.stream.as_str())).collect();
        let want = [
            ("one\n", "stdout"),
            ("\"err\"\n", "stderr"),
            ("two\n", "stdout"),
            ("\u{fffd}", "stdout"),
        ];
        assert_eq!(got, want);
        assert!(records.iter().all(|r| r.time.len() == 30 && r.time.ends_with('Z')));
    }

    #[test]
    fn rotation_loses_and_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = JsonFile::open(&path, 2000, 50).unwrap();
        let mut want = String::new();
        for n in 0..500 {
            let line = format!("line {n} {}\n", "x".repeat(n % 40));
            log.push(Stream::Stdout, line.as_bytes());
            want += &line;
            if n % 7 == 0 {
                log.flush().unwrap();
            }
        }
        log.flush().unwrap();
        assert_eq!(joined(&path, 50), want);
        let files = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len());
        let sizes: Vec<_> = files.collect();
        assert!(sizes.len() > 10 && sizes.iter().all(|s| *s <= 2000), "{sizes:?}");
    }

    #[test]
    fn old_files_go() {
        let dir = tempfile::tempdir().unwrap();
        for max_file in [1, 3] {
            let path = dir.path().join(format!("{max_file}/c.log"));
            let mut log = JsonFile::open(&path, 500, max_file).unwrap();
            for n in 0..100 {
                log.push(Stream::Stdout, format!("{n}\n").as_bytes());
            }
            log.flush().unwrap();
            assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), max_file as usize);
            let text = joined(&path, max_file);
            assert!(text.ends_with("\n98\n99\n") && !text.contains("\n9\n"), "{text}");
        }
    }

    #[test]
    fn long_lines_are_split_at_characters() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = JsonFile::open(&path, 0, 1).unwrap();
        let line = "é".repeat(MAX_PART + 1) + "\n";
        for piece in format!("a{line}").as_bytes().chunks(1000) {
            log.push(Stream::Stdout, piece);
        }
        log.flush().unwrap();
        let records = read(&path);
        assert_eq!(records.len(), 3);
        assert!(records.iter().all(|r| r.log.len() <= MAX_PART));
        assert!(records[..2].iter().all(|r| !r.log.ends_with('\n')));
        assert_eq!(joined(&path, 1), format!("a{line}"));
    }

    #[test]
    fn a_line_of_exactly_one_part_is_one_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = JsonFile::open(&path, 0, 1).unwrap();
        log.push(Stream::Stdout, &[b"x".repeat(MAX_PART - 1), b"\n".to_vec()].concat());
        log.flush().unwrap();
        assert_eq!(read(&path).len(), 1);
    }

    #[test]
    fn a_full_disk_delays_and_does_not_lose() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let mut log = JsonFile::open(&path, 0, 1).unwrap();
        let good = std::mem::replace(
            &mut log.file,
            OpenOptions::new().append(true).open("/dev/full").unwrap(),
        );
        log.push(Stream::Stdout, b"kept\n");
        assert!(log.flush().is_err());
        log.file = good;
        log.push(Stream::Stdout, b"and more\n");
        log.flush().unwrap();
        assert_eq!(joined(&path, 1), "kept\nand more\n");
    }

    #[test]
    fn what_was_written_in_part_goes_on_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = JsonFile::open(&dir.path().join("c.log"), 0, 1).unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .unwrap();
        log.file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut want = String::new();
        for n in 0..10_000 {
            let line = format!("line {n}\n");
            log.push(Stream::Stdout, line.as_bytes());
            want += &line;
        }
        let (all, mut text, mut buffer) = (log.backlog(), Vec::new(), vec![0; 5000]);
        while log.flush().is_err() {
            assert_eq!(log.pending.len(), log.backlog() + log.written);
            assert!(log.written <= 1, "what is written takes room");
            let n = reader.read(&mut buffer).unwrap();
            text.extend_from_slice(&buffer[..n]);
        }
        drop(log);
        reader.read_to_end(&mut text).unwrap();
        assert_eq!(text.len(), all);
        let lines = text.split_inclusive(|b| *b == b'\n');
        let joined: String =
            lines.map(|l| serde_json::from_slice::<Record>(l).unwrap().log).collect();
        assert!(joined == want);
    }

    #[test]
    fn a_torn_record_is_closed_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        fs::write(&path, b"{\"log\":\"a").unwrap();
        let mut log = JsonFile::open(&path, 0, 1).unwrap();
        log.push(Stream::Stdout, b"b\n");
        log.flush().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("{\"log\":\"a\n{\"log\":\"b\\n\""), "{text}");
    }
}
