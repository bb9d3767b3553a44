use std::fmt::Write as _;

use anyhow::bail;
use gantry_grpc::gantry::engine::v1 as api;

use super::{certs, df, dial};
use crate::cli::Context;
use crate::client::Client;
use crate::commands::{image, network};
use crate::exit::{Outcome, SUCCESS};
use crate::{confirm, human};

/// Show and clean up what gantryd keeps
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

/// What is in this group alone.
#[derive(Debug, clap::Subcommand)]
enum Command {
    Certs(certs::Args),
    Df(df::Args),
    #[command(hide = true)]
    DialStdio(dial::Args),
    Prune(Prune),
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        match self.command {
            Command::Certs(args) => args.execute(context),
            Command::Df(args) => args.execute(context).await,
            Command::DialStdio(args) => args.execute(context),
            Command::Prune(args) => args.execute(context).await,
        }
    }
}

/// Remove what is not used: stopped containers, networks, dangling images
#[derive(Clone, Debug, Default, clap::Args)]
struct Prune {
    /// All images that no container was made from, not only dangling ones
    #[arg(short, long)]
    all: bool,
    /// Anonymous volumes as well
    #[arg(long)]
    volumes: bool,
    /// Only those that match: until=24h, label=KEY or label!=KEY (several)
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let is_time = |filter: &String| filter.trim_start().starts_with("until=");
        if self.volumes && self.filter.iter().any(is_time) {
            bail!("The \"until\" filter is not supported with \"--volumes\"");
        }
        if !confirm::ask(context.printer, &self.warning(), self.force)? {
            return Ok(SUCCESS);
        }
        let client = context.connect().await?;
        let mut reclaimed = self.containers(&client, context).await?;
        let networks = network::pruned(&client, self.filter.clone()).await?;
        tell(context, &section("Deleted Networks", &networks))?;
        if self.volumes {
            reclaimed += self.anonymous(&client, context).await?;
        }
        let images = image::pruned(&client, self.all, &self.filter).await?;
        tell(context, &image::told(&images))?;
        reclaimed += images.reclaimed;
        context.printer.line(format_args!("Total reclaimed space: {}", human::space(reclaimed)))?;
        Ok(SUCCESS)
    }

    /// What goes, as Docker says it.
    fn warning(&self) -> String {
        let mut text = String::from("This will remove:\n  - all stopped containers\n");
        text += "  - all networks not used by at least one container\n";
        if self.volumes {
            text += "  - all anonymous volumes not used by at least one container\n";
        }
        text += match self.all {
            true => "  - all images without at least one container associated to them\n",
            false => "  - all dangling images\n",
        };
        let mut filters: Vec<_> = self.filter.iter().filter(|filter| !filter.is_empty()).collect();
        if !filters.is_empty() {
            text += "\n  Items to be pruned will be filtered with:\n";
            filters.sort();
            for filter in filters {
                let _ = writeln!(text, "  - {filter}");
            }
        }
        text
    }

    async fn containers(&self, client: &Client, context: Context<'_>) -> anyhow::Result<u64> {
        let request = api::PruneContainersRequest { filters: self.filter.clone() };
        let pruned = client.answer(client.containers().prune(request).await)?;
        tell(context, &section("Deleted Containers", &pruned.removed))?;
        Ok(pruned.reclaimed)
    }

    async fn anonymous(&self, client: &Client, context: Context<'_>) -> anyhow::Result<u64> {
        let request = api::PruneVolumesRequest { filters: self.filter.clone() };
        let pruned = client.answer(client.volumes().prune(request).await)?;
        tell(context, &section("Deleted Volumes", &pruned.removed))?;
        Ok(pruned.reclaimed)
    }
}

/// What was removed, under a title; nothing when nothing was.
fn section(title: &str, removed: &[String]) -> String {
    if removed.is_empty() { String::new() } else { format!("{title}:\n{}\n", removed.join("\n")) }
}

fn tell(context: Context<'_>, text: &str) -> anyhow::Result<()> {
    if text.is_empty() { Ok(()) } else { context.printer.line(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_says_what_goes() {
        let little = "\
This will remove:
  - all stopped containers
  - all networks not used by at least one container
  - all dangling images
";
        assert_eq!(Prune::default().warning(), little);
        let much = Prune {
            all: true,
            volumes: true,
            filter: ["label!=keep", "", "label=env=test"].map(str::to_owned).to_vec(),
            force: false,
        };
        let expected = "\
This will remove:
  - all stopped containers
  - all networks not used by at least one container
  - all anonymous volumes not used by at least one container
  - all images without at least one container associated to them

  Items to be pruned will be filtered with:
  - label!=keep
  - label=env=test
";
        assert_eq!(much.warning(), expected);
    }

    #[test]
    fn what_was_removed_stands_under_a_title() {
        assert_eq!(section("Deleted Volumes", &[]), "");
        let two = ["a".to_owned(), "b".to_owned()];
        assert_eq!(section("Deleted Volumes", &two), "Deleted Volumes:\na\nb\n");
    }
}
