//! Telling a client how far a transfer is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use gantry_core::Descriptor;
use gantry_core::images::{LayerPhase, Progress, ProgressSink};
use gantry_grpc::any;
use gantry_grpc::containerd::types::transfer as types;
use tokio::sync::mpsc;

use crate::streams::Stream;
use crate::tree::{self, Part};

/// Reports that may wait for a client; those behind them are dropped.
const WAITING: usize = 1024;
/// How long the last reports may take once all is done.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Shortest time between two reports about the same.
const INTERVAL: Duration = Duration::from_millis(100);

/// What happens, in the words that clients know.
#[derive(Clone, Debug)]
pub(crate) struct Event(types::Progress);

impl Event {
    /// Something happens to what has this name.
    pub(crate) fn new(event: impl Into<String>, name: impl Into<String>) -> Self {
        let (event, name) = (event.into(), name.into());
        Self(types::Progress { event, name, ..types::Progress::default() })
    }

    /// Something happens to a part of an image.
    pub(crate) fn of(event: &str, part: &Part) -> Self {
        let mut new = Self::new(event, tree::name(&part.descriptor)).about(&part.descriptor);
        new.0.parents = part.parent.iter().map(|name| name.to_string()).collect();
        new
    }

    /// The content that it is about.
    pub(crate) fn about(mut self, descriptor: &Descriptor) -> Self {
        self.0.desc = Some(descriptor.clone().into());
        self
    }

    /// How many bytes of how many.
    pub(crate) fn progress(mut self, done: u64, total: u64) -> Self {
        self.0.progress = i64::try_from(done).unwrap_or(i64::MAX);
        self.0.total = i64::try_from(total).unwrap_or(i64::MAX);
        self
    }
}

/// Tells a client, or nobody.
#[derive(Clone, Default)]
pub(crate) struct Teller {
    to: Option<mpsc::Sender<types::Progress>>,
    /// When something was said now and then, and about what. Held for a look.
    last: Arc<Mutex<Vec<(String, Instant)>>>,
}

impl Teller {
    /// Says something. Never waits: a client that does not listen misses it.
    pub(crate) fn say(&self, event: Event) {
        if let Some(to) = &self.to {
            let _ = to.try_send(event.0);
        }
    }

    /// Says something unless the same was said a moment ago.
    pub(crate) fn now_and_then(&self, event: Event) {
        if self.to.is_none() {
            return;
        }
        let now = Instant::now();
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.retain(|(_, at)| now.duration_since(*at) < INTERVAL);
            if last.iter().any(|(name, _)| *name == event.0.name) {
                return;
            }
            last.push((event.0.name.clone(), now));
        }
        self.say(event);
    }

    /// A sink for reports on a part of an image.
    pub(crate) fn sink(&self, part: &Part) -> ProgressSink {
        let (teller, part) = (self.clone(), part.clone());
        Arc::new(move |report| {
            if let Progress::Layer { phase, done, total, .. } = report {
                teller.say(Event::of(phase_name(phase), &part).progress(done, total));
            }
        })
    }
}

/// A teller for a client's stream, and the end of all that it says, which comes
/// when the teller and its copies are gone.
pub(crate) fn telling(stream: Option<Stream>) -> (Teller, impl Future<Output = ()>) {
    let (sender, mut reports) = mpsc::channel::<types::Progress>(WAITING);
    let to = stream.is_some().then_some(sender);
    let forward = tokio::spawn(async move {
        let Some(stream) = stream else { return };
        while let Some(report) = reports.recv().await {
            // The transfer goes on when nobody wants to know how far it is.
            if stream.send(any::pack(&report)).await.is_err() {
                break;
            }
        }
    });
    let abort = forward.abort_handle();
    let end = async move {
        if tokio::time::timeout(LAST_WORDS, forward).await.is_err() {
            abort.abort();
        }
    };
    (Teller { to, last: Arc::default() }, end)
}

fn phase_name(phase: LayerPhase) -> &'static str {
    match phase {
        LayerPhase::Waiting => "waiting",
        LayerPhase::Downloading => "downloading",
        LayerPhase::Extracting => "extracting",
        LayerPhase::Exists => "already exists",
        LayerPhase::Complete => "complete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streams::QUEUE;

    #[tokio::test]
    async fn a_client_hears_all_that_matters_before_the_end() {
        let (_incoming, from) = mpsc::channel(QUEUE);
        let (to, mut outgoing) = mpsc::channel(QUEUE);
        let (teller, end) = telling(Some(Stream { from, to }));
        teller.say(Event::new("a", "x"));
        for done in 0..50 {
            teller.now_and_then(Event::new("b", "x").progress(done, 50));
        }
        teller.say(Event::new("c", "x"));
        drop(teller);
        end.await;
        let mut heard = Vec::new();
        while let Some(message) = outgoing.recv().await {
            let message: types::Progress = any::unpack(&message).unwrap();
            heard.push(message.event);
        }
        assert_eq!(heard.first().map(String::as_str), Some("a"));
        assert_eq!(heard.last().map(String::as_str), Some("c"));
        assert!(heard.len() < 10, "{heard:?}");
    }
}
