use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::exit::{Outcome, SUCCESS};

/// Give a container another name
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::containers))]
    container: String,
    /// Its new name
    name: String,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::RenameContainerRequest { container: self.container, name: self.name };
        client.answer(client.containers().rename(request).await)?;
        Ok(SUCCESS)
    }
}
