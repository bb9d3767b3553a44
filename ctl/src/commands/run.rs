use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;

use crate::cli::Context;
use crate::exit::{DAEMON, Outcome, coded};
use crate::options::Container;
use crate::session::keys::{self, Keys};
use crate::session::{self, End, Options};

/// Examples and exit codes, behind the options.
const HELP: &str = "\
Examples:
  gantry run --rm busybox echo hello          Run a command, remove the container
  gantry run -it --rm debian bash             Work in a container; ctrl-p ctrl-q leaves it
  gantry run -d --name web --network host nginx
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
    override_usage = "gantry run [OPTIONS] IMAGE [COMMAND [ARG]...]"
)]
pub(crate) struct Args {
    /// Leave it running and print its ID
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    container: Container,
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
        let options = Options {
            stdin: self.container.interactive && !self.detach,
            tty: self.container.tty,
            detach: self.detach,
            proxy: self.sig_proxy,
            keys: self.detach_keys,
            container: None,
        };
        options.check()?;
        let request = api::RunContainer {
            detach: self.detach,
            pull: self.container.pull().into(),
            attach_stdin: options.stdin,
            size: options.size(),
            platform: self.container.platform(),
            spec: Some(self.container.into_spec(printer)?),
            ..Default::default()
        };
        let client = context.connect().await?;
        let finished = session::carry(&client, printer, Input::Run(request), options).await?;
        if let End::Started = finished.end {
            printer.line(&finished.id)?;
        }
        Ok(finished.end.conclude(printer))
    }
}
