//! Asks before something is removed.

use std::io::{self, BufRead};

use anyhow::Context;

use crate::printer::Printer;

/// An answer is no longer.
const LONGEST: u64 = 4096;

/// Whether to go on: what follows from it is told, and the answer is read from standard input,
/// where nothing is as good as no. Nobody is asked who uses force.
///
/// # Errors
/// Those of input and output.
pub(crate) fn ask(printer: &Printer, warning: &str, force: bool) -> anyhow::Result<bool> {
    if force {
        return Ok(true);
    }
    let question = format!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ");
    printer.data(question.as_bytes())?;
    answer(io::stdin().lock())
}

fn answer(from: impl BufRead) -> anyhow::Result<bool> {
    let mut line = Vec::new();
    from.take(LONGEST).read_until(b'\n', &mut line).context("read the answer")?;
    Ok(line.trim_ascii().eq_ignore_ascii_case(b"y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for (text, wanted) in [
            (&b"y\n"[..], true),
            (b"Y", true),
            (b"  y \r\n", true),
            (b"yes\n", false),
            (b"n\ny\n", false),
            (b"\n", false),
            (b"", false),
            (b"\xff\n", false),
        ] {
            assert_eq!(answer(text).unwrap(), wanted, "{text:?}");
        }
    }
}
