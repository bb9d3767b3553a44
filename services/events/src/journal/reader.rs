//! Reading the history: what is stored, then what comes.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use gantry_core::db::{Database, blocking};
use gantry_core::history::{Cursor, Record, Records};
use gantry_core::{Error, Result, Timestamp};
use tokio::sync::watch;

use super::log::row;
use super::{Progress, Shared};

/// So many events are read at a time.
const PAGE: u64 = 128;

/// What a reader gets whose events are gone.
fn gone(cursor: impl std::fmt::Display) -> Error {
    Error::out_of_range(format!(
        "what follows cursor {cursor} is not kept any more: List again, and go on from the cursor \
         that it gives: out of range"
    ))
}

/// The number of the event that follows a cursor.
///
/// # Errors
/// `OutOfRange` for a cursor of which it is not known what followed.
pub(super) fn behind(database: &dyn Database, now: &Progress, cursor: Cursor) -> Result<u64> {
    if cursor == Cursor::default() && now.first <= 1 && now.floor == 0 {
        return Ok(1);
    }
    let there = row(database, cursor.sequence)?.is_some_and(|row| row.at == cursor.at);
    if there && cursor.sequence >= now.floor { Ok(cursor.sequence + 1) } else { Err(gone(cursor)) }
}

/// The number of the first event that was taken at this time or later.
pub(super) fn at(database: &dyn Database, now: &Progress, time: Timestamp) -> Result<u64> {
    let (mut low, mut high) = (now.first, now.last.sequence + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        // One that was let go meanwhile is older than all that are kept.
        let earlier =
            row(database, middle)?.is_none_or(|row| i128::from(row.at) < time.unix_nanos());
        if earlier {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// How long it is until then.
fn left(until: Timestamp) -> Duration {
    let nanos = until.unix_nanos() - Timestamp::now().unix_nanos();
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}

struct Reader {
    shared: Weak<Shared>,
    progress: watch::Receiver<Progress>,
    /// Number of the next event to be read.
    next: u64,
    /// The same of those that are not kept.
    passing: u64,
    /// What was known to be lost when reading began.
    floor: u64,
    /// Events that happened earlier are left out: they were told late.
    since: Option<Timestamp>,
    /// Events that happened later are left out, and at this time it ends.
    until: Option<Timestamp>,
    /// Number of the last event to be read, once that is known.
    end: Option<u64>,
    page: VecDeque<Record>,
}

/// Events from this number on. `floor`: what was known to be lost when that was chosen.
pub(super) fn records(
    shared: &Arc<Shared>,
    next: u64,
    floor: u64,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
) -> Records {
    let progress = shared.progress.subscribe();
    let passing = progress.borrow().passing;
    let shared = Arc::downgrade(shared);
    let page = VecDeque::new();
    let reader = Reader { shared, progress, next, passing, floor, since, until, end: None, page };
    stream::try_unfold(reader, |mut reader| async move {
        let record = reader.next().await?;
        Ok(record.map(|record| (record, reader)))
    })
    .boxed()
}

impl Reader {
    /// The next event, as soon as there is one; `None` when the journal is closed.
    async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.page.pop_front() {
                let at = record.envelope.timestamp;
                if self.since.is_none_or(|since| at >= since)
                    && self.until.is_none_or(|until| at <= until)
                {
                    return Ok(Some(record));
                }
                continue;
            }
            let now = *self.progress.borrow_and_update();
            let lost = now.floor > self.floor && self.next <= now.floor;
            if lost || self.next < now.first {
                return Err(gone(self.next.saturating_sub(1)));
            }
            let left = self.until.map(left);
            if self.end.is_none() && left.is_some_and(|left| left.is_zero()) {
                self.end = Some(now.last.sequence);
            }
            let last = self.end.unwrap_or(now.last.sequence);
            let more = self.next <= last;
            if more {
                self.load(last).await?;
            }
            self.add_passing(now.passing);
            if more || !self.page.is_empty() {
                continue;
            }
            if self.end.is_some() || self.wait(left).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Puts events that are not kept, up to this number, behind those that they followed.
    fn add_passing(&mut self, end: u64) {
        if self.passing >= end {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        for (number, record) in shared.passing().since(self.passing) {
            let before = record.cursor.sequence;
            if number >= end || before >= self.next {
                break;
            }
            let at = self.page.partition_point(|there| there.cursor.sequence <= before);
            self.page.insert(at, record.clone());
            self.passing = number + 1;
        }
    }

    /// Waits for more to be stored, for so long at most. An error when the journal is closed.
    async fn wait(&mut self, left: Option<Duration>) -> Result<(), watch::error::RecvError> {
        match left {
            None => self.progress.changed().await,
            Some(left) => {
                let changed = tokio::time::timeout(left, self.progress.changed()).await;
                changed.unwrap_or(Ok(()))
            }
        }
    }

    /// Reads a page of what is stored.
    async fn load(&mut self, last: u64) -> Result<()> {
        let (next, end) = (self.next, last.min(self.next + PAGE - 1));
        self.next = end + 1;
        // It was closed: whoever reads comes back with a cursor.
        let Some(shared) = self.shared.upgrade() else { return Ok(()) };
        {
            let recent = shared.recent();
            let first = recent.front().map_or(u64::MAX, |record| record.cursor.sequence);
            if let Some(from) = next.checked_sub(first) {
                let there = recent.iter().skip(from as usize).take((end - next + 1) as usize);
                self.page = there.cloned().collect();
                return Ok(());
            }
        }
        let database = Arc::clone(&shared.database);
        self.page = blocking(move || {
            let read = |sequence| {
                let row = row(&*database, sequence)?.ok_or_else(|| gone(sequence))?;
                let cursor = Cursor { sequence, at: row.at };
                Ok(Record { cursor, envelope: row.envelope })
            };
            (next..=end).map(read).collect()
        })
        .await?;
        Ok(())
    }
}
