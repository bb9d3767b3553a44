use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::{complete, many};

/// Kill containers, or send them another signal
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::running))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        many::at_once(context.printer, self.containers, |container| {
            let client = client.clone();
            let request = api::KillContainerRequest { container, signal: self.signal.clone() };
            async move { client.answer(client.containers().kill(request).await).map(drop) }
        })
        .await
    }
}
