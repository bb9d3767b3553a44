//! What other firewalls' chains are told, when that is asked for: to let pass what goes into
//! and out of our bridges. Our own chains still drop what is not to pass.

use std::collections::BTreeMap;

use gantry_core::Result;

use super::batch::Batch;
use super::dump::{Chain, Rule};
use super::explain::{Judge, Packet, Ruleset};
use super::expression::{DNAT, Expression, Verdict};
use super::layout::{equal, iifname, name_of, oifname, verdict};
use super::rules::Rules;
use super::wire::{self, Layer};
use crate::netlink::socket::Socket;

/// Number of the hook of packets that are forwarded.
pub(super) const FORWARD: u32 = libc::NF_INET_FORWARD as u32;

/// The comment of our rules in tables of others.
fn mark(table: &str) -> String {
    format!("for the networks of inet {table}")
}

/// What is to be done.
#[derive(Debug, Default)]
struct Work {
    /// Rules to add: by table, chains and expressions.
    add: Vec<(Layer, String, String, Vec<Expression>)>,
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
    for (layer, other, chain, expressions) in work.add {
        let message = wire::new_rule(layer, (&other, &chain), true, &expressions, &mark(table));
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
    for (chain, bridge) in wanted(ruleset, table, rules, &mark) {
        for expressions in [accept(iifname(0), bridge), accept(oifname(0), bridge)] {
            let found = there.iter().position(|rule| {
                (rule.layer, &rule.table, &rule.chain) == (chain.layer, &chain.table, &chain.name)
                    && rule.expressions == expressions
            });
            match found {
                Some(at) => {
                    there.swap_remove(at);
                }
                None => {
                    let (table, name) = (chain.table.clone(), chain.name.clone());
                    work.add.push((chain.layer, table, name, expressions));
                }
            }
        }
    }
    work.delete = there.into_iter().cloned().collect();
    work
}

/// Chains of others that would not let everything of a bridge pass, with the bridge.
fn wanted<'a>(
    ruleset: &'a Ruleset<'_>,
    table: &str,
    rules: &'a Rules,
    mark: &str,
) -> Vec<(&'a Chain, &'a str)> {
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
            if !passes(ruleset, chain, &bridge.interface, mark) {
                wanted.push((chain, bridge.interface.as_str()));
            }
        }
    }
    wanted
}

/// Whether a chain lets pass for certain whatever goes into a bridge and out of it.
fn passes(ruleset: &Ruleset<'_>, chain: &Chain, bridge: &str, mark: &str) -> bool {
    let kinds: &[bool] = match chain.layer {
        Layer::Inet => &[false, true],
        Layer::Ip => &[false],
        Layer::Ip6 => &[true],
    };
    kinds.iter().all(|v6| {
        let out = Packet {
            iifname: Some(bridge.to_owned()),
            oifname: None,
            local: false,
            ..Packet::new(*v6, libc::IPPROTO_TCP as u8, None)
        };
        let into =
            Packet { iifname: None, oifname: Some(bridge.to_owned()), status: DNAT, ..out.clone() };
        [out, into]
            .iter_mut()
            .all(|packet| Judge::judge(ruleset, chain, packet, mark).drops == Some(false))
    })
}

fn accept(name: Expression, bridge: &str) -> Vec<Expression> {
    [vec![name, equal(0, &name_of(bridge))], verdict(Verdict::Accept)].concat()
}

#[cfg(test)]
mod tests {
    use super::super::dump::Hooked;
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

    fn rule(expressions: Vec<Expression>) -> Rule {
        Rule {
            layer: Layer::Ip,
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            handle: 7,
            expressions,
            comment: mark("gantry"),
            raw: Vec::new(),
        }
    }

    #[test]
    fn only_chains_that_drop_are_told() {
        let mut rules = sample();
        rules.accept_elsewhere = true;
        let open = Ruleset::of(vec![chain(false)], Vec::new());
        assert!(plan(&open, "gantry", &rules).add.is_empty());
        let closed = Ruleset::of(vec![chain(true)], Vec::new());
        // Two bridges, in and out; nothing for the internal one.
        assert_eq!(plan(&closed, "gantry", &rules).add.len(), 4);
        rules.accept_elsewhere = false;
        assert!(plan(&closed, "gantry", &rules).add.is_empty());
    }

    #[test]
    fn what_is_there_stays_and_what_is_old_goes() {
        let mut rules = sample();
        rules.accept_elsewhere = true;
        let there = vec![
            rule(accept(iifname(0), "gantry0")),
            rule(accept(oifname(0), "gantry0")),
            rule(accept(oifname(0), "br-gone")),
        ];
        let ruleset = Ruleset::of(vec![chain(true)], there);
        let work = plan(&ruleset, "gantry", &rules);
        assert_eq!((work.add.len(), work.delete.len()), (2, 1));
        rules.accept_elsewhere = false;
        assert_eq!(plan(&ruleset, "gantry", &rules).delete.len(), 3);
        // Another daemon's are not ours.
        assert!(plan(&ruleset, "other", &rules).delete.is_empty());
    }
}
