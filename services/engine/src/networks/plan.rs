//! From what a caller asks of networks to what a container is to have of them. Everything is
//! looked through before anything is made.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use gantry_core::networks::{
    Attachment, BRIDGE, DnsWish, Driver, HOST, NONE, Network as Found, PortWish,
};
use gantry_core::{Context, Error, Result};

use crate::Engine;
use crate::checks::is_host_name;
use crate::image_config::Runtime as ImageRuntime;
use crate::model::{Attached, ExposedPort, Network, Networking, Settings, other_container};
use crate::options::ContainerOptions;

/// Another word for the usual network.
const DEFAULT: &str = "default";
/// Stands for the host's address in `extra_hosts`.
const HOST_GATEWAY: &str = "host-gateway";
/// Stands for no domain at all.
const NO_DOMAIN: &str = ".";
/// Longest name in DNS.
const LONGEST_NAME: usize = 253;

const ALONE: &str =
    "conflicting options: cannot attach both user-defined and non-user-defined network-modes";

/// What a container is to have.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) network: Network,
    pub(crate) networking: Networking,
    /// The container whose network it shares: its ID, and its host name, which it shares as well.
    pub(crate) shares: Option<(String, String)>,
    /// What a user should know.
    pub(crate) warnings: Vec<String>,
}

/// A network by what it is called.
#[derive(Debug, PartialEq, Eq)]
enum Mode<'a> {
    None,
    Host,
    Container(&'a str),
}

fn mode(name: &str) -> Option<Mode<'_>> {
    match name {
        NONE => Some(Mode::None),
        HOST => Some(Mode::Host),
        name => other_container(name).map(Mode::Container),
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::invalid_argument(message)
}

fn conflict(what: &str) -> Error {
    invalid(format!("conflicting options: {what}"))
}

impl Engine {
    /// Looks through what a container is to have of networks.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong; `NotFound` for a network or a container.
    pub(crate) async fn plan_networks(
        &self,
        ctx: &Context,
        options: &ContainerOptions,
        image: &ImageRuntime,
    ) -> Result<Plan> {
        let mut plan = Plan {
            networking: Networking {
                ports: distinct(&options.ports),
                exposed: exposed(options, image)?,
                publish_all: options.publish_all,
                dns: dns(options)?,
                extra_hosts: options
                    .extra_hosts
                    .iter()
                    .map(|e| extra_host(e))
                    .collect::<Result<_>>()?,
                ..Networking::default()
            },
            ..Plan::default()
        };
        let wishes = wishes(options)?;
        let alone = wishes.len() == 1;
        let mut closed = Vec::new();
        for wish in wishes {
            if let Some(mode) = mode(&wish.network) {
                let mode = if alone { mode } else { return Err(invalid(ALONE)) };
                self.plan_mode(ctx, options, &wish, mode, &mut plan).await?;
                return Ok(plan);
            }
            let network = self.network_named(ctx, &wish.network).await?;
            let mode = match network.driver {
                Driver::Host => Mode::Host,
                Driver::Null => Mode::None,
                Driver::Bridge | Driver::Macvlan => {
                    closed.extend(closed_to_ports(&network));
                    let attached = attached(&network, wish)?;
                    if plan.networking.attached(&network.id).is_some() {
                        let name = &network.name;
                        return Err(invalid(format!(
                            "network {name:?} is specified multiple times"
                        )));
                    }
                    plan.networking.attached.push(attached);
                    continue;
                }
            };
            // By its ID.
            let mode = if alone { mode } else { return Err(invalid(ALONE)) };
            self.plan_mode(ctx, options, &wish, mode, &mut plan).await?;
            return Ok(plan);
        }
        plan.network = Network::Attached;
        plan.warnings.extend(discarded(&plan.networking, &closed));
        if let Some(first) = plan.networking.attached.first() {
            plan.networking.mode.clone_from(&first.name);
        }
        Ok(plan)
    }

    async fn plan_mode(
        &self,
        ctx: &Context,
        options: &ContainerOptions,
        wish: &Attachment,
        mode: Mode<'_>,
        plan: &mut Plan,
    ) -> Result<()> {
        without_network(wish)?;
        match mode {
            Mode::None => {
                plan.network = Network::None;
                if !plan.networking.published().is_empty() {
                    let text = "Published ports are discarded: the container has no network";
                    plan.warnings.push(text.to_owned());
                }
            }
            Mode::Host => {
                plan.network = Network::Host;
                if !options.ports.is_empty() {
                    let text = "Published ports are discarded when using host network mode";
                    plan.warnings.push(text.to_owned());
                }
            }
            Mode::Container(name) => {
                sharing(options)?;
                let (container, meta) = self.store.resolve(ctx, name).await?;
                plan.network = Network::Container;
                plan.shares = Some((container.id, meta.settings.hostname));
            }
        }
        Ok(())
    }

