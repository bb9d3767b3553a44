//! Tells the daemon what happened: an ordered queue that is forwarded over
//! ttrpc, and kept while the daemon is away.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_ttrpc::containerd::services::events::ttrpc::v1::{EventsClient, ForwardRequest};
use gantry_ttrpc::containerd::types::Envelope;
use gantry_ttrpc::{CallOptions, Client, Code, any};
use prost::Name;
use tokio::net::UnixStream;
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::launch::strip_scheme;
use crate::report::Report;

/// Events kept while the daemon is away; beyond it the oldest goes that is not
/// an exit.
const KEPT: usize = 4096;
/// How long one event may take.
const CALL: Duration = Duration::from_secs(10);
/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where events are handed in. Clones share the queue.
#[derive(Debug, Clone)]
pub struct Events(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for moments only, never across an await.
    queue: Mutex<VecDeque<Queued>>,
    added: Notify,
    /// How many events wait, the one under way included.
    left: watch::Sender<usize>,
}

#[derive(Debug)]
struct Queued {
    envelope: Envelope,
    keep: bool,
}

impl Events {
    /// Starts to forward to the ttrpc socket `address`; nowhere if it is empty.
    pub fn start(address: &str, namespace: &str, report: Report) -> Self {
        let shared =
            Shared { queue: Mutex::default(), added: Notify::new(), left: watch::Sender::new(0) };
        let events = Self(Arc::new(shared));
        if !address.is_empty() {
            let forwarder = Forwarder {
                events: events.clone(),
                address: strip_scheme(address).to_owned(),
                options: CallOptions::namespace(namespace).timeout(CALL),
                client: None,
                report,
            };
            tokio::spawn(forwarder.run());
        }
        events
    }

    /// Queues an event of the container's namespace.
    pub fn send<M: Name>(&self, namespace: &str, topic: &str, event: &M) {
        let envelope = Envelope {
            timestamp: Some(clock::timestamp(clock::now())),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(any::pack(event)),
        };
        let mut queue = self.queue();
        if queue.len() >= KEPT
            && let Some(at) = queue.iter().position(|queued| !queued.keep)
        {
            queue.remove(at);
        }
        queue.push_back(Queued { envelope, keep: topic == "/tasks/exit" });
        self.0.left.send_replace(queue.len());
        drop(queue);
        self.0.added.notify_one();
    }

    /// Waits until all is forwarded, `limit` at most.
    pub async fn flush(&self, limit: Duration) {
        let mut left = self.0.left.subscribe();
        // What is not told by then is found by the daemon in the bundle.
        let _ = tokio::time::timeout(limit, left.wait_for(|left| *left == 0)).await;
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Queued>> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first event, which stays until [`Events::done`].
    fn first(&self) -> Option<Envelope> {
        self.queue().front().map(|queued| queued.envelope.clone())
    }

    /// Removes `sent` if it is still first: meanwhile it may have given way.
    fn done(&self, sent: &Envelope) {
        let mut queue = self.queue();
        if queue.front().is_some_and(|queued| queued.envelope == *sent) {
            queue.pop_front();
        }
        self.0.left.send_replace(queue.len());
    }
}

struct Forwarder {
    events: Events,
    address: String,
    options: CallOptions,
    client: Option<EventsClient>,
    report: Report,
}

impl Forwarder {
    async fn run(mut self) {
        // Before there is an event: nobody waits for anything yet.
        self.connect().await;
        loop {
            let Some(envelope) = self.events.first() else {
                self.events.0.added.notified().await;
                continue;
            };
            let mut pause = FIRST_PAUSE;
            while !self.forward(&envelope).await {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            self.events.done(&envelope);
        }
    }

    /// Connects to the daemon, unless it is connected. Whether it is then.
    async fn connect(&mut self) -> bool {
        if self.client.as_ref().is_none_or(|client| client.connection().is_closed()) {
            let Ok(stream) = UnixStream::connect(&self.address).await else { return false };
            self.client = Some(EventsClient::new(Client::new(stream)));
        }
        true
    }

    /// Whether the event is dealt with.
    async fn forward(&mut self, envelope: &Envelope) -> bool {
        if !self.connect().await {
            return false;
        }
        let Some(client) = &self.client else { return false };
        let request = ForwardRequest { envelope: Some(envelope.clone()) };
        match client.forward(&request, &self.options).await {
            Ok(_) => true,
            Err(e)
                if matches!(
                    e.code,
                    Code::INVALID_ARGUMENT | Code::UNIMPLEMENTED | Code::NOT_FOUND
                ) =>
            {
                // The daemon will not take this one, however often.
                self.report.warn(&format!("event {} was refused: {e}", envelope.topic));
                true
            }
            Err(_) => {
                self.client = None;
                false
            }
        }
    }
}
