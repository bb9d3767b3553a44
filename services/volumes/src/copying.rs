//! Volumes made of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::volumes::{CopyKind, Options, Volume};
use gantry_core::{Error, Labels, Result};
use gantry_files::{CopyOptions, copy_tree_while};

use crate::inner::Inner;
use crate::places::Key;
use crate::records::{Record, State};

/// Volumes that are being copied, and how many times. They may be used and copied again, but
/// not removed or renamed.
#[derive(Clone, Default)]
pub(crate) struct Sources(Arc<Mutex<HashMap<Key, usize>>>);

/// Keeps a volume while it is being copied.
pub(crate) struct Source {
    sources: Sources,
    key: Key,
}

impl Sources {
    fn keep(&self, key: &Key) -> Source {
        *self.map().entry(key.clone()).or_default() += 1;
        Source { sources: self.clone(), key: key.clone() }
    }

    /// Whether a volume is being copied.
    pub(crate) fn contains(&self, key: &Key) -> bool {
        self.map().contains_key(key)
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Key, usize>> {
        // Counters are whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut map = self.sources.map();
        match map.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(map.remove(&self.key)),
        }
    }
}

impl Inner {
    /// Begins to copy a volume.
    pub(crate) fn source(&self, key: &Key) -> Result<Source> {
        let record = self.found(key)?;
        if !record.options.is_empty() {
            return Err(Error::failed_precondition(format!(
                "volume {} has driver options and holds nothing by itself: copy what is mounted \
                 there",
                key.1
            ))
            .about("volume", &key.1));
        }
        self.places.make(key)?;
        self.finish_fill(key)?;
        Ok(self.sources.keep(key))
    }

    /// Makes a volume of another one, while that is wanted. Nobody sees it before it is
    /// complete.
    pub(crate) fn copy(
        &self,
        source: &Source,
        key: &Key,
        labels: Labels,
        kind: CopyKind,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Volume> {
        self.check_free(key)?;
        let from = &source.key;
        let mut record = Record::new(labels, Options::new(), State::Copying);
        record.snapshot_of = (kind == CopyKind::Snapshot).then(|| from.1.clone());
        self.put(key, &record)?;
        let copied = self.copy_data(from, key, wanted).and_then(|()| {
            record.state = State::Ready;
            self.put(key, &record)
        });
        if let Err(err) = copied {
            if let Err(left) = self.take_away(key) {
                tracing::warn!(error = %left, volume = %key.1, "a refused copy stays half-done");
            }
            return Err(err);
        }
        Ok(self.volume(key, record))
    }

    fn copy_data(&self, from: &Key, to: &Key, wanted: &dyn Fn() -> bool) -> Result<()> {
        self.places.make(to)?;
        let (source, target) = (self.places.data(from), self.places.data(to));
        copy_tree_while(&source, &target, CopyOptions::default(), wanted)?;
        self.flush.run()
    }
}
