//! All chains, rules and sets, as they are looked up while a packet is followed.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use gantry_core::Result;

use super::super::dump::{self, Chain, Entry, Rule};
use super::super::wire::{INTERVALS, Layer};
use super::values::Holds;
use crate::netlink::socket::Socket;

type Key = (Layer, String, String);

/// What is in a set.
#[derive(Debug, Default)]
pub(in crate::nft) struct Content {
    pub(in crate::nft) entries: Vec<Entry>,
    pub(in crate::nft) intervals: bool,
    pub(in crate::nft) fields: Vec<usize>,
}

/// Everything that nf_tables has.
pub(in crate::nft) struct Ruleset<'a> {
    pub(in crate::nft) chains: Vec<Chain>,
    rules: BTreeMap<Key, Vec<Rule>>,
    sets: BTreeMap<Key, dump::Set>,
    /// Elements are read when they matter.
    contents: RefCell<BTreeMap<Key, Rc<Content>>>,
    socket: Option<&'a Socket>,
}

impl<'a> Ruleset<'a> {
    /// Reads it, without what is in the sets.
    pub(in crate::nft) fn read(socket: &'a Socket) -> Result<Self> {
        let rules = dump::all_rules(socket)?;
        let chains = dump::chains(socket, None)?;
        let mut ruleset = Self::of(chains, rules);
        let sets = dump::sets(socket, None)?;
        ruleset.sets = sets
            .into_iter()
            .map(|set| ((set.layer, set.table.clone(), set.name.clone()), set))
            .collect();
        ruleset.socket = Some(socket);
        Ok(ruleset)
    }

    /// One of these chains and rules, without sets.
    pub(in crate::nft) fn of(chains: Vec<Chain>, rules: Vec<Rule>) -> Self {
        let mut by_chain: BTreeMap<Key, Vec<Rule>> = BTreeMap::new();
        for rule in rules {
            let key = (rule.layer, rule.table.clone(), rule.chain.clone());
            by_chain.entry(key).or_default().push(rule);
        }
        Self {
            chains,
            rules: by_chain,
            sets: BTreeMap::new(),
            contents: RefCell::default(),
            socket: None,
        }
    }

    /// The rules of a chain, in their order.
    pub(in crate::nft) fn rules(&self, layer: Layer, table: &str, chain: &str) -> &[Rule] {
        let key = (layer, table.to_owned(), chain.to_owned());
        self.rules.get(&key).map(Vec::as_slice).unwrap_or_default()
    }

    /// All rules.
    pub(in crate::nft) fn all_rules(&self) -> impl Iterator<Item = &Rule> {
        self.rules.values().flatten()
    }

    /// Whether a table has a chain of this name.
    pub(in crate::nft) fn has_chain(&self, layer: Layer, table: &str, name: &str) -> bool {
        let same = |chain: &&Chain| chain.layer == layer && chain.table == table;
        self.chains.iter().filter(same).any(|chain| chain.name == name)
    }

    /// What is in a set; `None` when that can't be read.
    pub(in crate::nft) fn content(
        &self,
        layer: Layer,
        table: &str,
        set: &str,
    ) -> Option<Rc<Content>> {
        let key = (layer, table.to_owned(), set.to_owned());
        if let Some(content) = self.contents.borrow().get(&key) {
            return Some(Rc::clone(content));
        }
        let entries = dump::elements(self.socket?, layer, table, set).ok()?;
        let definition = self.sets.get(&key);
        let content = Rc::new(Content {
            entries,
            intervals: definition.is_some_and(|set| set.flags & INTERVALS != 0),
            fields: definition.map(|set| set.fields.clone()).unwrap_or_default(),
        });
        self.contents.borrow_mut().insert(key, Rc::clone(&content));
        Some(content)
    }

    /// Gives a set its content.
    #[cfg(test)]
    pub(in crate::nft) fn put(&self, (layer, table, set): (Layer, &str, &str), content: Content) {
        let key = (layer, table.to_owned(), set.to_owned());
        self.contents.borrow_mut().insert(key, Rc::new(content));
    }
}

/// First key, last key if there is one, and what stands there.
type Range<'a> = (Vec<u8>, Option<Vec<u8>>, &'a Entry);

