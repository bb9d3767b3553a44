use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::exit::{Outcome, SUCCESS};
use crate::options::network::{driver_option, mac};

/// Add a container to a network, at once when it runs
#[derive(Debug, clap::Args)]
pub(super) struct Connect {
    /// Further name that it has there (several)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,
    /// Its IPv4 address there; a free one without it
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its IPv6 address there; a free one without it
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Its MAC address there
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Link-local address that it has there (several)
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    /// The network with the highest one has the default route
    #[arg(
        long,
        value_name = "PRIORITY",
        default_value_t = 0,
        allow_negative_numbers = true,
        hide_default_value = true
    )]
    gw_priority: i32,
    /// Option of the driver (several)
    #[arg(long, value_name = "KEY=VALUE", value_parser = driver_option)]
    driver_opt: Vec<(String, String)>,
    /// Docker's names for other containers
    #[arg(long, value_name = "LINK", hide = true)]
    link: Vec<String>,
    /// Network, by name or ID
    #[arg(value_name = "NETWORK", add = ArgValueCandidates::new(complete::networks))]
    network: String,
    /// Container, by name or ID
    #[arg(value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

impl Connect {
    pub(super) async fn execute(self, context: Context<'_>) -> Outcome {
        let request = self.into_request()?;
        let client = context.connect().await?;
        client.answer(client.networks().connect(request).await)?;
        Ok(SUCCESS)
    }

    fn into_request(self) -> anyhow::Result<api::ConnectNetworkRequest> {
        if !self.link.is_empty() {
            anyhow::bail!(
                "--link is not supported: containers of one network find each other by name"
            );
        }
        let attachment = api::NetworkAttachment {
            network: self.network,
            aliases: self.alias,
            ipv4_address: self.ip.unwrap_or_default(),
            ipv6_address: self.ip6.unwrap_or_default(),
            mac_address: mac(&self.mac_address.unwrap_or_default())?,
            driver_options: self.driver_opt.into_iter().collect(),
            gateway_priority: self.gw_priority,
            link_local_addresses: self.link_local_ip,
        };
        let attachment = Some(attachment);
        Ok(api::ConnectNetworkRequest { container: self.container, attachment })
    }
}

/// Take a container out of a network, at once when it runs
#[derive(Debug, clap::Args)]
pub(super) struct Disconnect {
    /// Also when the network or the container is half-gone
    #[arg(short, long)]
    force: bool,
    /// Network, by name or ID
    #[arg(value_name = "NETWORK", add = ArgValueCandidates::new(complete::networks))]
    network: String,
    /// Container, by name or ID
    #[arg(value_name = "CONTAINER", add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

impl Disconnect {
    pub(super) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let Self { force, network, container } = self;
        let request = api::DisconnectNetworkRequest { container, network, force };
        client.answer(client.networks().disconnect(request).await)?;
        Ok(SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn read(line: &[&str]) -> anyhow::Result<api::ConnectNetworkRequest> {
        let command = clap::Command::new("connect").no_binary_name(true);
        let command = Connect::augment_args(command);
        let matches = command.try_get_matches_from([line, &["app-net", "web"]].concat())?;
        Connect::from_arg_matches(&matches)?.into_request()
    }

    #[test]
    fn a_container_is_connected_as_wanted() {
        let plain = read(&[]).unwrap();
        assert_eq!(plain.container, "web");
        let named = api::NetworkAttachment { network: "app-net".to_owned(), ..Default::default() };
        assert_eq!(plain.attachment, Some(named.clone()));
        let line = ["--alias=a,b", "--alias=c", "--ip=10.9.0.7", "--gw-priority", "-5"];
        let more = ["--driver-opt", "a=b", "--mac-address=02-00-00-00-00-01"];
        let wanted = api::NetworkAttachment {
            aliases: ["a", "b", "c"].map(str::to_owned).to_vec(),
            ipv4_address: "10.9.0.7".to_owned(),
            mac_address: "02:00:00:00:00:01".to_owned(),
            gateway_priority: -5,
            driver_options: [("a".to_owned(), "b".to_owned())].into(),
            ..named
        };
        let made = read(&[&line[..], &more].concat()).unwrap();
        assert_eq!(made.attachment, Some(wanted));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let refused = |option: &str| read(&[option]).unwrap_err().to_string();
        assert!(refused("--driver-opt=x").contains("invalid key value pair format"));
        assert!(refused("--mac-address=x").contains("x is not a valid mac address"));
        assert!(refused("--link=x").starts_with("--link is not supported: "));
    }
}
