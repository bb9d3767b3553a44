//! `gantry`: containers on the command line.
//!
//! A command is one file in `commands/`. What it prints goes through
//! [`printer`], what it asks goes through [`client`], and a command that
//! carries a container's input and output does so with [`session`].
#![forbid(unsafe_code)]

mod certs;
mod cli;
mod client;
mod commands;
mod complete;
mod confirm;
mod connect;
mod contexts;
mod copy;
mod env;
mod exit;
mod format;
mod groups;
mod human;
mod json;
mod many;
mod moment;
mod natural;
mod options;
mod ports;
mod printer;
mod progress;
mod save;
mod session;
mod switches;
mod table;
mod units;
mod unset;
mod zone;

use std::process::ExitCode;

use crate::printer::Printer;

fn main() -> ExitCode {
    let printer = Printer::new();
    complete::answer_shell();
    session::terminal::restore_on_panic();
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(usage) => return exit::usage(&printer, &usage),
    };
    exit::finish(&printer, cli.execute(&printer))
}
