//! What a chain does with a packet, as far as its rules can be judged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::dump::{Chain, Rule};
use super::super::expression::{
    CT_MARK, DNAT, Destination, Expression, META_MARK, REGISTERS, UNEQUAL, Verdict,
};
use super::super::wire::Layer;
use super::super::words;
use super::judgement::{Decision, Judgement, conclude};
use super::packet::{Packet, known};
use super::ruleset::Ruleset;
use super::values::{Holds, bits, compare, store};
use super::xtables;

/// Chains do not jump deeper.
const DEEPEST: usize = 16;
/// Rules that are looked at for one packet in one chain, and those it jumps to.
const PATIENCE: usize = 200_000;
/// Beginnings of addresses that no packet from outside has: of 127.0.0.0/8 the kernel takes none,
/// and what is to be forwarded is not of fe80::/10.
const NOT_FROM_OUTSIDE: [&[u8]; 2] = [&[127], &[0xfe, 0x80]];

/// What a rule does when it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Effect {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// Another destination: address and port, where they are known. It is accepted.
    Destination(Option<IpAddr>, Option<u16>),
}

/// Follows a packet through one chain. What the chain changes is changed in it.
pub(in crate::nft) struct Judge<'a> {
    ruleset: &'a Ruleset<'a>,
    layer: Layer,
    table: &'a str,
    packet: &'a mut Packet,
    /// Comment of rules that are passed over.
    without: &'a str,
    decisions: Vec<Decision>,
    steps: usize,
}

impl<'a> Judge<'a> {
    /// Judges a chain that packets come to; rules with the comment `without` do not count,
    /// unless that is empty.
    pub(in crate::nft) fn judge(
        ruleset: &'a Ruleset<'a>,
        chain: &'a Chain,
        packet: &'a mut Packet,
        without: &'a str,
    ) -> Judgement {
        let (layer, table) = (chain.layer, chain.table.as_str());
        let decisions = Vec::new();
        let mut judge = Self { ruleset, layer, table, packet, without, decisions, steps: 0 };
        if !judge.walk(&chain.name, true, (true, 0)) {
            let drops = chain.base.as_ref().is_some_and(|base| base.drops);
            let why = format!("policy {}", if drops { "drop" } else { "accept" });
            let chain = chain.name.clone();
            judge.decisions.push(Decision { drops, chain, why, rule: None, for_all: true });
        }
        conclude(&chain.name, judge.decisions)
    }

    /// Follows the packet through a chain, to which every packet comes if it is `for_all`;
    /// answers whether it is decided there for certain.
    fn walk(&mut self, chain: &str, mut certain: bool, (for_all, depth): (bool, usize)) -> bool {
        if depth >= DEEPEST {
            return false;
        }
        let ruleset = self.ruleset;
        for rule in ruleset.rules(self.layer, self.table, chain) {
            if !self.without.is_empty() && rule.comment == self.without {
                continue;
            }
            self.steps += 1;
            if self.steps > PATIENCE {
                self.decide(chain, rule, true, false);
                return false;
            }
            let (holds, effects) = self.apply(rule, certain);
            let sure = holds == Holds::Yes && effects.len() == 1;
            let for_all = for_all && !asks(rule);
            for effect in effects {
                match effect {
                    Effect::Accept | Effect::Drop | Effect::Destination(..) => {
                        self.decide(chain, rule, effect == Effect::Drop, for_all);
                        if sure {
                            return certain;
                        }
                    }
                    Effect::Return if sure => return false,
                    // Everything behind it may not be reached.
                    Effect::Return => certain = false,
                    Effect::Jump(to) => {
                        if self.walk(&to, certain && sure, (for_all, depth + 1)) {
                            return true;
                        }
                    }
                    Effect::Goto(to) => {
                        let decided = self.walk(&to, certain && sure, (for_all, depth + 1));
                        if sure {
                            return decided;
                        }
                    }
                }
            }
        }
        false
    }

    fn decide(&mut self, chain: &str, rule: &Rule, drops: bool, for_all: bool) {
        let why = words::rule(&rule.expressions, &rule.comment);
        let (chain, rule) = (chain.to_owned(), Some(rule.handle));
        self.decisions.push(Decision { drops, chain, why, rule, for_all });
    }

