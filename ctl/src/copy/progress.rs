//! How much of a copy is done.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crate::human;
use crate::printer::Printer;

/// Shortest time between two drawings.
const FRAME: Duration = Duration::from_millis(75);

/// Tells on standard error how many bytes have been copied: a line that changes on a terminal.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    printer: &'a Printer,
    head: &'static str,
    quiet: bool,
    bytes: u64,
    drawn: Option<Instant>,
}

impl<'a> Progress<'a> {
    pub(super) fn new(printer: &'a Printer, head: &'static str, quiet: bool) -> Self {
        Self { printer, head, quiet, bytes: 0, drawn: None }
    }

    /// So much more.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        let due = self.drawn.is_none_or(|at| at.elapsed() >= FRAME);
        if self.quiet || !due || !io::stderr().is_terminal() {
            return;
        }
        let line = format!("\r\x1b[2K{} {}", self.head, human::size(self.bytes));
        // A terminal that can't be drawn on is no failure of the copy.
        let _ = self.printer.error_data(line.as_bytes());
        self.drawn = Some(Instant::now());
    }

    /// It is over: the line goes.
    pub(super) fn clear(&mut self) {
        if self.drawn.take().is_some() {
            // As above.
            let _ = self.printer.error_data(b"\r\x1b[2K");
        }
    }

    /// All is copied; `content`: bytes of the file, if it is one.
    pub(super) fn finish(mut self, content: Option<u64>, to: &str) {
        self.clear();
        if !self.quiet {
            self.printer.note(summary(content, self.bytes, to));
        }
    }
}

fn summary(content: Option<u64>, bytes: u64, to: &str) -> String {
    match content {
        Some(content) if content != bytes => {
            let (content, bytes) = (human::size(content), human::size(bytes));
            format!("Successfully copied {content} (transferred {bytes}) to {to}")
        }
        _ => format!("Successfully copied {} to {to}", human::size(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_in_dockers_words() {
        assert_eq!(summary(None, 2048, "web:/x"), "Successfully copied 2.05kB to web:/x");
        assert_eq!(
            summary(Some(3), 2048, "/tmp/x"),
            "Successfully copied 3B (transferred 2.05kB) to /tmp/x"
        );
    }
}
