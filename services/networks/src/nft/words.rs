//! Rules in the words of nft(8), as far as they are understood.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::expression::{
    CT_DIRECTION, CT_MARK, CT_PROTO_DST, CT_STATE, CT_STATUS, DNAT, Destination, EQUAL,
    ESTABLISHED, Expression, FIB_TYPE, INVALID, LOCAL, META_IIF, META_IIFNAME, META_L4PROTO,
    META_MARK, META_NFPROTO, META_OIF, META_OIFNAME, NETWORK, NEW, RELATED, TRANSPORT, Verdict,
};
use crate::netlink::message::{text, u32_at};

/// Signs of comparisons, as the kernel counts them.
const SIGNS: &[&str] = &["", "!= ", "< ", "<= ", "> ", ">= "];

/// What a register has.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subject {
    /// Something with a name and a way to write its values.
    Named(String, Style),
    /// Some bits of it.
    Masked(String, Style, Vec<u8>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Name,
    Port,
    Address,
    Protocol,
    Kind,
    State,
    Status,
    Route,
    Direction,
    Mark,
    Bytes,
}

/// A rule.
pub(super) fn rule(expressions: &[Expression], comment: &str) -> String {
    let (mut subjects, mut words) = (BTreeMap::new(), Vec::new());
    let mut protocol = None;
    for expression in expressions {
        word(expression, &mut subjects, &mut words, &mut protocol);
    }
    // What follows from the rest is not written.
    words.retain(|word: &String| !word.is_empty());
    if !comment.is_empty() {
        words.push(format!("comment \"{comment}\""));
    }
    words.join(" ")
}

fn word(
    expression: &Expression,
    subjects: &mut BTreeMap<usize, Subject>,
    words: &mut Vec<String>,
    protocol: &mut Option<&'static str>,
) {
    let named = |name: &str, style| Subject::Named(name.to_owned(), style);
    match expression {
        Expression::Meta { key, to } => {
            subjects.insert(*to, meta(*key));
        }
        Expression::Connection { key, to, .. } => {
            subjects.insert(*to, connection(*key));
        }
        Expression::Payload { base, offset, length, to } => {
            subjects.insert(*to, payload((*base, *offset, *length), *protocol));
        }
        Expression::Route { result, to, .. } => {
            let subject = match *result {
                FIB_TYPE => named("fib daddr type", Style::Route),
                _ => named("fib oif", Style::Bytes),
            };
            subjects.insert(*to, subject);
        }
        Expression::Constant { to, value } => {
            subjects.insert(*to, named(&bytes(value), Style::Bytes));
        }
        Expression::Bits { from, to, mask, .. } => {
            let masked = match subjects.get(from) {
                Some(Subject::Named(name, style)) => {
                    Subject::Masked(name.clone(), *style, mask.clone())
                }
                _ => named("?", Style::Bytes),
            };
            subjects.insert(*to, masked);
        }
        Expression::Compare { from, operator, value } => {
            words.push(comparison(subjects.get(from), *operator, value, protocol));
        }
        Expression::Range { from, inverted, first, last } => {
            let (name, style) = plain(subjects.get(from));
            let sign = if *inverted { "!= " } else { "" };
            words.push(format!("{name} {sign}{}-{}", write(style, first), write(style, last)));
        }
        Expression::Lookup { set, from, to, inverted } => {
            let names: Vec<_> =
                subjects.range(*from..).map(|(_, one)| plain(Some(one)).0).collect();
            // Sets without a name of their own have a number.
            let set = if set.starts_with("__") { "{ … }".to_owned() } else { format!("@{set}") };
            let sign = if *inverted { "!= " } else { "" };
            let verb = match to {
                None => "",
                Some(Destination::Verdict) => "vmap ",
                Some(Destination::Register(_)) => "map ",
            };
            words.push(format!("{} {verb}{sign}{set}", names.join(" . ")));
            subjects.clear();
        }
        Expression::Verdict(verdict) => words.push(self::verdict(verdict)),
        other => words.push(done(other)),
    }
}

