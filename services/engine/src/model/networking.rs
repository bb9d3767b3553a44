//! What a container was asked to have of networks, and what it has while it runs.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use gantry_core::networks::{Attachment, DnsWish, Endpoint, PortWish, Protocol, Published};
use gantry_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Settings, is_default, joining};

/// How a container is connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A network namespace of its own with nothing but a loopback interface.
    #[default]
    None,
    /// The host's.
    Host,
    /// One of its own, with an interface for each of its networks.
    Attached,
    /// Another container's.
    Container,
}

/// A network of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attached {
    /// Name of the network.
    pub name: String,
    /// How it is there.
    pub attachment: Attachment,
}

/// Networks and ports of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Networking {
    /// Name of the first network that it was made with, which it may have left since; empty where
    /// an older daemon made it, or there was none.
    #[serde(skip_serializing_if = "is_default")]
    pub mode: String,
    /// Its networks.
    #[serde(skip_serializing_if = "is_default")]
    pub attached: Vec<Attached>,
    /// Ports of the host that lead to it.
    #[serde(skip_serializing_if = "is_default")]
    pub ports: Vec<PortWish>,
    /// Ports that it has, the image's and the caller's.
    #[serde(skip_serializing_if = "is_default")]
    pub exposed: Vec<ExposedPort>,
    /// All of these are published on free ports of the host.
    #[serde(skip_serializing_if = "is_default")]
    pub publish_all: bool,
    /// What its resolvers are to know.
    #[serde(skip_serializing_if = "is_default")]
    pub dns: DnsWish,
    /// Lines of its hosts file, NAME:ADDRESS.
    #[serde(skip_serializing_if = "is_default")]
    pub extra_hosts: Vec<String>,
}

/// A port that a container has.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ExposedPort {
    /// Its number.
    pub port: u16,
    /// Its protocol.
    pub protocol: Protocol,
}

/// Where a container that runs is in its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connected {
    /// Its interfaces, in their order.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub ports: Vec<Published>,
}

impl fmt::Display for ExposedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, self.protocol.as_str())
    }
}

impl From<ExposedPort> for String {
    fn from(port: ExposedPort) -> Self {
        port.to_string()
    }
}

impl TryFrom<String> for ExposedPort {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl FromStr for ExposedPort {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid_argument(format!("invalid port: {text:?}"));
        let (ports, protocol) = port_range(text).ok_or_else(bad)?;
        let port = *ports.start();
        if port == *ports.end() { Ok(Self { port, protocol }) } else { Err(bad()) }
    }
}

impl ExposedPort {
    /// The ports of `80`, `80/udp` or `8000-8010/tcp`; `None` for what is none.
    pub(crate) fn parse_all(text: &str) -> Option<impl Iterator<Item = Self> + use<>> {
        let (ports, protocol) = port_range(text)?;
        Some(ports.map(move |port| Self { port, protocol }))
    }
}

/// Reads `80`, `80/udp` or `8000-8010/tcp`.
pub(crate) fn port_range(text: &str) -> Option<(RangeInclusive<u16>, Protocol)> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(protocol))?;
    let digits = |text: &&str| text.bytes().all(|b| b.is_ascii_digit());
    let number =
        |text: &str| Some(text).filter(digits)?.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first..=last, protocol))
}

impl Networking {
    /// The ports that are to be published with a start.
    pub(crate) fn published(&self) -> Vec<PortWish> {
        let mut all = self.ports.clone();
        if self.publish_all {
            let asked = |port: &ExposedPort| {
                let is = |wish: &PortWish| {
                    wish.container_port == port.port && wish.protocol == port.protocol
                };
                self.ports.iter().any(is)
            };
            let more = self.exposed.iter().filter(|port| !asked(port));
            all.extend(more.map(|port| PortWish {
                container_port: port.port,
                protocol: port.protocol,
                ..PortWish::default()
            }));
        }
        all
    }

    /// What it asks of a network, by the network's ID.
    pub(crate) fn attached(&self, network: &str) -> Option<&Attached> {
        self.attached.iter().find(|attached| attached.attachment.network == network)
    }
}

