use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::is_not_found;
use crate::exit::Outcome;
use crate::{complete, many};

/// Remove containers with their files and logs
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kill those that run; those that don't exist are no failure
    #[arg(short, long)]
    force: bool,
    /// Remove their volumes without names as well
    #[arg(short, long)]
    volumes: bool,
    /// Docker's links between containers
    #[arg(short, long, hide = true)]
    link: bool,
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        if self.link {
            bail!("--link is not supported: there are no links between containers");
        }
        let client = context.connect().await?;
        let accept = |error: &anyhow::Error| self.force && is_not_found(error);
        many::at_once_but(context.printer, self.containers, accept, |container| {
            let client = client.clone();
            let (force, volumes) = (self.force, self.volumes);
            let request = api::RemoveContainerRequest { container, force, volumes };
            async move { client.answer(client.containers().remove(request).await).map(drop) }
        })
        .await
    }
}
