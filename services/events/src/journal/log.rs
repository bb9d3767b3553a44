//! The rows of the history. Numbers have no holes, so that a row is found by its number.

use std::sync::Arc;

use gantry_core::db::{Database, Durability, GLOBAL, Table, Transaction, write_blocking};
use gantry_core::events::Envelope;
use gantry_core::history::{Cursor, Record, STAGED};
use gantry_core::{Any, Result, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Limits, Progress};
use crate::describe::is_of_probe;

/// Events by number.
const EVENTS: Table<Row> = Table::new("events");
/// Where the history begins and ends.
const HEAD: Table<Head> = Table::new("events-head");
/// Its only row.
const HEAD_KEY: &str = "head";
/// Topic of the event that stands where events were lost.
pub(super) const LOST: &str = "/gantry/events/lost";
/// With each write so many more events go than come, while there are too many.
const TRIM: u64 = 64;

/// An event on its way into the log.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) envelope: Arc<Envelope>,
    /// The row that it was staged in.
    pub(super) staged: Option<String>,
}

impl Entry {
    /// Whether it is told, but not kept.
    fn passes(&self) -> bool {
        self.staged.is_none() && is_of_probe(&self.envelope)
    }

    fn at(&self, cursor: Cursor) -> Record {
        Record { cursor, envelope: Arc::clone(&self.envelope) }
    }
}

/// What became of some events, in their order.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) stored: Vec<Record>,
    /// Those that are not kept: each stands behind the event with the same cursor.
    pub(super) passing: Vec<Record>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    /// When it was taken, in nanoseconds since 1970: later than the one before.
    pub(super) at: i64,
    #[serde(with = "shared")]
    pub(super) envelope: Arc<Envelope>,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Head {
    /// Number of the first event that is kept; 1 more than the last if there is none.
    first: u64,
    /// The last event.
    last: Cursor,
    /// Events were lost right before this one.
    floor: u64,
    /// When the first one was taken, once somebody has looked.
    #[serde(skip)]
    oldest: Option<i64>,
}

/// The writer's side.
pub(super) struct Log {
    database: Arc<dyn Database>,
    limits: Limits,
    head: Head,
}

/// An event that others hold as well is written as what it is.
mod shared {
    use serde::{Deserializer, Serializer};

    use super::{Arc, Deserialize, Envelope, Serialize};

    pub(super) fn serialize<S: Serializer>(event: &Arc<Envelope>, s: S) -> Result<S::Ok, S::Error> {
        Envelope::serialize(event, s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Arc<Envelope>, D::Error> {
        Envelope::deserialize(d).map(Arc::new)
    }
}

fn key(sequence: u64) -> String {
    format!("{sequence:016x}")
}

/// One event; `None` when it is not kept.
pub(super) fn row(database: &dyn Database, sequence: u64) -> Result<Option<Row>> {
    EVENTS.get(database, GLOBAL, &key(sequence))
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.unix_nanos()).unwrap_or(i64::MAX)
}

impl Log {
    pub(super) fn open(database: Arc<dyn Database>, limits: Limits) -> Result<Self> {
        let head = HEAD.get(&*database, GLOBAL, HEAD_KEY)?;
        let head = head.unwrap_or(Head { first: 1, ..Head::default() });
        let staged = STAGED.list(&*database, GLOBAL)?;
        let mut log = Self { database, limits, head };
        let left: Vec<_> = staged
            .into_iter()
            .map(|(key, envelope)| Entry { envelope: Arc::new(envelope), staged: Some(key) })
            .collect();
        if !left.is_empty() {
            log.append(&left, false)?;
        }
        Ok(log)
    }

    pub(super) fn progress(&self) -> Progress {
        let Head { first, last, floor, .. } = self.head;
        Progress { last, first, floor, ..Progress::default() }
    }

    /// Stores these events, those that are kept, and lets old ones go. With `lost`, events
    /// behind them are missing, and a mark stands for them.
    pub(super) fn append(&mut self, entries: &[Entry], lost: bool) -> Result<Written> {
        let now = nanos(Timestamp::now());
        let head = self.head;
        let limits = self.limits;
        let passes: Vec<bool> = entries.iter().map(Entry::passes).collect();
        if !lost && passes.iter().all(|passes| *passes) {
            let passing = entries.iter().map(|entry| entry.at(head.last)).collect();
            return Ok(Written { passing, ..Written::default() });
        }
        let (head, written) = write_blocking(&*self.database, Durability::Buffered, &mut |tx| {
            let mut new = head;
            let Written { mut stored, mut passing } = Written::default();
            for (entry, passes) in entries.iter().zip(&passes) {
                if *passes {
                    passing.push(entry.at(new.last));
                    continue;
                }
                stored.push(new.push(tx, now, &entry.envelope)?);
                if let Some(key) = &entry.staged {
                    STAGED.delete(tx, GLOBAL, key)?;
                }
            }
            if lost {
                let (namespace, topic) = (String::new(), LOST.to_owned());
                let (timestamp, event) = (Timestamp::now(), Any::default());
                let mark = Envelope { timestamp, namespace, topic, event };
                stored.push(new.push(tx, now, &Arc::new(mark))?);
                new.floor = new.last.sequence;
            }
            new.trim(tx, limits, now)?;
            HEAD.put(tx, GLOBAL, HEAD_KEY, &new)?;
            Ok((new, Written { stored, passing }))
        })?;
        self.head = head;
        Ok(written)
    }
}

impl Head {
    fn push(
        &mut self,
        tx: &mut dyn Transaction,
        now: i64,
        envelope: &Arc<Envelope>,
    ) -> Result<Record> {
        let at = now.max(self.last.at + 1);
        self.last = Cursor { sequence: self.last.sequence + 1, at };
        let row = Row { at, envelope: Arc::clone(envelope) };
        EVENTS.put(tx, GLOBAL, &key(self.last.sequence), &row)?;
        Ok(Record { cursor: self.last, envelope: row.envelope })
    }

    /// Removes some of the events that are too many or too old; never the last.
    fn trim(&mut self, tx: &mut dyn Transaction, limits: Limits, now: i64) -> Result<()> {
        let age = i64::try_from(limits.age.as_nanos()).unwrap_or(i64::MAX);
        let most = self.last.sequence.saturating_sub(limits.events.max(1));
        let many = self.first + 2 * super::BATCH as u64 + TRIM;
        while self.first < self.last.sequence.min(many) {
            if self.first > most {
                if self.oldest.is_none() {
                    let row = EVENTS.lock(tx, GLOBAL, &key(self.first))?;
                    self.oldest = row.map(|row| row.at);
                }
                if self.oldest.is_some_and(|at| at >= now.saturating_sub(age)) {
                    break;
                }
            }
            EVENTS.delete(tx, GLOBAL, &key(self.first))?;
            self.first += 1;
            self.oldest = None;
        }
        Ok(())
    }
}
