//! The table: its chains, and the rules, which never change. What changes are the elements of
//! the sets (see [`super::elements`]).

use std::net::Ipv6Addr;

use super::expression::{
    CT_STATE, CT_STATUS, DNAT, Destination, EQUAL, ESTABLISHED, Expression, FIB_DADDR, FIB_TYPE,
    INVALID, LOCAL, META_IIFNAME, META_L4PROTO, META_NFPROTO, META_OIFNAME, NETWORK, RELATED,
    TRANSPORT, UNEQUAL, Verdict,
};
use super::sets::{
    BRIDGES, DIRECT4, DIRECT6, INTERNAL, MASQUERADED4, MASQUERADED6, OPEN, OWN4, OWN6, PORTS4,
    PORTS4_AT, PORTS6, PORTS6_AT, REACH4, REACH6, RELAYED4, RELAYED4_AT, RELAYED6, RELAYED6_AT,
    ROUTED4, ROUTED6, SAME, TRUSTED,
};
use super::wire::{Base, SetDefinition};

/// The chain that is the administrator's.
pub(super) const POLICY_CHAIN: &str = "host-input-policy";

const RAW: &str = "raw";
const PUBLISHED: &str = "published";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const POSTROUTING: &str = "postrouting";
const FORWARD: &str = "forward";
const INTO: &str = "into";
const INPUT: &str = "input";
const RELAYED: &str = "relayed";

/// A chain; one without a base is jumped to.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainDefinition {
    pub(super) name: &'static str,
    pub(super) base: Option<Base>,
}

/// The chains.
pub(super) const CHAINS: &[ChainDefinition] = &[
    ChainDefinition { name: POLICY_CHAIN, base: None },
    ChainDefinition { name: PUBLISHED, base: None },
    ChainDefinition { name: INTO, base: None },
    ChainDefinition { name: RELAYED, base: None },
    base(RAW, "filter", libc::NF_INET_PRE_ROUTING, -300),
    base(PREROUTING, "nat", libc::NF_INET_PRE_ROUTING, -100),
    base(OUTPUT, "nat", libc::NF_INET_LOCAL_OUT, -100),
    base(POSTROUTING, "nat", libc::NF_INET_POST_ROUTING, 100),
    base(FORWARD, "filter", libc::NF_INET_FORWARD, 0),
    base(INPUT, "filter", libc::NF_INET_LOCAL_IN, 0),
];

const fn base(
    name: &'static str,
    kind: &'static str,
    hook: libc::c_int,
    priority: i32,
) -> ChainDefinition {
    ChainDefinition { name, base: Some(Base { kind, hook: hook as u32, priority }) }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) chain: &'static str,
    pub(super) comment: &'static str,
    pub(super) expressions: Vec<Expression>,
}

/// The rules, in the order of each chain.
pub(super) fn rules() -> Vec<Rule> {
    let mut rules = vec![
        rule(RAW, "127.0.0.0/8 is this host's alone", [outside(), loopback(16), drop_it()]),
        rule(RAW, "127.0.0.0/8 is this host's alone", [outside(), loopback(12), drop_it()]),
    ];
    rules.extend(published());
    let local = || {
        vec![
            Expression::Route { flags: FIB_DADDR, result: FIB_TYPE, to: 0 },
            equal(0, &LOCAL.to_ne_bytes()),
        ]
    };
    rules.push(rule(PREROUTING, "", [local(), jump(PUBLISHED)]));
    rules.push(rule(OUTPUT, "", [local(), jump(PUBLISHED)]));
    rules.extend(postrouting());
    rules.extend(forward());
    rules.extend(into());
    rules.extend(input());
    rules
}

