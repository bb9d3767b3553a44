//! `gantry.engine.v1.Events`.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::ready;
use futures::{Stream, StreamExt};
use gantry_core::filter::Filters;
use gantry_core::history::{History, Record, Since};
use gantry_core::{Namespace, Result as CoreResult};
use gantry_grpc::convert::{self, from_timestamp, timestamp};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::subscribe_request::Since as WireSince;
use gantry_grpc::{context, status};
use tonic::{Request, Response, Status};

use crate::describe::describe;

/// Serves a history.
#[derive(Clone)]
pub struct HistoryServer {
    history: Arc<dyn History>,
    default: Namespace,
}

impl HistoryServer {
    /// Serves this one; `default` is the namespace of requests that name none.
    pub fn new(history: Arc<dyn History>, default: Namespace) -> Self {
        Self { history, default }
    }
}

fn since(wire: Option<WireSince>) -> CoreResult<Since> {
    match wire {
        None => Ok(Since::Now),
        Some(WireSince::Cursor(cursor)) => Ok(Since::Cursor(cursor.parse()?)),
        Some(WireSince::Time(time)) => Ok(Since::Time(from_timestamp(Some(&time)))),
    }
}

/// The event, if it is wanted.
fn event(record: Record, namespace: Option<&Namespace>, filters: &Filters) -> Option<api::Event> {
    let Record { cursor, envelope } = record;
    if namespace.is_some_and(|namespace| namespace.as_str() != envelope.namespace) {
        return None;
    }
    let description = describe(&envelope);
    filters.matches(&description).then(|| api::Event {
        cursor: cursor.to_string(),
        timestamp: Some(timestamp(envelope.timestamp)),
        namespace: description.namespace,
        topic: description.topic,
        event: Some(convert::any(envelope.event.clone())),
        kind: description.kind,
        action: description.action,
        id: description.id,
        attributes: description.attributes,
    })
}

#[tonic::async_trait]
impl api::events_server::Events for HistoryServer {
    type SubscribeStream = Pin<Box<dyn Stream<Item = Result<api::Event, Status>> + Send>>;

    async fn subscribe(
        &self,
        request: Request<api::SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let ctx = context::or_default(&request, &self.default).map_err(status::with_details)?;
        let wire = request.into_inner();
        let filters = Filters::parse(&wire.filters).map_err(status::to_detailed)?;
        let since = since(wire.since).map_err(status::to_detailed)?;
        let until = wire.until.as_ref().map(|until| from_timestamp(Some(until)));
        let namespace = (!wire.all_namespaces).then_some(ctx.namespace);
        let records = self.history.read(since, until).await.map_err(status::to_detailed)?;
        let events = records.filter_map(move |record| {
            let event = match record {
                Ok(record) => event(record, namespace.as_ref(), &filters).map(Ok),
                Err(err) => Some(Err(status::to_detailed(err))),
            };
            ready(event)
        });
        Ok(Response::new(Box::pin(events)))
    }
}
