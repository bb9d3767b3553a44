//! What the kernel has: tables, chains, rules, sets, elements.

use gantry_core::{Error, Kind, Result};

use super::expression::{Expression, Verdict, read_verdict};
use super::wire::{self, Element, Layer};
use crate::netlink::message::{Answer, attributes, text};
use crate::netlink::socket::Socket;

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) layer: Layer,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) handle: u64,
    /// Where packets come to it; `None` for one that is jumped to.
    pub(super) base: Option<Hooked>,
}

/// What a chain is that packets come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hooked {
    pub(super) kind: String,
    pub(super) hook: u32,
    pub(super) priority: i32,
    /// Packets that no rule decides on are dropped.
    pub(super) drops: bool,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) layer: Layer,
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) handle: u64,
    pub(super) expressions: Vec<Expression>,
    pub(super) comment: String,
    /// The expressions as the kernel wrote them.
    pub(super) raw: Vec<u8>,
}

/// A set or a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) layer: Layer,
    pub(super) table: String,
    pub(super) name: String,
    pub(super) flags: u32,
    pub(super) key_type: u32,
    pub(super) key_length: u32,
    pub(super) data_length: u32,
    /// Bytes of the fields of a key that intervals are made of, unless it is only one.
    pub(super) fields: Vec<usize>,
}

/// An element of a set, a map or a verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) element: Element,
    pub(super) verdict: Option<Verdict>,
    /// It stands for all keys that are not there.
    pub(super) catch_all: bool,
}

/// Whether a table is there; `None` when it is not, else whether it sleeps.
pub(super) fn table(socket: &Socket, layer: Layer, name: &str) -> Result<Option<bool>> {
    let answers = socket.dump(&mut wire::list(wire::GET_TABLE, Some(layer))).map_err(refused)?;
    let found = answers.iter().find(|answer| {
        wire::layer(answer) == Some(layer) && find_text(answer, wire::TABLE) == name
    });
    Ok(found.map(|answer| find_u32(answer, wire::TABLE_FLAGS).unwrap_or(0) & 1 != 0))
}

/// The chains of this layer, or of all.
pub(super) fn chains(socket: &Socket, layer: Option<Layer>) -> Result<Vec<Chain>> {
    let answers = socket.dump(&mut wire::list(wire::GET_CHAIN, layer))?;
    Ok(answers.iter().filter_map(chain).collect())
}

/// The rules of all tables.
pub(super) fn all_rules(socket: &Socket) -> Result<Vec<Rule>> {
    let answers = socket.dump(&mut wire::list(wire::GET_RULE, None)).map_err(refused)?;
    Ok(answers.iter().filter_map(rule).collect())
}

/// The rules of one table; none when it is not there.
pub(super) fn rules(socket: &Socket, layer: Layer, table: &str) -> Result<Vec<Rule>> {
    let answers = socket.dump(&mut wire::message(wire::GET_RULE, 0, layer, table))?;
    let rules = answers.iter().filter_map(rule);
    Ok(rules.filter(|rule| rule.layer == layer && rule.table == table).collect())
}

/// The sets of this layer, or of all.
pub(super) fn sets(socket: &Socket, layer: Option<Layer>) -> Result<Vec<Set>> {
    let answers = socket.dump(&mut wire::list(wire::GET_SET, layer))?;
    Ok(answers.iter().filter_map(set).collect())
}

/// What is in a set; nothing when it is not there.
pub(super) fn elements(
    socket: &Socket,
    layer: Layer,
    table: &str,
    set: &str,
) -> Result<Vec<Entry>> {
    let mut message = wire::message(wire::GET_ELEMENTS, 0, layer, table);
    message.put_text(wire::ELEMENTS_SET, set);
    let answers = match socket.dump(&mut message) {
        Err(err) if err.kind() == Kind::NotFound => return Ok(Vec::new()),
        answers => answers?,
    };
    let lists = answers.iter().filter_map(|answer| find(answer, wire::ELEMENTS));
    Ok(lists.flat_map(attributes).filter_map(|(_, item)| entry(item)).collect())
}

/// Why the kernel shows nothing.
fn refused(err: Error) -> Error {
    match err.kind() {
        Kind::PermissionDenied => Error::permission_denied(
            "no permission to read the firewall: the daemon needs CAP_NET_ADMIN",
        )
        .with_source(err),
        Kind::InvalidArgument => {
            Error::unimplemented("the kernel has no nftables (nf_tables)").with_source(err)
        }
        _ => err,
    }
}

