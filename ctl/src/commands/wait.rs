use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;
use tokio::task::JoinHandle;

use crate::cli::Context;
use crate::complete;
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};

/// Wait until containers have ended and print their exit codes
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::running))]
    containers: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        // All at once, since one may be removed as soon as it has ended; told
        // in the order of the targets, so that codes can be told apart.
        let ask = |container| -> JoinHandle<anyhow::Result<u32>> {
            let client = client.clone();
            tokio::spawn(async move {
                let request = api::WaitContainerRequest { container, ..Default::default() };
                Ok(client.answer(client.containers().wait(request).await)?.status)
            })
        };
        let waits: Vec<_> = self.containers.into_iter().map(ask).collect();
        let mut code = SUCCESS;
        for wait in waits {
            match wait.await? {
                Ok(status) => context.printer.line(status)?,
                Err(error) => {
                    context.printer.error(describe(&error));
                    code = FAILURE;
                }
            }
        }
        Ok(code)
    }
}
