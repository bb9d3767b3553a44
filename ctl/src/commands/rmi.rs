use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::is_not_found;
use crate::complete;
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};

/// Remove images
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those from which a stopped container was made, and IDs with several names
    #[arg(short, long)]
    force: bool,
    /// Images, by name or ID
    #[arg(required = true, value_name = "IMAGE", add = ArgValueCandidates::new(complete::images))]
    images: Vec<String>,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut code = SUCCESS;
        for image in self.images {
            let request = api::RemoveImageRequest { image, force: self.force };
            match client.answer(client.images().remove(request).await) {
                Ok(answer) => {
                    for name in &answer.untagged {
                        context.printer.line(format_args!("Untagged: {name}"))?;
                    }
                    for id in &answer.deleted {
                        context.printer.line(format_args!("Deleted: {id}"))?;
                    }
                }
                Err(error) => {
                    context.printer.error(describe(&error));
                    if !(self.force && is_not_found(&error)) {
                        code = FAILURE;
                    }
                }
            }
        }
        Ok(code)
    }
}
