//! What becomes of packets from outside to a port of the host, in all tables.

mod judge;
mod judgement;
mod outside;
mod packet;
mod remedy;
mod ruleset;
mod values;
mod xtables;

use std::net::IpAddr;

use gantry_core::Result;
use gantry_core::networks::{ExplainedChain, Protocol};
use ipnet::IpNet;

pub(super) use judge::Judge;
pub(super) use judgement::Decision;
pub(super) use packet::Packet;
pub(super) use ruleset::Ruleset;

use self::judgement::Judgement;
use self::remedy::Case;
use super::dump::{Chain, Hooked};
use super::elements::protocol_number;
use super::rules::Rules;
use super::wire::Layer;
use crate::netlink::socket::Socket;
use crate::netlink::sysctl::sysctl;

const PREROUTING: u32 = libc::NF_INET_PRE_ROUTING as u32;
const INPUT: u32 = libc::NF_INET_LOCAL_IN as u32;
const FORWARD: u32 = libc::NF_INET_FORWARD as u32;
const POSTROUTING: u32 = libc::NF_INET_POST_ROUTING as u32;

/// What becomes of packets from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Explained {
    /// The chains that they meet, in that order. What is the same for IPv4 and IPv6 is there
    /// once.
    pub(crate) chains: Vec<ExplainedChain>,
    /// Whether no chain drops those of IPv4 for certain, and those of IPv6.
    pub(crate) passes: [bool; 2],
}

/// What the chains of all tables do with new connections from outside to this port, at this address
/// if there is one.
///
/// # Errors
/// The kernel's.
pub(super) fn explain(
    socket: &Socket,
    table: &str,
    rules: &Rules,
    (at, port, protocol): (Option<IpAddr>, u16, Protocol),
) -> Result<Explained> {
    let ruleset = Ruleset::read(socket)?;
    let bridges: Vec<&str> =
        rules.bridges.values().map(|bridge| bridge.interface.as_str()).collect();
    let mut walks = Vec::new();
    let kinds = at.map_or_else(|| kinds(rules, port, protocol), |at| vec![at.is_ipv6()]);
    let at = at.filter(|at| !at.is_unspecified());
    for v6 in kinds {
        let mut packet = Packet::new(v6, protocol_number(protocol), Some(port));
        packet.iifname = Some(outside::interface(v6, &bridges));
        let asked = at.or_else(|| destination(rules, port, protocol, v6));
        packet.destination = Some(asked.unwrap_or_else(|| outside::address(v6)));
        let mut walk = Walk { ruleset: &ruleset, table, rules, packet, explained: Vec::new() };
        walk.follow();
        walks.push((v6, walk.explained));
    }
    Ok(merged(&walks))
}

/// One list of what packets of IPv4, and of IPv6, meet. A chain that is for both and does not do
/// the same to both says which of them it is about.
fn merged(walks: &[(bool, Vec<ExplainedChain>)]) -> Explained {
    let mut merged = Explained::default();
    for (v6, chains) in walks {
        merged.passes[usize::from(*v6)] = chains.iter().all(|chain| chain.verdict != "drop");
        for chain in chains {
            let same = walks.iter().all(|(_, chains)| chains.contains(chain));
            let mut chain = chain.clone();
            if !same && chain.family == Layer::Inet.as_str() {
                let kind = if *v6 { "IPv6" } else { "IPv4" };
                chain.reason = format!("{kind}: {}", chain.reason);
            }
            if !merged.chains.contains(&chain) {
                merged.chains.push(chain);
            }
        }
    }
    merged
}

/// IPv4 or IPv6 or both, as the port is published; both when it is not.
fn kinds(rules: &Rules, port: u16, protocol: Protocol) -> Vec<bool> {
    let published = hosts(rules, port, protocol);
    let mut kinds = vec![false, true];
    kinds.retain(|v6| published.is_empty() || published.iter().any(|host| host.is_ipv6() == *v6));
    kinds
}

/// The host's addresses that a port is published on.
fn hosts(rules: &Rules, port: u16, protocol: Protocol) -> Vec<IpAddr> {
    let published = rules.ports.iter().map(|rule| &rule.published);
    published
        .filter(|published| (published.host_port, published.protocol) == (port, protocol))
        .map(|published| published.host_ip)
        .collect()
}

/// The address that packets go to, unless that may be any of the host's.
fn destination(rules: &Rules, port: u16, protocol: Protocol, v6: bool) -> Option<IpAddr> {
    let mut hosts = hosts(rules, port, protocol);
    hosts.retain(|host| host.is_ipv6() == v6);
    if hosts.iter().any(IpAddr::is_unspecified) {
        return None;
    }
    // One that can be reached from elsewhere, if there is one.
    hosts.sort_by_key(IpAddr::is_loopback);
    hosts.first().copied()
}

/// One packet's way.
struct Walk<'a> {
    ruleset: &'a Ruleset<'a>,
    table: &'a str,
    rules: &'a Rules,
    packet: Packet,
    explained: Vec<ExplainedChain>,
}

