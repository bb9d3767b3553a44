//! A place in one file of a log.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use flate2::read::GzDecoder;
use gantry_core::Timestamp;
use gantry_core::local_log::{self, Decoded, Kind};

use super::entry::{Attributes, LogEntry, Record};
use super::options::LogDriver;
use super::{LogCursor, files::Found};

/// Bytes read at a time.
pub(crate) const BLOCK: usize = 64 * 1024;
/// The same where only the first record is of interest.
const GLANCE: usize = 4 * 1024;
/// A record is never longer; what is, is damage.
const LONGEST: usize = 1 << 20;

/// How records look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Docker's json-file.
    Json,
    /// [`local_log`].
    Binary,
}

impl Form {
    /// The form that a driver writes; `None` for one that writes nothing.
    pub(crate) fn of(driver: LogDriver) -> Option<Self> {
        match driver {
            LogDriver::JsonFile => Some(Self::Json),
            LogDriver::Local => Some(Self::Binary),
            LogDriver::None => None,
        }
    }
}

/// A place in a file, compressed or not. All of its methods block.
#[derive(Debug)]
pub(crate) struct Place {
    file: Arc<File>,
    form: Form,
    inode: u64,
    /// Of a compressed file.
    unpacked: Option<Box<GzDecoder<FromStart>>>,
    /// What cursors know the file by; 0 while that is not known.
    identity: u64,
    /// Bytes that were read, of the file as it was before it was compressed.
    at: u64,
    /// The last of them: the beginning of a record whose end was not read yet.
    rest: Vec<u8>,
    attributes: Attributes,
    /// What follows can't be read.
    damaged: bool,
    /// Something came before this that is gone.
    pub(crate) gap: bool,
}

