//! `containerd.services.events.v1.Events`, and in [`engine`] `gantry.engine.v1.Events`.

pub mod engine;

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use gantry_core::events::Events;
use gantry_core::filter::Filters;
use gantry_grpc::containerd::services::events::v1 as api;
use gantry_grpc::containerd::types::Envelope;
use gantry_grpc::{context, convert, status};
use tonic::{Request, Response, Status};

/// Serves an exchange.
#[derive(Clone)]
pub struct EventsServer {
    events: Arc<dyn Events>,
}

impl EventsServer {
    /// Serves this one.
    pub fn new(events: Arc<dyn Events>) -> Self {
        Self { events }
    }
}

#[tonic::async_trait]
impl api::events_server::Events for EventsServer {
    async fn publish(&self, request: Request<api::PublishRequest>) -> Result<Response<()>, Status> {
        let ctx = context::of(&request)?;
        let request = request.into_inner();
        let event = convert::from_any(request.event.unwrap_or_default());
        self.events.publish(&ctx, &request.topic, event).map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    async fn forward(&self, request: Request<api::ForwardRequest>) -> Result<Response<()>, Status> {
        let envelope = request.into_inner().envelope.unwrap_or_default();
        self.events.forward(envelope.into()).map_err(status::to_wire)?;
        Ok(Response::new(()))
    }

    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<Envelope, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let filters = Filters::parse(&request.into_inner().filters).map_err(status::to_wire)?;
        let events = self.events.subscribe(filters);
        let events = events.map(|event| event.map(Envelope::from).map_err(status::to_wire));
        Ok(Response::new(Box::pin(events)))
    }
}
