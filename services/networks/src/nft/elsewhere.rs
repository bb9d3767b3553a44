//! What other firewalls' chains are told, when that is asked for: to let pass what goes into our
//! bridges and whatever containers send, where such a chain drops all that it knows nothing of.
//! It is told there, at its end: what its rules drop before stays dropped. Our own chains still
//! drop what is not to pass.
//!
//! The rules ask for a bridge and for nothing else, as iptables(8) can't read a table with more.

use std::collections::BTreeMap;

use gantry_core::Result;

use super::batch::Batch;
use super::dump::{Chain, Rule};
use super::explain::{Decision, Judge, Packet, Ruleset};
use super::expression::{DNAT, Expression, Verdict};
use super::layout::{equal, iifname, name_of, oifname, verdict};
use super::rules::Rules;
use super::wire::{self, Layer, Position};
use crate::netlink::socket::Socket;

/// Number of the hook of packets that are forwarded.
pub(super) const FORWARD: u32 = libc::NF_INET_FORWARD as u32;

/// The comment of our rules in tables of others.
fn mark(table: &str) -> String {
    format!("for the networks of inet {table}")
}

/// A rule that a chain is to have.
#[derive(Debug)]
struct Wanted {
    layer: Layer,
    table: String,
    chain: String,
    position: Position,
    expressions: Vec<Expression>,
}

/// What is to be done.
#[derive(Debug, Default)]
struct Work {
    add: Vec<Wanted>,
    /// Rules to delete.
    delete: Vec<Rule>,
}

/// Adds what is missing to tables of others, and takes away what is not wanted any more.
///
/// # Errors
/// The kernel's. Each table is changed on its own, as far as it can be.
pub(super) fn make(socket: &Socket, table: &str, rules: &Rules) -> Result<()> {
    let work = plan(&Ruleset::read(socket)?, table, rules);
    let mut batches: BTreeMap<(Layer, String), Batch> = BTreeMap::new();
    for rule in work.delete {
        let place = (rule.table.as_str(), rule.chain.as_str());
        let message = wire::delete_rule(rule.layer, place, Some(rule.handle));
        let note = format!("delete our rule from {} {}", rule.table, rule.chain);
        batches.entry((rule.layer, rule.table)).or_insert_with(Batch::new).push(note, message);
    }
    for Wanted { layer, table: other, chain, position, expressions } in work.add {
        let place = (other.as_str(), chain.as_str());
        let message = wire::new_rule(layer, place, position, &expressions, &mark(table));
        let note = format!("add a rule to {} {other} {chain}", layer.as_str());
        batches.entry((layer, other)).or_insert_with(Batch::new).push(note, message);
    }
    let mut failed = Ok(());
    for batch in batches.into_values() {
        match batch.send(socket) {
            Ok(None) => {}
            Ok(Some(refused)) => failed = Err(refused.error()),
            Err(err) => failed = Err(err),
        }
    }
    failed
}

/// Whether there is nothing to be done.
pub(super) fn is_done(socket: &Socket, table: &str, rules: &Rules) -> Result<bool> {
    let work = plan(&Ruleset::read(socket)?, table, rules);
    Ok(work.add.is_empty() && work.delete.is_empty())
}

fn plan(ruleset: &Ruleset<'_>, table: &str, rules: &Rules) -> Work {
    let mark = mark(table);
    let mut work = Work::default();
    let ours = |rule: &&Rule| rule.comment == mark;
    let mut there: Vec<&Rule> = ruleset.all_rules().filter(ours).collect();
    for wanted in wanted(ruleset, table, rules, &mark) {
        let found = there.iter().position(|rule| {
            (rule.layer, &rule.table, &rule.chain) == (wanted.layer, &wanted.table, &wanted.chain)
                && rule.expressions == wanted.expressions
        });
        match found {
            Some(at) => {
                there.swap_remove(at);
            }
            None => work.add.push(wanted),
        }
    }
    work.delete = there.into_iter().cloned().collect();
    work
}

/// What others' chains have to be told about each bridge.
fn wanted(ruleset: &Ruleset<'_>, table: &str, rules: &Rules, mark: &str) -> Vec<Wanted> {
    if !rules.accept_elsewhere {
        return Vec::new();
    }
    let mut wanted = Vec::new();
    let chains = ruleset.chains.iter().filter(|chain| {
        chain.base.as_ref().is_some_and(|base| base.hook == FORWARD && base.kind == "filter")
            && (chain.layer, chain.table.as_str()) != (Layer::Inet, table)
    });
    for chain in chains {
        for bridge in rules.bridges.values().filter(|bridge| !bridge.internal) {
            let bridge = bridge.interface.as_str();
            for (name, packets) in packets(chain.layer, bridge) {
                let Some(end) = end(ruleset, chain, packets, mark) else { continue };
                wanted.push(Wanted {
                    layer: chain.layer,
                    table: chain.table.clone(),
                    chain: end.chain,
                    position: end.rule.map_or(Position::Last, Position::Before),
                    expressions: accept(name, bridge),
                });
            }
        }
    }
    wanted
}