    /// Lines of a container's hosts file that its caller wants.
    ///
    /// # Errors
    /// `FailedPrecondition` when the host has no address that it could reach.
    pub(crate) async fn extra_lines(
        &self,
        ctx: &Context,
        settings: &Settings,
    ) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for entry in &settings.networking.extra_hosts {
            let Some((name, address)) = entry.split_once(':') else { continue };
            if address != HOST_GATEWAY {
                lines.push(format!("{address}\t{name}"));
                continue;
            }
            for address in self.addresses_of_host(ctx, settings).await? {
                lines.push(format!("{address}\t{name}"));
            }
        }
        Ok(lines)
    }

    /// The host's addresses in a network of a container, else in the usual one.
    async fn addresses_of_host(&self, ctx: &Context, settings: &Settings) -> Result<Vec<IpAddr>> {
        if settings.network == Network::Host {
            return Ok(vec![IpAddr::from([127, 0, 0, 1])]);
        }
        let own = settings.networking.attached.iter();
        let own = own.map(|attached| attached.attachment.network.as_str());
        for name in own.chain([BRIDGE]) {
            let network = match self.parts.networks.get(ctx, name).await {
                // It says so when it is started.
                Err(err) if err.is_not_found() => continue,
                other => other?,
            };
            let gateways = network.subnets.iter().filter_map(|subnet| subnet.gateway);
            let gateways: Vec<IpAddr> = gateways.collect();
            if network.driver == Driver::Bridge && !gateways.is_empty() {
                return Ok(gateways);
            }
        }
        Err(Error::failed_precondition("unable to derive the IP value for host-gateway"))
    }
}

/// Why no port can be published from a network, if none can.
fn closed_to_ports(network: &Found) -> Option<String> {
    let name = &network.name;
    match network.driver {
        Driver::Bridge if !network.internal => None,
        Driver::Bridge => Some(format!("network {name} is internal")),
        driver => Some(format!("network {name} is of the driver {}", driver.as_str())),
    }
}

/// What a user should know whose ports none of a container's networks publishes.
fn discarded(networking: &Networking, closed: &[String]) -> Option<String> {
    let all = closed.len() == networking.attached.len();
    let wishes = all && !networking.published().is_empty();
    wishes.then(|| format!("Ports are not published: {}", closed.join(", ")))
}

/// The networks that are asked for, the usual one when none is.
fn wishes(options: &ContainerOptions) -> Result<Vec<Attachment>> {
    let named = |name: &str| Attachment { network: name.to_owned(), ..Attachment::default() };
    let mut all = options.networks.clone();
    let short = options.network.as_str();
    if !short.is_empty() && !all.iter().any(|wish| wish.network == short) {
        all.insert(0, named(short));
    }
    if all.is_empty() {
        all.push(named(BRIDGE));
    }
    for wish in &mut all {
        match wish.network.as_str() {
            "" => return Err(invalid("invalid network: it has no name")),
            DEFAULT => BRIDGE.clone_into(&mut wish.network),
            _ => {}
        }
    }
    Ok(all)
}

