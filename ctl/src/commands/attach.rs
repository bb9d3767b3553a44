use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;

use crate::cli::Context;
use crate::client::filled;
use crate::complete;
use crate::exit::Outcome;
use crate::session::keys::{self, Keys};
use crate::session::{self, Options};

/// Join the input and output of a running container
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is the container's. On a terminal, ctrl-p ctrl-q leaves it running.")]
pub(crate) struct Args {
    /// Join its output only
    #[arg(long)]
    no_stdin: bool,
    /// Hand signals on to the container
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
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::running))]
    container: String,
}

/// A size that is soon to change, so that what runs on the terminal draws it anew.
fn other(size: api::Resize) -> api::Resize {
    api::Resize { columns: size.columns + 1, rows: size.rows + 1 }
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request =
            api::InspectContainerRequest { container: self.container.clone(), size: false };
        let inspected = client.answer(client.containers().inspect(request).await)?;
        let container = filled(inspected.container, "container")?;
        let name = &self.container;
        match container.state() {
            api::ContainerState::Running => {}
            api::ContainerState::Paused => bail!(
                "You cannot attach to a paused container, unpause it first: gantry unpause {name}"
            ),
            api::ContainerState::Restarting => {
                bail!("You cannot attach to a restarting container, wait until it is running")
            }
            _ => bail!(
                "You cannot attach to a stopped container, start it first: gantry start {name}"
            ),
        }
        let options = Options {
            stdin: !self.no_stdin,
            // On a terminal keys are the signals.
            proxy: self.sig_proxy && !container.tty,
            container: Some(container.id.clone()),
            ..Options::new(container.tty, self.detach_keys)
        };
        options.check()?;
        let request = api::AttachContainer {
            container: container.id,
            attach_stdin: options.stdin,
            size: options.size().map(other),
            start: false,
        };
        let finished =
            session::carry(&client, context.printer, Input::Attach(request), options).await?;
        Ok(finished.end.conclude(context.printer))
    }
}
