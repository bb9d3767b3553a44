mod create;
mod join;

use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::{Client, is_not_found};
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};
use crate::format::{Columns, Field, Format, Row};
use crate::table::short_id;
use crate::{complete, confirm, human, natural};

/// Docker's fields.
const FIELDS: [Field; 9] = [
    ("ID", "NETWORK ID"),
    ("Name", "NAME"),
    ("Driver", "DRIVER"),
    ("Scope", "SCOPE"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("CreatedAt", "CREATED AT"),
];
/// The usual ones.
const USUAL: [&str; 4] = ["ID", "Name", "Driver", "Scope"];

/// Manage networks
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(create::Create),
    #[command(alias = "list")]
    Ls(List),
    Inspect(Inspect),
    Connect(join::Connect),
    Disconnect(join::Disconnect),
    #[command(alias = "remove")]
    Rm(Remove),
    Prune(Prune),
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        match self.command {
            Command::Create(args) => args.execute(context).await,
            Command::Ls(args) => args.execute(context).await,
            Command::Inspect(args) => args.execute(context).await,
            Command::Connect(args) => args.execute(context).await,
            Command::Disconnect(args) => args.execute(context).await,
            Command::Rm(args) => args.execute(context).await,
            Command::Prune(args) => args.execute(context).await,
        }
    }
}

/// List networks
#[derive(Debug, Default, clap::Args)]
struct List {
    /// Only those that match: driver, id, label, name, scope, type=custom, dangling=true (several)
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show IDs only
    #[arg(short, long)]
    quiet: bool,
    /// Show IDs in full
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    format: Format,
}

impl List {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::ListNetworksRequest { filters: self.filter.clone() };
        let mut networks = client.answer(client.networks().list(request).await)?.networks;
        networks.sort_by(|a, b| natural::compare(&a.name, &b.name));
        context.printer.data(self.show(&networks)?.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, networks: &[api::Network]) -> anyhow::Result<String> {
        if self.quiet && !self.format.is_given() {
            return Ok(networks.iter().map(|n| format!("{}\n", self.id(n))).collect());
        }
        let rows: Vec<_> = networks.iter().map(|network| self.row(network)).collect();
        self.format.rows(Columns { fields: &FIELDS, usual: &USUAL }, &rows)
    }

    fn row(&self, network: &api::Network) -> Row {
        let mut row = Row::default();
        row.set("ID", self.id(network));
        row.set("Name", network.name.as_str());
        row.set("Driver", network.driver.as_str());
        row.set("Scope", "local");
        row.set("IPv4", network.ipv4.to_string());
        row.set("IPv6", network.ipv6.to_string());
        row.set("Internal", network.internal.to_string());
        row.set("CreatedAt", human::stamp(human::time(network.created_at)));
        row.set_labels(&network.labels);
        row
    }

    fn id<'a>(&self, network: &'a api::Network) -> &'a str {
        if self.no_trunc { &network.id } else { short_id(&network.id) }
    }
}

/// Show all that is known of networks, as JSON
#[derive(Debug, clap::Args)]
struct Inspect {
    /// Print each with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Docker's switch for what clusters know beside
    #[arg(short = 'v', long = "verbose", hide = true)]
    _verbose: bool,
    /// Networks, by name or ID
    #[arg(required = true, value_name = "NETWORK", add = ArgValueCandidates::new(complete::networks))]
    networks: Vec<String>,
}

impl Inspect {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut found = Vec::new();
        let mut missed = Vec::new();
        for network in self.networks {
            match inspected(&client, network).await {
                Ok(json) => found.push(json),
                Err(error) => missed.push(error),
            }
        }
        Format::of(self.format).inspected(context.printer, &found, missed)
    }
}

/// A network as Docker's JSON.
///
/// # Errors
/// The daemon's.
pub(super) async fn inspected(client: &Client, network: String) -> anyhow::Result<String> {
    let request = api::InspectNetworkRequest { network };
    let answer = client.answer(client.networks().inspect(request).await)?;
    Ok(String::from_utf8(answer.json.into())?)
}

/// Remove networks that no container has
#[derive(Debug, clap::Args)]
struct Remove {
    /// Those that don't exist are no failure
    #[arg(short, long)]
    force: bool,
    /// Networks, by name or ID
    #[arg(required = true, value_name = "NETWORK", add = ArgValueCandidates::new(complete::networks))]
    networks: Vec<String>,
}

impl Remove {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut code = SUCCESS;
        for name in self.networks {
            let request = api::RemoveNetworkRequest { network: name.clone() };
            match client.answer(client.networks().remove(request).await) {
                Ok(_) => context.printer.line(&name)?,
                Err(error) if self.force && is_not_found(&error) => {}
                Err(error) => {
                    context.printer.error(describe(&error));
                    code = FAILURE;
                }
            }
        }
        Ok(code)
    }
}

/// Remove the networks that no container has
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
        let warning = "This will remove all custom networks not used by at least one container.";
        if !confirm::ask(context.printer, warning, self.force)? {
            return Ok(SUCCESS);
        }
        let client = context.connect().await?;
        let removed = pruned(&client, self.filter).await?;
        if !removed.is_empty() {
            context.printer.line(format_args!("Deleted Networks:\n{}\n", removed.join("\n")))?;
        }
        Ok(SUCCESS)
    }
}

/// Removes unused networks, and tells which.
///
/// # Errors
/// The daemon's.
pub(super) async fn pruned(client: &Client, filters: Vec<String>) -> anyhow::Result<Vec<String>> {
    let request = api::PruneNetworksRequest { filters };
    Ok(client.answer(client.networks().prune(request).await)?.networks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> api::Network {
        api::Network {
            id: "0123456789abcdef".repeat(4),
            name: "app-net".to_owned(),
            driver: "bridge".to_owned(),
            ipv4: true,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn the_table_is_dockers() {
        let text = List::default().show(&[network()]).unwrap();
        let expected = "\
NETWORK ID     NAME      DRIVER    SCOPE
0123456789ab   app-net   bridge    local
";
        assert_eq!(text, expected);
    }

    #[test]
    fn ids_and_templates() {
        let quiet = List { quiet: true, ..List::default() };
        assert_eq!(quiet.show(&[network()]).unwrap(), "0123456789ab\n");
        let full = List { no_trunc: true, ..quiet };
        assert_eq!(full.show(&[network()]).unwrap().len(), 65);
        let format = "{{.Name}} {{.IPv4}} {{.IPv6}} {{.Internal}} {{.Label \"env\"}}";
        let format = Format::of(Some(format.to_owned()));
        let list = List { format, ..full };
        assert_eq!(list.show(&[network()]).unwrap(), "app-net true false false prod\n");
    }
}
