//! What the last checks of a container came to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::containers::CONTAINERS;
use gantry_core::db::{Durability, Table, Transaction, blocking, write};
use gantry_core::{Context, Namespace, Result, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::config::HealthStatus;
use crate::{Engine, Summary};

/// So many results are kept.
const KEPT: usize = 5;

/// By container. Stored when something changes: a check that is like the one before it
/// costs no write. A row whose container is gone counts for nothing.
const RECORDS: Table<Record> = Table::new("engine-health");

/// What one check came to, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckResult {
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) exit_code: i32,
    pub(crate) output: String,
}

/// What is known of a container's checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Record {
    /// When the run began that was checked last.
    pub(crate) started_at: Timestamp,
    /// Failures in a row.
    pub(crate) streak: u32,
    /// The last ones.
    pub(crate) log: VecDeque<CheckResult>,
    /// So often it was restarted for its health without having been well for a while.
    pub(crate) restarts: u32,
}

impl Record {
    /// Takes a result.
    pub(crate) fn add(&mut self, result: CheckResult, streak: u32) {
        self.streak = streak;
        while self.log.len() >= KEPT {
            self.log.pop_front();
        }
        self.log.push_back(result);
    }

    /// As Docker shows it.
    fn show(&self, status: HealthStatus) -> Value {
        let result = |result: &CheckResult| {
            json!({
                "Start": result.start.to_string(),
                "End": result.end.to_string(),
                "ExitCode": result.exit_code,
                "Output": result.output,
            })
        };
        json!({
            "Status": status.as_str(),
            "FailingStreak": self.streak,
            "Log": self.log.iter().map(result).collect::<Vec<_>>(),
        })
    }
}

type Key = (Namespace, String);

/// Those of containers that this daemon has checked.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// Held for single operations.
    entries: Mutex<HashMap<Key, Arc<Mutex<Record>>>>,
}

impl Records {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<Mutex<Record>>>> {
        // Nothing panics under this lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, ctx: &Context, id: &str) -> Option<Arc<Mutex<Record>>> {
        self.lock().get(&(ctx.namespace.clone(), id.to_owned())).cloned()
    }

    /// The container is gone.
    pub(crate) fn forget(&self, ctx: &Context, id: &str) {
        self.lock().remove(&(ctx.namespace.clone(), id.to_owned()));
    }
}

/// Works on one record.
pub(super) fn with<R>(record: &Mutex<Record>, work: impl FnOnce(&mut Record) -> R) -> R {
    // Every change under this lock is whole.
    work(&mut record.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Takes the row of a container away with its record.
///
/// # Errors
/// The store's.
pub(crate) fn delete(tx: &mut dyn Transaction, namespace: &str, id: &str) -> Result<()> {
    RECORDS.delete(tx, namespace, id)
}

impl Engine {
    /// The record of a container, brought into memory.
    pub(super) async fn health_record(&self, ctx: &Context, id: &str) -> Arc<Mutex<Record>> {
        if let Some(there) = self.health.get(ctx, id) {
            return there;
        }
        let stored = self.stored_health(ctx, id).await.unwrap_or_else(|err| {
            tracing::warn!(id, error = %err, "read the results of health checks");
            Record::default()
        });
        let key = (ctx.namespace.clone(), id.to_owned());
        let new = || Arc::new(Mutex::new(stored));
        Arc::clone(self.health.lock().entry(key).or_insert_with(new))
    }

    async fn stored_health(&self, ctx: &Context, id: &str) -> Result<Record> {
        let (database, namespace) = (Arc::clone(&self.parts.database), ctx.namespace.clone());
        let id = id.to_owned();
        let row = blocking(move || RECORDS.get(&*database, namespace.as_str(), &id)).await?;
        Ok(row.unwrap_or_default())
    }

    /// Stores the record of a container, unless that is gone.
    pub(super) async fn store_health(&self, ctx: &Context, id: &str, record: Record) {
        let (namespace, row) = (ctx.namespace.clone(), id.to_owned());
        let stored = write(&self.parts.database, Durability::Buffered, move |tx| {
            let space = namespace.as_str();
            // Not decoded: it is large.
            if tx.get(CONTAINERS.name(), space, &row)?.is_some() {
                RECORDS.put(tx, space, &row, &record)?;
            }
            Ok(())
        });
        if let Err(err) = stored.await {
            tracing::warn!(id, error = %err, "store the results of health checks");
        }
    }

    /// A container's health as Docker shows it; `None` for one that is not checked.
    pub(crate) async fn shown_health(&self, ctx: &Context, summary: &Summary) -> Option<Value> {
        let status = summary.state.health;
        if status == HealthStatus::None {
            return None;
        }
        Some(match self.health.get(ctx, &summary.id) {
            Some(record) => with(&record, |record| record.show(status)),
            // It runs no more, or has just begun to.
            None => {
                let stored = self.stored_health(ctx, &summary.id).await;
                stored.unwrap_or_default().show(status)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(n: i32) -> CheckResult {
        let time = |seconds| Timestamp { seconds, nanos: 0 };
        let (start, end) = (time(1_700_000_000), time(1_700_000_001));
        CheckResult { start, end, exit_code: n, output: format!("o{n}") }
    }

    #[test]
    fn the_last_five_are_kept_and_shown_as_by_docker() {
        let mut record = Record::default();
        (0..7).for_each(|n| record.add(result(n), n as u32));
        let shown = record.show(HealthStatus::Unhealthy);
        assert_eq!(shown["Status"], "unhealthy");
        assert_eq!(shown["FailingStreak"], 6);
        assert_eq!(shown["Log"].as_array().unwrap().len(), 5);
        assert_eq!(
            shown["Log"][0],
            json!({
                "Start": "2023-11-14T22:13:20Z",
                "End": "2023-11-14T22:13:21Z",
                "ExitCode": 2,
                "Output": "o2",
            })
        );
        let stored = serde_json::to_vec(&record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&stored).unwrap(), record);
        assert_eq!(serde_json::from_slice::<Record>(b"{}").unwrap(), Record::default());
    }
}
