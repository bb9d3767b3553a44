//! What is wanted of a container, in the order in which it was said.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Wishes that a container runs, and that it ends. The last one counts, also while what was
/// wanted before is still under way.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Wishes>);

#[derive(Debug, Default)]
struct Wishes {
    /// So many there were.
    count: u64,
    /// The last one that it runs.
    run: u64,
    /// The last one that it ends.
    end: u64,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, Wishes> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last turn so far.
    pub(crate) fn last(&self) -> u64 {
        self.lock().count
    }

    /// Somebody wants it to run: the turn of that.
    pub(crate) fn run(&self) -> u64 {
        let mut wishes = self.lock();
        wishes.count += 1;
        wishes.run = wishes.count;
        wishes.count
    }

    /// Somebody wants it to end: the turn of that.
    pub(crate) fn end(&self) -> u64 {
        let mut wishes = self.lock();
        wishes.count += 1;
        wishes.end = wishes.count;
        wishes.count
    }

    /// Whether somebody has wanted it to run behind this turn.
    pub(crate) fn runs_after(&self, turn: u64) -> bool {
        self.lock().run > turn
    }

    /// Whether somebody has wanted it to end behind this turn.
    pub(crate) fn ends_after(&self, turn: u64) -> bool {
        self.lock().end > turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_speaks_last_has_the_last_word() {
        let turns = Turns::default();
        let restart = turns.run();
        assert!(!turns.ends_after(restart));
        let stop = turns.end();
        assert!(turns.ends_after(restart) && !turns.runs_after(stop));
        let start = turns.run();
        assert!(turns.runs_after(stop) && !turns.ends_after(start));
        // What was said before it still counts for the first.
        assert!(turns.ends_after(restart));
        assert_eq!(turns.last(), start);
    }
}