    /// Whether a rule holds, and what it does then. Marks and destinations are set in the
    /// packet when that is `certain`.
    fn apply(&mut self, rule: &Rule, certain: bool) -> (Holds, Vec<Effect>) {
        let mut registers: [Option<u8>; REGISTERS + 64] = [None; REGISTERS + 64];
        let (mut holds, mut effects) = (Holds::Yes, Vec::new());
        for expression in &rule.expressions {
            let one = self.expression(expression, &mut registers, &mut effects);
            holds = holds.and(one);
            if holds == Holds::No {
                return (Holds::No, Vec::new());
            }
            self.change(expression, &registers, holds == Holds::Yes && certain);
            if !effects.is_empty() {
                break;
            }
        }
        if let ([Effect::Destination(address, port)], Holds::Yes, true) =
            (&effects[..], holds, certain)
        {
            self.packet.destination = address.or(self.packet.destination);
            self.packet.port = port.or(self.packet.port);
            self.packet.status |= DNAT;
            if let Some(address) = address {
                self.packet.local = address.is_loopback();
            }
        }
        (holds, effects)
    }

    /// Whether a rule goes on behind an expression.
    fn expression(
        &self,
        expression: &Expression,
        registers: &mut [Option<u8>],
        effects: &mut Vec<Effect>,
    ) -> Holds {
        match expression {
            Expression::Meta { key, to } => store(registers, *to, &self.packet.meta(*key)),
            Expression::Connection { key, direction, to } => {
                store(registers, *to, &self.packet.connection(*key, *direction));
            }
            Expression::Payload { base, offset, length, to } => {
                store(registers, *to, &self.packet.payload(*base, *offset, *length));
            }
            Expression::Route { flags, result, to } => {
                store(registers, *to, &self.packet.route(*flags, *result));
            }
            Expression::Constant { to, value } => {
                store(registers, *to, &known(value));
            }
            Expression::Bits { from, to, mask, flip } => bits(registers, *from, *to, mask, flip),
            Expression::Compare { from, operator, value } => {
                let have = &registers[*from..];
                if have.first() == Some(&None) && is_not_from_outside(value) {
                    return Holds::No.inverted(*operator == UNEQUAL);
                }
                return compare(have, *operator, value);
            }
            Expression::Range { from, inverted, first, last } => {
                let have = &registers[*from..*from + first.len().min(REGISTERS)];
                return Holds::between(have, first, last).inverted(*inverted);
            }
            Expression::Lookup { set, from, to, inverted } => {
                return self.lookup((set.as_str(), *from, *to, *inverted), registers, effects);
            }
            Expression::Verdict(verdict) => return decide(verdict, effects),
            Expression::Translate { destination: true, address, port } => {
                effects.push(self.destination(registers, *address, *port));
            }
            Expression::Redirect => effects.push(Effect::Destination(None, None)),
            Expression::Translate { .. } | Expression::Masquerade => effects.push(Effect::Accept),
            Expression::Reject => effects.push(Effect::Drop),
            Expression::Match { name, revision, info } => {
                return xtables::holds(self.packet, name, *revision, info);
            }
            Expression::Target { name, revision, info } => {
                return xtables::effect(name, *revision, info, effects);
            }
            Expression::Other(name) => return other(name, registers, effects),
            Expression::SetMeta { .. }
            | Expression::SetConnection { .. }
            | Expression::SetPayload { .. }
            | Expression::NoTrack => {}
        }
        Holds::Yes
    }

    /// Sets what an expression sets in the packet; to something that is not known when it is
    /// not certain.
    fn change(&mut self, expression: &Expression, registers: &[Option<u8>], certain: bool) {
        let mark = |from: usize| match certain {
            true => registers[from..from + 4].to_vec(),
            false => vec![None; 4],
        };
        match expression {
            Expression::SetMeta { key: META_MARK, from } => self.packet.mark = mark(*from),
            Expression::SetConnection { key: CT_MARK, from } => {
                self.packet.connection_mark = mark(*from);
            }
            Expression::Target { name, .. } if xtables::marks(name) => {
                self.packet.mark = vec![None; 4];
                self.packet.connection_mark = vec![None; 4];
            }
            _ => {}
        }
    }

    fn lookup(
        &self,
        (set, from, to, inverted): (&str, usize, Option<Destination>, bool),
        registers: &mut [Option<u8>],
        effects: &mut Vec<Effect>,
    ) -> Holds {
        let Some(content) = self.ruleset.content(self.layer, self.table, set) else {
            if let Some(Destination::Register(to)) = to {
                store(registers, to, &[None; 16]);
            }
            return Holds::Perhaps;
        };
        let key = registers[from..].to_vec();
        let (holds, entry) = content.find(&key);
        match to {
            None => return holds.inverted(inverted),
            Some(Destination::Register(to)) => {
                let data = entry.and_then(|entry| entry.element.data.as_deref());
                let data = data.map_or_else(|| vec![None; 32], known);
                store(registers, to, &data);
            }
            Some(Destination::Verdict) => match (holds, entry.and_then(|e| e.verdict.as_ref())) {
                (Holds::Yes, Some(verdict)) => return decide(verdict, effects),
                (Holds::Perhaps, _) => {
                    for verdict in content.entries.iter().filter_map(|e| e.verdict.as_ref()) {
                        decide(verdict, effects);
                    }
                    effects.dedup();
                }
                _ => {}
            },
        }
        holds
    }

