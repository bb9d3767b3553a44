//! Reads a log that is being written and rotated meanwhile.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;

use gantry_core::{Error, Result, Timestamp};

use super::LogCursor;
use super::changes::Changes;
use super::entry::LogEntry;
use super::files::{self, ATTEMPTS, Next};
use super::place::{BLOCK, Form, Place};
use super::tail::Counter;

/// A follower holds at most so many files that have no name any more, so that one that is slow
/// does not fill the disk.
const HELD: usize = 8;

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At the oldest record, or, where that is easily told, at one that is before this time.
    Oldest(Option<Timestamp>),
    /// So many lines before the end.
    Last(u64),
    /// Behind an entry that was read before.
    Behind(LogCursor),
}

/// A place in a log. All of its methods block.
///
/// Files that are younger than the one that is read are opened as soon as they
/// are seen, so that rotation takes nothing away that is still to be read.
/// When it was faster than that, an entry says so.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    form: Form,
    /// Tells of rotations, to those who go on reading.
    pub(crate) changes: Option<Changes>,
    current: Option<Place>,
    /// Younger files, oldest first.
    then: VecDeque<Place>,
    /// Rotations until the youngest file held was seen to be the log's youngest.
    rotations: u64,
}

impl Reader {
    /// Opens a log. One that is not there yet is empty. Who goes on reading has `changes`,
    /// begun before this.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(
        path: PathBuf,
        form: Form,
        begin: Begin,
        changes: Option<Changes>,
    ) -> Result<Self> {
        let opened = files::open_all(&path, form).and_then(|places| begin_in(places, begin));
        let mut then =
            opened.map_err(|err| Error::io(format!("read the log {}", path.display()), err))?;
        let current = then.pop_front();
        Ok(Self { path, form, changes, current, then, rotations: 0 })
    }

    /// The place where reading goes on.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn cursor(&mut self) -> Result<LogCursor> {
        let cursor = self.current.as_mut().map(Place::cursor).transpose();
        cursor.map(Option::unwrap_or_default).map_err(|err| self.failed(err))
    }

    /// Some more entries; none when all that is there has been read.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn batch(&mut self) -> Result<Vec<LogEntry>> {
        self.read().map_err(|err| self.failed(err))
    }

    /// Opens what has become the log's since the last look. To be called while
    /// what was read is not taken.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn keep_up(&mut self) -> Result<()> {
        self.gather().map_err(|err| self.failed(err))
    }

    fn failed(&self, err: io::Error) -> Error {
        Error::io(format!("read the log {}", self.path.display()), err)
    }

    fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        loop {
            // What is younger was renamed away from before what is read now,
            // so nothing is written to a file once its successor is known.
            self.gather()?;
            let Some(place) = &mut self.current else { return Ok(Vec::new()) };
            if place.gap {
                place.gap = false;
                return Ok(vec![LogEntry::missing(place.cursor()?)]);
            }
            match place.read(BLOCK)? {
                // A block may lie within one long record.
                Some(entries) if entries.is_empty() => continue,
                Some(entries) => return Ok(entries),
                None => {}
            }
            let Some(next) = self.then.pop_front() else { return Ok(Vec::new()) };
            *place = next;
        }
    }

    /// Opens all files that are younger than those that are held.
    fn gather(&mut self) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            let rotations = self.count_rotations()?;
            let Some(newest) = self.then.back_mut().or(self.current.as_mut()) else {
                let Some(found) = files::open(&self.path, 0)? else { return Ok(()) };
                self.current = Some(Place::new(found, self.form)?);
                continue;
            };
            let next = files::successor(&self.path, newest)?;
            if self.count_rotations()? != rotations {
                continue;
            }
            let (found, files) = match next {
                Next::Nothing => {
                    self.rotations = rotations;
                    return Ok(());
                }
                Next::File(found) => (found, 0),
                Next::Oldest(found, files) => (found, files),
            };
            let mut place = Place::new(found, self.form)?;
            // As many as are there now have come: what came first is next.
            place.gap = files > 0 && rotations.saturating_sub(self.rotations) > files;
            if files > 0 {
                // It was the youngest when all but those behind it had come.
                self.rotations = rotations.saturating_sub(files - 1).max(self.rotations);
            } else {
                self.rotations = self.rotations.saturating_add(1).min(rotations);
            }
            self.then.push_back(place);
            self.let_go()?;
        }
        Ok(())
    }

    /// Lets the oldest go of the files that have no name any more, when they are too many:
    /// another one stands for it where it was compressed, else something is missing.
    fn let_go(&mut self) -> io::Result<()> {
        while self.then.iter().filter(|place| place.is_nameless()).count() > HELD {
            let nameless = self.then.iter().position(Place::is_nameless);
            let Some(at) = nameless.filter(|at| at + 1 < self.then.len()) else { break };
            let (path, place) = (&self.path, &mut self.then[at]);
            match files::locate(path, place)? {
                Some((_, packed)) => {
                    let gap = place.gap;
                    *place = packed;
                    place.gap = gap;
                }
                None => {
                    drop(self.then.remove(at));
                    self.then[at].gap = true;
                }
            }
        }
        Ok(())
    }

    fn count_rotations(&mut self) -> io::Result<u64> {
        self.changes.as_mut().map_or(Ok(0), Changes::rotations)
    }
}

/// The files to read, oldest first, of which the first one is at its place. They come youngest
/// first.
fn begin_in(mut places: Vec<Place>, begin: Begin) -> io::Result<VecDeque<Place>> {
    let (mut start, mut gap) = (0, false);
    match begin {
        Begin::Oldest(None) => {}
        Begin::Oldest(Some(since)) => {
            // In what was written last before that nothing is wanted.
            let old = |place: &Place| place.modified().is_some_and(|time| time < since);
            while places.len() > 1 && places.last().is_some_and(old) {
                places.pop();
            }
        }
        Begin::Last(wanted) => {
            let mut counter = Counter::new(wanted);
            for n in 0..places.len() {
                if let Some(at) = counter.scan(&places[n])? {
                    start = at;
                    places.truncate(n + 1);
                    break;
                }
            }
        }
        // There was no record at all.
        Begin::Behind(cursor) if cursor.file == 0 => {}
        Begin::Behind(cursor) => {
            gap = true;
            for n in 0..places.len() {
                if places[n].identity()? == cursor.file {
                    gap = !places[n].is_end(cursor.at)?;
                    start = if gap { 0 } else { cursor.at };
                    places.truncate(n + 1);
                    break;
                }
            }
        }
    }
    if let Some(first) = places.last_mut() {
        first.skip_to(start)?;
        first.gap |= gap;
    }
    Ok(places.into_iter().rev().collect())
}

#[cfg(test)]
mod tests;