impl Walk<'_> {
    fn follow(&mut self) {
        if self.hook(PREROUTING) {
            return;
        }
        if self.packet.local {
            self.packet.oifname = Some(String::new());
            self.hook(INPUT);
            return;
        }
        self.packet.oifname = self.packet.destination.and_then(|address| self.bridge_of(address));
        if !self.forwards() {
            return;
        }
        if !self.hook(FORWARD) {
            self.hook(POSTROUTING);
        }
    }

    /// Whether the kernel passes packets on at all. That it does not is told like a chain.
    fn forwards(&mut self) -> bool {
        let value = |path: &str| sysctl(path).ok().flatten();
        let (family, general) = match self.packet.v6 {
            true => (Layer::Ip6, "net/ipv6/conf/all/forwarding"),
            false => (Layer::Ip, "net/ipv4/ip_forward"),
        };
        let is_general = value(general).is_none_or(|value| value != "0");
        // With IPv4 each interface that packets come in on says for itself.
        let input = self.packet.iifname.as_deref().filter(|_| !self.packet.v6);
        let input = input.map(|name| format!("net/ipv4/conf/{name}/forwarding"));
        let of_input = input.as_deref().and_then(value).map(|value| value != "0");
        if of_input.unwrap_or(is_general) {
            return true;
        }
        let name = match input {
            Some(input) if is_general => input,
            _ => general.replace('/', "."),
        };
        self.explained.push(ExplainedChain {
            family: family.as_str().to_owned(),
            table: "kernel".to_owned(),
            chain: "forwarding".to_owned(),
            hook: hook_name(FORWARD).to_owned(),
            priority: 0,
            verdict: "drop".to_owned(),
            reason: format!("{name} is 0"),
            remedy: format!("sysctl -w {name}=1"),
        });
        false
    }

    /// The bridge of a container's address.
    fn bridge_of(&self, address: IpAddr) -> Option<String> {
        let has = |subnets: &[IpNet]| subnets.iter().any(|subnet| subnet.contains(&address));
        let found = self.rules.bridges.values().find(|bridge| has(&bridge.subnets));
        found.map(|bridge| bridge.interface.clone())
    }

    /// Follows the packet through the chains of a hook; answers whether it is dropped there.
    fn hook(&mut self, hook: u32) -> bool {
        let ruleset = self.ruleset;
        let mut chains: Vec<(&Chain, &Hooked)> = ruleset
            .chains
            .iter()
            .filter(|chain| self.sees(chain.layer))
            .filter_map(|chain| chain.base.as_ref().map(|base| (chain, base)))
            .filter(|(_, base)| base.hook == hook)
            .collect();
        chains.sort_by_key(|(_, base)| base.priority);
        let mut translated = false;
        for (chain, base) in chains {
            let before = (self.packet.destination, self.packet.port, self.packet.status);
            if base.kind == "nat" && translated {
                // The first one that translates is the last one that is asked.
                continue;
            }
            let judgement = Judge::judge(ruleset, chain, &mut self.packet, "");
            let after = (self.packet.destination, self.packet.port, self.packet.status);
            translated |= after != before;
            let judgement = self.with_answers(chain, hook, judgement);
            let quiet = base.kind == "nat" || hook == POSTROUTING;
            if !quiet || after != before || judgement.drops != Some(false) {
                self.say(chain, base, &judgement);
            }
            if judgement.drops == Some(true) {
                return true;
            }
        }
        self.legacy(hook);
        false
    }

    fn sees(&self, layer: Layer) -> bool {
        match layer {
            Layer::Inet => true,
            Layer::Ip => !self.packet.v6,
            Layer::Ip6 => self.packet.v6,
        }
    }

    /// Packets that come back are forwarded through the same chains.
    fn with_answers(&self, chain: &Chain, hook: u32, judgement: Judgement) -> Judgement {
        if hook != FORWARD || judgement.drops != Some(false) {
            return judgement;
        }
        let mut answer = self.packet.answered();
        let other = Judge::judge(self.ruleset, chain, &mut answer, "");
        if other.drops == Some(false) {
            return judgement;
        }
        Judgement { reason: format!("answers: {}", other.reason), ..other }
    }

    fn say(&mut self, chain: &Chain, base: &Hooked, judgement: &Judgement) {
        let verdict = match judgement.drops {
            Some(true) => "drop",
            Some(false) => "accept",
            None => "unknown",
        };
        let case = Case {
            ruleset: self.ruleset,
            own: self.table,
            chain,
            forwarded: base.hook == FORWARD,
            decision: &judgement.decision,
            packet: &self.packet,
        };
        let remedy = if verdict == "accept" { String::new() } else { case.remedy() };
        self.explained.push(ExplainedChain {
            family: chain.layer.as_str().to_owned(),
            table: chain.table.clone(),
            chain: chain.name.clone(),
            hook: hook_name(base.hook).to_owned(),
            priority: base.priority,
            verdict: verdict.to_owned(),
            reason: judgement.reason.clone(),
            remedy,
        });
    }

    /// Tables of iptables that nf_tables knows nothing of.
    fn legacy(&mut self, hook: u32) {
        if !matches!(hook, INPUT | FORWARD) || !outside::has_legacy_filter(self.packet.v6) {
            return;
        }
        let chain = if hook == INPUT { "INPUT" } else { "FORWARD" };
        let (family, program) = match self.packet.v6 {
            true => ("ip6", "ip6tables-legacy"),
            false => ("ip", "iptables-legacy"),
        };
        self.explained.push(ExplainedChain {
            family: family.to_owned(),
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            hook: hook_name(hook).to_owned(),
            priority: 0,
            verdict: "unknown".to_owned(),
            reason: format!("a table of {program}, which nf_tables does not show"),
            remedy: format!("{program} -S {chain}"),
        });
    }
}

fn hook_name(hook: u32) -> &'static str {
    match hook {
        PREROUTING => "prerouting",
        INPUT => "input",
        FORWARD => "forward",
        POSTROUTING => "postrouting",
        _ => "output",
    }
}
