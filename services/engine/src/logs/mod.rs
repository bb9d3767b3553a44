//! Recorded output: Docker's json-file format, across rotations.

mod changes;
mod entry;
mod reader;
mod tail;

use std::time::Duration;

use gantry_core::db::blocking;
use gantry_core::{Context, Error, Result};
use tokio::sync::mpsc;

use crate::Engine;

pub use entry::LogEntry;

use changes::Changes;
use reader::Reader;

/// Should a change go unnoticed, the file is looked at this often.
const PATROL: Duration = Duration::from_secs(2);
/// While the caller is slow, rotated files are looked for this often.
const KEEP_UP: Duration = Duration::from_millis(100);

impl Engine {
    /// Sends recorded output, oldest first: the last `tail` lines, or all.
    /// With `follow`, output is sent as it is recorded, until the container has ended.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a container whose output is not
    /// recorded here; the system's.
    pub async fn logs(
        &self,
        ctx: &Context,
        text: &str,
        follow: bool,
        tail: Option<u64>,
        output: mpsc::Sender<LogEntry>,
    ) -> Result<()> {
        let found = self.find(ctx, text).await?;
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "logs of container {text}: another client made it and holds its output"
            ))
            .about("container", text));
        }
        let path = self.files(ctx, &found.container.id).log;
        let mut now = found.live.subscribe();
        let follow = follow && found.state.phase.is_running();
        let changes = if follow { Some(Changes::of(&path)?) } else { None };
        let mut reader = {
            let path = path.clone();
            blocking(move || Reader::open(&path, tail, changes)).await?
        };
        let mut ended = !follow;
        loop {
            let (back, entries) = blocking(move || {
                let entries = reader.batch()?;
                Ok((reader, entries))
            })
            .await?;
            reader = back;
            if entries.is_empty() && ended {
                return Ok(());
            }
            let waits = entries.is_empty();
            for entry in entries {
                let permit = loop {
                    tokio::select! {
                        biased;
                        permit = output.reserve() => break permit,
                        () = tokio::time::sleep(KEEP_UP), if follow => {}
                    }
                    reader = blocking(move || reader.keep_up().map(|()| reader)).await?;
                };
                let Ok(permit) = permit else { return Ok(()) };
                permit.send(entry);
            }
            let Some(changes) = reader.changes.as_mut().filter(|_| waits) else { continue };
            tokio::select! {
                changed = changes.next() => changed?,
                // Once the task is gone, its shim has written all. One more look.
                _ = now.wait_for(|now| !now.watched) => ended = true,
                () = output.closed() => return Ok(()),
                () = tokio::time::sleep(PATROL) => {}
            }
        }
    }
}
