use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::{confirm, human};

/// Manage containers
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is in this group alone.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Prune(Prune),
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        match self.command {
            Command::Prune(args) => args.execute(context).await,
        }
    }
}

/// Remove all containers that do not run
#[derive(Debug, clap::Args)]
struct Prune {
    /// Only those that match: until=24h, label=KEY or label!=KEY (several)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let warning = "This will remove all stopped containers.";
        if !confirm::ask(context.printer, warning, self.force)? {
            return Ok(SUCCESS);
        }
        let client = context.connect().await?;
        let request = api::PruneContainersRequest { filters: self.filter };
        let pruned = client.answer(client.containers().prune(request).await)?;
        let mut text = String::new();
        if !pruned.removed.is_empty() {
            text = format!("Deleted Containers:\n{}\n\n", pruned.removed.join("\n"));
        }
        text += &format!("Total reclaimed space: {}\n", human::space(pruned.reclaimed));
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }
}