/// Ports of one address first.
fn published() -> Vec<Rule> {
    let to = |port| {
        vec![Expression::Translate { destination: true, address: Some(0), port: Some(port) }]
    };
    let address6 = || payload(NETWORK, 24, 16, 0);
    let loopback6 = equal(0, &Ipv6Addr::LOCALHOST.octets());
    vec![
        rule(
            PUBLISHED,
            "",
            [
                ipv4(),
                vec![payload(NETWORK, 16, 4, 0)],
                port_key(4),
                look(&PORTS4_AT, Some(0)),
                to(4),
            ],
        ),
        rule(PUBLISHED, "", [ipv4(), port_key(0), look(&PORTS4, Some(0)), to(4)]),
        rule(
            PUBLISHED,
            "the containers' shims serve ::1",
            [ipv6(), vec![address6(), loopback6], verdict(Verdict::Return)],
        ),
        rule(
            PUBLISHED,
            "and link-local addresses, from which nothing is forwarded",
            [ipv6(), from_link_local(), verdict(Verdict::Return)],
        ),
        rule(
            PUBLISHED,
            "",
            [ipv6(), vec![address6()], port_key(16), look(&PORTS6_AT, Some(0)), to(16)],
        ),
        rule(PUBLISHED, "", [ipv6(), port_key(0), look(&PORTS6, Some(0)), to(16)]),
    ]
}

/// Clients keep their addresses but where the answers would not come back through here.
fn postrouting() -> Vec<Rule> {
    let masquerade = || vec![Expression::Masquerade];
    let elsewhere = || vec![oifname(0), lookup(&BRIDGES, 0, None, true)];
    vec![
        rule(
            POSTROUTING,
            "from a network to elsewhere",
            [
                ipv4(),
                vec![payload(NETWORK, 12, 4, 0)],
                look(&MASQUERADED4, None),
                elsewhere(),
                masquerade(),
            ],
        ),
        rule(
            POSTROUTING,
            "from a network to elsewhere",
            [
                ipv6(),
                vec![payload(NETWORK, 8, 16, 0)],
                look(&MASQUERADED6, None),
                elsewhere(),
                masquerade(),
            ],
        ),
        rule(
            POSTROUTING,
            "from 127.0.0.1 to a published port",
            [vec![oifname(0)], look(&BRIDGES, None), loopback(12), masquerade()],
        ),
        rule(
            POSTROUTING,
            "from a network to a published port of its own",
            [
                translated(),
                ipv4(),
                vec![payload(NETWORK, 12, 4, 0), oifname(4)],
                look(&OWN4, None),
                masquerade(),
            ],
        ),
        rule(
            POSTROUTING,
            "from a network to a published port of its own",
            [
                translated(),
                ipv6(),
                vec![payload(NETWORK, 8, 16, 0), oifname(16)],
                look(&OWN6, None),
                masquerade(),
            ],
        ),
    ]
}

/// Packets that are neither from a bridge nor to one pass.
fn forward() -> Vec<Rule> {
    let accept = || verdict(Verdict::Accept);
    vec![
        rule(FORWARD, "", [state(ESTABLISHED | RELATED), accept()]),
        rule(
            FORWARD,
            "within a network",
            [vec![iifname(0), oifname(16)], look(&SAME, None), accept()],
        ),
        rule(
            FORWARD,
            "of no connection: they would leave with a container's address",
            [vec![iifname(0)], look(&BRIDGES, None), state(INVALID), drop_it()],
        ),
        rule(
            FORWARD,
            "out of an internal network",
            [vec![iifname(0)], look(&INTERNAL, None), drop_it()],
        ),
        rule(
            FORWARD,
            "into an internal network",
            [vec![oifname(0)], look(&INTERNAL, None), drop_it()],
        ),
        rule(FORWARD, "", [vec![oifname(0)], look(&BRIDGES, None), jump(INTO)]),
    ]
}

