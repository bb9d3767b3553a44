//! Output that the shim keeps itself: the log, and everyone attached.
//!
//! On a full disk attached clients go on seeing everything. What can't be
//! written waits in memory, and when that is full the process waits, unless
//! somebody looks on or the log is one that nobody waits for: then it leaves out
//! what follows, and says so.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::attach;
use crate::log::{self, Stream};
use crate::report::Report;

/// The log and the attach socket of one process.
#[derive(Debug)]
pub struct Owner {
    /// Held while records are encoded and written, never across an await.
    log: Mutex<Option<Log>>,
    attach: Option<attach::Server>,
    report: Report,
    /// The process is gone: nothing is held back any more.
    released: watch::Sender<bool>,
}

impl Owner {
    /// Keeps output in `log` and shows it on `attach`.
    pub fn new(log: Option<log::Driver>, attach: Option<attach::Server>, report: Report) -> Self {
        let log = log.map(|driver| Log { driver, fault: None, skipped: 0, lost: 0 });
        Self { log: Mutex::new(log), attach, report, released: watch::Sender::new(false) }
    }

    /// Takes bytes of a stream; returns when every client has room for more,
    /// and the log has, too.
    pub async fn take(&self, stream: Stream, bytes: &[u8]) {
        let written = self.write(|log| log.push(stream, bytes));
        if let Some(attach) = &self.attach {
            attach.broadcast(stream, bytes).await;
        }
        if !written {
            self.hold().await;
        }
    }

    /// A stream ended: its unfinished line becomes a record.
    pub fn end(&self, stream: Stream) {
        self.write(|log| log.driver.end(stream));
    }

    /// Returns after another try to write what waits; never when nothing does.
    pub async fn retry(&self) {
        if !self.is_behind() {
            return std::future::pending().await;
        }
        tokio::time::sleep(super::DISK_FULL_PAUSE).await;
        self.write(|_| ());
    }

    /// Waits until nothing waits to be written, however long the disk is full.
    pub async fn settle(&self) {
        while self.is_behind() {
            self.retry().await;
        }
    }

    /// The process is gone: what it left is taken without holding it back.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Tells attached clients what the log misses, and the exit status.
    pub fn finish(&self, status: i32) {
        self.write(|_| ());
        let loss = self.log().as_ref().and_then(Log::loss);
        if let Some(loss) = &loss {
            self.report.warn(loss);
        }
        if let Some(attach) = &self.attach {
            if let Some(loss) = loss {
                attach.announce(&format!("gantry: {loss}\r\n"));
            }
            attach.finish(status);
        }
    }

    /// Waits while the log takes no more and nobody looks on: meanwhile the
    /// process's pipe fills up and the process waits.
    async fn hold(&self) {
        let mut released = self.released.subscribe();
        while self.log().as_ref().is_some_and(Log::holds_back)
            && !self.attach.as_ref().is_some_and(attach::Server::is_watched)
        {
            tokio::select! {
                _ = released.wait_for(|released| *released) => return,
                () = self.retry() => {}
            }
        }
    }

    /// Changes the log and writes what it can; whether nothing is left.
    fn write(&self, change: impl FnOnce(&mut Log)) -> bool {
        let mut guard = self.log();
        let Some(log) = guard.as_mut() else { return true };
        change(log);
        let was_behind = log.fault.is_some();
        log.flush();
        let fault = log.fault.as_ref().map(ToString::to_string);
        drop(guard);
        match &fault {
            Some(e) if !was_behind => {
                self.report.warn(&format!("the log cannot be written, output waits: {e}"));
            }
            None if was_behind => self.report.warn("the log is written again"),
            _ => {}
        }
        fault.is_none()
    }

    fn is_behind(&self) -> bool {
        self.log().as_ref().is_some_and(|log| log.fault.is_some())
    }

