//! What each request of a server gets: an ID, a span and its deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::context::NAMESPACE_HEADER;
use crate::{scope, status};

/// Header in which a client may name its request.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// How much earlier than the client's deadline a handler is given up: tonic's
/// server has a timer of its own, which answers `Cancelled`.
const EARLIER: Duration = Duration::from_millis(5);

/// Names a request in logs; in the extensions of each request.
#[derive(Clone, Debug)]
pub struct RequestId(
    /// The name: the client's, or a new UUID.
    pub Arc<str>,
);

/// Wraps a server's services. A request gets
///
/// - a [`RequestId`] in its extensions, the client's or a new one;
/// - a span with its path, namespace and ID, which log lines of its handler carry;
/// - a refusal when its method is beyond the [`scope`] of its client;
/// - its deadline: once `grpc-timeout` has passed without an answer, the
///   handler is dropped and the client told `DeadlineExceeded`. A stream that
///   has begun by then runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestLayer;

impl<S> Layer<S> for RequestLayer {
    type Service = RequestService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestService { inner }
    }
}

/// A service within a [`RequestLayer`].
#[derive(Clone, Debug)]
pub struct RequestService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for RequestService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let id = request_id(request.headers());
        let namespace = request.headers().get(NAMESPACE_HEADER).and_then(|v| v.to_str().ok());
        let span = tracing::info_span!(
            "request",
            path = request.uri().path(),
            namespace = namespace.unwrap_or_default(),
            id = &*id.0,
        );
        let timeout = request.headers().get(TIMEOUT_HEADER).and_then(|v| v.to_str().ok());
        let timeout = timeout.and_then(parse_timeout);
        request.extensions_mut().insert(id);
        let allowed = || scope::check(request.extensions(), request.uri().path());
        if let Err(refused) = span.in_scope(allowed) {
            return Box::pin(async move { Ok(refused.into_http()) });
        }
        let answering = span.in_scope(|| self.inner.call(request));
        let bounded = async move {
            let Some(timeout) = timeout else { return answering.await.map(too_large) };
            match tokio::time::timeout(timeout.saturating_sub(EARLIER), answering).await {
                Ok(result) => result.map(too_large),
                Err(_) => {
                    tracing::debug!(?timeout, "the client's deadline has passed");
                    let status = tonic::Status::deadline_exceeded(format!(
                        "not done in {timeout:?}: deadline exceeded"
                    ));
                    Ok(status.into_http())
                }
            }
        };
        Box::pin(bounded.instrument(span))
    }
}

/// A message beyond the limit is said to be out of range by tonic; gRPC's other servers
/// say that it exhausts resources, and clients take the former for a wrong offset.
fn too_large<R>(mut response: Response<R>) -> Response<R> {
    let status = tonic::Status::from_header_map(response.headers());
    if status.is_some_and(|status| status::is_too_large(&status)) {
        let code = http::HeaderValue::from(tonic::Code::ResourceExhausted as i32);
        response.headers_mut().insert("grpc-status", code);
    }
    response
}

fn request_id(headers: &HeaderMap) -> RequestId {
    const MAX_LENGTH: usize = 128;
    let given = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
    match given.filter(|id| !id.is_empty() && id.len() <= MAX_LENGTH) {
        Some(id) => RequestId(id.into()),
        None => RequestId(uuid::Uuid::new_v4().to_string().into()),
    }
}

/// Reads `grpc-timeout`: at most eight digits and a unit. Anything else counts
/// as no timeout, as it does in other servers.
fn parse_timeout(value: &str) -> Option<Duration> {
    let (at, unit) = value.char_indices().next_back()?;
    let digits = &value[..at];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(amount * 3600)),
        'M' => Some(Duration::from_secs(amount * 60)),
        'S' => Some(Duration::from_secs(amount)),
        'm' => Some(Duration::from_millis(amount)),
        'u' => Some(Duration::from_micros(amount)),
        'n' => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::ServiceExt;

    use super::*;

    #[test]
    fn timeouts() {
        assert_eq!(parse_timeout("299949m"), Some(Duration::from_millis(299_949)));
        assert_eq!(parse_timeout("3999875u"), Some(Duration::from_micros(3_999_875)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "m", "1", "1x", "-1S", "+1S", "123456789S", "1ä"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }

    #[tokio::test]
    async fn a_handler_gets_an_id() {
        let handler = RequestLayer.layer(tower::service_fn(|request: Request<()>| async move {
            let id = request.extensions().get::<RequestId>().map(|id| id.0.to_string());
            Ok::<_, Infallible>(Response::new(id.unwrap_or_default()))
        }));
        let given = Request::builder().header(REQUEST_ID_HEADER, "mine").body(()).unwrap();
        assert_eq!(handler.clone().oneshot(given).await.unwrap().body(), "mine");
        let new = handler.oneshot(Request::new(())).await.unwrap();
        assert_eq!(new.body().len(), 36);
    }

    #[tokio::test]
    async fn a_message_beyond_the_limit_exhausts_resources() {
        for (message, code) in [(status::TOO_LARGE, "8"), ("offset", "11")] {
            let status = tonic::Status::out_of_range(format!("Error, {message}: 17 bytes"));
            let said = status.clone();
            let handler = RequestLayer.layer(tower::service_fn(move |_: Request<()>| {
                let answer = said.clone().into_http::<String>();
                async { Ok::<_, Infallible>(answer) }
            }));
            let response = handler.oneshot(Request::new(())).await.unwrap();
            assert_eq!(response.headers()["grpc-status"], code);
            let streamed = status::inbound(status.clone());
            assert_eq!((streamed.code() as i32).to_string(), code);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_the_handler() {
        let handler = RequestLayer.layer(tower::service_fn(|_: Request<()>| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, Infallible>(Response::new(String::new()))
        }));
        let request = Request::builder().header(TIMEOUT_HEADER, "50m").body(()).unwrap();
        let response = handler.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()["grpc-status"], "4");
        let patient = Request::builder().header(TIMEOUT_HEADER, "61S").body(()).unwrap();
        let response = handler.oneshot(patient).await.unwrap();
        assert!(!response.headers().contains_key("grpc-status"));
    }
}
