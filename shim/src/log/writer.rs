//! Makes records of bytes and writes them.

use std::io;
use std::time::Duration;

use super::files::Files;
use super::{Form, Options, Stream};
use crate::clock;
use crate::error::{self, Error};

/// A longer line is stored in parts, of which only the last has the newline.
const MAX_PART: usize = 16 * 1024;
/// A clock that is set back by more than this is believed.
const SET_BACK: Duration = Duration::from_secs(1);

/// An open log.
///
/// Records are encoded at once and wait in a buffer until they are written;
/// a file is changed only between records, so rotation never cuts one.
#[derive(Debug)]
pub struct Driver {
    form: Form,
    files: Files,
    /// Unfinished line of each stream.
    partial: [Vec<u8>; 2],
    /// Encoded records that are not written yet.
    pending: Vec<u8>,
    /// How much of `pending` is written.
    written: usize,
    /// Bytes that are missing of a record that is written in part.
    open: usize,
    /// Time of the last record.
    last: Duration,
    clock: fn() -> Duration,
    /// Bytes that may wait.
    bound: usize,
    blocking: bool,
}

impl Driver {
    /// Opens the log that `options` name for appending, making its directory if need be. What a
    /// crash left behind at its end is made good, so that what follows stays readable.
    ///
    /// # Errors
    /// The driver is unknown, or its file cannot be opened.
    pub fn open(options: &Options) -> Result<Self, Error> {
        Self::with_clock(options, clock::now)
    }

    fn with_clock(options: &Options, clock: fn() -> Duration) -> Result<Self, Error> {
        let form = Form::of(options)?;
        let files = Files::open(options, &form, clock())
            .map_err(|e| error::io(format!("open the log {}", options.path.display()), e))?;
        Ok(Self {
            form,
            files,
            partial: [Vec::new(), Vec::new()],
            pending: Vec::new(),
            written: 0,
            open: 0,
            last: Duration::ZERO,
            clock,
            bound: options.backlog,
            blocking: options.blocking,
        })
    }

    /// Takes bytes of a stream; they are in order and of any size. What was
    /// taken and not yet written is written by [`Driver::flush`].
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

    /// Ends a stream: an unfinished line becomes a record.
    pub fn end(&mut self, stream: Stream) {
        if !self.partial[stream as usize].is_empty() {
            self.emit(stream);
        }
    }

    /// Bytes that wait to be written.
    pub fn backlog(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Whether as much waits to be written as may.
    pub fn is_full(&self) -> bool {
        self.backlog() >= self.bound
    }

    /// Whether the process is to wait while the log is full.
    pub fn is_blocking(&self) -> bool {
        self.blocking
    }

    /// Writes what is pending. After an error (a full disk) the rest stays
    /// pending, and the next call goes on exactly where this one stopped.
    ///
    /// # Errors
    /// The file cannot be written now.
    pub fn flush(&mut self) -> io::Result<()> {
        let result = self.write_pending();
        let written = std::mem::take(&mut self.written);
        if result.is_ok() {
            self.pending.clear();
            // A burst must not keep its buffer for the rest of the shim's life.
            self.pending.shrink_to(MAX_PART);
        } else {
            self.pending.drain(..written);
        }
        self.files.pack(written);
        result
    }

    fn write_pending(&mut self) -> io::Result<()> {
        while self.written < self.pending.len() {
            if self.open == 0 {
                let first = self.form.first(&self.pending[self.written..]);
                if self.files.is_due(first, self.last) {
                    let now = self.tick();
                    let header = self.form.header(now);
                    // A rotation that fails costs size, never records.
                    let _ = self.files.rotate(&header);
                }
            }
            let rest = &self.pending[self.written..];
            let end = match self.open {
                // At least one record, whatever its size.
                0 => self.form.fitting(rest, self.files.room()).max(self.form.first(rest)),
                open => open,
            };
            let n = self.files.write(&rest[..end], self.last)?;
            self.advance(n, end);
        }
        Ok(())
    }

    /// Notes that `n` of `end` bytes are written, which end with a record.
    fn advance(&mut self, n: usize, end: usize) {
        let stop = self.written + n;
        let mut at = if n == end { stop } else { self.written + self.open };
        while at < stop {
            at += self.form.first(&self.pending[at..]);
        }
        self.written = stop;
        self.open = at - stop;
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
        let at = self.tick();
        self.form.encode(stream, line, at, &mut self.pending);
    }

    /// The time of the next record. Records that follow each other have no two the same: the
    /// first one's tells a file from others.
    fn tick(&mut self) -> Duration {
        let now = (self.clock)();
        let next = self.last + Duration::from_nanos(1);
        let believed = now >= next || next - now > SET_BACK;
        self.last = if believed { now } else { next };
        self.last
    }
}

/// The last place at or before `at` that does not cut a UTF-8 character.
fn char_boundary(bytes: &[u8], at: usize) -> usize {
    (at.saturating_sub(3)..=at).rev().find(|i| bytes[*i] & 0xC0 != 0x80).unwrap_or(at)
}

#[cfg(test)]
mod tests;
