//! The files of an archive into the content store, as they come.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use futures::StreamExt;
use gantry_core::content::BlobStream;
use gantry_core::{Descriptor, Digest, Error, Kind, Labels, Result};
use tar::EntryType;
use tokio::runtime::Handle;

use super::{INDEX, LAYOUT, MANIFEST};
use crate::fetch::Fetcher;

/// Most entries of an archive.
const MAX_ENTRIES: usize = 100_000;
/// Longest path in an archive, in bytes.
const MAX_PATH: usize = 4096;
/// Most bytes of all paths and links together: they are held until the end.
const MAX_NAMES: usize = 16 << 20;
/// Most bytes that the headers of an entry may take.
const MAX_HEADERS: u64 = 1 << 20;
/// Bytes that are written at a time.
const PIECE: usize = 256 << 10;
/// Bytes behind the end of the archive that are read so that its sender can end.
const PADDING: u64 = 1 << 20;
/// Largest window of a zstd frame, as a power of two: what zstd's own tool takes.
const MAX_WINDOW_LOG: u32 = 27;

/// What was in an archive.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// The documents at its top, by name.
    pub(super) documents: HashMap<&'static str, Vec<u8>>,
    /// Every other file, by its path; in the content store already.
    pub(super) files: HashMap<String, Stored>,
    /// Links, by their path.
    links: HashMap<String, String>,
}

/// A file in the content store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

impl Entries {
    /// A file, perhaps by links.
    pub(super) fn find(&self, path: &str) -> Option<&Stored> {
        let mut path = clean(path)?;
        // More links than this are a circle.
        for _ in 0..8 {
            match self.files.get(&path) {
                Some(found) => return Some(found),
                None => path = self.links.get(&path)?.clone(),
            }
        }
        None
    }
}

/// Reads an archive, compressed or not, and stores its files.
///
/// # Errors
/// `InvalidArgument` for something that is no archive, `DataLoss` for files that do
/// not match the digests which they are named by, `ResourceExhausted` for what is too
/// large or too much.
pub(super) async fn read(fetcher: Fetcher, bytes: BlobStream) -> Result<Entries> {
    let handle = Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        let mut reader = BufReader::new(Bytewise { bytes, left: Bytes::new(), handle });
        let mut store = Store { fetcher, found: Entries::default(), count: 0, names: 0 };
        let done = match compression(reader.fill_buf().map_err(broken)?) {
            Compression::None => store.all(&mut reader),
            Compression::Gzip => store.all(MultiGzDecoder::new(&mut reader)),
            Compression::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(&mut reader).map_err(broken)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(broken)?;
                store.all(decoder)
            }
        };
        done?;
        std::io::copy(&mut reader.take(PADDING), &mut std::io::sink()).map_err(broken)?;
        Ok(store.found)
    });
    reading.await.map_err(|err| Error::internal("read an archive").with_source(err))?
}

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// How something is compressed that begins so.
pub(super) fn compression(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// A stream of bytes for code that reads and waits.
struct Bytewise {
    bytes: BlobStream,
    left: Bytes,
    handle: Handle,
}

impl Read for Bytewise {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.left.is_empty() {
            match self.handle.block_on(self.bytes.next()) {
                None => return Ok(0),
                Some(piece) => self.left = piece.map_err(std::io::Error::other)?,
            }
        }
        let count = into.len().min(self.left.len());
        into[..count].copy_from_slice(&self.left.split_to(count));
        Ok(count)
    }
}