/// What changes or decides something.
fn done(expression: &Expression) -> String {
    match expression {
        Expression::Translate { destination: true, .. } => "dnat".to_owned(),
        Expression::Translate { .. } => "snat".to_owned(),
        Expression::Masquerade => "masquerade".to_owned(),
        Expression::Redirect => "redirect".to_owned(),
        Expression::NoTrack => "notrack".to_owned(),
        Expression::Reject => "reject".to_owned(),
        Expression::SetMeta { key: META_MARK, .. } => "meta mark set …".to_owned(),
        Expression::SetConnection { key: CT_MARK, .. } => "ct mark set …".to_owned(),
        Expression::SetMeta { .. } => "meta … set …".to_owned(),
        Expression::SetConnection { .. } => "ct … set …".to_owned(),
        Expression::SetPayload { .. } => "payload set …".to_owned(),
        Expression::Match { name, .. } => format!("xt match \"{name}\""),
        Expression::Target { name, .. } => format!("xt target \"{name}\""),
        Expression::Other(name) if name == "counter" => String::new(),
        Expression::Other(name) => format!("[{name}]"),
        _ => String::new(),
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Continue => "continue".to_owned(),
        Verdict::Return => "return".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Other(code) if code & 0xff == libc::NF_QUEUE => "queue".to_owned(),
        Verdict::Other(code) => format!("verdict {code}"),
    }
}

fn meta(key: u32) -> Subject {
    let (name, style) = match key {
        META_MARK => ("meta mark", Style::Mark),
        META_IIF => ("iif", Style::Bytes),
        META_OIF => ("oif", Style::Bytes),
        META_IIFNAME => ("iifname", Style::Name),
        META_OIFNAME => ("oifname", Style::Name),
        META_NFPROTO => ("meta nfproto", Style::Kind),
        META_L4PROTO => ("meta l4proto", Style::Protocol),
        _ => ("meta …", Style::Bytes),
    };
    Subject::Named(name.to_owned(), style)
}

fn connection(key: u32) -> Subject {
    let (name, style) = match key {
        CT_STATE => ("ct state", Style::State),
        CT_STATUS => ("ct status", Style::Status),
        CT_MARK => ("ct mark", Style::Mark),
        CT_DIRECTION => ("ct direction", Style::Direction),
        CT_PROTO_DST => ("ct original proto-dst", Style::Port),
        _ => ("ct …", Style::Bytes),
    };
    Subject::Named(name.to_owned(), style)
}

fn payload((base, offset, length): (u32, u32, u32), protocol: Option<&str>) -> Subject {
    let transport = protocol.unwrap_or("th");
    let (name, style) = match (base, offset, length) {
        (TRANSPORT, 0, 2) => (format!("{transport} sport"), Style::Port),
        (TRANSPORT, 2, 2) => (format!("{transport} dport"), Style::Port),
        (TRANSPORT, 13, 1) => ("tcp flags".to_owned(), Style::Bytes),
        (NETWORK, 9, 1) => ("ip protocol".to_owned(), Style::Protocol),
        (NETWORK, 6, 1) => ("ip6 nexthdr".to_owned(), Style::Protocol),
        (NETWORK, 12, 1..=4) => ("ip saddr".to_owned(), Style::Address),
        (NETWORK, 16, 1..=4) => ("ip daddr".to_owned(), Style::Address),
        (NETWORK, 8, 5..=16) => ("ip6 saddr".to_owned(), Style::Address),
        (NETWORK, 24, 1..=16) => ("ip6 daddr".to_owned(), Style::Address),
        _ => (format!("@{base},{},{}", offset * 8, length * 8), Style::Bytes),
    };
    Subject::Named(name, style)
}

fn plain(subject: Option<&Subject>) -> (String, Style) {
    match subject {
        Some(Subject::Named(name, style) | Subject::Masked(name, style, _)) => {
            (name.clone(), *style)
        }
        None => ("?".to_owned(), Style::Bytes),
    }
}

fn comparison(
    subject: Option<&Subject>,
    operator: u32,
    value: &[u8],
    protocol: &mut Option<&'static str>,
) -> String {
    let (name, style) = plain(subject);
    let sign = SIGNS.get(operator as usize).copied().unwrap_or("? ");
    if let Some(Subject::Masked(_, _, mask)) = subject {
        let none = value.iter().all(|byte| *byte == 0);
        return match (style, none) {
            // Some of these bits, or none of them.
            (Style::State | Style::Status, true) => {
                let not = if operator == EQUAL { "!= " } else { "" };
                format!("{name} {not}{}", write(style, mask))
            }
            // An address under its prefix's mask.
            (Style::Address, _) => {
                let length: u32 = mask.iter().map(|byte| byte.count_ones()).sum();
                format!("{name} {sign}{}/{length}", write(style, value))
            }
            _ => format!("{name} & {} {sign}{}", bytes(mask), write(style, value)),
        };
    }
    if operator == EQUAL && style == Style::Protocol {
        *protocol = known_protocol(value);
        if name == "meta l4proto" && protocol.is_some_and(|name| !name.ends_with("icmp")) {
            // The ports that follow say it.
            return String::new();
        }
    }
    let prefix = match (style, value.len()) {
        (Style::Address, 4 | 16) => String::new(),
        (Style::Address, length) => format!("/{}", length * 8),
        _ => String::new(),
    };
    format!("{name} {sign}{}{prefix}", write(style, value))
}

