use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_core::Result;
use gantry_core::db::{Database, Durability, GLOBAL, Table, write_blocking};

/// The next number that is not reserved yet, by snapshotter.
const NUMBERS: Table<u64> = Table::new("snapshot-numbers");

/// How many numbers one write to the disk reserves.
const BLOCK: u64 = 1000;

/// Gives out the numbers that snapshot directories are called by. No number
/// is given twice, after a power loss neither: they are reserved durably, in
/// blocks, so that giving one out costs nothing.
pub(crate) struct Numbers {
    snapshotter: String,
    /// What is left of the reserved block. Held only to take a number.
    left: Mutex<Range<u64>>,
}

impl Numbers {
    pub(crate) fn new(snapshotter: &str) -> Self {
        Self { snapshotter: snapshotter.to_owned(), left: Mutex::new(0..0) }
    }

    /// A new number. Blocks when a block is used up.
    pub(crate) fn next(&self, db: &dyn Database) -> Result<u64> {
        if let Some(number) = self.left().next() {
            return Ok(number);
        }
        let start = write_blocking(db, Durability::Sync, &mut |tx| {
            let start = NUMBERS.lock(tx, GLOBAL, &self.snapshotter)?.unwrap_or(1);
            NUMBERS.put(tx, GLOBAL, &self.snapshotter, &(start + BLOCK))?;
            Ok(start)
        })?;
        // Two threads may reserve at once; what is left of the block that is
        // replaced here is never used.
        *self.left() = start + 1..start + BLOCK;
        Ok(start)
    }

    fn left(&self) -> MutexGuard<'_, Range<u64>> {
        // A range is whole at any time, so a panic elsewhere changes nothing.
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::db::memory::MemoryDatabase;

    #[test]
    fn numbers_never_repeat() {
        let db = MemoryDatabase::new();
        let mut last = 0;
        for run in 0..3 {
            let numbers = Numbers::new("test");
            for _ in 0..BLOCK + run {
                let next = numbers.next(&db).unwrap();
                assert!(next > last, "{next} after {last}");
                last = next;
            }
        }
    }
}
