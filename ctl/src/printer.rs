//! The one place that prints: data to standard output, everything else to
//! standard error.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::table;

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
        Self { colored: io::stderr().is_terminal() && wants_colors() }
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

    /// Prints help as data, and what is wrong with a command line to standard error. By clap's own
    /// rule there would be colours elsewhere than on terminals, and on those where `CI` is set.
    ///
    /// # Errors
    /// [`Closed`], or that it could not be written.
    pub(crate) fn usage(&self, error: &clap::Error) -> anyhow::Result<()> {
        let (text, to_error) = (error.render(), error.use_stderr());
        let colored =
            if to_error { self.colored } else { io::stdout().is_terminal() && wants_colors() };
        let text = if colored { text.ansi().to_string() } else { text.to_string() };
        if to_error { self.error_data(text.as_bytes()) } else { self.data(text.as_bytes()) }
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

    /// What is told may come from an image or a registry: it must not command the terminal.
    fn headed(&self, color: &str, head: &str, text: &dyn fmt::Display) {
        let text = text.to_string();
        let text = text.split('\n').map(table::plain).collect::<Vec<_>>().join("\n");
        self.note(format_args!("{} {text}", self.head(color, head)));
    }

    fn head(&self, color: &str, head: &str) -> String {
        if self.colored { format!("\x1b[1;{color}m{head}:\x1b[0m") } else { format!("{head}:") }
    }
}

/// Whether whoever started this process wants colours on terminals.
fn wants_colors() -> bool {
    let variable = |name| std::env::var_os(name);
    has_colors(variable("NO_COLOR").as_deref(), variable("TERM").as_deref())
}

/// Whether a terminal may be written on in colours: by `NO_COLOR` (no-color.org), and by its kind.
fn has_colors(forbidden: Option<&OsStr>, term: Option<&OsStr>) -> bool {
    forbidden.is_none_or(OsStr::is_empty) && !is_dumb(term)
}

/// Whether a terminal of this kind can do nothing but add characters.
pub(crate) fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| term == "dumb")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_those_who_want_them() {
        let colors = |forbidden: Option<&str>, term: Option<&str>| {
            has_colors(forbidden.map(OsStr::new), term.map(OsStr::new))
        };
        assert!(colors(None, Some("xterm-256color")));
        assert!(colors(None, None));
        assert!(colors(Some(""), Some("xterm")), "it counts when it is not empty");
        for value in ["1", "0", "false"] {
            assert!(!colors(Some(value), Some("xterm")), "{value}");
        }
        assert!(!colors(None, Some("dumb")));
    }

    #[test]
    fn without_colours_nothing_but_words_is_written() {
        let head = |colored| Printer { colored }.head("31", "Error");
        assert_eq!(head(true), "\x1b[1;31mError:\x1b[0m");
        assert_eq!(head(false), "Error:");
    }
}
