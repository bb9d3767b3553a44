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
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let accept = |error: &anyhow::Error| self.force && is_not_found(error);
        many::at_once_but(context.printer, self.containers, accept, |container| {
            let client = client.clone();
            let request = api::RemoveContainerRequest { container, force: self.force };
            async move { client.answer(client.containers().remove(request).await).map(drop) }
        })
        .await
    }
}
