use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::exit::{Outcome, SUCCESS};

/// Show what differs in the files of a container from its image
#[derive(Debug, clap::Args)]
#[command(after_help = "A path was added (A), changed (C) or deleted (D).")]
pub(crate) struct Args {
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::FileChangesRequest { container: self.container };
        let answer = client.answer(client.containers().changes(request).await)?;
        for change in answer.changes {
            let letter = match change.kind() {
                api::FileChangeKind::Added => 'A',
                api::FileChangeKind::Deleted => 'D',
                api::FileChangeKind::Modified | api::FileChangeKind::Unspecified => 'C',
            };
            context.printer.line(format_args!("{letter} {}", change.path))?;
        }
        Ok(SUCCESS)
    }
}
