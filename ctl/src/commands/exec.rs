use std::path::PathBuf;

use clap::ValueHint;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::session::keys::{self, Keys};
use crate::session::{self, Options};
use crate::{complete, env};

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry exec -it web sh                Open a shell in a container
  gantry exec web cat /etc/hostname     Run a command and see its output
  gantry exec -i db psql < dump.sql     Feed a command
  gantry exec -u root -w /srv web ls    Run it as somebody else, somewhere else

The exit code is that of the command: 126 when it can't be executed, 127 when
it does not exist. With --detach it is 1 when the command can't be started.";

/// Run a command in a running container
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "gantry exec [OPTIONS] CONTAINER COMMAND [ARG]..."
)]
pub(crate) struct Args {
    /// Leave the command running
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set a variable; NAME alone takes your value (several)
    #[arg(
        short,
        long = "env",
        value_name = "NAME[=VALUE]",
        add = ArgValueCandidates::new(complete::variables)
    )]
    env: Vec<String>,
    /// Set the variables of a file, a line each (several)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group, by name or ID
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Let it do all that the host's root may
    #[arg(long)]
    privileged: bool,
    /// Keys that leave the command running
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: Keys,
    /// Container, then the command
    // One list, so that nothing behind the container is taken for an option of ours.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["CONTAINER", "COMMAND"],
        num_args = 2..,
        add = ArgValueCandidates::new(complete::running)
    )]
    command_line: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let detach = self.detach;
        // Without the container: a signal to it would miss the command.
        let options = Options {
            stdin: self.interactive && !detach,
            detach,
            ..Options::new(self.tty, self.detach_keys)
        };
        options.check()?;
        let mut words = self.command_line.into_iter();
        let request = api::ExecProcess {
            container: words.next().unwrap_or_default(),
            command: words.collect(),
            env: env::variables(&self.env_file, &self.env)?,
            working_dir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            tty: self.tty,
            attach_stdin: options.stdin,
            detach,
            size: options.size(),
            privileged: self.privileged,
        };
        let client = context.connect().await?;
        let finished =
            session::carry(&client, context.printer, Input::Exec(request), options).await?;
        let end = if detach { finished.ran()? } else { finished.end };
        Ok(end.conclude(context.printer))
    }
}
