//! `containerd.services.events.ttrpc.v1.Events`, which shims speak to the
//! daemon.

use std::sync::Arc;

use gantry_core::events;
use gantry_core::history::History;
use gantry_ttrpc::containerd::services::events::ttrpc::v1 as api;
use gantry_ttrpc::{Context, Status};

/// Takes what shims tell.
#[derive(Clone)]
pub struct Forwarder {
    events: Arc<dyn events::Events>,
    history: Arc<dyn History>,
}

impl Forwarder {
    /// Hands everything to this exchange, which keeps it in this history.
    pub fn new(events: Arc<dyn events::Events>, history: Arc<dyn History>) -> Self {
        Self { events, history }
    }
}

impl api::Events for Forwarder {
    async fn forward(&self, _: &Context, request: api::ForwardRequest) -> Result<(), Status> {
        let envelope = request.envelope.unwrap_or_default();
        self.events.forward(envelope.into())?;
        // The shim keeps an event until it is answered: by then it is stored. When the
        // store fails, readers are told; the shim could do nothing about it.
        let _ = self.history.stored().await;
        Ok(())
    }
}