/// What comes out of a bridge, and what goes into it: what loads its name, and the first packets
/// of connections and their answers.
fn packets(layer: Layer, bridge: &str) -> [(Expression, Vec<Packet>); 2] {
    let kinds: &[bool] = match layer {
        Layer::Inet => &[false, true],
        Layer::Ip => &[false],
        Layer::Ip6 => &[true],
    };
    let (mut out, mut into) = (Vec::new(), Vec::new());
    for v6 in kinds {
        let asks = Packet {
            iifname: Some(bridge.to_owned()),
            oifname: None,
            local: false,
            ..Packet::new(*v6, libc::IPPROTO_TCP as u8, None)
        };
        let name = Some(bridge.to_owned());
        let asked = Packet { iifname: None, oifname: name, status: DNAT, ..asks.clone() };
        out.push(asked.answered());
        into.push(asks.answered());
        out.push(asks);
        into.push(asked);
    }
    [(iifname(0), out), (oifname(0), into)]
}

/// Where a chain drops one of these packets because it knows nothing of it.
fn end(ruleset: &Ruleset<'_>, chain: &Chain, packets: Vec<Packet>, mark: &str) -> Option<Decision> {
    packets.into_iter().find_map(|mut packet| {
        let last = Judge::judge(ruleset, chain, &mut packet, mark).last;
        (last.drops && last.for_all).then_some(last)
    })
}

fn accept(name: Expression, bridge: &str) -> Vec<Expression> {
    [vec![name, equal(0, &name_of(bridge))], verdict(Verdict::Accept)].concat()
}

#[cfg(test)]
mod tests {
    use super::super::dump::Hooked;
    use super::super::expression::NETWORK;
    use super::super::layout::payload;
    use super::super::rules::tests::sample;
    use super::*;

    fn chain(drops: bool) -> Chain {
        Chain {
            layer: Layer::Ip,
            table: "filter".to_owned(),
            name: "FORWARD".to_owned(),
            handle: 1,
            base: Some(Hooked { kind: "filter".to_owned(), hook: FORWARD, priority: 0, drops }),
        }
    }

    /// Rules in their order, with handles from 1 on.
    fn rules(all: Vec<(Vec<Expression>, &str)>) -> Vec<Rule> {
        let rule = |(handle, (expressions, comment)): (u64, (Vec<Expression>, &str))| Rule {
            layer: Layer::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            handle,
            expressions,
            comment: comment.to_owned(),
            raw: Vec::new(),
        };
        (1..).zip(all).map(rule).collect()
    }

    fn wish() -> Rules {
        Rules { accept_elsewhere: true, ..sample() }
    }

    /// Drops what comes from one address.
    fn blocked() -> Vec<Expression> {
        let source = vec![payload(NETWORK, 12, 4, 0), equal(0, &[192, 0, 2, 9])];
        [source, verdict(Verdict::Drop)].concat()
    }

    #[test]
    fn only_chains_that_drop_are_told() {
        let open = Ruleset::of(vec![chain(false)], Vec::new());
        assert!(plan(&open, "gantry", &wish()).add.is_empty());
        let closed = Ruleset::of(vec![chain(true)], Vec::new());
        // Two bridges, in and out; nothing for the internal one.
        assert_eq!(plan(&closed, "gantry", &wish()).add.len(), 4);
        assert!(plan(&closed, "gantry", &sample()).add.is_empty());
    }

    #[test]
    fn what_others_drop_stays_dropped() {
        let positions = |drops: bool, all: Vec<Vec<Expression>>| -> Vec<Position> {
            let all = rules(all.into_iter().map(|rule| (rule, "")).collect());
            let ruleset = Ruleset::of(vec![chain(drops)], all);
            plan(&ruleset, "gantry", &wish()).add.iter().map(|wanted| wanted.position).collect()
        };
        assert!(positions(false, vec![blocked()]).is_empty());
        assert_eq!(positions(true, vec![blocked()]), [Position::Last; 4]);
        let end = verdict(Verdict::Drop);
        assert_eq!(positions(false, vec![blocked(), end.clone()]), [Position::Before(2); 4]);
        // Somebody wants just this.
        let own = [vec![iifname(0), equal(0, &name_of("gantry0"))], end].concat();
        assert!(positions(false, vec![own.clone()]).is_empty());
        assert_eq!(positions(true, vec![own]), [Position::Last; 3]);
    }

    #[test]
    fn what_is_there_stays_and_what_is_old_goes() {
        let mark = mark("gantry");
        let there = rules(vec![
            (accept(iifname(0), "gantry0"), mark.as_str()),
            (accept(oifname(0), "gantry0"), mark.as_str()),
            (accept(oifname(0), "br-gone"), mark.as_str()),
        ]);
        let ruleset = Ruleset::of(vec![chain(true)], there);
        let work = plan(&ruleset, "gantry", &wish());
        assert_eq!((work.add.len(), work.delete.len()), (2, 1));
        assert_eq!(plan(&ruleset, "gantry", &sample()).delete.len(), 3);
        // Another daemon's are not ours.
        assert!(plan(&ruleset, "other", &wish()).delete.is_empty());
    }
}
