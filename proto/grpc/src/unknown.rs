//! Calls that a server does not know.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, Request, Response};
use tower::Service;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";

/// A client's channel. A server answers a call that it does not know with a bare status: here the
/// status gets a message that names the call.
#[derive(Clone, Debug)]
pub struct Named<S>(
    /// What carries the calls.
    pub S,
);

impl<S, B, R> Service<Request<B>> for Named<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut response = answering.await?;
            name(&path, response.headers_mut());
            Ok(response)
        })
    }
}

/// Says which call is not known, where the answer does not say anything.
fn name(path: &str, headers: &mut HeaderMap) {
    let code = tonic::Code::Unimplemented as i32;
    let unknown = headers.get(STATUS).is_some_and(|status| *status == code.to_string());
    if !unknown || headers.get(MESSAGE).is_some_and(|message| !message.is_empty()) {
        return;
    }
    let call = path.trim_start_matches('/');
    let text = format!("the daemon does not know {call}: is it older than this gantry?");
    // A path has nothing that a header can't hold.
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.insert(MESSAGE, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_answers_get_words() {
        let said = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for &(key, value) in pairs {
                headers.insert(key, HeaderValue::from_static(value));
            }
            name("/gantry.engine.v1.Volumes/List", &mut headers);
            tonic::Status::from_header_map(&headers).map(|status| status.message().to_owned())
        };
        let words = "the daemon does not know gantry.engine.v1.Volumes/List: is it older than \
                     this gantry?";
        assert_eq!(said(&[(STATUS, "12")]).as_deref(), Some(words));
        assert_eq!(said(&[(STATUS, "12"), (MESSAGE, "")]).as_deref(), Some(words));
        assert_eq!(said(&[(STATUS, "12"), (MESSAGE, "no")]).as_deref(), Some("no"));
        assert_eq!(said(&[(STATUS, "5")]).as_deref(), Some(""));
        assert_eq!(said(&[]), None);
    }
}