/// What may enter a bridge, and then nothing else.
fn into() -> Vec<Rule> {
    let accept = || verdict(Verdict::Accept);
    let mut rules = vec![
        rule(INTO, "asked for published ports", [translated(), jump(POLICY_CHAIN)]),
        rule(INTO, "a published port", [translated(), accept()]),
        rule(
            INTO,
            "a port that is reached by the container's address",
            [ipv4(), vec![payload(NETWORK, 16, 4, 0)], port_key(4), look(&REACH4, None), accept()],
        ),
        rule(
            INTO,
            "a port that is reached by the container's address",
            [
                ipv6(),
                vec![payload(NETWORK, 24, 16, 0)],
                port_key(16),
                look(&REACH6, None),
                accept(),
            ],
        ),
        rule(
            INTO,
            "from a trusted interface",
            [vec![iifname(0), oifname(16)], look(&TRUSTED, None), accept()],
        ),
        rule(
            INTO,
            "between networks that are not isolated",
            [vec![iifname(0)], look(&OPEN, None), vec![oifname(0)], look(&OPEN, None), accept()],
        ),
    ];
    for (kind, direct, routed, icmp) in [
        (ipv4(), &DIRECT4, &ROUTED4, libc::IPPROTO_ICMP),
        (ipv6(), &DIRECT6, &ROUTED6, libc::IPPROTO_ICMPV6),
    ] {
        let to = |set| [vec![oifname(0)], look(set, None)].concat();
        let pings = vec![Expression::Meta { key: META_L4PROTO, to: 0 }, equal(0, &[icmp as u8])];
        let open = [kind.clone(), to(direct), accept()];
        rules.push(rule(INTO, "a network that is not protected", open));
        let asked = [kind, pings, to(routed), accept()];
        rules.push(rule(INTO, "a network that packets are routed to answers pings", asked));
    }
    rules.push(rule(INTO, "nothing else enters a network", [drop_it()]));
    rules
}

/// What comes to the host itself where a container's shim listens is as what is translated:
/// the host's own is let through, an internal network's is not, and of others the administrator
/// is asked.
fn input() -> Vec<Rule> {
    let accept = || verdict(Verdict::Accept);
    let own = vec![iifname(0), equal(0, &name_of("lo"))];
    let to4 = vec![payload(NETWORK, 16, 4, 0)];
    let to6 = vec![payload(NETWORK, 24, 16, 0)];
    let relayed = || jump(RELAYED);
    vec![
        rule(INPUT, "", [state(ESTABLISHED | RELATED), accept()]),
        rule(INPUT, "", [own, accept()]),
        rule(INPUT, "", [ipv4(), to4, port_key(4), look(&RELAYED4_AT, None), relayed()]),
        rule(INPUT, "", [ipv4(), port_key(0), look(&RELAYED4, None), relayed()]),
        rule(INPUT, "", [ipv6(), to6, port_key(16), look(&RELAYED6_AT, None), relayed()]),
        rule(INPUT, "", [ipv6(), port_key(0), look(&RELAYED6, None), relayed()]),
        rule(
            RELAYED,
            "out of an internal network",
            [vec![iifname(0)], look(&INTERNAL, None), drop_it()],
        ),
        rule(RELAYED, "asked for published ports", [jump(POLICY_CHAIN)]),
    ]
}

fn rule<const PARTS: usize>(
    chain: &'static str,
    comment: &'static str,
    parts: [Vec<Expression>; PARTS],
) -> Rule {
    Rule { chain, comment, expressions: parts.into_iter().flatten().collect() }
}

/// An interface's name as the kernel compares it.
pub(super) fn name_of(interface: &str) -> Vec<u8> {
    let mut bytes = interface.as_bytes().to_vec();
    bytes.resize(16, 0);
    bytes
}

pub(super) fn equal(from: usize, value: &[u8]) -> Expression {
    Expression::Compare { from, operator: EQUAL, value: value.to_vec() }
}

pub(super) fn unequal(from: usize, value: &[u8]) -> Expression {
    Expression::Compare { from, operator: UNEQUAL, value: value.to_vec() }
}

pub(super) fn payload(base: u32, offset: u32, length: u32, to: usize) -> Expression {
    Expression::Payload { base, offset, length, to }
}

