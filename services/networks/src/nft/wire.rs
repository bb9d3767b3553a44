//! Messages of nf_tables, as linux/netfilter/nf_tables.h has them.

use std::cmp::Ordering;

use super::expression::Expression;
use crate::netlink::message::{Answer, Message};

/// The subsystem, in the upper byte of a message's type.
const SUBSYSTEM: u16 = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8;
/// Bytes of the fixed part of each message.
pub(super) const FIXED: usize = 4;

/// Types of messages.
pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const DELETE_CHAIN: u16 = 5;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const DELETE_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const DELETE_SET: u16 = 11;
pub(super) const NEW_ELEMENTS: u16 = 12;
pub(super) const GET_ELEMENTS: u16 = 13;
pub(super) const DELETE_ELEMENTS: u16 = 14;

/// Those that say that something is not as it was.
pub(super) const CHANGES: &[u16] = &[
    NEW_TABLE,
    DELETE_TABLE,
    NEW_CHAIN,
    DELETE_CHAIN,
    NEW_RULE,
    DELETE_RULE,
    NEW_SET,
    DELETE_SET,
    NEW_ELEMENTS,
    DELETE_ELEMENTS,
];

/// Attributes. The table's name is the first one of every object.
pub(super) const TABLE: u16 = 1;
pub(super) const TABLE_FLAGS: u16 = 2;
pub(super) const CHAIN_HANDLE: u16 = 2;
pub(super) const CHAIN_NAME: u16 = 3;
pub(super) const CHAIN_HOOK: u16 = 4;
pub(super) const HOOK_NUMBER: u16 = 1;
pub(super) const HOOK_PRIORITY: u16 = 2;
pub(super) const CHAIN_POLICY: u16 = 5;
pub(super) const CHAIN_TYPE: u16 = 7;
pub(super) const RULE_CHAIN: u16 = 2;
pub(super) const RULE_HANDLE: u16 = 3;
pub(super) const RULE_EXPRESSIONS: u16 = 4;
const RULE_POSITION: u16 = 6;
pub(super) const RULE_USERDATA: u16 = 7;
pub(super) const SET_NAME: u16 = 2;
pub(super) const SET_FLAGS: u16 = 3;
pub(super) const SET_KEY_TYPE: u16 = 4;
pub(super) const SET_KEY_LENGTH: u16 = 5;
const SET_DATA_TYPE: u16 = 6;
pub(super) const SET_DATA_LENGTH: u16 = 7;
pub(super) const SET_DESCRIPTION: u16 = 9;
pub(super) const DESCRIPTION_CONCATENATION: u16 = 2;
pub(super) const FIELD_LENGTH: u16 = 1;
const SET_ID: u16 = 10;
const SET_USERDATA: u16 = 13;
pub(super) const ELEMENTS_SET: u16 = 2;
pub(super) const ELEMENTS: u16 = 3;
pub(super) const ELEMENT: u16 = 1;
pub(super) const ELEMENT_KEY: u16 = 1;
pub(super) const ELEMENT_DATA: u16 = 2;
pub(super) const ELEMENT_FLAGS: u16 = 3;
pub(super) const ELEMENT_KEY_END: u16 = 10;
pub(super) const DATA_VALUE: u16 = 1;

/// Flags of sets.
pub(super) const INTERVALS: u32 = 4;
pub(super) const MAP: u32 = 8;
const CONCATENATION: u32 = 0x80;
/// Flag of an element: the interval ends before it.
pub(super) const INTERVAL_END: u32 = 1;
/// Flag of an element: it stands for all keys that are not there.
pub(super) const CATCH_ALL: u32 = 2;
/// Elements of one message, whose list may have 64 KiB.
const AT_ONCE: usize = 400;

const CREATE: u16 = libc::NLM_F_CREATE as u16 | libc::NLM_F_ACK as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const ANSWER: u16 = libc::NLM_F_ACK as u16;

