//! The networks of a container, its ports, and how it finds others by name.

use anyhow::bail;
use clap::Args;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use super::ports::{self, Ports};
use super::{csv, names};
use crate::complete;

/// The network of a container that asks for none.
const DEFAULT: &str = "bridge";

/// Options of networks.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct Network {
    /// Network: one of yours, bridge, none, host, container:NAME; or name=NAME,alias=…,ip=…,ip6=…,gw-priority=… (several)
    // Docker's old name is understood as well.
    #[arg(
        long,
        alias = "net",
        value_name = "NETWORK",
        value_parser = attachment,
        add = ArgValueCandidates::new(complete::modes)
    )]
    network: Vec<api::NetworkAttachment>,
    /// Further name that it has in its first network (several)
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    network_alias: Vec<String>,
    /// Its IPv4 address there
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// Its IPv6 address there
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Its MAC address there
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// Link-local address that it has there (several)
    #[arg(long, value_name = "ADDRESS")]
    link_local_ip: Vec<String>,
    /// Publish a port on the host: 8080:80, 127.0.0.1:8080:80, 53:53/udp, 80 for a free one (several)
    #[arg(
        short,
        long,
        value_name = "[[IP:]HOST:]PORT[/PROTOCOL]",
        value_parser = ports::publish
    )]
    publish: Vec<Ports>,
    /// Publish all ports that it exposes, on free ones of the host
    #[arg(short = 'P', long)]
    publish_all: bool,
    /// Port that it exposes beside the image's: 80, 8000-8010/udp (several)
    #[arg(long, value_name = "PORT[/PROTOCOL]", value_parser = ports::expose)]
    expose: Vec<String>,
    /// Name server, for the host's (several)
    #[arg(long, value_name = "ADDRESS", value_parser = names::server)]
    dns: Vec<String>,
    /// Domain that names are looked up in, for the host's; '.' for none (several)
    #[arg(long, value_name = "DOMAIN", value_parser = names::domain)]
    dns_search: Vec<String>,
    /// Option of its resolv.conf: timeout:3 (several)
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    dns_option: Vec<String>,
    /// Line of its hosts file; host-gateway is the host's address (several)
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = names::host)]
    add_host: Vec<String>,
}

impl Network {
    /// Adds them to what a container is made from.
    ///
    /// # Errors
    /// In Docker's words when they contradict each other.
    pub(super) fn add_to(self, spec: &mut api::ContainerSpec) -> anyhow::Result<()> {
        let Self { network, network_alias, ip, ip6, mac_address, link_local_ip, .. } = self;
        let plain = Plain {
            aliases: network_alias,
            ipv4_address: ip.unwrap_or_default(),
            ipv6_address: ip6.unwrap_or_default(),
            mac_address: mac_address.unwrap_or_default(),
            link_local_addresses: link_local_ip,
        };
        let networks = plain.with(network)?;
        match &networks[..] {
            [only] if *only == named(&only.network) => spec.network = only.network.clone(),
            _ => spec.networks = networks,
        }
        spec.ports = self.publish.into_iter().flat_map(|ports| ports.0).collect();
        spec.publish_all = self.publish_all;
        spec.expose = self.expose;
        spec.dns = self.dns;
        spec.dns_search = self.dns_search;
        spec.dns_options = self.dns_option;
        spec.extra_hosts = self.add_host;
        Ok(())
    }
}

/// What options of their own say of the first network.
#[derive(Debug, Default, PartialEq)]
struct Plain {
    aliases: Vec<String>,
    ipv4_address: String,
    ipv6_address: String,
    mac_address: String,
    link_local_addresses: Vec<String>,
}

impl Plain {
    /// Networks with these options for the first of them, all checked.
    fn with(
        self,
        mut networks: Vec<api::NetworkAttachment>,
    ) -> anyhow::Result<Vec<api::NetworkAttachment>> {
        if networks.is_empty() && self != Self::default() {
            networks.push(named(DEFAULT));
        }
        if let Some(first) = networks.first_mut() {
            self.apply_to(first)?;
        }
        for at in 0..networks.len() {
            let (before, rest) = networks.split_at_mut(at);
            let network = &mut rest[0];
            check(network)?;
            if before.iter().any(|other| other.network == network.network) {
                bail!("network {:?} is specified multiple times", network.network);
            }
        }
        let own = networks.iter().filter(|network| is_own(&network.network)).count();
        if own != 0 && own != networks.len() {
            bail!(
                "conflicting options: cannot attach both user-defined and non-user-defined \
                 network-modes"
            );
        }
        Ok(networks)
    }

