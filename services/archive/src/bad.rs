//! Errors about entries.

use gantry_core::{Error, Kind};
use rustix::io::Errno;

/// Longest part of a name that is repeated in a message.
const SHOWN: usize = 200;

/// A name from an archive, fit to be shown.
pub fn show(name: &[u8]) -> String {
    let cut = &name[..name.len().min(SHOWN)];
    let more = if name.len() > SHOWN { "…" } else { "" };
    format!("{:?}{more}", String::from_utf8_lossy(cut))
}

/// An entry that is refused.
pub fn entry(path: &[u8], why: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("archive entry {}: {why}", show(path)))
}

/// An archive that can't be read any further.
pub fn archive(why: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("not a whole tar archive: {why}"))
}

/// A system call that failed for an entry. What only an odd archive can
/// cause is the archive's fault.
pub fn system(what: &str, path: &[u8], err: Errno) -> Error {
    let error = Error::io(format!("archive entry {}: {what}", show(path)), err.into());
    match err {
        Errno::NAMETOOLONG
        | Errno::LOOP
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::INVAL
        | Errno::XDEV
        | Errno::TOOBIG
        | Errno::RANGE
        | Errno::EXIST
        | Errno::MLINK => error.with_kind(Kind::InvalidArgument),
        Errno::FBIG => error.with_kind(Kind::ResourceExhausted),
        _ => error,
    }
}