    /// Where registers say that the packet goes.
    fn destination(
        &self,
        registers: &[Option<u8>],
        address: Option<usize>,
        port: Option<usize>,
    ) -> Effect {
        let bytes = |from: usize, length: usize| -> Option<Vec<u8>> {
            registers[from..from + length].iter().copied().collect()
        };
        let address = address.and_then(|from| match self.packet.v6 {
            true => {
                let octets: [u8; 16] = bytes(from, 16)?.try_into().ok()?;
                Some(IpAddr::V6(Ipv6Addr::from(octets)))
            }
            false => {
                let octets: [u8; 4] = bytes(from, 4)?.try_into().ok()?;
                Some(IpAddr::V4(Ipv4Addr::from(octets)))
            }
        });
        let port = port.and_then(|from| bytes(from, 2)?.try_into().ok().map(u16::from_be_bytes));
        Effect::Destination(address, port)
    }
}

/// Whether this is an address that no packet from outside has, or the part of it that counts.
fn is_not_from_outside(value: &[u8]) -> bool {
    NOT_FROM_OUTSIDE.iter().any(|start| {
        let rest = value.strip_prefix(*start);
        rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    })
}

/// Whether a rule is for some packets only.
fn asks(rule: &Rule) -> bool {
    rule.expressions.iter().any(|expression| match expression {
        Expression::Compare { .. } | Expression::Range { .. } | Expression::Lookup { .. } => true,
        Expression::Match { name, .. } => name != "comment",
        Expression::Other(name) => !matches!(name.as_str(), "counter" | "log" | "last" | "objref"),
        _ => false,
    })
}

fn decide(verdict: &Verdict, effects: &mut Vec<Effect>) -> Holds {
    match verdict {
        Verdict::Accept => effects.push(Effect::Accept),
        Verdict::Drop => effects.push(Effect::Drop),
        Verdict::Return => effects.push(Effect::Return),
        Verdict::Jump(chain) => effects.push(Effect::Jump(chain.clone())),
        Verdict::Goto(chain) => effects.push(Effect::Goto(chain.clone())),
        Verdict::Continue => {}
        // A program decides.
        Verdict::Other(_) => {
            effects.push(Effect::Drop);
            return Holds::Perhaps;
        }
    }
    Holds::Yes
}