    fn apply_to(self, network: &mut api::NetworkAttachment) -> anyhow::Result<()> {
        let both = |option: &str, field: &str| -> anyhow::Result<()> {
            bail!("conflicting options: cannot specify both --{option} and per-network {field}")
        };
        merge(&mut network.aliases, self.aliases, || both("network-alias", "alias"))?;
        merge(&mut network.ipv4_address, self.ipv4_address, || both("ip", "IPv4 address"))?;
        merge(&mut network.ipv6_address, self.ipv6_address, || both("ip6", "IPv6 address"))?;
        merge(&mut network.mac_address, self.mac_address, || both("mac-address", "MAC address"))?;
        merge(&mut network.link_local_addresses, self.link_local_addresses, || {
            both("link-local-ip", "link-local IP addresses")
        })
    }
}

/// Puts a value where there is none.
fn merge<T: Default + PartialEq>(
    field: &mut T,
    value: T,
    both: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if value == T::default() {
        return Ok(());
    }
    if *field != T::default() {
        return both();
    }
    *field = value;
    Ok(())
}

/// Refuses what a network can't be asked for, and brings its name and MAC address into one form.
fn check(network: &mut api::NetworkAttachment) -> anyhow::Result<()> {
    if network.network.is_empty() {
        bail!("no name set for network");
    }
    if network.network == "default" {
        network.network = DEFAULT.to_owned();
    }
    if !is_own(&network.network) && !network.aliases.is_empty() {
        bail!("network-scoped aliases are only supported for user-defined networks");
    }
    network.mac_address = mac(&network.mac_address)?;
    Ok(())
}

/// A MAC address with colons.
///
/// # Errors
/// In Docker's words when it is none. None at all is no error.
pub(crate) fn mac(text: &str) -> anyhow::Result<String> {
    let (separator, width) = match text {
        _ if text.contains('.') => ('.', 4),
        _ if text.contains('-') => ('-', 2),
        _ => (':', 2),
    };
    let groups: Vec<_> = text.split(separator).collect();
    let is_hex =
        |group: &&str| group.len() == width && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    match groups.len() * width {
        _ if text.is_empty() => Ok(String::new()),
        12 if groups.iter().all(is_hex) => {
            let digits = groups.concat().to_ascii_lowercase();
            let pairs: Vec<_> = (0..12).step_by(2).map(|at| &digits[at..at + 2]).collect();
            Ok(pairs.join(":"))
        }
        _ => bail!("{text} is not a valid mac address"),
    }
}

/// A network that is only named.
fn named(network: &str) -> api::NetworkAttachment {
    api::NetworkAttachment { network: network.to_owned(), ..Default::default() }
}

/// Whether a user made it.
fn is_own(network: &str) -> bool {
    !matches!(network, "bridge" | "host" | "none") && !network.starts_with("container:")
}

/// Reads a network: its name, or fields between commas.
///
/// # Errors
/// In Docker's words when a field is none.
fn attachment(text: &str) -> Result<api::NetworkAttachment, String> {
    let mut network = named("");
    if !text.contains('=') {
        network.network = text.to_owned();
        return Ok(network);
    }
    for field in csv::fields(text)? {
        let Some((key, value)) = field.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("invalid field {field}"));
        };
        let value = value.trim().to_owned();
        match key.trim().to_ascii_lowercase().as_str() {
            "name" => network.network = value,
            "alias" => network.aliases.push(value),
            "ip" => network.ipv4_address = value,
            "ip6" => network.ipv6_address = value,
            "mac-address" => network.mac_address = value,
            "link-local-ip" => network.link_local_addresses.push(value),
            "driver-opt" => network.driver_options.extend([driver_option(&value)?]),
            "gw-priority" => {
                network.gateway_priority = value
                    .parse::<i32>()
                    .map_err(|_| format!("invalid gw-priority ({value}): invalid syntax"))?;
            }
            other => return Err(format!("invalid field key {other}")),
        }
    }
    if network.network.is_empty() {
        return Err("network name/id is not specified".to_owned());
    }
    Ok(network)
}

/// `KEY=VALUE`.
///
/// # Errors
/// In Docker's words when it is none.
pub(crate) fn driver_option(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("invalid key value pair format in driver options".to_owned()),
    }
}

#[cfg(test)]
mod tests;
