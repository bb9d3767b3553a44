//! What libcontainer says about a failure beside its error value.
//!
//! Its errors often do not name the mount or file they are about, while its log
//! does. So the log's errors, of the worker and of the processes it forks, are
//! kept in a memory file and added to the message.

use libcontainer::error::LibcontainerError;
use std::error::Error as _;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::FromRawFd;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// More than this of the log is not looked at.
const MAX_LOG: u64 = 16 * 1024;
/// What libcontainer says after a failure, in its error and in its log, of a cgroup that it can't
/// remove: it can't remove any, and need not.
const AFTERWARDS: &str = ". error during cleanup: ";
const NOT_REMOVED: &str = "failed to remove cgroup manager";

/// Calls libcontainer, and on failure gives all that is known as one text.
pub(crate) fn explained<T>(
    work: impl FnOnce() -> Result<T, LibcontainerError>,
) -> Result<T, String> {
    let Some(log) = memory_file() else { return work().map_err(|e| chain(&e)) };
    let Ok(reader) = log.try_clone() else { return work().map_err(|e| chain(&e)) };
    let done = tracing::subscriber::with_default(Collector { log }, work);
    done.map_err(|e| {
        let mut text = chain(&e);
        for line in lines(reader) {
            if !text.contains(&line) {
                // Writing into a String never fails.
                let _ = write!(text, "; {line}");
            }
        }
        text
    })
}

/// An error with its sources, each said once.
fn chain(e: &LibcontainerError) -> String {
    let text = e.to_string();
    let mut text = text.split(AFTERWARDS).next().unwrap_or_default().to_owned();
    let mut source = e.source();
    while let Some(s) = source {
        let said = s.to_string();
        if !text.contains(&said) {
            // Writing into a String never fails.
            let _ = write!(text, ": {said}");
        }
        source = s.source();
    }
    text
}

fn memory_file() -> Option<File> {
    // SAFETY: the name ends with NUL.
    let fd = unsafe { libc::memfd_create(c"faults".as_ptr(), libc::MFD_CLOEXEC) };
    // SAFETY: the kernel has just made this descriptor for us.
    (fd >= 0).then(|| unsafe { File::from_raw_fd(fd) })
}

/// The first errors that were logged: the closest to the cause.
fn lines(mut log: File) -> Vec<String> {
    let mut text = String::new();
    if log.rewind().and_then(|()| log.take(MAX_LOG).read_to_string(&mut text)).is_err() {
        return Vec::new();
    }
    let told = text.lines().filter(|line| !line.starts_with(NOT_REMOVED));
    told.take(2).map(str::to_owned).collect()
}

/// Writes each error event as one line. A memory file shared over fork has one
/// position, so the lines of all processes follow each other.
struct Collector {
    log: File,
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}").replace('\n', " ");
        // Writing into a String never fails.
        let _ = match (field.name(), self.0.is_empty()) {
            ("message", true) => write!(self.0, "{text}"),
            ("message", false) => {
                self.0.insert_str(0, &format!("{text}: "));
                Ok(())
            }
            (name, true) => write!(self.0, "{name} {text}"),
            (name, false) => write!(self.0, ", {name} {text}"),
        };
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        line.0.push('\n');
        // What can't be noted is missing from a message only.
        let _ = (&self.log).write_all(line.0.as_bytes());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
