//! Output that the shim keeps itself: the log, and everyone attached.

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
}

impl Owner {
    /// Keeps output in `log` and shows it on `attach`.
    pub fn new(log: Option<log::Driver>, attach: Option<attach::Server>, report: Report) -> Self {
        Self { log: Mutex::new(log), attach, report }
    }

    /// Takes bytes of a stream; returns when they are logged and every client
    /// has room for more.
    pub async fn take(&self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = self.log().as_mut() {
            log.push(stream, bytes);
        }
        self.flush().await;
        if let Some(attach) = &self.attach {
            attach.broadcast(stream, bytes).await;
        }
    }

    /// A stream ended: its unfinished line becomes a record.
    pub async fn end(&self, stream: Stream) {
        if let Some(log) = self.log().as_mut() {
            log.end(stream);
        }
        self.flush().await;
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
        let mut warned = false;
        loop {
            let flushed = match self.log().as_mut() {
                Some(log) => log.flush(),
                None => Ok(()),
            };
            match flushed {
                Ok(()) => break,
                Err(e) if !warned => {
                    self.report.warn(&format!(
                        "the log cannot be written, the container's output waits: {e}"
                    ));
                    warned = true;
                }
                Err(_) => {}
            }
            tokio::time::sleep(super::DISK_FULL_PAUSE).await;
        }
        if warned {
            self.report.warn("the log is written again");
        }
    }

    fn log(&self) -> std::sync::MutexGuard<'_, Option<log::Driver>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
