//! How much volumes take.

use std::collections::{BTreeMap, HashMap};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;

use gantry_core::{Namespace, Result, Timestamp};
use gantry_files::tree_size;

use crate::inner::Inner;
use crate::places::Key;
use crate::records::{Record, VOLUMES};

/// What was measured is good for so many times as long as it took: whoever asks all the time
/// keeps the disk busy for a tenth of it.
const REUSED: u32 = 10;

/// What a volume took when it was looked at.
pub(crate) struct Measured {
    bytes: u64,
    /// When the volume was made, in case another one has its name by now.
    made: Timestamp,
    /// How long that is good; for ever if nobody writes to it.
    until: Option<Instant>,
}

impl Inner {
    pub(crate) fn measured(&self) -> MutexGuard<'_, HashMap<Key, Measured>> {
        // A map is whole at any time.
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn sizes(&self, namespace: &Namespace) -> Result<BTreeMap<String, u64>> {
        let mut sizes = BTreeMap::new();
        for (name, record) in VOLUMES.list(&*self.db, namespace.as_str())? {
            if !record.is_visible() || !record.options.is_empty() {
                continue;
            }
            let key = (namespace.clone(), name);
            match self.size(&key, &record) {
                Ok(bytes) => {
                    sizes.insert(key.1, bytes);
                }
                // Removed or renamed meanwhile.
                Err(err) if err.is_not_found() => {}
                Err(err) => return Err(err),
            }
        }
        Ok(sizes)
    }

    fn size(&self, key: &Key, record: &Record) -> Result<u64> {
        let begun = Instant::now();
        if let Some(bytes) = self.size_known(key, record, begun) {
            return Ok(bytes);
        }
        let bytes = tree_size(&self.places.data(key))?.size;
        let ended = Instant::now();
        let until = (ended - begun).saturating_mul(REUSED);
        let until = record.snapshot_of.is_none().then(|| ended + until);
        self.measured().insert(key.clone(), Measured { bytes, made: record.created_at, until });
        Ok(bytes)
    }

    fn size_known(&self, key: &Key, record: &Record, now: Instant) -> Option<u64> {
        let measured = self.measured();
        let known = measured.get(key).filter(|known| known.made == record.created_at)?;
        known.until.is_none_or(|until| now < until).then_some(known.bytes)
    }
}
