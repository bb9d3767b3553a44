//! Tar archives between streams and directories.
//!
//! Neither side is believed. What comes in an archive is bounded and checked before it is used
//! ([`reader`]). Directories may be at work while they are packed or unpacked into, as those of
//! a running container are: every name is looked up in an open directory ([`walk`]), links are
//! followed by this crate and only within the root, never by the kernel, and what was looked at
//! is what is read or written. So nothing, in an archive or in a directory, leads out of the root.
//!
//! | module | what it does |
//! | --- | --- |
//! | `inflate`, `input`, `reader` | archives as they arrive, and their entries |
//! | `walk` | paths below a root |
//! | `pack`, `stream` | archives of directories |
//! | `unpack` | directories of archives |
//! | `attributes`, `data`, `names`, `numbers`, `sparse`, `bad` | what these share with layers of images |
#![deny(unsafe_code)]

pub mod attributes;
pub mod bad;
pub mod data;
mod holes;
pub mod inflate;
pub mod input;
pub mod names;
pub mod numbers;
pub mod pack;
mod pax;
pub mod reader;
pub mod sparse;
pub mod stream;
#[cfg(test)]
mod tests;
mod thread;
pub mod unpack;
pub mod walk;

pub use thread::{is_root, own_umask};

/// What an archive may ask for at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed archive.
    pub max_size: u64,
    /// Entries.
    pub max_entries: u64,
    /// Bytes of memory for what is remembered until the end of the archive: paths, and the
    /// attributes of directories.
    pub max_kept: usize,
}

/// Far more than any image has, and few enough to end.
impl Default for Limits {
    fn default() -> Self {
        Self { max_size: 256 << 30, max_entries: 20_000_000, max_kept: 128 << 20 }
    }
}