fn known_protocol(value: &[u8]) -> Option<&'static str> {
    match value.first()? {
        1 => Some("icmp"),
        6 => Some("tcp"),
        17 => Some("udp"),
        58 => Some("ipv6-icmp"),
        132 => Some("sctp"),
        _ => None,
    }
}

fn write(style: Style, value: &[u8]) -> String {
    let number = u32_at(value, 0);
    match (style, value) {
        // A name without its end stands for all that begin so.
        (Style::Name, _) if value.len() < 16 && !value.contains(&0) => {
            format!("\"{}*\"", text(value))
        }
        (Style::Name, _) => format!("\"{}\"", text(value)),
        (Style::Port, [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (Style::Protocol, _) => known_protocol(value).map_or_else(|| bytes(value), str::to_owned),
        (Style::Kind, [2]) => "ipv4".to_owned(),
        (Style::Kind, [10]) => "ipv6".to_owned(),
        (Style::Address, _) => address(value),
        (Style::State, _) => number.map(states).unwrap_or_default(),
        (Style::Status, _) if number == Some(DNAT) => "dnat".to_owned(),
        (Style::Route, _) if number == Some(LOCAL) => "local".to_owned(),
        (Style::Route, _) if number == Some(1) => "unicast".to_owned(),
        (Style::Direction, [0]) => "original".to_owned(),
        (Style::Direction, [1]) => "reply".to_owned(),
        (Style::Mark, _) => number.map_or_else(String::new, |mark| format!("{mark:#x}")),
        _ => bytes(value),
    }
}

/// An address, or the beginning of one.
fn address(value: &[u8]) -> String {
    let mut octets = [0; 16];
    let length = value.len().min(16);
    octets[..length].copy_from_slice(&value[..length]);
    match length {
        0..=4 => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).to_string(),
        _ => Ipv6Addr::from(octets).to_string(),
    }
}

fn states(bits: u32) -> String {
    let names = [
        (INVALID, "invalid"),
        (ESTABLISHED, "established"),
        (RELATED, "related"),
        (NEW, "new"),
        (64, "untracked"),
    ];
    let named = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name);
    named.collect::<Vec<_>>().join(",")
}

fn bytes(value: &[u8]) -> String {
    let digits: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::layout;

    #[test]
    fn our_rules_are_written_as_nft_writes_them() {
        let all: Vec<_> =
            layout::rules().iter().map(|one| rule(&one.expressions, one.comment)).collect();
        for line in [
            "iifname != \"lo\" meta nfproto ipv4 ip daddr 127.0.0.0/8 drop \
             comment \"127.0.0.0/8 is this host's alone\"",
            "fib daddr type local jump published",
            "ct state established,related accept",
            "meta nfproto ipv4 meta l4proto . th dport map @ports4 dnat",
            "iifname . oifname @same accept comment \"within a network\"",
            "ct status dnat jump host-input-policy comment \"asked for published ports\"",
            "drop comment \"nothing else enters a network\"",
            "meta nfproto ipv6 ip6 saddr fe80::/10 return \
             comment \"and link-local addresses, from which nothing is forwarded\"",
            "meta nfproto ipv6 meta l4proto ipv6-icmp oifname @routed6 accept \
             comment \"a network that packets are routed to answers pings\"",
            "meta nfproto ipv4 ip daddr . meta l4proto . th dport @relayed4-at jump relayed",
        ] {
            assert!(all.iter().any(|one| one == line), "{line}\n{all:#?}");
        }
    }

    #[test]
    fn ports_have_their_protocols() {
        let expressions = [
            Expression::Meta { key: META_L4PROTO, to: 0 },
            layout::equal(0, &[6]),
            layout::payload(TRANSPORT, 2, 2, 0),
            layout::equal(0, &8080u16.to_be_bytes()),
            Expression::Other("counter".to_owned()),
            Expression::Verdict(Verdict::Drop),
        ];
        assert_eq!(rule(&expressions, ""), "tcp dport 8080 drop");
    }
}