impl Place {
    /// The beginning of a file.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn new(found: Found, form: Form) -> io::Result<Self> {
        let inode = found.file.metadata()?.ino();
        let file = Arc::new(found.file);
        Ok(Self::of(file, inode, found.packed, form))
    }

    fn of(file: Arc<File>, inode: u64, packed: bool, form: Form) -> Self {
        let unpacked =
            packed.then(|| Box::new(GzDecoder::new(FromStart { file: Arc::clone(&file), at: 0 })));
        Self {
            file,
            form,
            inode,
            unpacked,
            identity: 0,
            at: 0,
            rest: Vec::new(),
            attributes: Attributes::default(),
            damaged: false,
            gap: false,
        }
    }

    /// The beginning of the same file, read apart from this.
    pub(crate) fn again(&self) -> Self {
        Self::of(Arc::clone(&self.file), self.inode, self.is_packed(), self.form)
    }

    /// The file's inode: it tells a file that is held open from others.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// The form of its records.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// Whether the file is compressed.
    pub(crate) fn is_packed(&self) -> bool {
        self.unpacked.is_some()
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether the file has no name any more.
    pub(crate) fn is_nameless(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| meta.nlink() == 0)
    }

    /// When something was written last.
    pub(crate) fn modified(&self) -> Option<Timestamp> {
        self.file.metadata().and_then(|meta| meta.modified()).ok().map(Timestamp::from)
    }

    /// What cursors know the file by: the time of its first record. 0 while it has none.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn identity(&mut self) -> io::Result<u64> {
        if self.identity == 0 {
            let mut first = self.again();
            while first.identity == 0 && first.at <= LONGEST as u64 {
                if first.read(GLANCE)?.is_none() {
                    break;
                }
            }
            self.identity = first.identity;
            self.attributes = first.attributes;
        }
        Ok(self.identity)
    }

    /// Goes to a place that was read up to before; nothing was read yet.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn skip_to(&mut self, at: u64) -> io::Result<()> {
        if at == 0 {
            return Ok(());
        }
        // From there on nothing tells it.
        self.identity()?;
        let Some(unpacked) = &mut self.unpacked else {
            self.at = at;
            return Ok(());
        };
        match io::copy(&mut unpacked.by_ref().take(at), &mut io::sink()) {
            Ok(skipped) => self.at = skipped,
            Err(_) => (self.damaged, self.gap) = (true, true),
        }
        Ok(())
    }

    /// Whether a record ends at a place of a file that may have lost its end since.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn is_end(&self, at: u64) -> io::Result<bool> {
        // What is compressed was whole.
        if at == 0 || self.is_packed() {
            return Ok(true);
        }
        let mut tail = [0; local_log::TAIL];
        let from = at.saturating_sub(tail.len() as u64);
        let tail = &mut tail[..(at - from) as usize];
        if at > self.file.metadata()?.len() {
            return Ok(false);
        }
        self.file.read_exact_at(tail, from)?;
        if self.form == Form::Json {
            return Ok(tail.last() == Some(&b'\n'));
        }
        let length = tail.first_chunk().and_then(|length| local_log::total(*length));
        let Some(begin) = length.and_then(|length| at.checked_sub(length as u64)) else {
            return Ok(false);
        };
        let mut head = [0; local_log::TAIL];
        self.file.read_exact_at(&mut head, begin)?;
        Ok(head == *tail)
    }

    /// Where it is.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn cursor(&mut self) -> io::Result<LogCursor> {
        let (file, at) = (self.identity()?, self.at - self.rest.len() as u64);
        Ok(LogCursor { file, at, ..LogCursor::default() })
    }

    /// The entries of the next bytes, some of which may belong to one that is not whole yet;
    /// `None` at the end.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn read(&mut self, bytes: usize) -> io::Result<Option<Vec<LogEntry>>> {
        if self.damaged {
            return Ok(None);
        }
        let mut block = vec![0; bytes];
        let n = match &mut self.unpacked {
            None => self.file.read_at(&mut block, self.at)?,
            Some(unpacked) => match unpacked.read(&mut block) {
                Ok(n) => n,
                Err(_) => return Ok(Some(vec![self.damage(self.at)])),
            },
        };
        if n == 0 {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.rest);
        let begin = self.at - bytes.len() as u64;
        bytes.extend_from_slice(&block[..n]);
        self.at += n as u64;
        let mut entries = Vec::new();
        let used = match self.form {
            Form::Json => self.lines(&bytes, begin, &mut entries),
            Form::Binary => self.records(&bytes, begin, &mut entries),
        };
        bytes.drain(..used);
        self.rest = bytes;
        Ok(Some(entries))
    }

    /// Reads lines of a json-file. Returns how many bytes they are.
    fn lines(&mut self, bytes: &[u8], begin: u64, entries: &mut Vec<LogEntry>) -> usize {
        let mut at = 0;
        while let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') {
            let line = &bytes[at..at + length];
            at += length + 1;
            let Some(record) = Record::parse(line) else { continue };
            let time = record.time();
            self.attributes.set(record.attributes().as_bytes());
            entries.push(LogEntry {
                stderr: record.stream == "stderr",
                partial: record.is_partial(),
                data: Bytes::copy_from_slice(record.log.as_bytes()),
                time,
                gap: false,
                attributes: self.attributes.get(),
                cursor: self.behind(begin + at as u64, time),
            });
        }
        if bytes.len() - at > LONGEST { bytes.len() } else { at }
    }

    /// Reads binary records. Returns how many bytes they are.
    fn records(&mut self, bytes: &[u8], begin: u64, entries: &mut Vec<LogEntry>) -> usize {
        let mut at = 0;
        loop {
            let (record, length) = match local_log::decode(&bytes[at..]) {
                Decoded::More => return at,
                Decoded::Damaged => {
                    entries.push(self.damage(begin + at as u64));
                    return bytes.len();
                }
                Decoded::Record(record, length) => (record, length),
            };
            at += length;
            let time = Timestamp {
                seconds: (record.nanos / 1_000_000_000) as i64,
                nanos: (record.nanos % 1_000_000_000) as i32,
            };
            let cursor = self.behind(begin + at as u64, time);
            if record.kind == Kind::Attributes {
                self.attributes.set(record.data);
                continue;
            }
            entries.push(LogEntry {
                stderr: record.kind == Kind::Stderr,
                partial: !record.data.ends_with(b"\n"),
                data: Bytes::copy_from_slice(record.data),
                time,
                gap: false,
                attributes: self.attributes.get(),
                cursor,
            });
        }
    }

    /// The cursor behind a record; the first one's time tells the file from others.
    fn behind(&mut self, at: u64, time: Timestamp) -> LogCursor {
        if self.identity == 0 {
            self.identity = LogCursor::file(time);
        }
        LogCursor { file: self.identity, at, ..LogCursor::default() }
    }

    /// Nothing more is read of the file.
    fn damage(&mut self, at: u64) -> LogEntry {
        self.damaged = true;
        LogEntry::missing(LogCursor { file: self.identity, at, ..LogCursor::default() })
    }
}

/// Reads a file from its beginning, whoever else reads it.
#[derive(Debug)]
struct FromStart {
    file: Arc<File>,
    at: u64,
}

