use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::Stream;
use gantry_core::events::{Envelope, EventStream, Events};
use gantry_core::filter::Filters;
use gantry_core::{Any, Context, Error, Namespace, Result, Timestamp, validate_identifier};

use crate::describe::Open;

/// How many events may wait for one subscriber.
pub const QUEUE_LIMIT: usize = 8192;
/// So long those who subscribe get events from before.
const RETURN: Duration = Duration::from_secs(30);

/// Hands each event to the queue of every subscriber that wants it.
///
/// A publisher never waits: when a subscriber's queue is full, this subscriber
/// gets what is in its queue, then `ResourceExhausted`, then the end.
///
/// What happened before clients could come goes also to those who subscribe a little later:
/// they come back after a restart, too.
#[derive(Clone, Debug, Default)]
pub struct Exchange(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Who is subscribed. Held for reading while an event is handed out,
    /// for writing while one comes or goes.
    subscribers: RwLock<Vec<Arc<Subscriber>>>,
    /// Since when clients can come, by both clocks.
    opened: OnceLock<(Instant, Timestamp)>,
    before: Mutex<Before>,
}

/// Events from before clients could come, as long as somebody may come for them.
#[derive(Debug, Default)]
struct Before {
    events: VecDeque<Arc<Envelope>>,
    /// There were more.
    overflowed: bool,
}

#[derive(Debug)]
struct Subscriber {
    filters: Filters,
    /// Held for as long as it takes to add or take one event.
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<Envelope>>,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// An event found the queue full.
    Overflowed,
    /// The subscriber was told so.
    Ended,
}

impl Subscriber {
    // A panic while the lock is held leaves the queue as it was before or after one event.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offer(&self, envelope: &Arc<Envelope>) {
        if !self.filters.matches(&Open(envelope)) {
            return;
        }
        let waker = {
            let mut queue = self.queue();
            if queue.state != State::Open {
                return;
            }
            if queue.events.len() < QUEUE_LIMIT {
                queue.events.push_back(Arc::clone(envelope));
            } else {
                queue.state = State::Overflowed;
            }
            queue.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Before {
    fn keep(&mut self, envelope: &Arc<Envelope>) {
        if self.events.len() >= QUEUE_LIMIT {
            self.events.pop_front();
            self.overflowed = true;
        }
        self.events.push_back(Arc::clone(envelope));
    }
}

impl Exchange {
    /// An exchange without subscribers, to which clients can come.
    pub fn new() -> Self {
        let exchange = Self::default();
        exchange.open();
        exchange
    }

    /// From now on clients can come.
    pub(crate) fn open(&self) {
        self.0.opened.get_or_init(|| (Instant::now(), Timestamp::now()));
    }

    /// Hands an event out.
    pub(crate) fn send(&self, envelope: &Arc<Envelope>) {
        let subscribers = self.0.subscribers.read().unwrap_or_else(PoisonError::into_inner);
        for subscriber in subscribers.iter() {
            subscriber.offer(envelope);
        }
        let mut before = self.before();
        match self.0.opened.get() {
            Some((_, opened)) if envelope.timestamp.unix_nanos() >= opened.unix_nanos() => {}
            _ => before.keep(envelope),
        }
    }

    /// Empty once everybody has had the time to come back.
    fn before(&self) -> MutexGuard<'_, Before> {
        // A queue is whole at any time.
        let mut before = self.0.before.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.opened.get().is_some_and(|(since, _)| since.elapsed() >= RETURN) {
            *before = Before::default();
        }
        before
    }
}

#[async_trait]
impl Events for Exchange {
    fn publish(&self, ctx: &Context, topic: &str, event: Any) -> Result<()> {
        check_topic(topic)?;
        self.send(&Arc::new(Envelope {
            timestamp: Timestamp::now(),
            namespace: ctx.namespace.as_str().to_owned(),
            topic: topic.to_owned(),
            event,
        }));
        Ok(())
    }

    fn forward(&self, envelope: Envelope) -> Result<()> {
        check_envelope(&envelope)?;
        self.send(&Arc::new(envelope));
        Ok(())
    }