/// Which packets a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Layer {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Layer {
    /// As the kernel counts.
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => libc::NFPROTO_INET as u8,
            Self::Ip => libc::NFPROTO_IPV4 as u8,
            Self::Ip6 => libc::NFPROTO_IPV6 as u8,
        }
    }

    /// As nft(8) writes it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    fn of(number: u8) -> Option<Self> {
        [Self::Inet, Self::Ip, Self::Ip6].into_iter().find(|layer| layer.number() == number)
    }
}

/// The type of a message of this subsystem.
pub(super) fn kind(answer: &Answer) -> Option<u16> {
    (answer.kind & 0xff00 == SUBSYSTEM).then_some(answer.kind & 0xff)
}

/// What the object of a message belongs to; none for bridges, ARP and devices.
pub(super) fn layer(answer: &Answer) -> Option<Layer> {
    Layer::of(*answer.body.first()?)
}

/// A part of a key or of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Name of an interface.
    Interface,
    /// IPv4 address.
    Ip,
    /// IPv6 address.
    Ip6,
    /// Number of a transport protocol.
    Protocol,
    /// Port.
    Port,
}

impl Field {
    /// The type as nft(8) counts; the kernel only keeps it.
    fn number(self) -> u32 {
        match self {
            Self::Ip => 7,
            Self::Ip6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Interface => 41,
        }
    }

    /// Bytes, without what fills the last four.
    fn length(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ip => 4,
            Self::Ip6 | Self::Interface => 16,
        }
    }
}

/// A set or a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SetDefinition {
    pub(super) name: &'static str,
    pub(super) key: &'static [Field],
    /// What a key leads to; a set when empty.
    pub(super) data: &'static [Field],
    pub(super) intervals: bool,
}

impl SetDefinition {
    pub(super) fn flags(&self) -> u32 {
        let mut flags = 0;
        if self.intervals {
            flags |= INTERVALS | if self.key.len() > 1 { CONCATENATION } else { 0 };
        }
        if !self.data.is_empty() {
            flags |= MAP;
        }
        flags
    }

    pub(super) fn key_type(&self) -> u32 {
        joined_type(self.key)
    }

    pub(super) fn key_length(&self) -> u32 {
        joined_length(self.key)
    }

    pub(super) fn data_length(&self) -> u32 {
        joined_length(self.data)
    }
}

/// The type of a concatenation: six bits for each field.
fn joined_type(fields: &[Field]) -> u32 {
    fields.iter().fold(0, |joined, field| (joined << 6) | field.number())
}

/// Each field fills whole registers of four bytes.
fn joined_length(fields: &[Field]) -> u32 {
    fields.iter().map(|field| field.length().next_multiple_of(4)).sum()
}

/// A chain that packets come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// `filter` or `nat`.
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
}

/// An element of a set, or of a map. The end of an interval comes before the one that begins
/// there: the kernel takes them in no other order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) key: Vec<u8>,
    /// It is the first address behind an interval.
    pub(super) end: bool,
    /// The last key of an interval of a concatenation.
    pub(super) key_end: Option<Vec<u8>>,
    pub(super) data: Option<Vec<u8>>,
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        let Self { key, end, key_end, data } = self;
        (key, !end, key_end, data).cmp(&(&other.key, !other.end, &other.key_end, &other.data))
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A message of this type about this table.
pub(super) fn message(kind: u16, flags: u16, layer: Layer, table: &str) -> Message {
    let mut message = Message::new(SUBSYSTEM | kind, flags);
    message.fixed(&[layer.number(), 0, 0, 0]);
    if !table.is_empty() {
        message.put_text(TABLE, table);
    }
    message
}

/// Asks for all objects of a kind: of this layer, or of all.
pub(super) fn list(kind: u16, layer: Option<Layer>) -> Message {
    let mut message = Message::new(SUBSYSTEM | kind, 0);
    message.fixed(&[layer.map_or(0, Layer::number), 0, 0, 0]);
    message
}

