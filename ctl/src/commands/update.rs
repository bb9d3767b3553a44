use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};
use crate::options::limits::Limits;
use crate::options::restart;

/// Change limits and restart policies of containers, at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gantry update --memory 1g --memory-swap 1g db   Give a container more memory
  gantry update --restart unless-stopped web db   Start containers again from now on")]
pub(crate) struct Args {
    /// When to start them again: no, always, unless-stopped, on-failure:3
    #[arg(
        long,
        value_name = "POLICY",
        value_parser = restart::policy,
        add = ArgValueCandidates::new(complete::restart_policies)
    )]
    restart: Option<api::RestartPolicy>,
    /// Containers, by name or ID
    #[arg(required = true, value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    containers: Vec<String>,
    // Last: its heading holds for all that follows.
    #[command(flatten)]
    limits: Limits,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let restart = self.restart;
        // One that says 0 changes nothing, as Docker has it, and is one.
        if !self.limits.is_given() && restart.is_none() {
            bail!("you must provide one or more flags when using this command");
        }
        let resources = self.limits.into_resources();
        let client = context.connect().await?;
        let mut code = SUCCESS;
        for container in self.containers {
            let request = api::UpdateContainerRequest {
                container: container.clone(),
                resources: Some(resources.clone()),
                restart,
            };
            match client.answer(client.containers().update(request).await) {
                Ok(answer) => {
                    context.printer.line(&container)?;
                    for warning in &answer.warnings {
                        context.printer.warning(warning);
                    }
                }
                Err(error) => {
                    context.printer.error(describe(&error));
                    code = FAILURE;
                }
            }
        }
        Ok(code)
    }
}
