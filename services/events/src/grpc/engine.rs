//! `gantry.engine.v1.Events`.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::ready;
use futures::{Stream, StreamExt};
use gantry_core::filter::Filters;
use gantry_core::history::{History, Record, Since};
use gantry_core::{Namespace, Result as CoreResult, Scope};
use gantry_grpc::convert::{self, from_timestamp, timestamp};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::subscribe_request::Since as WireSince;
use gantry_grpc::{any, context, scope, status};
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

/// Whether an event is for a client: one that is limited to containers with a label is told of
/// these.
fn is_seen(record: &Record, scope: Option<&Scope>) -> bool {
    let Some(label) = scope.and_then(|scope| scope.label.as_ref()) else { return true };
    let event = convert::any(record.envelope.event.clone());
    let told = any::unpack::<api::ContainerEvent>(&event).ok();
    told.and_then(|told| told.container).is_some_and(|container| label.covers(&container.labels))
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
        if let Some(scope) = ctx.scope.as_deref().filter(|scope| scope.label.is_some())
            && wire.all_namespaces
        {
            return Err(status::to_detailed(scope::refuse(scope, "every namespace")));
        }
        let namespace = (!wire.all_namespaces).then_some(ctx.namespace);
        let scope = ctx.scope;
        let records = self.history.read(since, until).await.map_err(status::to_detailed)?;
        let events = records.filter_map(move |record| {
            let event = match record {
                Ok(record) if !is_seen(&record, scope.as_deref()) => None,
                Ok(record) => event(record, namespace.as_ref(), &filters).map(Ok),
                Err(err) => Some(Err(status::to_detailed(err))),
            };
            ready(event)
        });
        Ok(Response::new(Box::pin(events)))
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::events::Envelope;
    use gantry_core::history::Cursor;
    use gantry_core::{Any, LabelScope, Timestamp};

    use super::*;

    fn record(event: Any) -> Record {
        let envelope = Envelope {
            timestamp: Timestamp::now(),
            namespace: "default".into(),
            topic: "/gantry/containers/died".into(),
            event,
        };
        Record { cursor: Cursor::default(), envelope: Arc::new(envelope) }
    }

    #[test]
    fn who_goes_by_a_label_is_told_of_containers_with_it() {
        let label = LabelScope {
            key: "ci".into(),
            value: "true".into(),
            namespace: Namespace::new("default").unwrap(),
        };
        let (door, peer) = ("socket /s".to_owned(), "uid=1".to_owned());
        let by_label = Scope { door, peer, read_only: false, label: Some(label) };
        let of = |value: &str| {
            let labels = [("ci".to_owned(), value.to_owned())].into();
            let container = Some(api::Container { labels, ..Default::default() });
            let event = api::ContainerEvent { container, ..Default::default() };
            record(convert::from_any(any::pack(&event)))
        };
        assert!(is_seen(&of("true"), Some(&by_label)));
        assert!(!is_seen(&of("false"), Some(&by_label)));
        let other = record(Any { type_url: "containerd.events.TaskExit".into(), value: vec![] });
        assert!(!is_seen(&other, Some(&by_label)));
        let looks = Scope { read_only: true, label: None, ..by_label };
        assert!(is_seen(&other, Some(&looks)) && is_seen(&other, None));
    }
}
