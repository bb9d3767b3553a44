use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::session_input::Input;

use crate::cli::Context;
use crate::client::filled;
use crate::exit::Outcome;
use crate::session::keys::{self, Keys};
use crate::session::{self, Options};
use crate::{complete, many};

/// Start containers that were made or have exited
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --attach or --interactive the exit code is the container's, or 1 when it could not be
started.")]
pub(crate) struct Args {
    /// Join its output, and hand signals on
    #[arg(short, long)]
    attach: bool,
    /// Join its input as well
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave the container running
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    detach_keys: Keys,
    /// Docker's snapshots of processes
    #[arg(long, value_name = "CHECKPOINT", hide = true)]
    checkpoint: Option<String>,
    /// Where they are
    #[arg(long, value_name = "DIR", hide = true)]
    checkpoint_dir: Option<String>,
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        if self.checkpoint.is_some() || self.checkpoint_dir.is_some() {
            bail!("--checkpoint is not supported: containers start from their beginning");
        }
        if self.attach || self.interactive {
            return self.start_attached(context).await;
        }
        let client = context.connect().await?;
        // In order, since one may need what the one before it serves.
        many::in_order(context.printer, self.containers, |container| {
            let client = client.clone();
            async move {
                let request = api::StartContainerRequest { container };
                client.answer(client.containers().start(request).await).map(drop)
            }
        })
        .await
    }

    async fn start_attached(self, context: Context<'_>) -> Outcome {
        let [container] = &self.containers[..] else {
            bail!("you cannot start and attach multiple containers at once");
        };
        let client = context.connect().await?;
        let request = api::InspectContainerRequest { container: container.clone(), size: false };
        let inspected = client.answer(client.containers().inspect(request).await)?;
        let container = filled(inspected.container, "container")?;
        let options = Options {
            stdin: self.interactive,
            // On a terminal keys are the signals.
            proxy: !container.tty,
            container: Some(container.id.clone()),
            ..Options::new(container.tty, self.detach_keys)
        };
        let request = api::AttachContainer {
            container: container.id,
            attach_stdin: options.stdin,
            size: options.size(),
            start: true,
        };
        let finished =
            session::carry(&client, context.printer, Input::Attach(request), options).await?;
        Ok(finished.ran()?.conclude(context.printer))
    }
}
