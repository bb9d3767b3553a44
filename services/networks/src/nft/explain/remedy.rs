//! What makes a chain let packets pass: the command of whoever manages it.

use std::net::IpAddr;

use super::super::dump::Chain;
use super::super::layout::POLICY_CHAIN;
use super::super::wire::Layer;
use super::judgement::Decision;
use super::packet::Packet;
use super::ruleset::Ruleset;

/// A chain that does not let a packet pass.
pub(super) struct Case<'a> {
    pub(super) ruleset: &'a Ruleset<'a>,
    /// Name of our own table.
    pub(super) own: &'a str,
    pub(super) chain: &'a Chain,
    /// The packet goes to a container, else to the host itself.
    pub(super) forwarded: bool,
    pub(super) decision: &'a Decision,
    pub(super) packet: &'a Packet,
}

impl Case<'_> {
    /// A command for a shell; where there is none, what to do.
    pub(super) fn remedy(&self) -> String {
        let (layer, table) = (self.chain.layer, self.chain.table.as_str());
        if (layer, table) == (Layer::Inet, self.own) {
            return self.ours();
        }
        if table == "firewalld" {
            return self.firewalld();
        }
        let has = |name: &str| self.ruleset.has_chain(layer, table, name);
        if has("ufw-user-input") || has("ufw6-user-input") {
            return self.ufw();
        }
        // Tables that iptables made have chains in capitals.
        let shouted = self.chain.name.chars().all(|letter| letter.is_ascii_uppercase());
        match shouted && layer != Layer::Inet {
            true => self.iptables(self.forwarded && has("DOCKER-USER")),
            false => self.nft(),
        }
    }

    fn ours(&self) -> String {
        let table = self.own;
        if self.decision.chain == POLICY_CHAIN {
            let port = self.packet.original_port.unwrap_or(0);
            return format!(
                "nft insert rule inet {table} {POLICY_CHAIN} meta l4proto {} \
                 ct original proto-dst {port} accept",
                self.protocol()
            );
        }
        if self.packet.destination.is_some_and(|address| address.is_loopback()) {
            return "it is published on a loopback address only: publish it on another one with \
                    `gantry port add`"
                .to_owned();
        }
        "publish the port with `gantry port add`".to_owned()
    }

    fn firewalld(&self) -> String {
        match (self.forwarded, self.bridge()) {
            (true, Some(bridge)) => {
                format!("firewall-cmd --zone=trusted --add-interface={bridge}")
            }
            _ => format!("firewall-cmd --add-port={}/{}", self.port(), self.protocol()),
        }
    }

    fn ufw(&self) -> String {
        let (port, protocol) = (self.port(), self.protocol());
        match (self.forwarded, self.packet.destination) {
            (true, Some(address)) => {
                format!("ufw route allow proto {protocol} to {address} port {port}")
            }
            (true, None) => format!("ufw route allow proto {protocol} to any port {port}"),
            (false, _) => format!("ufw allow {port}/{protocol}"),
        }
    }

    fn iptables(&self, docker: bool) -> String {
        let program = if self.packet.v6 { "ip6tables" } else { "iptables" };
        let table = match self.chain.table.as_str() {
            "filter" => String::new(),
            other => format!("-t {other} "),
        };
        let chain = if docker { "DOCKER-USER" } else { self.chain.name.as_str() };
        let insert = |what: &str| format!("{program} {table}-I {chain} {what} -j ACCEPT");
        match (self.forwarded, self.bridge(), self.packet.destination) {
            (true, Some(bridge), _) => {
                let (into, out) = (format!("-o {bridge}"), format!("-i {bridge}"));
                format!("{} && {}", insert(&into), insert(&out))
            }
            (true, None, Some(address)) => insert(&format!("-d {address}")),
            _ => insert(&format!("-p {} --dport {}", self.protocol(), self.port())),
        }
    }

    fn nft(&self) -> String {
        let chain =
            format!("{} {} {}", self.chain.layer.as_str(), self.chain.table, self.chain.name);
        let insert = |what: &str| format!("insert rule {chain} {what} accept");
        let what = match (self.forwarded, self.bridge(), self.packet.destination) {
            (true, Some(bridge), _) => format!(
                "{}; {}",
                insert(&format!("oifname \"{bridge}\"")),
                insert(&format!("iifname \"{bridge}\""))
            ),
            (true, None, Some(IpAddr::V4(address))) => insert(&format!("ip daddr {address}")),
            (true, None, Some(IpAddr::V6(address))) => insert(&format!("ip6 daddr {address}")),
            _ => insert(&format!("{} dport {}", self.protocol(), self.port())),
        };
        format!("nft '{what}'")
    }

    fn bridge(&self) -> Option<&str> {
        self.packet.oifname.as_deref().filter(|name| !name.is_empty())
    }

    fn port(&self) -> u16 {
        self.packet.port.unwrap_or(0)
    }

    fn protocol(&self) -> &'static str {
        match self.packet.protocol {
            17 => "udp",
            132 => "sctp",
            _ => "tcp",
        }
    }
}
