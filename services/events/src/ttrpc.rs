//! `containerd.services.events.ttrpc.v1.Events`, which shims speak to the
//! daemon.

use std::sync::Arc;

use gantry_core::events;
use gantry_ttrpc::containerd::services::events::ttrpc::v1 as api;
use gantry_ttrpc::{Context, Status};

/// Takes what shims tell.
#[derive(Clone)]
pub struct Forwarder {
    events: Arc<dyn events::Events>,
}

impl Forwarder {
    /// Hands everything to this exchange.
    pub fn new(events: Arc<dyn events::Events>) -> Self {
        Self { events }
    }
}

impl api::Events for Forwarder {
    async fn forward(&self, _: &Context, request: api::ForwardRequest) -> Result<(), Status> {
        let envelope = request.envelope.unwrap_or_default();
        Ok(self.events.forward(envelope.into())?)
    }
}
