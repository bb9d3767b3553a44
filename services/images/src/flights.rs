//! Single flight: what several requests want is done by one of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// Locks by name. Who waited looks again whether there is anything left to
/// do, so that the failure or disappearance of the first does no harm.
#[derive(Default)]
pub(crate) struct Flights {
    /// Guards the map alone; an entry lives as long as somebody flies or waits.
    by_key: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to do what the key names, until dropped.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    key: String,
    lock: Arc<tokio::sync::Mutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Flights {
    /// Waits for the right to do what `key` names.
    pub(crate) async fn enter(self: &Arc<Self>, key: String) -> Flight {
        let lock = {
            let mut map = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(map.entry(key.clone()).or_default())
        };
        let mut flight = Flight { flights: Arc::clone(self), key, lock, guard: None };
        flight.guard = Some(Arc::clone(&flight.lock).lock_owned().await);
        flight
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.guard = None;
        let mut map = self.flights.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and ours: clones are only made while the map is locked.
        if Arc::strong_count(&self.lock) == 2 {
            map.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_stays() {
        let flights = Arc::new(Flights::default());
        let (inside, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..20)
            .map(|i| {
                let (flights, inside, most) =
                    (Arc::clone(&flights), Arc::clone(&inside), Arc::clone(&most));
                tokio::spawn(async move {
                    let _flight = flights.enter(format!("k{}", i % 2)).await;
                    most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
        assert!(flights.by_key.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn who_gives_up_waiting_leaves_nothing() {
        let flights = Arc::new(Flights::default());
        let first = flights.enter("k".into()).await;
        let waiting = tokio::spawn({
            let flights = Arc::clone(&flights);
            async move { flights.enter("k".into()).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(first);
        assert!(flights.by_key.lock().unwrap().is_empty());
    }
}