impl Read for FromStart {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(into, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use gantry_core::local_log::Record as Binary;

    use super::*;

    fn json(n: u32) -> Vec<u8> {
        let time = format!("2026-01-02T03:04:05.{n:09}Z");
        format!(
            "{{\"log\":\"{n}\\n\",\"stream\":\"stdout\",\"attrs\":{{\"n\":\"x\"}},\"time\":\"{time}\"}}\n"
        )
        .into_bytes()
    }

    fn binary(n: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let nanos = 1_767_323_045_000_000_000 + u64::from(n);
        if n == 1 {
            let data = br#"{"n":"x"}"#;
            local_log::encode(Binary { kind: Kind::Attributes, nanos, data }, &mut out);
        }
        let data = format!("{n}\n");
        local_log::encode(Binary { kind: Kind::Stdout, nanos, data: data.as_bytes() }, &mut out);
        out
    }

    fn content(form: Form, numbers: std::ops::Range<u32>) -> Vec<u8> {
        let record = if form == Form::Json { json } else { binary };
        numbers.flat_map(record).collect()
    }

    fn place(form: Form, bytes: &[u8], packed: bool) -> Place {
        let mut file = tempfile::tempfile().unwrap();
        if packed {
            let mut encoder = GzEncoder::new(file.try_clone().unwrap(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(bytes).unwrap();
        }
        Place::new(Found { file, packed }, form).unwrap()
    }

    fn all(place: &mut Place, bytes: usize) -> Vec<LogEntry> {
        let mut all = Vec::new();
        while let Some(entries) = place.read(bytes).unwrap() {
            all.extend(entries);
        }
        all
    }

    #[test]
    fn files_are_read_from_every_cursor_in_every_form() {
        for form in [Form::Json, Form::Binary] {
            let bytes = content(form, 1..60);
            for packed in [false, true] {
                let mut first = place(form, &bytes, packed);
                let entries = all(&mut first, 100);
                let texts: Vec<_> = entries.iter().map(|e| e.data.clone()).collect();
                let wanted: Vec<_> = (1..60).map(|n| Bytes::from(format!("{n}\n"))).collect();
                assert_eq!(texts, wanted);
                assert!(entries.iter().all(|e| e.attributes.as_ref().unwrap()["n"] == "x"));
                let identity = place(form, &bytes, packed).identity().unwrap();
                assert_eq!(identity, 1_767_323_045_000_000_001);
                for (n, entry) in entries.iter().enumerate() {
                    let mut later = place(form, &bytes, packed);
                    assert!(later.is_end(entry.cursor.at).unwrap());
                    assert_eq!(entry.cursor.file, identity);
                    later.skip_to(entry.cursor.at).unwrap();
                    assert_eq!(later.cursor().unwrap(), entry.cursor);
                    assert_eq!(all(&mut later, BLOCK), entries[n + 1..]);
                }
            }
        }
    }

    #[test]
    fn places_where_no_record_ends_are_known() {
        for form in [Form::Json, Form::Binary] {
            let bytes = content(form, 2..5);
            let place = place(form, &bytes, false);
            let ends = (0..=bytes.len() as u64 + 9).filter(|at| place.is_end(*at).unwrap());
            let length = content(form, 2..3).len() as u64;
            assert_eq!(ends.collect::<Vec<_>>(), [0, length, 2 * length, 3 * length]);
        }
    }

    #[test]
    fn damage_is_told_once() {
        let mut bytes = content(Form::Binary, 1..3);
        bytes.extend_from_slice(&[0; 100]);
        let entries = all(&mut place(Form::Binary, &bytes, false), BLOCK);
        assert_eq!(entries.iter().map(|e| e.gap).collect::<Vec<_>>(), [false, false, true]);
        let whole = place(Form::Json, &content(Form::Json, 1..2000), true);
        whole.file.set_len(whole.file.metadata().unwrap().len() - 9).unwrap();
        let entries = all(&mut whole.again(), BLOCK);
        assert_eq!(entries.iter().filter(|e| e.gap).count(), 1);
        assert!(entries.last().unwrap().gap && entries[0].data == "1\n");
        // A torn line is none.
        let mut torn = content(Form::Json, 1..2);
        torn.extend_from_slice(b"{\"log\":\"to\n");
        torn.extend(content(Form::Json, 2..3));
        assert_eq!(all(&mut place(Form::Json, &torn, false), BLOCK).len(), 2);
    }
}