    fn subscribe(&self, filters: Filters) -> EventStream {
        let subscriber = Arc::new(Subscriber { filters, queue: Mutex::default() });
        // Nothing is handed out meanwhile.
        let mut subscribers = self.0.subscribers.write().unwrap_or_else(PoisonError::into_inner);
        let before = self.before();
        before.events.iter().for_each(|envelope| subscriber.offer(envelope));
        if before.overflowed {
            subscriber.queue().state = State::Overflowed;
        }
        drop(before);
        subscribers.push(Arc::clone(&subscriber));
        drop(subscribers);
        Box::pin(Subscription { exchange: self.clone(), subscriber })
    }
}

/// The subscriber's end of its queue; dropping it ends the subscription.
struct Subscription {
    exchange: Exchange,
    subscriber: Arc<Subscriber>,
}

impl Stream for Subscription {
    type Item = Result<Envelope>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let mut queue = self.subscriber.queue();
        if let Some(envelope) = queue.events.pop_front() {
            return Poll::Ready(Some(Ok(Arc::unwrap_or_clone(envelope))));
        }
        match queue.state {
            State::Open => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Overflowed => {
                queue.state = State::Ended;
                Poll::Ready(Some(Err(Error::resource_exhausted(format!(
                    "events were lost: more than {QUEUE_LIMIT} waited for this subscriber; \
                     subscribe again and list what you follow"
                )))))
            }
            State::Ended => Poll::Ready(None),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.exchange
            .0
            .subscribers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|s| !Arc::ptr_eq(s, &self.subscriber));
    }
}

/// Checks an event that comes from elsewhere.
pub(crate) fn check_envelope(envelope: &Envelope) -> Result<()> {
    check_topic(&envelope.topic)?;
    Namespace::new(envelope.namespace.as_str())
        .map_err(|err| err.context("event envelope has an invalid namespace"))?;
    if envelope.timestamp.is_unset() {
        return Err(Error::invalid_argument(
            "timestamp must be set on a forwarded event: invalid argument",
        ));
    }
    if envelope.event.type_url.is_empty() {
        return Err(Error::invalid_argument("a forwarded event needs a type: invalid argument"));
    }
    Ok(())
}

