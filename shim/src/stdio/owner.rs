//! Output that the shim keeps itself: the log, and everyone attached.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::attach;
use crate::log::{self, Stream};
use crate::report::Report;

/// The log and the attach socket of one process.
#[derive(Debug)]
pub struct Owner {
    /// Held while records are encoded and written, never across an await.
    log: Mutex<Option<log::Driver>>,
    attach: Option<attach::Server>,
    report: Report,
    /// Set while the log can't be written.
    waits: AtomicBool,
}

impl Owner {
    /// Keeps output in `log` and shows it on `attach`.
    pub fn new(log: Option<log::Driver>, attach: Option<attach::Server>, report: Report) -> Self {
        Self { log: Mutex::new(log), attach, report, waits: AtomicBool::new(false) }
    }

    /// Takes bytes of a stream; returns when they are logged and every client
    /// has room for more.
    pub async fn take(&self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = self.log().as_mut() {
            log.push(stream, bytes);
        }
        if let Err(e) = self.try_flush() {
            // Whoever looks on sees it all the same, and why nothing follows.
            self.show(stream, bytes).await;
            let text = format!("the log cannot be written, the container's output waits: {e}");
            self.show(Stream::Stderr, format!("gantry: {text}\r\n").as_bytes()).await;
            self.report.warn(&text);
            return self.flush().await;
        }
        self.show(stream, bytes).await;
    }

    async fn show(&self, stream: Stream, bytes: &[u8]) {
        if let Some(attach) = &self.attach {
            attach.broadcast(stream, bytes).await;
        }
    }

    /// A stream ended: its unfinished line becomes a record.
    pub async fn end(&self, stream: Stream) {
        if let Some(log) = self.log().as_mut() {
            log.end(stream);
        }
        if let Err(e) = self.try_flush() {
            self.report.warn(&format!("the log cannot be written, its end waits: {e}"));
            self.flush().await;
        }
    }

    /// Whether what is taken is stored at once.
    pub fn keeps_up(&self) -> bool {
        !self.waits.load(Ordering::Relaxed)
    }

    /// Tells attached clients the exit status.
    pub fn finish(&self, status: i32) {
        if let Some(attach) = &self.attach {
            attach.finish(status);
        }
    }

    /// Writes what is pending, however long the disk is full: meanwhile the
    /// process's pipe fills up and the process waits.
    async fn flush(&self) {
        self.waits.store(true, Ordering::Relaxed);
        while self.try_flush().is_err() {
            tokio::time::sleep(super::DISK_FULL_PAUSE).await;
        }
        self.waits.store(false, Ordering::Relaxed);
        self.report.warn("the log is written again");
    }

    fn try_flush(&self) -> std::io::Result<()> {
        self.log().as_mut().map_or(Ok(()), log::Driver::flush)
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Option<log::Driver>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