fn chain(answer: &Answer) -> Option<Chain> {
    let base = find(answer, wire::CHAIN_HOOK).and_then(|hook| {
        let number = |kind| within(hook, kind).and_then(u32_be);
        Some(Hooked {
            kind: find_text(answer, wire::CHAIN_TYPE),
            hook: number(wire::HOOK_NUMBER)?,
            priority: number(wire::HOOK_PRIORITY)?.cast_signed(),
            drops: find_u32(answer, wire::CHAIN_POLICY) == Some(libc::NF_DROP as u32),
        })
    });
    Some(Chain {
        layer: wire::layer(answer)?,
        table: find_text(answer, wire::TABLE),
        name: find_text(answer, wire::CHAIN_NAME),
        handle: find(answer, wire::CHAIN_HANDLE).and_then(u64_be)?,
        base,
    })
}

fn rule(answer: &Answer) -> Option<Rule> {
    // A rule may be without expressions.
    let raw = find(answer, wire::RULE_EXPRESSIONS).unwrap_or_default();
    Some(Rule {
        layer: wire::layer(answer)?,
        table: find_text(answer, wire::TABLE),
        chain: find_text(answer, wire::RULE_CHAIN),
        handle: find(answer, wire::RULE_HANDLE).and_then(u64_be)?,
        expressions: attributes(raw).map(|(_, item)| Expression::read(item)).collect(),
        comment: find(answer, wire::RULE_USERDATA).map(comment).unwrap_or_default(),
        raw: raw.to_vec(),
    })
}

fn set(answer: &Answer) -> Option<Set> {
    let number = |kind| find_u32(answer, kind).unwrap_or(0);
    Some(Set {
        layer: wire::layer(answer)?,
        table: find_text(answer, wire::TABLE),
        name: find_text(answer, wire::SET_NAME),
        flags: number(wire::SET_FLAGS),
        key_type: number(wire::SET_KEY_TYPE),
        key_length: number(wire::SET_KEY_LENGTH),
        data_length: number(wire::SET_DATA_LENGTH),
        fields: find(answer, wire::SET_DESCRIPTION).map(fields).unwrap_or_default(),
    })
}

fn fields(description: &[u8]) -> Vec<usize> {
    let list = within(description, wire::DESCRIPTION_CONCATENATION).unwrap_or_default();
    attributes(list)
        .filter_map(|(_, item)| within(item, wire::FIELD_LENGTH).and_then(u32_be))
        .map(|length| length as usize)
        .collect()
}

fn entry(item: &[u8]) -> Option<Entry> {
    let flags = within(item, wire::ELEMENT_FLAGS).and_then(u32_be).unwrap_or(0);
    let value = |kind| within(item, kind).and_then(|data| within(data, wire::DATA_VALUE));
    let catch_all = flags & wire::CATCH_ALL != 0;
    let key = match value(wire::ELEMENT_KEY) {
        Some(key) => key.to_vec(),
        None if catch_all => Vec::new(),
        None => return None,
    };
    Some(Entry {
        element: Element {
            key,
            end: flags & wire::INTERVAL_END != 0,
            key_end: value(wire::ELEMENT_KEY_END).map(<[u8]>::to_vec),
            data: value(wire::ELEMENT_DATA).map(<[u8]>::to_vec),
        },
        verdict: within(item, wire::ELEMENT_DATA).and_then(read_verdict),
        catch_all,
    })
}

/// The comment in the user data of a rule: types, lengths, values.
fn comment(mut data: &[u8]) -> String {
    while let [kind, length, rest @ ..] = data {
        let Some(value) = rest.get(..usize::from(*length)) else { break };
        if *kind == 0 {
            return text(value);
        }
        data = &rest[value.len()..];
    }
    String::new()
}

fn find(answer: &Answer, kind: u16) -> Option<&[u8]> {
    answer.attributes(wire::FIXED).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn find_text(answer: &Answer, kind: u16) -> String {
    find(answer, kind).map(text).unwrap_or_default()
}

fn find_u32(answer: &Answer, kind: u16) -> Option<u32> {
    find(answer, kind).and_then(u32_be)
}

fn within(nested: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(nested).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn u32_be(value: &[u8]) -> Option<u32> {
    value.get(..4)?.try_into().ok().map(u32::from_be_bytes)
}

fn u64_be(value: &[u8]) -> Option<u64> {
    value.get(..8)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_found_among_user_data() {
        assert_eq!(comment(b"\x00\x03hi\x00"), "hi");
        assert_eq!(comment(b"\x01\x02xy\x00\x03hi\x00"), "hi");
        assert_eq!(comment(b"\x00\x09hi"), "");
        assert_eq!(comment(b""), "");
    }
}
