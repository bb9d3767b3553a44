use std::fmt::Write as _;

use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::Client;
use crate::exit::{Outcome, SUCCESS};
use crate::{confirm, human};

/// Manage images
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

/// Remove images that no container was made from
#[derive(Debug, clap::Args)]
struct Prune {
    /// All of them, not only dangling ones
    #[arg(short, long)]
    all: bool,
    /// Only those that match: until=24h, label=KEY or label!=KEY (several)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let warning = match self.all {
            true => {
                "This will remove all images without at least one container associated to them."
            }
            false => "This will remove all dangling images.",
        };
        if !confirm::ask(context.printer, warning, self.force)? {
            return Ok(SUCCESS);
        }
        let client = context.connect().await?;
        let pruned = pruned(&client, self.all, &self.filter).await?;
        let text = told(&pruned);
        if !text.is_empty() {
            context.printer.line(text)?;
        }
        let reclaimed = human::space(pruned.reclaimed);
        context.printer.line(format_args!("Total reclaimed space: {reclaimed}"))?;
        Ok(SUCCESS)
    }
}

/// Removes unused images.
///
/// # Errors
/// The daemon's.
pub(super) async fn pruned(
    client: &Client,
    all: bool,
    filters: &[String],
) -> anyhow::Result<api::PruneImagesResponse> {
    let dangling = format!("dangling={}", !all);
    let filters = filters.iter().cloned().chain([dangling]).collect();
    client.answer(client.images().prune(api::PruneImagesRequest { filters }).await)
}

/// What was removed, as Docker says it; nothing when nothing was.
pub(super) fn told(pruned: &api::PruneImagesResponse) -> String {
    let mut text = String::new();
    if pruned.untagged.is_empty() && pruned.deleted.is_empty() {
        return text;
    }
    text += "Deleted Images:\n";
    for name in &pruned.untagged {
        let _ = writeln!(text, "untagged: {name}");
    }
    for id in &pruned.deleted {
        let _ = writeln!(text, "deleted: {id}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_told() {
        assert_eq!(told(&api::PruneImagesResponse::default()), "");
        let pruned = api::PruneImagesResponse {
            untagged: vec!["nginx:1.27".to_owned()],
            deleted: vec!["sha256:00".to_owned()],
            reclaimed: 7,
        };
        assert_eq!(told(&pruned), "Deleted Images:\nuntagged: nginx:1.27\ndeleted: sha256:00\n");
    }
}
