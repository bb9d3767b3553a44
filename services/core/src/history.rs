//! What happened, kept: events that outlive the daemon, read from a position on.
//!
//! A change and its event are two facts in one transaction: the caller
//! [stages](Staged::put) the event where it changes the record, and hands it over
//! when the transaction is through. Whatever ends the daemon in between, the
//! event is told once.
//!
//! ```text
//! let staged = Staged::new(&ctx, "/containers/delete", event);
//! db::write(&db, Durability::Sync, move |tx| { CONTAINERS.delete(tx, …)?; staged.put(tx) }).await?;
//! history.release(staged);
//! ```

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::db::{GLOBAL, Table, Transaction};
use crate::events::Envelope;
use crate::{Any, Context, Error, Result, Timestamp};

/// Events that were stored with their change, by a key of their own, and not
/// yet taken into the history.
pub const STAGED: Table<Envelope> = Table::new("events-staged");

/// A position in the history: right behind one event, or at the very beginning.
///
/// As text it is opaque to clients. It names its event twice, by number and by
/// time, so that one from another store, or one of an event that was lost with the
/// machine's power, is not taken for a position here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cursor {
    /// Number of the event; 0 before the first.
    pub sequence: u64,
    /// When it was taken into the history, in nanoseconds since 1970.
    pub at: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:x}", self.sequence, self.at)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (sequence, at) = text.split_once('-')?;
            let at = i64::from_str_radix(at, 16).ok()?;
            Some(Self { sequence: sequence.parse().ok()?, at })
        };
        parse().ok_or_else(|| {
            Error::invalid_argument(format!(
                "cursor {text:?}: use one that List, Watch or Subscribe gave: invalid argument"
            ))
        })
    }
}

/// An event of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The position behind it.
    pub cursor: Cursor,
    /// The event.
    pub envelope: Arc<Envelope>,
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// With what happens from now on.
    Now,
    /// Behind an event.
    Cursor(Cursor),
    /// With what happened at this time, as far back as events are kept.
    Time(Timestamp),
}

/// Events in the order in which they were taken. Ends with `OutOfRange` when
/// the reader is so slow that what comes next is no longer kept.
pub type Records = Pin<Box<dyn Stream<Item = Result<Record>> + Send>>;

/// An event that is stored in the transaction of the change it tells of.
#[derive(Clone, Debug)]
pub struct Staged {
    /// Key of its row in [`STAGED`].
    pub key: String,
    /// The event.
    pub envelope: Envelope,
    /// Whether subscribers of containerd's event service are told as well.
    pub public: bool,
}

impl Staged {
    /// An event of this moment, for everybody.
    pub fn new(ctx: &Context, topic: &str, event: Any) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        /// Tells events of one moment apart.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let timestamp = Timestamp::now();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // In the order of staging, should several be left behind.
        let key = format!("{:024x}-{count:08x}", timestamp.unix_nanos());
        let namespace = ctx.namespace.as_str().to_owned();
        let envelope = Envelope { timestamp, namespace, topic: topic.to_owned(), event };
        Self { key, envelope, public: true }
    }

    /// The same, kept from subscribers of containerd's event service.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.public = false;
        self
    }

    /// Stores it with the change.
    ///
    /// # Errors
    /// The store's.
    pub fn put(&self, tx: &mut dyn Transaction) -> Result<()> {
        STAGED.put(tx, GLOBAL, &self.key, &self.envelope)
    }
}

/// The kept events. Handing one over never waits for the disk or for a reader.
#[async_trait]
pub trait History: Send + Sync {
    /// Takes an event of which no record tells. It is lost when the daemon
    /// is killed within the next milliseconds.
    fn append(&self, ctx: &Context, topic: &str, event: Any);

    /// Takes a staged event, after its transaction was committed.
    fn release(&self, staged: Staged);

    /// The position behind everything that was taken up to this call, all of it stored.
    ///
    /// # Errors
    /// `Unavailable` while events can't be stored.
    async fn cursor(&self) -> Result<Cursor>;

    /// Returns once everything that was taken up to this call is stored. That is not hurried, as
    /// [`History::cursor`] does: what comes in the next moment is stored along with it.
    ///
    /// # Errors
    /// As [`History::cursor`].
    async fn stored(&self) -> Result<()> {
        self.cursor().await.map(drop)
    }

    /// Events since then, and on with those that come, without a gap or a double; those
    /// up to a time only, at which the stream ends, if there is one.
    ///
    /// Events of processes that see to a container's health ([`crate::tasks::PROBE`]) are not
    /// kept: they come once, to those who read at that time, with the cursor of the event
    /// before them.
    ///
    /// # Errors
    /// `OutOfRange` when what follows the cursor is not kept any more.
    async fn read(&self, since: Since, until: Option<Timestamp>) -> Result<Records>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn cursors_are_read_as_they_are_written() {
        let cursor = Cursor { sequence: 70, at: 0x18a2 };
        assert_eq!(cursor.to_string(), "70-18a2");
        assert_eq!("70-18a2".parse::<Cursor>().unwrap(), cursor);
        assert_eq!(Cursor::default().to_string().parse::<Cursor>().unwrap(), Cursor::default());
        for bad in ["", "7", "-", "x-1", "1-x", "1-", "-1-2", "1-2-3", "99999999999999999999-1"] {
            assert_eq!(bad.parse::<Cursor>().unwrap_err().kind(), Kind::InvalidArgument, "{bad}");
        }
    }
}
