use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::Outcome;
use crate::{complete, many};

/// Stop containers: ask them to end, then kill them
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds until they are killed; -1 for never [default: their own, or 10]
    // Docker's old name is understood as well.
    #[arg(short, long, alias = "time", value_name = "SECONDS", allow_negative_numbers = true)]
    timeout: Option<i32>,
    /// Signal in place of the container's own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::running))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let signal = self.signal.unwrap_or_default();
        many::at_once(context.printer, self.containers, |container| {
            let client = client.clone();
            let (timeout, signal) = (self.timeout, signal.clone());
            let request = api::StopContainerRequest { container, timeout, signal };
            async move { client.answer(client.containers().stop(request).await).map(drop) }
        })
        .await
    }
}