impl Settings {
    /// How it is connected, as users write it: Docker's network mode.
    pub fn network_mode(&self) -> String {
        match self.network {
            Network::None => "none".to_owned(),
            Network::Host => "host".to_owned(),
            Network::Container => self.flags.namespaces.network.clone(),
            Network::Attached if !self.networking.mode.is_empty() => self.networking.mode.clone(),
            Network::Attached => match self.networking.attached.first() {
                Some(first) => first.name.clone(),
                None => "none".to_owned(),
            },
        }
    }

    /// Names of its networks, in the order in which it asks for them.
    pub fn network_names(&self) -> Vec<String> {
        match self.network {
            Network::Attached => {
                self.networking.attached.iter().map(|attached| attached.name.clone()).collect()
            }
            _ => vec![self.network_mode()],
        }
    }

    /// Whether it is connected by way of interfaces of its own.
    pub(crate) fn is_attached(&self) -> bool {
        self.network == Network::Attached
    }

    /// The container whose network it shares.
    pub(crate) fn network_of(&self) -> Option<&str> {
        super::other_container(&self.flags.namespaces.network)
    }

    /// Has it share another container's network.
    pub(crate) fn share_network(&mut self, id: &str) {
        self.network = Network::Container;
        self.flags.namespaces.network = joining(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_they_are_written() {
        let all = |text: &str| -> Option<Vec<String>> {
            Some(ExposedPort::parse_all(text)?.map(|port| port.to_string()).collect())
        };
        assert_eq!(all("80").unwrap(), ["80/tcp"]);
        assert_eq!(all("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(all("7-9/sctp").unwrap(), ["7/sctp", "8/sctp", "9/sctp"]);
        for bad in ["", "0", "x", "9-7", "80/icmp", "65536", "1-", "-1", "80/", "1-2-3"] {
            assert!(all(bad).is_none(), "{bad}");
        }
        assert!("7-9".parse::<ExposedPort>().is_err());
        let json = serde_json::to_string(&"80".parse::<ExposedPort>().unwrap()).unwrap();
        assert_eq!(json, "\"80/tcp\"");
        assert_eq!(serde_json::from_str::<ExposedPort>(&json).unwrap().port, 80);
    }

    #[test]
    fn all_exposed_ports_but_those_that_are_asked_for() {
        let wish = PortWish { host_port: 8080, container_port: 80, ..PortWish::default() };
        let exposed = ["80", "81", "80/udp"].map(|text| text.parse().unwrap()).to_vec();
        let mut networking = Networking { ports: vec![wish], exposed, ..Networking::default() };
        assert_eq!(networking.published().len(), 1);
        networking.publish_all = true;
        let published = networking.published();
        let shown: Vec<_> = published.iter().map(|p| (p.host_port, p.container_port)).collect();
        assert_eq!(shown, [(8080, 80), (0, 81), (0, 80)]);
    }

    #[test]
    fn what_an_older_release_has_stored() {
        let settings: Settings = serde_json::from_str(r#"{"network":"host"}"#).unwrap();
        assert_eq!((settings.network, settings.network_mode().as_str()), (Network::Host, "host"));
        let settings: Settings = serde_json::from_str("{}").unwrap();
        assert_eq!(settings.network_names(), ["none"]);
        let stored = r#"{"network":"attached","networking":{"attached":[{"name":"app"}]}}"#;
        let attached: Settings = serde_json::from_str(stored).unwrap();
        assert_eq!(attached.network_mode(), "app");
        let json = serde_json::to_string(&settings).unwrap();
        assert!(!json.contains("networking"), "{json}");
    }

    #[test]
    fn modes() {
        let mut settings = Settings { network: Network::Attached, ..Settings::default() };
        assert_eq!((settings.network_mode().as_str(), settings.network_names().len()), ("none", 0));
        for name in ["app", "db"] {
            let attached = Attached { name: name.into(), ..Attached::default() };
            settings.networking.attached.push(attached);
        }
        assert_eq!(settings.network_mode(), "app");
        assert_eq!(settings.network_names(), ["app", "db"]);
        // It is what was asked for, also when it has left that network.
        settings.networking.mode = "app".into();
        settings.networking.attached.remove(0);
        assert_eq!((settings.network_mode().as_str(), settings.network_names().len()), ("app", 1));
        settings.share_network("c1");
        assert_eq!(
            (settings.network_mode().as_str(), settings.network_of()),
            ("container:c1", Some("c1"))
        );
    }
}