impl Content {
    /// Whether a key is there, and what it leads to if that is certain.
    pub(in crate::nft) fn find(&self, key: &[Option<u8>]) -> (Holds, Option<&Entry>) {
        let mut perhaps = false;
        for (first, last, entry) in self.ranges() {
            match self.within(key, &first, last.as_deref()) {
                Holds::Yes => return (Holds::Yes, Some(entry)),
                Holds::Perhaps => perhaps = true,
                Holds::No => {}
            }
        }
        let rest = self.entries.iter().find(|entry| entry.catch_all);
        match (perhaps, rest) {
            (true, _) => (Holds::Perhaps, None),
            (false, Some(rest)) => (Holds::Yes, Some(rest)),
            (false, None) => (Holds::No, None),
        }
    }

    /// Each interval, or each element.
    fn ranges(&self) -> Vec<Range<'_>> {
        let mut entries: Vec<_> = self.entries.iter().filter(|entry| !entry.catch_all).collect();
        let single = |entry: &&Entry| entry.element.key_end.is_none();
        if !self.intervals || !entries.iter().all(single) {
            let ends = |entry: &Entry| entry.element.key_end.clone();
            return entries
                .into_iter()
                .map(|entry| (entry.element.key.clone(), ends(entry), entry))
                .collect();
        }
        // Starts and ends of their own: an interval lasts until the next element of any kind.
        entries.sort_by(|one, other| {
            (&one.element.key, !one.element.end).cmp(&(&other.element.key, !other.element.end))
        });
        let mut ranges = Vec::new();
        for (at, entry) in entries.iter().enumerate().filter(|(_, entry)| !entry.element.end) {
            let first = entry.element.key.clone();
            let last = match entries.get(at + 1) {
                Some(next) => before(&next.element.key),
                None => vec![0xff; first.len()],
            };
            ranges.push((first, Some(last), *entry));
        }
        ranges
    }

    fn within(&self, key: &[Option<u8>], first: &[u8], last: Option<&[u8]>) -> Holds {
        let Some(last) = last else { return Holds::equal(key, first) };
        let mut fields = self.fields.clone();
        if fields.is_empty() {
            fields.push(first.len());
        }
        let (mut at, mut all) = (0, Holds::Yes);
        for field in fields {
            let end = at + field;
            let parts = (key.get(at..end), first.get(at..end), last.get(at..end));
            let (Some(part), Some(first), Some(last)) = parts else { return Holds::Perhaps };
            all = all.and(Holds::between(part, first, last));
            at += field.next_multiple_of(4);
        }
        all
    }
}

/// The number before this one.
fn before(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::Element;
    use super::super::packet::known;
    use super::*;

    fn entry(key: &[u8], end: bool, key_end: Option<&[u8]>) -> Entry {
        let key_end = key_end.map(<[u8]>::to_vec);
        let element = Element { key: key.to_vec(), end, key_end, data: None };
        Entry { element, verdict: None, catch_all: false }
    }

    #[test]
    fn intervals_last_until_the_next_element() {
        let entries = vec![
            entry(&[10, 0, 0, 0], false, None),
            entry(&[10, 1, 0, 0], true, None),
            entry(&[10, 1, 0, 0], false, None),
            entry(&[10, 1, 1, 0], true, None),
        ];
        let set = Content { entries, intervals: true, fields: Vec::new() };
        assert_eq!(set.find(&known(&[10, 0, 255, 255])).0, Holds::Yes);
        assert_eq!(set.find(&known(&[10, 1, 0, 9])).0, Holds::Yes);
        assert_eq!(set.find(&known(&[10, 1, 1, 0])).0, Holds::No);
        assert_eq!(set.find(&[None; 4]).0, Holds::Perhaps);
    }

    #[test]
    fn fields_are_compared_each_for_itself() {
        let first = [&[10, 0, 0, 0][..], &[0, 100, 0, 0]].concat();
        let last = [&[10, 0, 0, 255][..], &[1, 0, 0, 0]].concat();
        let entries = vec![entry(&first, false, Some(&last))];
        let set = Content { entries, intervals: true, fields: vec![4, 2] };
        let key = |host, port: [u8; 2]| known(&[10, 0, 0, host, port[0], port[1], 0, 0]);
        assert_eq!(set.find(&key(7, [0, 200])).0, Holds::Yes);
        assert_eq!(set.find(&key(7, [1, 1])).0, Holds::No);
    }
}