/// A network that a container is to have.
///
/// # Errors
/// `InvalidArgument` for what it does not give.
pub(super) fn attached(network: &Found, wish: Attachment) -> Result<Attached> {
    let addresses = [wish.ipv4.map(IpAddr::from), wish.ipv6.map(IpAddr::from)];
    let mut addresses = addresses.into_iter().flatten();
    if network.predefined {
        without_names(&wish)?;
    }
    let missing = addresses
        .find(|address| !network.subnets.iter().any(|subnet| subnet.subnet.contains(address)));
    if let Some(address) = missing {
        return Err(invalid(format!(
            "invalid endpoint settings: no configured subnet contains IP address {address}"
        )));
    }
    for alias in &wish.aliases {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if alias.is_empty() || alias.len() > LONGEST_NAME || !alias.bytes().all(allowed) {
            return Err(invalid(format!("invalid network-scoped alias: {alias:?}")));
        }
    }
    // Of several, or of nobody.
    if wish.mac.is_some_and(|mac| mac[0] & 1 == 1 || mac == [0; 6]) {
        return Err(invalid("invalid MAC address: it is not that of one interface"));
    }
    for address in &wish.link_local {
        if !is_link_local(address) {
            return Err(invalid(format!("invalid link-local IP address: {address}")));
        }
    }
    let attachment = Attachment { network: network.id.clone(), ..wish };
    Ok(Attached { name: network.name.clone(), attachment })
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Refuses what only user-defined networks give.
fn without_names(wish: &Attachment) -> Result<()> {
    if wish.ipv4.is_some() || wish.ipv6.is_some() {
        return Err(invalid(
            "user specified IP address is supported on user defined networks only",
        ));
    }
    if !wish.aliases.is_empty() {
        return Err(invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    Ok(())
}

/// Refuses what needs an interface.
fn without_network(wish: &Attachment) -> Result<()> {
    without_names(wish)?;
    if wish.mac.is_some() {
        return Err(conflict("mac-address and the network mode"));
    }
    if !wish.link_local.is_empty() {
        return Err(conflict("link-local addresses and the network mode"));
    }
    Ok(())
}

/// Refuses what a container that shares another's network can't have of its own.
fn sharing(options: &ContainerOptions) -> Result<()> {
    let ContainerOptions { dns, dns_search, dns_options, .. } = options;
    let wishes = [
        (!options.hostname.is_empty(), "hostname and the network mode"),
        (
            !dns.is_empty() || !dns_search.is_empty() || !dns_options.is_empty(),
            "dns and the network mode",
        ),
        (!options.extra_hosts.is_empty(), "custom host-to-IP mapping and the network mode"),
        (
            !options.ports.is_empty() || options.publish_all,
            "port publishing and the container type network mode",
        ),
        (!options.expose.is_empty(), "port exposing and the container type network mode"),
    ];
    match wishes.into_iter().find(|(wished, _)| *wished) {
        Some((_, what)) => Err(conflict(what)),
        None => Ok(()),
    }
}

/// Ports that are wished: one that is said twice is meant once.
pub(super) fn distinct(wishes: &[PortWish]) -> Vec<PortWish> {
    let mut seen = HashSet::new();
    wishes.iter().filter(|wish| seen.insert(*wish)).cloned().collect()
}

/// The image's ports, which others may have written as they like, and the caller's.
fn exposed(options: &ContainerOptions, image: &ImageRuntime) -> Result<Vec<ExposedPort>> {
    let of_image = image.exposed_ports.iter().flat_map(|ports| ports.keys());
    let of_image = of_image.filter_map(|text| ExposedPort::parse_all(text)).flatten();
    let mut all: BTreeSet<ExposedPort> = of_image.collect();
    for text in &options.expose {
        let ports = ExposedPort::parse_all(text);
        all.extend(
            ports.ok_or_else(|| invalid(format!("invalid range format for --expose: {text}")))?,
        );
    }
    Ok(all.into_iter().collect())
}

fn dns(options: &ContainerOptions) -> Result<DnsWish> {
    let server = |text: &String| {
        let parsed = text.parse::<IpAddr>();
        parsed.map_err(|_| invalid(format!("invalid dns server: {text} is not an ip address")))
    };
    for domain in &options.dns_search {
        let bare = domain.strip_suffix('.').unwrap_or(domain);
        let named = !bare.is_empty() && bare.len() <= LONGEST_NAME;
        if domain != NO_DOMAIN && !(named && bare.split('.').all(is_label)) {
            return Err(invalid(format!(
                "invalid dns search domain: {domain} is not a valid domain"
            )));
        }
    }
    for option in &options.dns_options {
        if option.is_empty() || option.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(invalid(format!("invalid dns option: {option:?}")));
        }
    }
    Ok(DnsWish {
        servers: options.dns.iter().map(server).collect::<Result<_>>()?,
        search: options.dns_search.clone(),
        options: options.dns_options.clone(),
    })
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.len() < 64 && is_host_name(label)
}

/// `NAME:ADDRESS` as it is kept.
fn extra_host(text: &str) -> Result<String> {
    let bad = || invalid(format!("bad format for add-host: {text:?}"));
    let (name, address) = text.split_once(':').ok_or_else(bad)?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        return Err(bad());
    }
    if address == HOST_GATEWAY {
        return Ok(text.to_owned());
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    match bare.parse::<IpAddr>() {
        Ok(address) => Ok(format!("{name}:{address}")),
        Err(_) => Err(invalid(format!("invalid IP address in add-host: {address:?}"))),
    }
}

#[cfg(test)]
mod tests;
