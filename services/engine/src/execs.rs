//! Which further processes containers have.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::live::Live;

/// IDs of a container's further processes, in the order in which they came. Those that an
/// earlier daemon has added are not among them.
#[derive(Debug, Default)]
pub(crate) struct Execs(Mutex<Vec<String>>);

impl Execs {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        // Nothing panics under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(crate) fn ids(&self) -> Vec<String> {
        self.lock().clone()
    }
}

/// A further process, which counts until this is dropped.
#[derive(Debug)]
pub(crate) struct Noted {
    live: Arc<Live>,
    id: String,
}

impl Noted {
    /// Notes a process of a container.
    pub(crate) fn new(live: &Arc<Live>, id: &str) -> Self {
        live.execs.lock().push(id.to_owned());
        Self { live: Arc::clone(live), id: id.to_owned() }
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.live.execs.lock().retain(|id| *id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::LiveTable;
    use gantry_core::{Context, Namespace};

    #[test]
    fn a_process_counts_until_it_is_gone() {
        let live =
            LiveTable::default().entry(&Context::new(Namespace::new("default").unwrap()), "c1");
        let first = Noted::new(&live, "e1");
        let second = Noted::new(&live, "e2");
        assert_eq!(live.execs.ids(), ["e1", "e2"]);
        drop(first);
        assert_eq!(live.execs.ids(), ["e2"]);
        drop(second);
        assert!(live.execs.ids().is_empty());
    }
}
