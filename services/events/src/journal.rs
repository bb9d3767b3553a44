//! [`Journal`]: the exchange, and a history of what went through it.

mod log;
mod reader;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use gantry_core::db::{Database, blocking};
use gantry_core::events::{Envelope, EventStream, Events};
use gantry_core::filter::Filters;
use gantry_core::history::{Cursor, History, Record, Records, Since, Staged};
use gantry_core::{Any, Context, Error, Result, Timestamp};
use tokio::sync::watch;

use crate::Exchange;
use crate::exchange::{check_envelope, check_topic};
use log::{Entry, Log};

/// So many events may wait for the disk; further ones are lost, and readers are told.
pub const WAITING_LIMIT: usize = 16 << 10;
/// For so long events are gathered into one write while somebody follows what is written.
const GATHER: Duration = Duration::from_millis(1);
/// The same while nobody does.
const UNFOLLOWED: Duration = Duration::from_millis(10);
/// Between attempts to write while the store fails.
const RETRY: Duration = Duration::from_secs(1);
/// Most events of one write.
const BATCH: usize = 1024;
/// So many events stay in memory, for readers that are up to date.
const RECENT: usize = 256;
/// So many of those that are not kept.
const PASSING: usize = 1024;

/// How much of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// So many events; at least one.
    pub events: u64,
    /// Those that are no older than this.
    pub age: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { events: 64 << 10, age: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// Hands events to subscribers as [`Exchange`] does, and keeps them in the
/// store of records.
///
/// A publisher puts its event into a queue, which costs it no more than that; a thread
/// writes what gathers within some milliseconds, fewer when somebody waits for it, in order, so
/// that it survives the end of the process. Subscribers don't wait for that. A power
/// loss may take the events of the last seconds, but never one whose staged record it
/// left. Readers follow what is written: nobody ever saw an event that a killed
/// daemon's successor does not know.
///
/// Only what happens to processes of health checks passes by without being written: there is
/// so much of it that it would soon be all that is kept.
pub struct Journal {
    exchange: Exchange,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    database: Arc<dyn Database>,
    /// Held for as long as it takes to add an event or to take all.
    queue: Mutex<Queue>,
    /// Told when there is something to do for the writer.
    added: Condvar,
    progress: watch::Sender<Progress>,
    /// The last stored events, numbers without holes. Held for as long as it takes to copy some.
    recent: Mutex<VecDeque<Record>>,
    /// The last ones of those that are not kept. Held as above.
    passing: Mutex<Passing>,
}

/// The last events of those that are not kept, numbered since the journal was opened.
#[derive(Debug, Default)]
struct Passing {
    /// Number of the first one that is here.
    first: u64,
    records: VecDeque<Record>,
}

impl Passing {
    /// Number of the next one.
    fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn add(&mut self, records: Vec<Record>) {
        self.records.extend(records);
        let many = self.records.len().saturating_sub(PASSING);
        self.records.drain(..many);
        self.first += many as u64;
    }

    /// Those from this number on, as far as they are here.
    fn since(&self, number: u64) -> impl Iterator<Item = (u64, &Record)> {
        let gone = number.saturating_sub(self.first);
        (self.first + gone..).zip(self.records.iter().skip(gone as usize))
    }
}

#[derive(Default)]
struct Queue {
    entries: Vec<Entry>,
    /// How many events came in, those included that were lost.
    taken: u64,
    /// When what is here is to be written; `None` when nothing is.
    due: Option<Instant>,
    /// There was no room for an event behind those that are here.
    lost: bool,
    closed: bool,
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Of so many events it is decided what became of them.
    taken: u64,
    /// Behind the last stored event.
    last: Cursor,
    /// Number of the first event that is kept.
    first: u64,
    /// Events were lost right before this one; 0 when none ever were.
    floor: u64,
    /// The store does not take events now.
    failing: bool,
    /// Number of the next event of those that are not kept.
    passing: u64,
}

impl Queue {
    /// Has what is here written within so long. Whether that is sooner than it was to be.
    fn hurry(&mut self, within: Duration) -> bool {
        let due = Instant::now() + within;
        let sooner = self.due.is_none_or(|before| due < before);
        if sooner {
            self.due = Some(due);
        }
        sooner
    }
}

impl Journal {
    /// Opens the history in this store, takes in what a killed daemon had
    /// staged, and starts the thread that writes.
    ///
    /// # Errors
    /// The store's, or the system's for the thread.
    pub fn open(database: Arc<dyn Database>, limits: Limits) -> Result<Self> {
        let mut log = Log::open(Arc::clone(&database), limits)?;
        let shared = Arc::new(Shared {
            database,
            queue: Mutex::default(),
            added: Condvar::new(),
            progress: watch::Sender::new(log.progress()),
            recent: Mutex::default(),
            passing: Mutex::default(),
        });
        let writer = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("events".into())
                .spawn(move || shared.write(&mut log))
                .map_err(|err| Error::io("start the thread that writes events", err))?
        };
        Ok(Self { exchange: Exchange::default(), shared, writer: Some(writer) })
    }

    /// From now on clients can subscribe. What happened before waits for them for a while.
    pub fn open_to_clients(&self) {
        self.exchange.open();
    }

    fn keep(&self, envelope: Arc<Envelope>, staged: Option<String>) {
        let followed = self.shared.progress.receiver_count() > 0;
        let mut queue = self.shared.queue();
        queue.taken += 1;
        // What comes behind a lost one is lost as well, so that there is one gap.
        if queue.lost || queue.entries.len() >= WAITING_LIMIT {
            queue.lost = true;
            return;
        }
        queue.entries.push(Entry { envelope, staged });
        let within = match queue.entries.len() {
            BATCH.. => Duration::ZERO,
            _ if followed => GATHER,
            _ => UNFOLLOWED,
        };
        let sooner = queue.hurry(within);
        drop(queue);
        if sooner {
            self.shared.added.notify_one();
        }
    }

    /// The position behind everything that was taken up to this call, once all of it is stored,
    /// which begins within so long.
    async fn reached(&self, within: Duration) -> Result<Cursor> {
        let mut progress = self.shared.progress.subscribe();
        let (taken, sooner) = {
            let mut queue = self.shared.queue();
            (queue.taken, !queue.entries.is_empty() && queue.hurry(within))
        };
        if sooner {
            self.shared.added.notify_one();
        }
        // The sender is part of self.
        let reached = progress.wait_for(|progress| progress.taken >= taken || progress.failing);
        match reached.await {
            Ok(progress) if progress.taken >= taken => Ok(progress.last),
            _ => Err(Error::unavailable(
                "events can't be stored now, see the daemon's log: try again later",
            )),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.added.notify_one();
        if let Some(writer) = self.writer.take() {
            // It does not panic; if it did there is nothing to save.
            let _ = writer.join();
        }
    }
}

impl Shared {
    // A panic while the lock is held leaves the queue as it was before or after one event.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until the journal is closed.
    fn write(&self, log: &mut Log) {
        while let Some((entries, taken, lost)) = self.next() {
            let batches = entries.len().div_ceil(BATCH);
            for (i, batch) in entries.chunks(BATCH).enumerate() {
                if !self.write_batch(log, batch, lost && i + 1 == batches) {
                    return;
                }
            }
            let passing = self.passing().end();
            let now = Progress { taken, passing, ..log.progress() };
            self.progress.send_modify(|progress| *progress = now);
        }
    }

    /// Writes one batch, again and again while the store fails. `false` when
    /// the journal was closed over that.
    fn write_batch(&self, log: &mut Log, entries: &[Entry], lost: bool) -> bool {
        let written = loop {
            let err = match log.append(entries, lost) {
                Ok(written) => break written,
                Err(err) => err,
            };
            tracing::warn!(error = %err, "store events; trying again");
            self.progress.send_modify(|progress| progress.failing = true);
            let queue = self.queue();
            let closed = |queue: &mut Queue| !queue.closed;
            let waited = self.added.wait_timeout_while(queue, RETRY, closed);
            if waited.unwrap_or_else(PoisonError::into_inner).0.closed {
                return false;
            }
        };
        let mut recent = self.recent();
        recent.extend(written.stored);
        let many = recent.len().saturating_sub(RECENT);
        recent.drain(..many);
        drop(recent);
        self.passing().add(written.passing);
        true
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Record>> {
        // Nothing panics under this lock.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn passing(&self) -> MutexGuard<'_, Passing> {
        // Nothing panics under this lock.
        self.passing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written next, how many events came in up to then, and whether some
    /// were lost behind it. `None` at the end.
    fn next(&self) -> Option<(Vec<Entry>, u64, bool)> {
        let mut queue = self.queue();
        while !queue.closed {
            let Some(due) = queue.due else {
                queue = self.added.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.added.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if queue.entries.is_empty() {
            return None;
        }
        queue.due = None;
        let lost = std::mem::take(&mut queue.lost);
        Some((std::mem::take(&mut queue.entries), queue.taken, lost))
    }
}

impl Events for Journal {
    fn publish(&self, ctx: &Context, topic: &str, event: Any) -> Result<()> {
        check_topic(topic)?;
        let envelope = Arc::new(Envelope {
            timestamp: Timestamp::now(),
            namespace: ctx.namespace.as_str().to_owned(),
            topic: topic.to_owned(),
            event,
        });
        self.exchange.send(&envelope);
        self.keep(envelope, None);
        Ok(())
    }

    fn forward(&self, envelope: Envelope) -> Result<()> {
        check_envelope(&envelope)?;
        let envelope = Arc::new(envelope);
        self.exchange.send(&envelope);
        self.keep(envelope, None);
        Ok(())
    }

    fn release(&self, staged: Staged) -> Result<()> {
        History::release(self, staged);
        Ok(())
    }

    fn subscribe(&self, filters: Filters) -> EventStream {
        self.exchange.subscribe(filters)
    }
}

#[async_trait]
impl History for Journal {
    fn append(&self, ctx: &Context, topic: &str, event: Any) {
        let Staged { envelope, .. } = Staged::new(ctx, topic, event);
        self.keep(Arc::new(envelope), None);
    }

    fn release(&self, staged: Staged) {
        let envelope = Arc::new(staged.envelope);
        if staged.public {
            self.exchange.send(&envelope);
        }
        self.keep(envelope, Some(staged.key));
    }

    async fn cursor(&self) -> Result<Cursor> {
        self.reached(Duration::ZERO).await
    }

    async fn stored(&self) -> Result<()> {
        self.reached(GATHER).await.map(drop)
    }

    async fn read(&self, since: Since, until: Option<Timestamp>) -> Result<Records> {
        if until.is_some_and(|until| until <= Timestamp::now()) {
            // What was published by now belongs to it, as far as it can be stored.
            let _ = self.cursor().await;
        }
        let now = *self.shared.progress.borrow();
        let start = match since {
            Since::Now => self.cursor().await?.sequence + 1,
            Since::Cursor(cursor) => {
                let database = Arc::clone(&self.shared.database);
                blocking(move || reader::behind(&*database, &now, cursor)).await?
            }
            Since::Time(time) => {
                let database = Arc::clone(&self.shared.database);
                blocking(move || reader::at(&*database, &now, time)).await?
            }
        };
        let from = if let Since::Time(time) = since { Some(time) } else { None };
        Ok(reader::records(&self.shared, start, now.floor, from, until))
    }
}