/// An expression of which only the name is known.
fn other(name: &str, registers: &mut [Option<u8>], effects: &mut Vec<Effect>) -> Holds {
    match name {
        "counter" | "log" | "last" | "objref" | "flow_offload" | "dup" => Holds::Yes,
        "queue" => {
            effects.push(Effect::Drop);
            Holds::Perhaps
        }
        "limit" | "quota" | "connlimit" | "dynset" => Holds::Perhaps,
        // It loads something, or does what is not known.
        _ => {
            registers.fill(None);
            match name {
                "byteorder" | "exthdr" | "hash" | "numgen" | "rt" | "socket" | "xfrm" | "osf"
                | "tunnel" | "inner" | "bitwise" => Holds::Yes,
                _ => Holds::Perhaps,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::dump::Hooked;
    use super::super::super::layout::{equal, iifname, name_of, payload, verdict};
    use super::super::super::wire::Element;
    use super::super::ruleset::Content;
    use super::*;

    fn rule(chain: &str, parts: &[Vec<Expression>]) -> Rule {
        Rule {
            layer: Layer::Inet,
            table: "filter".to_owned(),
            chain: chain.to_owned(),
            handle: 0,
            expressions: parts.concat(),
            comment: String::new(),
            raw: Vec::new(),
        }
    }

    fn input(drops: bool) -> Chain {
        Chain {
            layer: Layer::Inet,
            table: "filter".to_owned(),
            name: "input".to_owned(),
            handle: 0,
            base: Some(Hooked { kind: "filter".to_owned(), hook: 1, priority: 0, drops }),
        }
    }

    fn judge(rules: Vec<Rule>, drops: bool) -> Judgement {
        let ruleset = Ruleset::of(vec![input(drops)], rules);
        let mut packet = Packet::new(false, 6, Some(8080));
        packet.iifname = Some("eth0".to_owned());
        Judge::judge(&ruleset, &ruleset.chains[0], &mut packet, "")
    }

    fn dport(port: u16) -> Vec<Expression> {
        vec![payload(2, 2, 2, 0), equal(0, &port.to_be_bytes())]
    }

    fn source() -> Vec<Expression> {
        vec![payload(1, 12, 4, 0), equal(0, &[192, 0, 2, 1])]
    }

    #[test]
    fn the_first_rule_that_holds_decides() {
        let lo = vec![iifname(0), equal(0, &name_of("lo"))];
        let rules = vec![
            rule("input", &[lo, verdict(Verdict::Accept)]),
            rule("input", &[dport(22), verdict(Verdict::Accept)]),
            rule("input", &[dport(8080), verdict(Verdict::Jump("more".to_owned()))]),
            rule("more", &[verdict(Verdict::Drop)]),
        ];
        let judged = judge(rules, false);
        assert_eq!(judged.drops, Some(true));
        assert_eq!(judged.reason, "drop (chain more)");
        let judged = judge(Vec::new(), true);
        assert_eq!((judged.drops, judged.reason.as_str()), (Some(true), "policy drop"));
    }

    #[test]
    fn what_may_decide_otherwise_is_said() {
        let rules = vec![rule("input", &[source(), verdict(Verdict::Drop)])];
        let judged = judge(rules.clone(), false);
        assert_eq!(judged.drops, None);
        assert!(judged.reason.contains("ip saddr 192.0.2.1 drop"), "{}", judged.reason);
        // It is dropped in any case.
        assert_eq!(judge(rules, true).drops, Some(true));
    }

    #[test]
    fn returns_that_may_be_leave_the_rest_open() {
        let rules = vec![
            rule("input", &[verdict(Verdict::Jump("more".to_owned()))]),
            rule("more", &[source(), verdict(Verdict::Return)]),
            rule("more", &[verdict(Verdict::Drop)]),
        ];
        assert_eq!(judge(rules, false).drops, None);
    }

    #[test]
    fn an_end_is_for_all() {
        let last = |rules: &[Rule], drops: bool| {
            let last = judge(rules.to_vec(), drops).last;
            (last.drops, last.for_all, last.rule.is_some())
        };
        let blocked = rule("input", &[source(), verdict(Verdict::Drop)]);
        assert_eq!(last(std::slice::from_ref(&blocked), false), (false, true, false));
        assert_eq!(last(std::slice::from_ref(&blocked), true), (true, true, false));
        let end = [
            blocked,
            rule("input", &[verdict(Verdict::Jump("more".to_owned()))]),
            rule("more", &[vec![Expression::Other("counter".to_owned()), Expression::Reject]]),
        ];
        assert_eq!(last(&end, false), (true, true, true));
        // This one is about the packet.
        let own = [rule("input", &[dport(8080), verdict(Verdict::Drop)])];
        assert_eq!(last(&own, false), (true, false, true));
    }

    #[test]
    fn sets_and_maps_are_looked_up() {
        let look = |to| {
            let set = "ports".to_owned();
            vec![payload(2, 2, 2, 0), Expression::Lookup { set, from: 0, to, inverted: false }]
        };
        let entry = |port: u16, verdict| super::super::super::dump::Entry {
            element: Element {
                key: [port.to_be_bytes().to_vec(), vec![0, 0]].concat(),
                end: false,
                key_end: None,
                data: None,
            },
            verdict,
            catch_all: false,
        };
        let check = |rules: Vec<Rule>, entries| {
            let ruleset = Ruleset::of(vec![input(true)], rules);
            let content = Content { entries, ..Content::default() };
            ruleset.put((Layer::Inet, "filter", "ports"), content);
            let mut packet = Packet::new(false, 6, Some(8080));
            Judge::judge(&ruleset, &ruleset.chains[0], &mut packet, "").drops
        };
        let plain = vec![rule("input", &[look(None), verdict(Verdict::Accept)])];
        assert_eq!(check(plain.clone(), vec![entry(8080, None)]), Some(false));
        assert_eq!(check(plain, vec![entry(8081, None)]), Some(true));
        let map = vec![rule("input", &[look(Some(Destination::Verdict))])];
        let entries = vec![entry(80, Some(Verdict::Drop)), entry(8080, Some(Verdict::Accept))];
        assert_eq!(check(map, entries), Some(false));
    }

    #[test]
    fn a_translation_goes_with_the_packet() {
        let rules = vec![rule(
            "input",
            &[vec![
                Expression::Constant { to: 0, value: vec![172, 17, 0, 2] },
                Expression::Constant { to: 4, value: vec![0, 80] },
                Expression::Translate { destination: true, address: Some(0), port: Some(4) },
            ]],
        )];
        let ruleset = Ruleset::of(vec![input(true)], rules);
        let mut packet = Packet::new(false, 6, Some(8080));
        let judged = Judge::judge(&ruleset, &ruleset.chains[0], &mut packet, "");
        assert_eq!((judged.drops, packet.port, packet.local), (Some(false), Some(80), false));
        assert_eq!((packet.original_port, packet.status), (Some(8080), DNAT));
    }
}
