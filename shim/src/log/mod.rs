//! Log drivers: where the output of a container goes that the shim owns.
//!
//! A driver is one file in this folder, which says how its records look, and one arm in
//! `Form`. [`Driver`] makes records of what a process says, in files that rotate by size and
//! by age and may be compressed then.

mod files;
mod json_file;
mod local;
mod pack;
mod writer;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use writer::Driver;

use crate::error::{self, Error};
use json_file::JsonFile;
use local::Local;

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

/// Docker's driver, and the one that is meant when none is named.
pub const JSON_FILE: &str = "json-file";
/// The driver with the binary form of [`gantry_core::local_log`].
pub const LOCAL: &str = "local";

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
    /// A file is rotated when its first record is older; zero is never.
    pub max_age: Duration,
    /// Rotated files are compressed, in the time of the records that follow.
    pub compress: bool,
    /// A JSON object that is stored with the records; empty for none.
    pub attrs: String,
    /// Bytes that have room while nothing can be written.
    pub backlog: usize,
    /// When these are used up the process waits; else what it says is left out.
    pub blocking: bool,
}

/// Bytes per file when the caller does not say.
pub const DEFAULT_MAX_SIZE: u64 = 10 * 1024 * 1024;
/// Files kept when the caller does not say.
pub const DEFAULT_MAX_FILE: u32 = 3;
/// Age of a file when the caller does not say.
pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes that wait for room on the disk when the caller does not say.
pub const DEFAULT_BACKLOG: usize = 1024 * 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            driver: JSON_FILE.into(),
            path: PathBuf::new(),
            max_size: DEFAULT_MAX_SIZE,
            max_file: DEFAULT_MAX_FILE,
            max_age: DEFAULT_MAX_AGE,
            compress: false,
            attrs: String::new(),
            backlog: DEFAULT_BACKLOG,
            blocking: true,
        }
    }
}

/// How records look.
#[derive(Debug)]
enum Form {
    /// Docker's json-file.
    JsonFile(JsonFile),
    /// Binary.
    Local(Local),
}

impl Form {
    /// The form of a driver.
    ///
    /// # Errors
    /// The driver is unknown.
    fn of(options: &Options) -> Result<Self, Error> {
        match options.driver.as_str() {
            JSON_FILE => Ok(Self::JsonFile(JsonFile::new(&options.attrs))),
            LOCAL => Ok(Self::Local(Local::new(&options.attrs))),
            other => Err(error::invalid(format!(
                "log driver {other:?} is unknown, the shim has {JSON_FILE} and {LOCAL}"
            ))),
        }
    }

    /// Appends a record: a line with its end, or a part of one.
    fn encode(&self, stream: Stream, line: &[u8], at: Duration, out: &mut Vec<u8>) {
        match self {
            Self::JsonFile(form) => form.encode(stream, line, at, out),
            Self::Local(form) => form.encode(stream, line, at, out),
        }
    }

    /// What a new file begins with.
    fn header(&self, at: Duration) -> Vec<u8> {
        match self {
            Self::JsonFile(_) => Vec::new(),
            Self::Local(form) => form.header(at),
        }
    }

    /// Bytes of the first record of some; there is one.
    fn first(&self, records: &[u8]) -> usize {
        match self {
            Self::JsonFile(form) => form.first(records),
            Self::Local(form) => form.first(records),
        }
    }

    /// Bytes of as many whole records as there is room for.
    fn fitting(&self, records: &[u8], room: usize) -> usize {
        match self {
            Self::JsonFile(form) => form.fitting(records, room),
            Self::Local(form) => form.fitting(records, room),
        }
    }

    /// Makes good what a crash left behind at the end of a file, so that what follows can be
    /// read. Returns the file's size.
    fn mend(&self, file: &mut File) -> io::Result<u64> {
        match self {
            Self::JsonFile(form) => form.mend(file),
            Self::Local(form) => form.mend(file),
        }
    }
}