/// What stands before the messages of a batch, and behind them.
pub(super) fn bound(kind: libc::c_int) -> Message {
    let mut message = Message::new(kind as u16, 0);
    let [high, low] = (libc::NFNL_SUBSYS_NFTABLES as u16).to_be_bytes();
    message.fixed(&[libc::AF_UNSPEC as u8, 0, high, low]);
    message
}

/// Makes a table, or wakes one that sleeps.
pub(super) fn new_table(layer: Layer, table: &str) -> Message {
    let mut message = message(NEW_TABLE, CREATE, layer, table);
    message.put_be32(TABLE_FLAGS, 0);
    message
}

/// Deletes a table with all that is in it.
pub(super) fn delete_table(layer: Layer, table: &str) -> Message {
    message(DELETE_TABLE, ANSWER, layer, table)
}

/// Makes a chain; one with a base lets packets pass that nothing in it drops.
pub(super) fn new_chain(layer: Layer, table: &str, name: &str, base: Option<&Base>) -> Message {
    let mut message = message(NEW_CHAIN, CREATE, layer, table);
    message.put_text(CHAIN_NAME, name);
    if let Some(base) = base {
        message
            .nest(CHAIN_HOOK, |hook| {
                hook.put_be32(HOOK_NUMBER, base.hook);
                hook.put_be32(HOOK_PRIORITY, base.priority.cast_unsigned());
            })
            .put_be32(CHAIN_POLICY, libc::NF_ACCEPT as u32)
            .put_text(CHAIN_TYPE, base.kind);
    }
    message
}

/// Deletes a chain without rules that nothing leads to.
pub(super) fn delete_chain(layer: Layer, table: &str, name: &str) -> Message {
    let mut message = message(DELETE_CHAIN, ANSWER, layer, table);
    message.put_text(CHAIN_NAME, name);
    message
}

/// Where in a chain a rule comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Behind all others.
    Last,
    /// Before the one of this handle.
    Before(u64),
}

/// Puts a rule into a chain.
pub(super) fn new_rule(
    layer: Layer,
    (table, chain): (&str, &str),
    position: Position,
    expressions: &[Expression],
    comment: &str,
) -> Message {
    let flags = if position == Position::Last { CREATE | APPEND } else { CREATE };
    let mut message = message(NEW_RULE, flags, layer, table);
    if let Position::Before(handle) = position {
        message.put_be64(RULE_POSITION, handle);
    }
    message.put_text(RULE_CHAIN, chain).nest(RULE_EXPRESSIONS, |list| {
        for expression in expressions {
            list.nest(ELEMENT, |item| expression.put(item));
        }
    });
    if !comment.is_empty() {
        message.put(RULE_USERDATA, &userdata(comment));
    }
    message
}

/// A comment as nft(8) keeps it: type, length, the text and a NUL byte.
fn userdata(comment: &str) -> Vec<u8> {
    let text = comment.as_bytes();
    let text = &text[..text.len().min(120)];
    let mut data = vec![0, text.len() as u8 + 1];
    data.extend_from_slice(text);
    data.push(0);
    data
}

/// Deletes one rule, or all of a chain.
pub(super) fn delete_rule(
    layer: Layer,
    (table, chain): (&str, &str),
    handle: Option<u64>,
) -> Message {
    let mut message = message(DELETE_RULE, ANSWER, layer, table);
    message.put_text(RULE_CHAIN, chain);
    if let Some(handle) = handle {
        message.put_be64(RULE_HANDLE, handle);
    }
    message
}