/// Checks a topic: components that are identifiers, each behind a slash.
pub(crate) fn check_topic(topic: &str) -> Result<()> {
    let invalid = |why: &str| {
        Error::invalid_argument(format!("envelope topic {topic:?}: {why}: invalid argument"))
    };
    let components = topic.strip_prefix('/').ok_or_else(|| invalid("must start with '/'"))?;
    if components.is_empty() {
        return Err(invalid("must have at least one component"));
    }
    components.split('/').try_for_each(|component| {
        validate_identifier(component).map_err(|err| err.context(format!("topic {topic:?}")))
    })
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use gantry_core::Kind;

    use super::*;

    fn context(namespace: &str) -> Context {
        Context::new(Namespace::new(namespace).unwrap())
    }

    fn event(text: &str) -> Any {
        Any { type_url: "test".into(), value: text.into() }
    }

    #[tokio::test]
    async fn subscribers_get_what_they_asked_for_in_order() {
        let exchange = Exchange::new();
        let mut all = exchange.subscribe(Filters::all());
        let filter = "namespace==moby,topic~=|^/tasks/|";
        let mut moby = exchange.subscribe(Filters::parse(&[filter]).unwrap());
        exchange.publish(&context("a"), "/tasks/exit", event("1")).unwrap();
        exchange.publish(&context("moby"), "/images/create", event("2")).unwrap();
        exchange.publish(&context("moby"), "/tasks/exit", event("3")).unwrap();
        for expected in ["1", "2", "3"] {
            let got = all.next().await.unwrap().unwrap();
            assert_eq!(got.event, event(expected));
            assert!(!got.timestamp.is_unset());
        }
        assert_eq!(moby.next().await.unwrap().unwrap().event, event("3"));
        assert!(moby.next().now_or_never().is_none());
        drop(moby);
        assert_eq!(exchange.0.subscribers.read().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_waiting_subscriber_is_woken() {
        let exchange = Exchange::new();
        let mut stream = exchange.subscribe(Filters::all());
        let waiting = tokio::spawn(async move { stream.next().await });
        // Whether it waits by now or not, it must get the event.
        tokio::task::yield_now().await;
        exchange.publish(&context("a"), "/x", event("1")).unwrap();
        assert_eq!(waiting.await.unwrap().unwrap().unwrap().topic, "/x");
    }

    #[tokio::test]
    async fn a_slow_subscriber_is_told_and_nobody_else_is_hurt() {
        let exchange = Exchange::new();
        let mut slow = exchange.subscribe(Filters::all());
        for i in 0..QUEUE_LIMIT + 10 {
            exchange.publish(&context("a"), "/x", event(&i.to_string())).unwrap();
        }
        let mut fresh = exchange.subscribe(Filters::all());
        exchange.publish(&context("a"), "/x", event("last")).unwrap();
        assert_eq!(fresh.next().await.unwrap().unwrap().event, event("last"));
        for i in 0..QUEUE_LIMIT {
            assert_eq!(slow.next().await.unwrap().unwrap().event, event(&i.to_string()));
        }
        assert_eq!(slow.next().await.unwrap().unwrap_err().kind(), Kind::ResourceExhausted);
        assert!(slow.next().await.is_none());
    }

    #[tokio::test]
    async fn who_comes_back_gets_what_happened_meanwhile() {
        let exchange = Exchange::new();
        let earlier = Timestamp { seconds: Timestamp::now().seconds - 5, nanos: 0 };
        let envelope = |timestamp, text| Envelope {
            timestamp,
            namespace: "a".into(),
            topic: "/tasks/exit".into(),
            event: event(text),
        };
        exchange.forward(envelope(earlier, "while nobody was there")).unwrap();
        exchange.forward(envelope(Timestamp::now(), "now")).unwrap();
        for _ in 0..2 {
            let mut back = exchange.subscribe(Filters::all());
            let first = back.next().await.unwrap().unwrap();
            assert_eq!(first.event, event("while nobody was there"));
            assert!(back.next().now_or_never().is_none());
            let mut other = exchange.subscribe(Filters::parse(&["namespace==b"]).unwrap());
            assert!(other.next().now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn what_happens_before_clients_can_come_waits_for_them() {
        let exchange = Exchange::default();
        for text in 0..QUEUE_LIMIT {
            exchange.publish(&context("a"), "/x", event(&text.to_string())).unwrap();
        }
        exchange.open();
        exchange.publish(&context("a"), "/x", event("later")).unwrap();
        let mut all = exchange.subscribe(Filters::all());
        for text in 0..QUEUE_LIMIT {
            assert_eq!(all.next().await.unwrap().unwrap().event, event(&text.to_string()));
        }
        assert!(all.next().now_or_never().is_none(), "nobody was to come back for it");

        // More than can be kept: the newest, and a word.
        let exchange = Exchange::default();
        for text in 0..=QUEUE_LIMIT {
            exchange.publish(&context("a"), "/x", event(&text.to_string())).unwrap();
        }
        exchange.open();
        let mut all = exchange.subscribe(Filters::all());
        assert_eq!(all.next().await.unwrap().unwrap().event, event("1"));
        let mut rest = all.skip(QUEUE_LIMIT - 1);
        assert_eq!(rest.next().await.unwrap().unwrap_err().kind(), Kind::ResourceExhausted);
    }

    #[test]
    fn incomplete_events_are_refused() {
        let exchange = Exchange::new();
        for topic in ["", "/", "x", "/a//b", "/a/", "/a b"] {
            let err = exchange.publish(&context("a"), topic, event("")).unwrap_err();
            assert_eq!(err.kind(), Kind::InvalidArgument, "{topic:?}");
        }
        let good = Envelope {
            timestamp: Timestamp::now(),
            namespace: "a".into(),
            topic: "/tasks/exit".into(),
            event: event(""),
        };
        let bad = [
            Envelope { timestamp: Timestamp::default(), ..good.clone() },
            Envelope { namespace: String::new(), ..good.clone() },
            Envelope { topic: String::new(), ..good.clone() },
            Envelope { event: Any::default(), ..good.clone() },
        ];
        for envelope in bad {
            assert_eq!(exchange.forward(envelope).unwrap_err().kind(), Kind::InvalidArgument);
        }
        exchange.forward(good).unwrap();
    }
}
