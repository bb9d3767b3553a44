//! Log drivers: where the output of a container goes that the shim owns.
//!
//! A driver is one file in this folder and one arm in [`Driver::open`].

mod json_file;

use std::io;
use std::path::PathBuf;

pub use json_file::JsonFile;

use crate::error::{self, Error};

/// Which of the two output streams bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything of a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// The name in log records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// What a log is opened with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The driver's name.
    pub driver: String,
    /// The log's path.
    pub path: PathBuf,
    /// Bytes after which a file is rotated; 0 is never.
    pub max_size: u64,
    /// Files kept, the current one included.
    pub max_file: u32,
}

/// Bytes per file when the caller does not say.
pub const DEFAULT_MAX_SIZE: u64 = 10 * 1024 * 1024;
/// Files kept when the caller does not say.
pub const DEFAULT_MAX_FILE: u32 = 3;

/// An open log.
#[derive(Debug)]
pub enum Driver {
    /// Docker's json-file.
    JsonFile(JsonFile),
}

impl Driver {
    /// Opens the log that `options` name.
    ///
    /// # Errors
    /// The driver is unknown, or its file cannot be opened.
    pub fn open(options: &Options) -> Result<Self, Error> {
        match options.driver.as_str() {
            "json-file" => {
                let opened = JsonFile::open(&options.path, options.max_size, options.max_file);
                opened
                    .map(Self::JsonFile)
                    .map_err(|e| error::io(format!("open the log {}", options.path.display()), e))
            }
            other => Err(error::invalid(format!(
                "log driver {other:?} is unknown, the shim has json-file"
            ))),
        }
    }

    /// Takes bytes of a stream; they are in order and of any size. What was
    /// taken and not yet written is written by [`Driver::flush`].
    pub fn push(&mut self, stream: Stream, bytes: &[u8]) {
        match self {
            Self::JsonFile(log) => log.push(stream, bytes),
        }
    }

    /// Ends a stream: an unfinished line becomes a record.
    pub fn end(&mut self, stream: Stream) {
        match self {
            Self::JsonFile(log) => log.end(stream),
        }
    }

    /// Writes what is pending. After an error (a full disk) the rest stays
    /// pending, and the next call goes on exactly where this one stopped.
    ///
    /// # Errors
    /// The file cannot be written now.
    pub fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::JsonFile(log) => log.flush(),
        }
    }

    /// Bytes that wait to be written.
    pub fn backlog(&self) -> usize {
        match self {
            Self::JsonFile(log) => log.backlog(),
        }
    }
}