/// Makes a set. `id` is unique in the batch.
pub(super) fn new_set(layer: Layer, table: &str, set: &SetDefinition, id: u32) -> Message {
    let mut message = message(NEW_SET, CREATE, layer, table);
    message
        .put_text(SET_NAME, set.name)
        .put_be32(SET_FLAGS, set.flags())
        .put_be32(SET_KEY_TYPE, set.key_type())
        .put_be32(SET_KEY_LENGTH, set.key_length())
        .put_be32(SET_ID, id);
    if !set.data.is_empty() {
        message
            .put_be32(SET_DATA_TYPE, joined_type(set.data))
            .put_be32(SET_DATA_LENGTH, set.data_length());
    }
    if set.key == [Field::Interface] {
        // What nft(8) writes names by: the key's bytes are in the machine's order.
        let order = [&[0, 4][..], &1u32.to_ne_bytes()[..]].concat();
        message.put(SET_USERDATA, &order);
    }
    if set.flags() & CONCATENATION != 0 {
        message.nest(SET_DESCRIPTION, |description| {
            description.nest(DESCRIPTION_CONCATENATION, |list| {
                for field in set.key {
                    list.nest(ELEMENT, |item| {
                        item.put_be32(FIELD_LENGTH, field.length());
                    });
                }
            });
        });
    }
    message
}

/// Deletes a set that no rule uses.
pub(super) fn delete_set(layer: Layer, table: &str, name: &str) -> Message {
    let mut message = message(DELETE_SET, ANSWER, layer, table);
    message.put_text(SET_NAME, name);
    message
}

/// Deletes all elements of a set.
pub(super) fn flush_set(layer: Layer, table: &str, set: &str) -> Message {
    let mut message = message(DELETE_ELEMENTS, ANSWER, layer, table);
    message.put_text(ELEMENTS_SET, set);
    message
}

/// Adds elements to a set, or deletes them from it.
pub(super) fn elements(
    add: bool,
    layer: Layer,
    (table, set): (&str, &str),
    elements: &[Element],
) -> Vec<Message> {
    let (kind, flags) = if add { (NEW_ELEMENTS, CREATE) } else { (DELETE_ELEMENTS, ANSWER) };
    let some = |elements: &[Element]| {
        let mut message = message(kind, flags, layer, table);
        message.put_text(ELEMENTS_SET, set).nest(ELEMENTS, |list| {
            for element in elements {
                list.nest(ELEMENT, |item| put_element(item, element, add));
            }
        });
        message
    };
    elements.chunks(AT_ONCE).map(some).collect()
}

fn put_element(item: &mut Message, element: &Element, add: bool) {
    let value = |item: &mut Message, attribute, value: &[u8]| {
        item.nest(attribute, |data| {
            data.put(DATA_VALUE, value);
        });
    };
    value(item, ELEMENT_KEY, &element.key);
    if let Some(end) = &element.key_end {
        value(item, ELEMENT_KEY_END, end);
    }
    if let Some(data) = element.data.as_ref().filter(|_| add) {
        value(item, ELEMENT_DATA, data);
    }
    if element.end {
        item.put_be32(ELEMENT_FLAGS, INTERVAL_END);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_described_as_nft_describes_them() {
        let ports = SetDefinition {
            name: "ports4",
            key: &[Field::Protocol, Field::Port],
            data: &[Field::Ip, Field::Port],
            intervals: false,
        };
        assert_eq!(ports.key_type(), (12 << 6) | 13);
        assert_eq!((ports.key_length(), ports.data_length(), ports.flags()), (8, 8, MAP));
        let own = SetDefinition {
            name: "own6",
            key: &[Field::Ip6, Field::Interface],
            data: &[],
            intervals: true,
        };
        assert_eq!((own.key_length(), own.data_length(), own.flags()), (32, 0, 0x84));
    }

    #[test]
    fn many_elements_are_several_messages() {
        let element = |number: u32| Element {
            key: number.to_be_bytes().to_vec(),
            end: false,
            key_end: None,
            data: None,
        };
        let all: Vec<_> = (0..1001).map(element).collect();
        assert_eq!(elements(true, Layer::Inet, ("gantry", "masq4"), &all).len(), 3);
        assert!(elements(false, Layer::Inet, ("gantry", "masq4"), &[]).is_empty());
    }
}
