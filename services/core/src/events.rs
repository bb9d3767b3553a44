//! Events: what happened, told to whoever subscribed.

use std::pin::Pin;

use async_trait::async_trait;
use futures::Stream;
use serde::{Deserialize, Serialize};

use crate::filter::{Filterable, Filters};
use crate::history::Staged;
use crate::{Any, Context, Result, Timestamp};

/// An event with where and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// When it happened.
    pub timestamp: Timestamp,
    /// In which namespace.
    pub namespace: String,
    /// Of what sort, `/tasks/exit`.
    pub topic: String,
    /// The event message.
    pub event: Any,
}

impl Filterable for Envelope {
    fn field(&self, path: &[&str]) -> Option<String> {
        match path {
            ["namespace"] => Some(self.namespace.clone()),
            ["topic"] => Some(self.topic.clone()),
            _ => None,
        }
    }
}

/// Events as they happen; ends with an error when the subscriber does not
/// keep up.
pub type EventStream = Pin<Box<dyn Stream<Item = Result<Envelope>> + Send>>;

/// The event exchange. Publishing never waits for a subscriber.
#[async_trait]
pub trait Events: Send + Sync {
    /// Publishes with the present time in the request's namespace.
    ///
    /// # Errors
    /// `InvalidArgument` for a topic that does not begin with a slash.
    fn publish(&self, ctx: &Context, topic: &str, event: Any) -> Result<()>;

    /// Publishes an event that happened elsewhere, unchanged.
    ///
    /// # Errors
    /// `InvalidArgument` for an incomplete envelope.
    fn forward(&self, envelope: Envelope) -> Result<()>;

    /// Publishes an event that was stored with the change it tells of, after that was committed.
    ///
    /// # Errors
    /// `InvalidArgument` for an incomplete envelope.
    fn release(&self, staged: Staged) -> Result<()> {
        self.forward(staged.envelope)
    }

    /// Events from now on, of all namespaces, that match.
    fn subscribe(&self, filters: Filters) -> EventStream;
}
