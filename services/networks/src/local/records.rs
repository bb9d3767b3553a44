//! What is stored of networks and of containers in them.

use gantry_core::db::Table;
use gantry_core::networks::{self, Attachment, DnsWish, Endpoint, Member, Network, Published};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Networks that were made, by ID.
pub(super) const NETWORKS: Table<NetworkRecord> = Table::new(networks::TABLE);
/// Containers that are in networks, by ID. Needed for as long as the kernel runs.
pub(super) const MEMBERS: Table<MemberRecord> = Table::new("network-members");
/// What is the same for all namespaces. One row, of no namespace.
pub(super) const INSTALLATION: Table<Installation> = Table::new("network-installation");
/// Its key.
pub(super) const INSTALLATION_KEY: &str = "this";

/// A network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkRecord {
    /// As clients see it.
    pub(super) network: Network,
    /// Its interface was there before it, and stays after it.
    #[serde(default)]
    pub(super) adopted: bool,
    /// Addresses that such a bridge has for it alone, and loses with it.
    #[serde(default)]
    pub(super) added: Vec<IpNet>,
    /// Such a bridge leads from 127.0.0.1 to containers for it alone, and does not without it.
    #[serde(default)]
    pub(super) localnet: bool,
}

/// What is the same for all namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Installation {
    /// Range of IPv6 addresses that is this installation's (RFC 4193).
    pub(super) local_range: Ipv6Net,
    /// The networks that are always there.
    pub(super) predefined: Vec<Network>,
}

/// A container that is in networks, or about to be. Written before anything is done for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct MemberRecord {
    /// Its name.
    pub(super) name: String,
    /// Its host name.
    pub(super) hostname: String,
    /// What its resolvers are to know.
    pub(super) dns: DnsWish,
    /// What it asked for.
    pub(super) attachments: Vec<Attachment>,
    /// Where it is, in the order of its attachments.
    pub(super) endpoints: Vec<Endpoint>,
    /// Ports that it has.
    pub(super) ports: Vec<Published>,
    /// It asks its shim for names.
    pub(super) asks_shim: bool,
    /// Number of the file that is its network namespace.
    pub(super) namespace: u64,
    /// Where its shim answers names, in its own network namespace.
    pub(super) resolver: Option<ResolverPorts>,
    /// It has its interfaces, and others find it.
    pub(super) joined: bool,
}

/// The ports of a container's resolver at its loopback address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResolverPorts {
    /// Of UDP.
    pub(super) udp: u16,
    /// Of TCP.
    pub(super) tcp: u16,
}

impl MemberRecord {
    /// A container that is nowhere yet.
    pub(super) fn new(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            hostname: member.hostname.clone(),
            dns: member.dns.clone(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_read() {
        // As the first daemons wrote it: new fields must not be needed, old ones do no harm.
        let stored = r#"{"name":"web","hostname":"web","dns":{"servers":[],"search":[],
            "options":[]},"attachments":[{"network":"n","aliases":[],"ipv4":null,"ipv6":null,
            "mac":null,"options":{},"gateway_priority":0,"link_local":[]}],"wishes":[{"host_ip":
            null,"host_port":0,"host_port_end":0,"container_port":80,"protocol":"tcp"}],
            "endpoints":[{"id":"e","network":"n","container":"c","interface":"eth0",
            "host_interface":"veth1","mac":[2,66,172,17,0,2],"ipv4":"172.17.0.2/16","ipv6":null,
            "ipv4_gateway":"172.17.0.1","ipv6_gateway":null,"dns_names":["web"]}],"ports":[{
            "host_ip":"0.0.0.0","host_port":32768,"container_port":80,"protocol":"tcp"}],
            "resolver":{"udp":1,"tcp":2},"joined":true}"#;
        let record: MemberRecord = serde_json::from_str(stored).unwrap();
        assert_eq!(record.endpoints[0].interface, "eth0");
        assert_eq!(record.resolver, Some(ResolverPorts { udp: 1, tcp: 2 }));
        let empty: MemberRecord = serde_json::from_str("{}").unwrap();
        assert_eq!(empty, MemberRecord::default());
    }
}
