use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::{complete, many};

/// Let frozen processes of containers run again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::running))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        many::at_once(context.printer, self.containers, |container| {
            let client = client.clone();
            let request = api::UnpauseContainerRequest { container };
            async move { client.answer(client.containers().unpause(request).await).map(drop) }
        })
        .await
    }
}
