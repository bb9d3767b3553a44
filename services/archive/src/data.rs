//! The bytes of files.

use std::os::fd::OwnedFd;

use bytes::Buf;
use gantry_core::Result;
use rustix::fs::ftruncate;
use rustix::io::{Errno, pwrite, write};

use crate::bad;
use crate::input::Input;
use crate::reader::Entry;

/// Writes the data of an entry, with its holes, to a new file.
///
/// # Errors
/// The system's, and the input's.
pub fn write_data(fd: &OwnedFd, entry: &Entry, input: &mut Input) -> Result<()> {
    let failed = |err| bad::system("write it", &entry.path, err);
    let Some(sparse) = &entry.sparse else {
        let mut left = entry.stored;
        while left > 0 {
            let mut piece = input.take(left)?;
            left -= piece.len() as u64;
            while !piece.is_empty() {
                let written = retry(|| write(fd, &piece)).map_err(failed)?;
                piece.advance(written);
            }
        }
        return Ok(());
    };
    for &(offset, len) in &sparse.parts {
        let mut at = offset;
        let end = offset + len;
        while at < end {
            let mut piece = input.take(end - at)?;
            while !piece.is_empty() {
                let written = retry(|| pwrite(fd, &piece, at)).map_err(failed)?;
                piece.advance(written);
                at += written as u64;
            }
        }
    }
    ftruncate(fd, sparse.real_size).map_err(failed)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
