use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::{complete, many};

/// Start containers that were made or have exited
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
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
}
