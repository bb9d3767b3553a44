//! Files with holes, as GNU tar writes them in its form 1.0.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::input::BLOCK;

/// Parts of a file with holes; one with more is written with its holes.
const MAX_PARTS: usize = 10_000;

/// Where a file's data lie, if it has holes: offsets and lengths. `None` for one without, and
/// when that can't be told.
pub(crate) fn data_parts(file: &File, meta: &Metadata) -> Option<Vec<(u64, u64)>> {
    let size = meta.len();
    if meta.blocks().saturating_mul(512) >= size {
        return None;
    }
    let parts = search(file, size);
    // Looking for holes moves the place where it is read.
    seek(file, SeekFrom::Start(0)).ok()?;
    parts
}

fn search(file: &File, size: u64) -> Option<Vec<(u64, u64)>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while at < size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        if data >= size {
            break;
        }
        let end = seek(file, SeekFrom::Hole(data)).ok()?.min(size);
        if end <= data || parts.len() >= MAX_PARTS {
            return None;
        }
        parts.push((data, end - data));
        at = end;
    }
    Some(parts)
}

/// A map as GNU tar writes it before the data: how many parts, then each one's offset and
/// length, a line each. An empty part at the end tells how long the file is.
pub(crate) fn sparse_map(parts: &[(u64, u64)], size: u64) -> Vec<u8> {
    let end = parts.last().map_or(0, |(at, len)| at + len);
    let tail = (end < size).then_some((size, 0));
    let mut map = format!("{}\n", parts.len() + usize::from(tail.is_some())).into_bytes();
    for (at, len) in parts.iter().copied().chain(tail) {
        map.extend_from_slice(format!("{at}\n{len}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

/// The data between the holes of a file; zeros where it has become shorter.
pub(crate) struct Parts<'a> {
    file: &'a File,
    parts: std::slice::Iter<'a, (u64, u64)>,
    /// Offset and length of what is left of a part.
    current: (u64, u64),
}

impl<'a> Parts<'a> {
    pub(crate) fn new(file: &'a File, parts: &'a [(u64, u64)]) -> Self {
        Self { file, parts: parts.iter(), current: (0, 0) }
    }
}

impl Read for Parts<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.1 == 0 {
            match self.parts.next() {
                Some(part) => self.current = *part,
                None => return Ok(0),
            }
        }
        let (at, left) = self.current;
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = match self.file.read_at(&mut buffer[..want], at)? {
            0 => {
                buffer[..want].fill(0);
                want
            }
            read => read,
        };
        self.current = (at + read as u64, left - read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_and_told() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; 4096], 1 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        let parts = data_parts(&file, &file.metadata().unwrap()).unwrap();
        let total: u64 = parts.iter().map(|(_, len)| len).sum();
        assert!((4096..1 << 20).contains(&total), "{parts:?}");
        let map = sparse_map(&parts, 4 << 20);
        assert_eq!(map.len() % BLOCK, 0);
        let text = String::from_utf8(map).unwrap();
        let lines: Vec<_> = text.trim_end_matches('\0').lines().collect();
        assert_eq!(lines[0], (parts.len() + 1).to_string());
        assert_eq!(&lines[lines.len() - 2..], ["4194304", "0"]);
        let mut data = Vec::new();
        Parts::new(&file, &parts).read_to_end(&mut data).unwrap();
        assert_eq!(data.len() as u64, total);
        assert_eq!(data.iter().filter(|b| **b == 1).count(), 4096);
    }

    #[test]
    fn what_was_cut_meanwhile_is_zero() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"abc", 0).unwrap();
        let mut data = Vec::new();
        Parts::new(&file, &[(0, 3), (10, 4)]).read_to_end(&mut data).unwrap();
        assert_eq!(data, b"abc\0\0\0\0");
        file.write_all_at(&[7; 8192], 0).unwrap();
        assert!(data_parts(&file, &file.metadata().unwrap()).is_none(), "it has no holes");
    }
}