pub(super) fn iifname(to: usize) -> Expression {
    Expression::Meta { key: META_IIFNAME, to }
}

pub(super) fn oifname(to: usize) -> Expression {
    Expression::Meta { key: META_OIFNAME, to }
}

pub(super) fn verdict(verdict: Verdict) -> Vec<Expression> {
    vec![Expression::Verdict(verdict)]
}

fn drop_it() -> Vec<Expression> {
    verdict(Verdict::Drop)
}

fn jump(chain: &str) -> Vec<Expression> {
    verdict(Verdict::Jump(chain.to_owned()))
}

/// Packets that come in on another interface than `lo`.
fn outside() -> Vec<Expression> {
    vec![iifname(0), unequal(0, &name_of("lo"))]
}

fn ipv4() -> Vec<Expression> {
    vec![Expression::Meta { key: META_NFPROTO, to: 0 }, equal(0, &[libc::NFPROTO_IPV4 as u8])]
}

fn ipv6() -> Vec<Expression> {
    vec![Expression::Meta { key: META_NFPROTO, to: 0 }, equal(0, &[libc::NFPROTO_IPV6 as u8])]
}

/// An address of 127.0.0.0/8 at this offset of the header.
fn loopback(offset: u32) -> Vec<Expression> {
    let mut expressions = ipv4();
    expressions.push(payload(NETWORK, offset, 1, 0));
    expressions.push(equal(0, &[127]));
    expressions
}

/// A source that only its own link knows, fe80::/10.
fn from_link_local() -> Vec<Expression> {
    let bytes = |first: u16| Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0).octets().to_vec();
    vec![
        payload(NETWORK, 8, 16, 0),
        Expression::Bits { from: 0, to: 0, mask: bytes(0xffc0), flip: vec![0; 16] },
        equal(0, &bytes(0xfe80)),
    ]
}

/// Protocol and destination port, from this place on.
fn port_key(to: usize) -> Vec<Expression> {
    vec![Expression::Meta { key: META_L4PROTO, to }, payload(TRANSPORT, 2, 2, to + 4)]
}

/// One of these states of its connection.
fn state(states: u32) -> Vec<Expression> {
    connection_bits(CT_STATE, states)
}

/// Its destination was changed.
fn translated() -> Vec<Expression> {
    connection_bits(CT_STATUS, DNAT)
}

fn connection_bits(key: u32, bits: u32) -> Vec<Expression> {
    let none = 0u32.to_ne_bytes();
    let mask = bits.to_ne_bytes().to_vec();
    vec![
        Expression::Connection { key, direction: None, to: 0 },
        Expression::Bits { from: 0, to: 0, mask, flip: none.to_vec() },
        unequal(0, &none),
    ]
}

/// The key that begins at the first register is in the set.
fn look(set: &SetDefinition, to: Option<usize>) -> Vec<Expression> {
    vec![lookup(set, 0, to, false)]
}

fn lookup(set: &SetDefinition, from: usize, to: Option<usize>, inverted: bool) -> Expression {
    let to = to.map(Destination::Register);
    Expression::Lookup { set: set.name.to_owned(), from, to, inverted }
}

#[cfg(test)]
mod tests {
    use super::super::sets::SETS;
    use super::*;

    #[test]
    fn rules_lead_to_chains_and_sets_that_are_there() {
        for rule in rules() {
            assert!(CHAINS.iter().any(|chain| chain.name == rule.chain), "{}", rule.chain);
            for expression in &rule.expressions {
                match expression {
                    Expression::Lookup { set, .. } => {
                        assert!(SETS.iter().any(|known| known.name == set), "{set}");
                    }
                    Expression::Verdict(Verdict::Jump(chain)) => {
                        assert!(CHAINS.iter().any(|known| known.name == chain), "{chain}");
                    }
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn the_administrators_chain_has_no_rule_of_ours() {
        assert!(rules().iter().all(|rule| rule.chain != POLICY_CHAIN));
    }
}
