//! What came of a session.

use anyhow::bail;
use gantry_grpc::gantry::engine::v1 as api;
use nix::sys::signal::Signal;

use crate::exit::{SUCCESS, of_signal, of_status};
use crate::printer::Printer;

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The process runs on its own.
    Started,
    /// The process has ended, or could not be run.
    Exited(api::SessionExited),
    /// The user left; the process goes on.
    Left,
    /// A signal ended the session.
    Signalled(Signal),
}

impl End {
    /// Tells the user what is to be told; the exit code.
    pub(crate) fn conclude(self, printer: &Printer) -> u8 {
        match self {
            Self::Started => SUCCESS,
            Self::Exited(exited) => {
                if !exited.error.is_empty() {
                    printer.error(&exited.error);
                }
                of_status(exited.status)
            }
            Self::Left => {
                printer.note("\nread escape sequence");
                SUCCESS
            }
            Self::Signalled(signal) => of_signal(signal as i32),
        }
    }
}

/// A session that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    /// ID of a container that was made.
    pub(crate) id: String,
    /// Whether the process ran at all.
    pub(crate) ran: bool,
    /// How it ended.
    pub(crate) end: End,
}

impl Finished {
    /// How it ended, for commands that have the exit code of a process only if that ran.
    ///
    /// # Errors
    /// Why it could not be run.
    pub(crate) fn ran(self) -> anyhow::Result<End> {
        match self.end {
            End::Exited(exited) if !self.ran && !exited.error.is_empty() => bail!(exited.error),
            end => Ok(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_process_that_ran_has_an_exit_code() {
        let ended = |ran, error: &str| {
            let exited = api::SessionExited { status: 127, error: error.to_owned() };
            Finished { id: String::new(), ran, end: End::Exited(exited) }.ran()
        };
        let why = "exec: \"nope\": executable file not found in $PATH";
        assert_eq!(ended(false, why).unwrap_err().to_string(), why);
        let status = |end| match end {
            End::Exited(exited) => exited.status,
            other => panic!("{other:?}"),
        };
        // What it says itself, and why a container ended.
        assert_eq!(status(ended(true, "").unwrap()), 127);
        assert_eq!(status(ended(true, "its shim was killed").unwrap()), 127);
    }
}
