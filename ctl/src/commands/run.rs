use anyhow::bail;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;

use crate::cli::Context;
use crate::exit::{DAEMON, Outcome, coded};
use crate::options::{Container, Stream};
use crate::session::keys::{self, Keys};
use crate::session::{self, End, Options};

/// Examples and exit codes, behind the options.
const HELP: &str = "\
Examples:
  gantry run --rm busybox echo hello          Run a command, remove the container
  gantry run -it --rm debian bash             Work in a container; ctrl-p ctrl-q leaves it
  gantry run -d --name web -p 8080:80 -v pages:/usr/share/nginx/html nginx
                                              Run a server; see 'gantry logs web'
  echo 1 + 2 | gantry run -i --rm busybox bc  Feed it
  gantry run --rm -e DEBUG=1 -e HOME busybox env
                                              Set a variable, hand one of yours on

What stands behind the image is the container's, options too.

Exit code:
  That of the command, 128 plus the signal that ended it, or
  125 when no container could be started, 126 when its command can't be
  executed, 127 when its command does not exist";

/// Run a command in a new container
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    disable_help_flag = true,
    override_usage = "gantry run [OPTIONS] IMAGE [COMMAND [ARG]...]"
)]
pub(crate) struct Args {
    /// Leave it running and print its ID
    #[arg(short, long)]
    detach: bool,
    /// Hand signals on to the command
    #[arg(
        long,
        value_name = "BOOL",
        action = clap::ArgAction::Set,
        default_value_t = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    sig_proxy: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: Keys,
    #[command(flatten)]
    container: Container,
}

impl Args {
    /// Image and command.
    #[cfg(test)]
    pub(crate) fn command_line(&self) -> &[String] {
        self.container.command_line()
    }

    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        self.start(context).await.map_err(coded(DAEMON))
    }

    async fn start(self, context: Context<'_>) -> Outcome {
        let printer = context.printer;
        let container = self.container;
        if self.detach && !container.attach.is_empty() {
            bail!("conflicting options: cannot specify both --attach and --detach");
        }
        let mut options = Options {
            stdin: container.interactive && !self.detach,
            detach: self.detach,
            proxy: self.sig_proxy,
            // A terminal has one output.
            stdout: container.shows(Stream::Stdout)
                || container.tty && container.shows(Stream::Stderr),
            stderr: container.shows(Stream::Stderr),
            quiet: container.quiet,
            ..Options::new(container.tty, self.detach_keys)
        };
        options.check()?;
        let id_file = container.id_file()?;
        let request = api::RunContainer {
            detach: self.detach,
            pull: container.pull().into(),
            attach_stdin: options.stdin,
            size: options.size(),
            platform: container.platform(),
            spec: Some(container.into_spec()?),
            ..Default::default()
        };
        options.id_file = id_file;
        let client = context.connect().await?;
        let finished = session::carry(&client, printer, Input::Run(request), options).await?;
        if let End::Started = finished.end {
            printer.line(&finished.id)?;
        }
        Ok(finished.end.conclude(printer))
    }
}
