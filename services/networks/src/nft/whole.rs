//! Whether the table is as it was left, and what makes it so again.

use std::collections::BTreeSet;

use gantry_core::Result;

use super::batch::{Batch, Refused};
use super::dump;
use super::elements::{self, Delta};
use super::layout::{CHAINS, ChainDefinition, POLICY_CHAIN, rules};
use super::rules::Rules;
use super::sets::SETS;
use super::wire::{self, Element, Layer, Position, SetDefinition};
use crate::netlink::socket::Socket;

const LAYER: Layer = Layer::Inet;

/// Chains and rules as the kernel has them, to be compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    chains: Vec<dump::Chain>,
    /// Chain, handle and content of each rule of ours.
    rules: Vec<(String, u64, Vec<u8>)>,
}

/// The shape of the table, unless it is not there or sleeps. What is the administrator's is no
/// part of it.
pub(super) fn shape(socket: &Socket, table: &str) -> Result<Option<Shape>> {
    if dump::table(socket, LAYER, table)? != Some(false) {
        return Ok(None);
    }
    let chains = ours(dump::chains(socket, Some(LAYER))?, table);
    let mut found: Vec<_> = dump::rules(socket, LAYER, table)?
        .into_iter()
        .filter(|rule| rule.chain != POLICY_CHAIN)
        .filter(|rule| CHAINS.iter().any(|chain| chain.name == rule.chain))
        .map(|rule| (rule.chain, rule.handle, rule.raw))
        .collect();
    // Each chain's rules are in order already; the order of chains means nothing.
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(Some(Shape { chains, rules: found }))
}

fn ours(chains: Vec<dump::Chain>, table: &str) -> Vec<dump::Chain> {
    let mut ours: Vec<_> = chains
        .into_iter()
        .filter(|chain| chain.layer == LAYER && chain.table == table)
        .filter(|chain| CHAINS.iter().any(|known| known.name == chain.name))
        .collect();
    ours.sort_by(|one, other| one.name.cmp(&other.name));
    ours
}

/// Whether the sets hold what the rules put into them.
pub(super) fn holds(socket: &Socket, table: &str, rules: &Rules) -> Result<bool> {
    for (set, wanted) in elements::of_rules(rules) {
        let found: BTreeSet<Element> = dump::elements(socket, LAYER, table, set)?
            .into_iter()
            .map(|entry| entry.element)
            .collect();
        if found != wanted {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes the table say these rules, whatever it says now. Chains and sets of ours are used
/// again where they are as they should be, so that rules of the administrator's that name them
/// do not stand in the way; the administrator's chain keeps its rules.
pub(super) fn make(socket: &Socket, table: &str, wanted: &Rules) -> Result<Option<Refused>> {
    let mut batch = Batch::new();
    batch.push(format!("make the table inet {table}"), wire::new_table(LAYER, table));
    let chains = ours(dump::chains(socket, Some(LAYER))?, table);
    for chain in chains.iter().filter(|chain| chain.name != POLICY_CHAIN) {
        let note = format!("empty the chain {}", chain.name);
        batch.push(note, wire::delete_rule(LAYER, (table, &chain.name), None));
    }
    let kept = sets(socket, table, &mut batch)?;
    for definition in CHAINS {
        let found = chains.iter().find(|chain| chain.name == definition.name);
        if found.is_some_and(|chain| !same(chain, definition)) {
            let note = format!("delete the chain {}", definition.name);
            batch.push(note, wire::delete_chain(LAYER, table, definition.name));
        }
    }
    fill(&mut batch, table, &kept, wanted);
    batch.send(socket)
}

/// Makes the table anew when [`make`] was refused, for whatever it has that we do not know.
/// Only what is of use to nobody else is deleted: `None` when the administrator has rules in it.
pub(super) fn make_anew(
    socket: &Socket,
    table: &str,
    wanted: &Rules,
) -> Result<Option<Option<Refused>>> {
    let strange = |name: &str| CHAINS.iter().all(|chain| chain.name != name);
    let others = |chain: &str| chain == POLICY_CHAIN || strange(chain);
    if dump::rules(socket, LAYER, table)?.iter().any(|rule| others(&rule.chain)) {
        return Ok(None);
    }
    let mut batch = Batch::new();
    batch.push("make the table", wire::new_table(LAYER, table));
    batch.push("delete the table", wire::delete_table(LAYER, table));
    batch.push("make the table", wire::new_table(LAYER, table));
    fill(&mut batch, table, &BTreeSet::new(), wanted);
    batch.send(socket).map(Some)
}

/// Changes elements of the sets.
pub(super) fn change(socket: &Socket, table: &str, delta: &Delta) -> Result<Option<Refused>> {
    let mut batch = Batch::new();
    for (add, sets) in [(false, delta.gone()), (true, delta.come())] {
        let verb = if add { "add to" } else { "delete from" };
        for (set, elements) in sets {
            let messages = wire::elements(add, LAYER, (table, set), &elements);
            batch.extend(format!("{verb} the set {set}"), messages);
        }
    }
    batch.send(socket)
}

/// Appends what makes chains, sets without those of these names, elements and rules.
fn fill(batch: &mut Batch, table: &str, kept: &BTreeSet<&'static str>, wanted: &Rules) {
    for chain in CHAINS {
        let message = wire::new_chain(LAYER, table, chain.name, chain.base.as_ref());
        batch.push(format!("make the chain {}", chain.name), message);
    }
    for set in SETS.iter().filter(|set| !kept.contains(set.name)) {
        let id = batch.set_id();
        batch.push(format!("make the set {}", set.name), wire::new_set(LAYER, table, set, id));
    }
    for (set, elements) in elements::of_rules(wanted) {
        let elements: Vec<_> = elements.into_iter().collect();
        let messages = wire::elements(true, LAYER, (table, set), &elements);
        batch.extend(format!("fill the set {set}"), messages);
    }
    for rule in rules() {
        let place = (table, rule.chain);
        let message = wire::new_rule(LAYER, place, Position::Last, &rule.expressions, rule.comment);
        batch.push(format!("add a rule to the chain {}", rule.chain), message);
    }
}

/// Empties the sets that are there, and deletes those that are made otherwise; returns the
/// names of those that stay.
fn sets(socket: &Socket, table: &str, batch: &mut Batch) -> Result<BTreeSet<&'static str>> {
    let mut kept = BTreeSet::new();
    for found in dump::sets(socket, Some(LAYER))? {
        let definition = SETS.iter().find(|set| found.table == table && set.name == found.name);
        let Some(definition) = definition else { continue };
        if alike(&found, definition) {
            kept.insert(definition.name);
            let note = format!("empty the set {}", definition.name);
            batch.push(note, wire::flush_set(LAYER, table, definition.name));
        } else {
            let note = format!("delete the set {}", definition.name);
            batch.push(note, wire::delete_set(LAYER, table, definition.name));
        }
    }
    Ok(kept)
}

fn alike(found: &dump::Set, definition: &SetDefinition) -> bool {
    found.flags == definition.flags()
        && found.key_type == definition.key_type()
        && found.key_length == definition.key_length()
        && found.data_length == definition.data_length()
}

fn same(chain: &dump::Chain, definition: &ChainDefinition) -> bool {
    match (&chain.base, &definition.base) {
        (None, None) => true,
        (Some(found), Some(base)) => {
            (found.kind.as_str(), found.hook, found.priority)
                == (base.kind, base.hook, base.priority)
        }
        _ => false,
    }
}
