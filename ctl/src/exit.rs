//! What the process ends with.

use std::fmt;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::printer::{Closed, Printer};

/// All is well.
pub(crate) const SUCCESS: u8 = 0;
/// A command failed, or failed for some of its targets.
pub(crate) const FAILURE: u8 = 1;
/// The container could not be made or started, or an option is wrong.
pub(crate) const DAEMON: u8 = 125;
/// Added to the number of the signal that ended something.
pub(crate) const SIGNALLED: u8 = 128;

// 126 (a command that can't be executed) and 127 (a command that does not
// exist) come from the daemon as the status of the container.

/// What a command leaves: an exit code, or an error that says [`FAILURE`]
/// unless it is [`Coded`].
pub(crate) type Outcome = anyhow::Result<u8>;

/// An error with an exit code of its own.
#[derive(Debug)]
pub(crate) struct Coded {
    code: u8,
    error: anyhow::Error,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&describe(&self.error))
    }
}

impl std::error::Error for Coded {}

/// Gives an error an exit code.
pub(crate) fn coded(code: u8) -> impl FnOnce(anyhow::Error) -> anyhow::Error {
    move |error| {
        if error.is::<Closed>() || error.is::<Coded>() {
            return error;
        }
        Coded { code, error }.into()
    }
}

/// The exit code for a container's status; what does not fit becomes 255.
pub(crate) fn of_status(status: u32) -> u8 {
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// The exit code of a process that a signal ended.
pub(crate) fn of_signal(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |n| SIGNALLED.saturating_add(n))
}

/// Reports what is to be reported and tells the exit code.
pub(crate) fn finish(printer: &Printer, outcome: Outcome) -> ExitCode {
    let error = match outcome {
        Ok(code) => return ExitCode::from(code),
        Err(error) => error,
    };
    // Whoever reads has seen enough: nothing is wrong.
    if error.is::<Closed>() {
        return ExitCode::from(SUCCESS);
    }
    printer.error(describe(&error));
    ExitCode::from(error.downcast_ref::<Coded>().map_or(FAILURE, |coded| coded.code))
}

/// Prints what clap has to say: help on standard output, errors on standard
/// error with Docker's exit code for them.
pub(crate) fn usage(printer: &Printer, error: &clap::Error) -> ExitCode {
    // A reader that went away needs no help.
    let _ = printer.usage(error);
    ExitCode::from(of_usage(error))
}

/// Options that are wrong are told from words that are missing or that nobody knows.
fn of_usage(error: &clap::Error) -> u8 {
    let is_word = || match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(arg)) => !arg.starts_with('-'),
        _ => false,
    };
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => SUCCESS,
        ErrorKind::InvalidSubcommand
        | ErrorKind::MissingSubcommand
        | ErrorKind::MissingRequiredArgument
        | ErrorKind::TooFewValues => FAILURE,
        ErrorKind::UnknownArgument if is_word() => FAILURE,
        _ => DAEMON,
    }
}

/// An error with its causes, behind colons. Errors of the services print
/// their causes themselves.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        // Some errors have the same words as what caused them.
        let said = cause.to_string();
        if !text.ends_with(&said) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&said);
        }
        if cause.is::<gantry_core::Error>() || cause.is::<Coded>() {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn statuses_and_signals_become_codes() {
        assert_eq!(of_status(0), 0);
        assert_eq!(of_status(127), 127);
        assert_eq!(of_status(255), 255);
        assert_eq!(of_status(256), 255);
        assert_eq!(of_signal(15), 143);
        assert_eq!(of_signal(1), 129);
        assert_eq!(of_signal(-1), 255);
    }

    #[test]
    fn usage_has_dockers_codes() {
        let command = clap::Command::new("x")
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommand(clap::Command::new("one").arg(clap::Arg::new("name").required(true)))
            .subcommand(clap::Command::new("none").arg(clap::Arg::new("o").short('o')));
        for (line, code) in [
            (&["x"][..], SUCCESS),
            (&["x", "--help"], SUCCESS),
            (&["x", "nope"], FAILURE),
            (&["x", "one"], FAILURE),
            (&["x", "one", "a", "b"], FAILURE),
            (&["x", "none", "a"], FAILURE),
            (&["x", "none", "--nope"], DAEMON),
            (&["x", "none", "-o"], DAEMON),
        ] {
            let error = command.clone().try_get_matches_from(line).unwrap_err();
            assert_eq!(of_usage(&error), code, "{line:?}: {error}");
        }
    }

    #[test]
    fn the_first_code_wins() {
        let error = coded(DAEMON)(coded(FAILURE)(anyhow!("no")));
        assert_eq!(error.downcast_ref::<Coded>().map(|c| c.code), Some(FAILURE));
        assert_eq!(describe(&error), "no");
    }

    #[test]
    fn a_closed_output_keeps_its_meaning() {
        assert!(coded(DAEMON)(Closed.into()).is::<Closed>());
    }

    #[test]
    fn causes_are_told_once() {
        let io = std::io::Error::from_raw_os_error(2);
        let inner = gantry_core::Error::io("open x", io);
        let error = Err::<(), _>(inner).context("read the list").unwrap_err();
        assert_eq!(
            describe(&error),
            "read the list: open x: No such file or directory (os error 2)"
        );
        let twice = anyhow!("read a body").context("read a body");
        assert_eq!(describe(&twice), "read a body");
    }
}
