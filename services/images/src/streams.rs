//! Streams between a client and a call of the same client: progress, credentials, archives.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_core::{Context, Error, Namespace, Result};
use prost_types::Any;
use tokio::sync::mpsc;

/// Messages that wait on a stream, in either direction.
pub(crate) const QUEUE: usize = 16;

type Key = (Namespace, String);

/// Streams that clients opened and no call has taken yet.
#[derive(Clone, Default)]
pub struct Streams {
    /// Held for single operations.
    waiting: Arc<Mutex<HashMap<Key, Stream>>>,
}

/// One end of a stream: that of the call which took it. Dropping it ends the stream.
#[derive(Debug)]
pub struct Stream {
    pub(crate) from: mpsc::Receiver<Any>,
    pub(crate) to: mpsc::Sender<Any>,
}

impl Stream {
    /// The client's next message; `None` when it has said all, or has gone.
    pub async fn receive(&mut self) -> Option<Any> {
        self.from.recv().await
    }

    /// Sends the client a message, when there is room for it.
    ///
    /// # Errors
    /// `Unavailable` when the client has gone.
    pub async fn send(&self, message: Any) -> Result<()> {
        self.to.send(message).await.map_err(|_| Error::unavailable("the client closed the stream"))
    }
}

/// The client's end of a stream.
pub struct ClientEnd {
    /// Takes what the client says, who has said all when it is dropped.
    pub to: mpsc::Sender<Any>,
    /// Gives what the client is told.
    pub from: Answers,
}

/// What a client is told on a stream. The stream is offered as long as this is there.
pub struct Answers {
    messages: mpsc::Receiver<Any>,
    _offer: Registration,
}

impl Answers {
    /// The next message; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Any> {
        self.messages.recv().await
    }
}

/// Takes a stream off the list when its client goes before a call has taken it.
pub(crate) struct Registration {
    streams: Streams,
    key: Key,
    /// Tells this stream from a later one of the same name.
    to: mpsc::WeakSender<Any>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Stream>> {
        // A map is whole at any time.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream for a client, and offers it to calls of the client's namespace.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that another one has; `InvalidArgument` without one.
    pub fn open(&self, ctx: &Context, id: &str) -> Result<ClientEnd> {
        let (to, from) = mpsc::channel(QUEUE);
        let (answers, messages) = mpsc::channel(QUEUE);
        let offer = self.offer(ctx, id, Stream { from, to: answers })?;
        Ok(ClientEnd { to, from: Answers { messages, _offer: offer } })
    }

    /// Offers a stream to calls of this namespace.
    ///
    /// # Errors
    /// `AlreadyExists` for a name that another one has; `InvalidArgument` without one.
    pub(crate) fn offer(&self, ctx: &Context, id: &str, stream: Stream) -> Result<Registration> {
        if id.is_empty() {
            return Err(Error::invalid_argument("a stream needs an ID: invalid argument"));
        }
        let key = (ctx.namespace.clone(), id.to_owned());
        let to = stream.to.downgrade();
        match self.lock().entry(key.clone()) {
            Entry::Occupied(_) => {
                return Err(Error::already_exists(format!("stream {id:?}: already exists")));
            }
            Entry::Vacant(place) => place.insert(stream),
        };
        Ok(Registration { streams: self.clone(), key, to })
    }

    /// Takes the stream of this name.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn take(&self, ctx: &Context, id: &str) -> Result<Stream> {
        let key = (ctx.namespace.clone(), id.to_owned());
        let found = self.lock().remove(&key);
        found.ok_or_else(|| Error::not_found(format!("stream {id:?}: not found")))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let Some(own) = self.to.upgrade() else { return };
        let mut waiting = self.streams.lock();
        if waiting.get(&self.key).is_some_and(|stream| stream.to.same_channel(&own)) {
            waiting.remove(&self.key);
        }
    }
}