    fn log(&self) -> MutexGuard<'_, Option<Log>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log, and what keeps it from being whole.
#[derive(Debug)]
struct Log {
    driver: log::Driver,
    /// Why the rest can't be written now.
    fault: Option<io::Error>,
    /// Bytes left out at the present place.
    skipped: u64,
    /// Bytes left out in all.
    lost: u64,
}

impl Log {
    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.is_full() {
            return self.driver.push(stream, bytes);
        }
        self.driver.end(Stream::Stdout);
        self.driver.end(Stream::Stderr);
        self.skipped += bytes.len() as u64;
        self.lost += bytes.len() as u64;
    }

    /// Once something is left out, so is what follows, until the rest is written.
    fn is_full(&self) -> bool {
        self.skipped > 0 || self.driver.is_full()
    }

    /// Whether the process is to wait.
    fn holds_back(&self) -> bool {
        self.is_full() && self.driver.is_blocking()
    }

    fn flush(&mut self) {
        let mut flushed = self.driver.flush();
        if flushed.is_ok() && self.skipped > 0 {
            let text = format!("gantry: {} bytes are missing here\n", self.skipped);
            self.driver.push(Stream::Stderr, text.as_bytes());
            self.skipped = 0;
            flushed = self.driver.flush();
        }
        self.fault = flushed.err();
    }

    /// What the log misses, for people.
    fn loss(&self) -> Option<String> {
        if let Some(e) = &self.fault {
            return Some(format!(
                "the log cannot be written, the end of the output is missing: {e}"
            ));
        }
        (self.lost > 0).then(|| {
            format!("the log could not be written for a while, {} bytes are missing", self.lost)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKLOG: usize = log::DEFAULT_BACKLOG;

    fn open(path: &std::path::Path) -> log::Driver {
        let path = path.to_owned();
        let options = log::Options { path, max_size: 0, max_file: 1, ..log::Options::default() };
        log::Driver::open(&options).unwrap()
    }

    #[test]
    fn what_is_left_out_is_counted_and_marked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let full = open("/dev/full".as_ref());
        let mut log = Log { driver: full, fault: None, skipped: 0, lost: 0 };
        log.push(Stream::Stdout, b"unfinished");
        log.push(Stream::Stderr, &vec![b'x'; 2 * BACKLOG]);
        log.flush();
        assert!(log.loss().unwrap().starts_with("the log cannot be written"));
        log.push(Stream::Stdout, b" lost\n");
        log.flush();
        assert!(log.driver.backlog() < 3 * BACKLOG && log.is_full());
        log.driver = open(&path);
        log.flush();
        log.push(Stream::Stdout, b"on\n");
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let said = |line: &str| line.split('"').nth(3).unwrap().to_owned();
        let said: Vec<_> = text.lines().map(said).collect();
        assert_eq!(said, ["gantry: 6 bytes are missing here\\n", "on\\n"]);
        assert!(log.loss().unwrap().ends_with("for a while, 6 bytes are missing"));
    }

    #[tokio::test]
    async fn nothing_is_held_back_once_the_process_is_gone() {
        let owner = Owner::new(Some(open("/dev/full".as_ref())), None, Report::default());
        let most = vec![b'x'; 2 * BACKLOG];
        let held = std::time::Duration::from_millis(100);
        let take = owner.take(Stream::Stdout, &most);
        assert!(tokio::time::timeout(held, take).await.is_err(), "the log takes more than it may");
        owner.release();
        owner.take(Stream::Stdout, b"more").await;
    }

    #[tokio::test]
    async fn a_log_that_nobody_waits_for_leaves_out_what_it_has_no_room_for() {
        let options = log::Options {
            path: "/dev/full".into(),
            max_size: 0,
            max_file: 1,
            backlog: 1000,
            blocking: false,
            ..log::Options::default()
        };
        let driver = log::Driver::open(&options).unwrap();
        let owner = Owner::new(Some(driver), None, Report::default());
        for _ in 0..3 {
            owner.take(Stream::Stdout, &[b'x'; 2000]).await;
            owner.take(Stream::Stdout, b"\n").await;
        }
        assert!(owner.log().as_ref().is_some_and(|log| log.lost > 4000 && log.is_full()));
    }
}
