mod explain;

use anyhow::bail;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::client::filled;
use crate::exit::{Outcome, SUCCESS};
use crate::options::ports::{Ports, one, publish};
use crate::{complete, natural, ports};

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry port web                      All published ports of a container
  gantry port web 80                   Where its port 80 is published
  gantry port add web 8443:443         Publish one more while it runs
  gantry port rm web 8443:443          Take it away; open connections stay
  gantry port explain 8080             Whether packets from outside get in, and what decides
  gantry port explain 192.0.2.1:8080   The same at one of the host's addresses";

/// Show, add and remove published ports
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "gantry port CONTAINER [PORT[/PROTOCOL]]\n       gantry port <COMMAND>"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Container, by name or ID
    #[arg(
        required = true,
        value_name = "CONTAINER",
        add = ArgValueCandidates::new(complete::containers)
    )]
    container: Option<String>,
    /// Only this port of the container; of TCP unless it says something else
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Add(Add),
    #[command(alias = "remove")]
    Rm(Remove),
    Explain(explain::Explain),
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let Some(command) = self.command else {
            return show(context, self.container.unwrap_or_default(), self.port).await;
        };
        if let Some(container) = self.container {
            bail!("{container:?} stands before a command: write gantry port COMMAND CONTAINER");
        }
        match command {
            Command::Add(args) => args.execute(context).await,
            Command::Rm(args) => args.execute(context).await,
            Command::Explain(args) => args.execute(context).await,
        }
    }
}

/// Shows where ports of a container are published.
async fn show(context: Context<'_>, container: String, port: Option<String>) -> Outcome {
    let client = context.connect().await?;
    let request = api::InspectContainerRequest { container: container.clone(), size: false };
    let answer = client.answer(client.containers().inspect(request).await)?;
    let all = filled(answer.container, "container")?.ports;
    match port {
        None => context.printer.data(mappings(&all).as_bytes())?,
        Some(port) => context.printer.data(places(&all, &port, &container)?.as_bytes())?,
    }
    Ok(SUCCESS)
}

/// A line for each published port.
fn mappings(all: &[api::Port]) -> String {
    let published = all.iter().filter(|port| ports::is_published(port));
    sorted(published.map(ports::mapping).collect())
}

/// Places where one port of a container is published.
fn places(all: &[api::Port], wanted: &str, container: &str) -> anyhow::Result<String> {
    let (number, protocol) = one(wanted).map_err(anyhow::Error::msg)?;
    let is_it = |port: &&api::Port| {
        let same = port.container_port == u32::from(number);
        same && known(port.protocol()) == protocol && ports::is_published(port)
    };
    let found: Vec<_> = all.iter().filter(is_it).map(ports::host).collect();
    if found.is_empty() {
        bail!("No public port '{wanted}' published for {container}");
    }
    Ok(sorted(found))
}

/// The protocol that is meant by none.
fn known(protocol: api::PortProtocol) -> api::PortProtocol {
    match protocol {
        api::PortProtocol::Unspecified => api::PortProtocol::Tcp,
        other => other,
    }
}

fn sorted(mut lines: Vec<String>) -> String {
    lines.sort_by(|a, b| natural::compare(a, b));
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Publish ports of a container, at once when it runs
#[derive(Debug, clap::Args)]
struct Add {
    /// Container, by name or ID
    #[arg(value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    container: String,
    /// Ports, as for 'gantry run -p': 8080:80, 127.0.0.1:8080:80, 53:53/udp, 80 for a free one
    #[arg(required = true, value_name = "[[IP:]HOST:]PORT[/PROTOCOL]", value_parser = publish)]
    ports: Vec<Ports>,
}

impl Add {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let ports = self.ports.into_iter().flat_map(|ports| ports.0).collect();
        let request = api::PublishPortsRequest { container: self.container, ports };
        let published = client.answer(client.networks().publish(request).await)?;
        context.printer.data(mappings(&published.ports).as_bytes())?;
        Ok(SUCCESS)
    }
}

/// Take published ports of a container away; open connections stay
#[derive(Debug, clap::Args)]
struct Remove {
    /// Container, by name or ID
    #[arg(value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    container: String,
    /// Ports of the container: 80, 53/udp; or only where they are published on one of the host: 8080:80
    #[arg(required = true, value_name = "[[IP:]HOST:]PORT[/PROTOCOL]", value_parser = publish)]
    ports: Vec<Ports>,
}

impl Remove {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let ports = self.ports.into_iter().flat_map(|ports| ports.0).collect();
        let request = api::UnpublishPortsRequest { container: self.container, ports };
        let removed = client.answer(client.networks().unpublish(request).await)?;
        context.printer.data(mappings(&removed.ports).as_bytes())?;
        Ok(SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches};

    use super::*;

    fn read(line: &[&str]) -> Result<Args, clap::Error> {
        let command = Args::augment_args(clap::Command::new("port").no_binary_name(true));
        Args::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    fn port(ip: &str, host_port: u32, container_port: u32, udp: bool) -> api::Port {
        let protocol = if udp { api::PortProtocol::Udp } else { api::PortProtocol::Tcp };
        api::Port { host_ip: ip.into(), host_port, container_port, protocol: protocol.into() }
    }

    fn ports() -> Vec<api::Port> {
        vec![
            port("::", 8080, 80, false),
            port("0.0.0.0", 8080, 80, false),
            port("", 0, 9000, false),
            port("127.0.0.1", 53, 53, true),
        ]
    }

    #[test]
    fn ports_are_shown_as_docker_does() {
        assert_eq!(
            mappings(&ports()),
            "53/udp -> 127.0.0.1:53\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n"
        );
        let of = |wanted: &str| places(&ports(), wanted, "web").map_err(|error| error.to_string());
        assert_eq!(of("80").unwrap(), "0.0.0.0:8080\n[::]:8080\n");
        assert_eq!(of("53/udp").unwrap(), "127.0.0.1:53\n");
        for unpublished in ["53", "9000", "81/tcp"] {
            let said = format!("No public port '{unpublished}' published for web");
            assert_eq!(of(unpublished), Err(said));
        }
        assert_eq!(of("x"), Err("invalid port (x)".to_owned()));
    }

    #[test]
    fn a_container_or_a_command() {
        let args = read(&["web", "80/tcp"]).unwrap();
        assert!(args.command.is_none());
        assert_eq!(
            (args.container.as_deref(), args.port.as_deref()),
            (Some("web"), Some("80/tcp"))
        );
        let args = read(&["add", "web", "8080:80", "9000-9001"]).unwrap();
        let Some(Command::Add(add)) = args.command else { panic!("another command") };
        assert_eq!((add.container.as_str(), add.ports.len()), ("web", 2));
        assert_eq!(add.ports[1].0.len(), 2);
        assert!(matches!(read(&["rm", "web", "80"]).unwrap().command, Some(Command::Rm(_))));
        assert!(matches!(read(&["explain", "80"]).unwrap().command, Some(Command::Explain(_))));
        // A container may have the name of a command.
        assert_eq!(read(&["--", "add"]).unwrap().container.as_deref(), Some("add"));
        for line in [&[][..], &["add"], &["add", "web"], &["add", "web", "x"], &["a", "b", "c"]] {
            assert!(read(line).is_err(), "{line:?}");
        }
    }
}