/// An archive of which no more is read than one entry and the headers of the next
/// may take: long names and the like are read into memory.
struct Bounded<R> {
    archive: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !into.is_empty() {
            let words = "the headers of an entry in the archive are too long";
            return Err(std::io::Error::other(Error::resource_exhausted(words)));
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(into.len());
        let count = self.archive.read(&mut into[..room])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

struct Store {
    fetcher: Fetcher,
    found: Entries,
    count: usize,
    /// Bytes of the paths and links so far.
    names: usize,
}

impl Store {
    /// Counts what is to be remembered of an entry.
    fn remember(&mut self, bytes: usize) -> Result<()> {
        self.names += bytes;
        if self.names <= MAX_NAMES {
            return Ok(());
        }
        let words = format!("the names in the archive are longer than {MAX_NAMES} bytes");
        Err(Error::resource_exhausted(words))
    }

    fn all(&mut self, archive: impl Read) -> Result<()> {
        let left = Rc::new(Cell::new(MAX_HEADERS));
        let mut archive = tar::Archive::new(Bounded { archive, left: Rc::clone(&left) });
        for entry in archive.entries().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            left.set(entry.size().saturating_add(MAX_HEADERS));
            self.count += 1;
            if self.count > MAX_ENTRIES {
                let words = format!("the archive has more than {MAX_ENTRIES} entries");
                return Err(Error::resource_exhausted(words));
            }
            self.entry(entry)?;
        }
        match self.count {
            0 => Err(Error::invalid_argument("the archive is empty: invalid argument")),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, mut entry: tar::Entry<'_, impl Read>) -> Result<()> {
        let raw = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let path = clean(&raw).ok_or_else(|| {
            let shown: String = raw.chars().take(200).collect();
            Error::invalid_argument(format!("path {shown:?} leaves the archive: invalid argument"))
        })?;
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            kind @ (EntryType::Symlink | EntryType::Link) => {
                let to = entry.link_name_bytes().unwrap_or_default();
                let to = String::from_utf8_lossy(&to).into_owned();
                let beside = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let to = if kind == EntryType::Link { to } else { format!("{beside}/{to}") };
                // A link out of the archive leads nowhere.
                if let Some(to) = clean(&to) {
                    self.remember(path.len() + to.len())?;
                    self.found.links.insert(path, to);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let known = [LAYOUT, INDEX, MANIFEST].into_iter().find(|name| *name == path);
        if let Some(name) = known {
            let limit = self.fetcher.config.max_document;
            let mut text = Vec::new();
            (&mut entry).take(limit + 1).read_to_end(&mut text).map_err(broken)?;
            if (text.len() as u64) < entry.size().min(limit + 1) {
                return Err(Error::invalid_argument("the archive ends early: invalid argument"));
            }
            if text.len() as u64 > limit {
                return Err(Error::resource_exhausted(format!(
                    "{name} of the archive is longer than the {limit} bytes that are accepted"
                )));
            }
            self.found.documents.insert(name, text);
            return Ok(());
        }
        let size = entry.size();
        self.remember(path.len())?;
        let stored = self.file(&path, size, entry)?;
        self.found.files.insert(path, stored);
        Ok(())
    }

    /// Stores a file. What its path says of its digest has to be true.
    fn file(&mut self, path: &str, size: u64, mut entry: impl Read) -> Result<Stored> {
        let expected = digest_of(path)?;
        let fetcher = &self.fetcher;
        let handle = Handle::current();
        let reference = format!("import-{:032x}", rand::random::<u128>());
        let opened = handle.block_on(fetcher.content.writer(&fetcher.ctx, &reference, 0, None));
        let mut writer = opened?;
        let written = (|| {
            loop {
                let mut piece = BytesMut::zeroed(PIECE);
                let count = fill(&mut entry, &mut piece).map_err(broken)?;
                if count == 0 {
                    break;
                }
                piece.truncate(count);
                handle.block_on(writer.write(piece.freeze()))?;
            }
            if writer.status().offset < size {
                return Err(Error::invalid_argument("the archive ends early: invalid argument"));
            }
            let found = writer.digest();
            match expected {
                Some(expected)
                    if expected.algorithm() == found.algorithm() && expected != found =>
                {
                    Err(Error::data_loss(format!("{path} of the archive holds {found}")))
                }
                Some(expected) => Ok(Stored { digest: expected, size }),
                None => Ok(Stored { digest: found, size }),
            }
        })();
        let stored = written.and_then(|stored| {
            let (size, digest) = (Some(stored.size), Some(&stored.digest));
            match handle.block_on(writer.commit(size, digest, Labels::new())) {
                Ok(_) => Ok(stored),
                // It was here: the lease holds what nothing else may.
                Err(err) if err.is_already_exists() => {
                    handle.block_on(fetcher.hold("content", stored.digest.as_str()))?;
                    handle.block_on(fetcher.content.info(&fetcher.ctx, &stored.digest))?;
                    Ok(stored)
                }
                Err(err) => Err(err),
            }
        });
        if stored.is_err() {
            drop(writer);
            // Gone already when it was committed.
            let _ = handle.block_on(fetcher.content.abort(&fetcher.ctx, &reference));
        }
        stored.map_err(|err| err.context(format!("import {path}")))
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(from: &mut impl Read, into: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < into.len() {
        match from.read(&mut into[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(count)
}

/// The digest that a blob of a layout is named by.
fn digest_of(path: &str) -> Result<Option<Digest>> {
    let Some(named) = path.strip_prefix("blobs/") else { return Ok(None) };
    let text = named.replacen('/', ":", 1);
    Digest::parse(&text).map(Some).map_err(|err| err.context(format!("{path} of the archive")))
}

/// A path without `.`, `..` and slashes at its ends; `None` for one that leaves.
pub(super) fn clean(path: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    let cleaned = parts.join("/");
    (cleaned.len() <= MAX_PATH && !cleaned.contains('\0')).then_some(cleaned)
}

/// The descriptor of a stored file of some type.
impl Stored {
    pub(super) fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: self.digest.clone(),
            size: self.size,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        }
    }
}

/// An archive that can't be read. What went wrong on the way to it says so itself.
fn broken(err: std::io::Error) -> Error {
    let err = match err.downcast::<Error>() {
        Ok(own) => return own,
        Err(err) => err,
    };
    Error::new(Kind::InvalidArgument, "read the archive").with_source(err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_within() {
        for (path, expected) in [
            ("./a/b/", Some("a/b")),
            ("a/../b", Some("b")),
            ("/a//b", Some("a/b")),
            ("..", None),
            ("a/../../b", None),
            ("a\0b", None),
        ] {
            assert_eq!(clean(path).as_deref(), expected, "{path:?}");
        }
        assert_eq!(clean(&"a".repeat(MAX_PATH + 1)), None);
    }

    #[test]
    fn links_are_followed_and_circles_end() {
        let stored = Stored { digest: Digest::of(b""), size: 0 };
        let mut entries = Entries::default();
        entries.files.insert("a/layer.tar".into(), stored.clone());
        for (from, to) in [("b/layer.tar", "a/layer.tar"), ("c", "d"), ("d", "c")] {
            entries.links.insert(from.into(), to.into());
        }
        assert_eq!(entries.find("./b/layer.tar"), Some(&stored));
        assert_eq!(entries.find("c"), None);
        assert_eq!(entries.find("e"), None);
    }

    #[test]
    fn blobs_are_named_by_their_digests() {
        let digest = Digest::of(b"x");
        let path = format!("blobs/sha256/{}", digest.hex());
        assert_eq!(digest_of(&path).unwrap(), Some(digest));
        assert_eq!(digest_of("a/layer.tar").unwrap(), None);
        assert!(digest_of("blobs/sha256/../../x").is_err());
    }
}
