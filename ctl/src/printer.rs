//! The one place that prints: data to standard output, everything else to
//! standard error.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

/// Nobody reads standard output any more. That is no failure.
#[derive(Debug)]
pub(crate) struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output is closed")
    }
}

impl std::error::Error for Closed {}

/// Prints for a command.
#[derive(Debug)]
pub(crate) struct Printer {
    colored: bool,
}

impl Printer {
    /// A printer for this process. Colours are for terminals, and not for
    /// those who set `NO_COLOR`.
    pub(crate) fn new() -> Self {
        let forbidden = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colored: !forbidden && io::stderr().is_terminal() }
    }

    /// Prints a line of data.
    ///
    /// # Errors
    /// [`Closed`], or that it could not be written.
    pub(crate) fn line(&self, text: impl fmt::Display) -> anyhow::Result<()> {
        self.data(format!("{text}\n").as_bytes())
    }

    /// Prints data as it is.
    ///
    /// # Errors
    /// [`Closed`], or that it could not be written.
    pub(crate) fn data(&self, data: &[u8]) -> anyhow::Result<()> {
        written(write_all(io::stdout().lock(), data))
    }

    /// Prints data to standard error as it is.
    ///
    /// # Errors
    /// [`Closed`], or that it could not be written.
    pub(crate) fn error_data(&self, data: &[u8]) -> anyhow::Result<()> {
        written(write_all(io::stderr().lock(), data))
    }

    /// Tells something beside the data. That it could not be told is no failure.
    pub(crate) fn note(&self, text: impl fmt::Display) {
        // In one write, so that lines of several processes don't mix.
        let _ = self.error_data(format!("{text}\n").as_bytes());
    }

    /// Tells what a user should look at.
    pub(crate) fn warning(&self, text: impl fmt::Display) {
        self.headed("33", "WARNING", &text);
    }

    /// Tells what went wrong.
    pub(crate) fn error(&self, text: impl fmt::Display) {
        self.headed("31", "Error", &text);
    }

    fn headed(&self, color: &str, head: &str, text: &dyn fmt::Display) {
        if self.colored {
            self.note(format_args!("\x1b[1;{color}m{head}:\x1b[0m {text}"));
        } else {
            self.note(format_args!("{head}: {text}"));
        }
    }
}

/// Writes all of it, and waits for a slow reader also when somebody made the
/// descriptor non-blocking. Nothing is buffered.
///
/// # Errors
/// As `write(2)`.
pub(crate) fn write_all(to: impl AsFd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match unistd::write(&to, data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => data = &data[n..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => wait(to.as_fd()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until a descriptor has room.
fn wait(fd: BorrowedFd<'_>) {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    // Whatever it says, the next write tells more.
    let _ = poll(&mut fds, PollTimeout::NONE);
}

/// Tells a reader that went away from an output that failed.
pub(crate) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.context("write the output"),
    }
}
