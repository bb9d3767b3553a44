//! The caller's terminal: its size, and its raw mode, which always ends.

use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use gantry_grpc::gantry::engine::v1::Resize;
use nix::sys::termios::{self, SetArg, Termios};

/// How the terminal was before it became raw; nothing when it is not. The
/// lock is held for a moment only, so that the panic hook can take it.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode: each key goes to the container, none is taken by the terminal.
/// It ends when this is dropped, or by [`restore`].
#[derive(Debug)]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal on standard input raw.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> anyhow::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin).context("read the modes of the terminal")?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // Remembered first: a panic or a signal in between finds it.
        BEFORE.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        let guard = Self(());
        termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("make the terminal raw")?;
        Ok(guard)
    }

    /// Makes it raw once more, after a shell in which this process was
    /// stopped has set its own modes.
    pub(crate) fn again(&self) {
        let stdin = io::stdin();
        if let Ok(mut modes) = termios::tcgetattr(&stdin) {
            termios::cfmakeraw(&mut modes);
            // The terminal may be gone; its hangup is on the way.
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &modes);
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal the modes back that it had.
pub(crate) fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // Nobody is left to whom a failure could be told in a readable way.
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Restores the terminal before a panic is reported, so that the report can
/// be read.
pub(crate) fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        report(panic);
    }));
}

/// Whether keys are typed at standard input.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Columns and rows of the terminal that shows the output.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = terminal_size::terminal_size_of(io::stdout())
        .or_else(|| terminal_size::terminal_size_of(io::stderr()))
        .or_else(|| terminal_size::terminal_size_of(io::stdin()))?;
    Some((size.0.0, size.1.0)).filter(|(columns, rows)| *columns > 0 && *rows > 0)
}

/// The size as the daemon is told it.
pub(crate) fn resize() -> Option<Resize> {
    size().map(|(columns, rows)| Resize { columns: columns.into(), rows: rows.into() })
}
