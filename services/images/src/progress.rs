//! Telling the caller how far a layer is, but not for every piece of it.

use std::time::{Duration, Instant};

use gantry_core::images::{LayerPhase, Progress, ProgressSink};
use gantry_core::{Descriptor, Digest};

/// Shortest time between two reports of the same phase.
const INTERVAL: Duration = Duration::from_millis(100);

/// Reports on one layer.
pub(crate) struct LayerProgress {
    sink: Option<ProgressSink>,
    digest: Digest,
    total: u64,
    last: Option<(LayerPhase, Instant)>,
}

impl LayerProgress {
    /// Reports to `sink`, or to nobody.
    pub(crate) fn new(sink: Option<ProgressSink>, blob: &Descriptor) -> Self {
        Self { sink, digest: blob.digest.clone(), total: blob.size, last: None }
    }

    /// Says how far the layer is: at once for a new phase, else when it was
    /// said long enough ago.
    pub(crate) fn report(&mut self, phase: LayerPhase, done: u64) {
        let Some(sink) = &self.sink else { return };
        let now = Instant::now();
        if self.last.is_some_and(|(p, at)| p == phase && now.duration_since(at) < INTERVAL) {
            return;
        }
        self.last = Some((phase, now));
        let (digest, total) = (self.digest.clone(), self.total);
        sink(Progress::Layer { digest, phase, done, total });
    }

    /// Says that nothing is left to do.
    pub(crate) fn end(&mut self, phase: LayerPhase) {
        self.report(phase, self.total);
    }
}
