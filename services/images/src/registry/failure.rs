//! What went wrong between us and a registry: of which kind it is, whether
//! it may pass, and what to do about it.

use std::time::Duration;

use gantry_core::{Error, Kind};
use oci_client::errors::OciEnvelope;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use super::Session;

/// Whether trying again makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retry {
    /// It would fail again.
    Never,
    /// Only for somebody who already got a part: a host that does not answer
    /// may be down for long, or not exist.
    Transfer,
    /// It may pass.
    Always,
}

/// An error, and whether it may pass.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) retry: Retry,
    /// The wait that the registry asked for.
    pub(crate) after: Option<Duration>,
}

impl Failure {
    fn new(kind: Kind, words: impl Into<String>, retry: Retry) -> Self {
        Self { error: Error::new(kind, words), retry, after: None }
    }
}

/// What is not the registry's answer does not pass.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, retry: Retry::Never, after: None }
    }
}

impl Session {
    /// A reply with a status that is no success.
    pub(super) fn refused(
        &self,
        status: StatusCode,
        body: &[u8],
        after: Option<Duration>,
    ) -> Failure {
        let detail = detail(body);
        let host = self.host();
        let mut failure = match status {
            StatusCode::NOT_FOUND => Failure::new(Kind::NotFound, "not found", Retry::Never),
            StatusCode::UNAUTHORIZED => self.denied(Kind::Unauthenticated, &detail),
            StatusCode::FORBIDDEN => self.denied(Kind::PermissionDenied, &detail),
            StatusCode::TOO_MANY_REQUESTS => {
                let words = format!("registry {host} says that there are too many requests");
                Failure::new(Kind::Unavailable, words + &detail, Retry::Always)
            }
            StatusCode::REQUEST_TIMEOUT => passing(host, status, &detail),
            status if status.is_server_error() => passing(host, status, &detail),
            status => {
                let words = format!("unexpected answer of registry {host}: {status}{detail}");
                Failure::new(Kind::Internal, words, Retry::Never)
            }
        };
        failure.after = after;
        failure
    }

    pub(super) fn denied(&self, kind: Kind, detail: &str) -> Failure {
        let words = format!(
            "access to {}/{} is denied{detail}: the repository does not exist, or it needs \
             (other) credentials; pass them along, or store them in Docker's config.json",
            self.host(),
            self.repository
        );
        Failure::new(kind, words, Retry::Never)
    }
}

fn passing(host: &str, status: StatusCode, detail: &str) -> Failure {
    let words = format!("registry {host} can't serve now: {status}{detail}");
    Failure::new(Kind::Unavailable, words, Retry::Always)
}

/// What a registry says in the body of an error, as `: words` or nothing.
pub(super) fn detail(body: &[u8]) -> String {
    let words = match serde_json::from_slice::<OciEnvelope>(body) {
        Ok(envelope) => in_words(&envelope),
        Err(_) => {
            let text = String::from_utf8_lossy(body);
            let markup = text.trim_start().starts_with('<');
            let line = if markup { "" } else { text.lines().next().unwrap_or("") };
            line.chars().filter(|c| !c.is_control()).take(200).collect()
        }
    };
    if words.is_empty() { words } else { format!(": {words}") }
}

fn in_words(envelope: &OciEnvelope) -> String {
    let words = envelope.errors.iter().map(|e| e.message.as_str()).filter(|m| !m.is_empty());
    let joined: String = words.collect::<Vec<_>>().join("; ");
    joined.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// A request that got no reply.
pub(super) fn of_request(host: &str, err: reqwest::Error) -> Failure {
    let tls = find::<rustls::Error>(&err);
    let (words, retry) = if let Some(tls) = tls {
        (of_tls(host, tls), Retry::Never)
    } else if err.is_connect() {
        (format!("can't connect to registry {host}"), Retry::Transfer)
    } else if err.is_timeout() {
        (format!("registry {host} does not answer"), Retry::Transfer)
    } else if err.is_redirect() || err.is_builder() {
        (format!("ask registry {host}"), Retry::Never)
    } else {
        (format!("registry {host} broke the connection"), Retry::Always)
    };
    let error = Error::unavailable(words).with_source(err.without_url());
    Failure { error, retry, after: None }
}

/// A registry whose redirects do not come to an end.
pub(super) fn redirected(host: &str) -> Failure {
    let words = format!("registry {host} redirects too often");
    Failure::new(Kind::Unavailable, words, Retry::Never)
}

/// A registry that takes no more of an upload.
pub(super) fn stalled(host: &str) -> Failure {
    let words = format!("registry {host} takes no more of what it is sent");
    Failure::new(Kind::Unavailable, words, Retry::Transfer)
}

fn of_tls(host: &str, err: &rustls::Error) -> String {
    let hint = match err {
        rustls::Error::InvalidMessage(_) => {
            "it seems to speak plain HTTP: allow that for this registry if it is meant to"
        }
        rustls::Error::InvalidCertificate(_) => {
            "its certificate is not trusted: add its authority to the system's certificates"
        }
        _ => "the encrypted connection failed",
    };
    format!("can't connect to registry {host}: {hint}")
}

/// A body that broke off.
pub(crate) fn of_stream(err: std::io::Error) -> Failure {
    let error = Error::unavailable("the transfer broke off").with_source(err);
    Failure { error, retry: Retry::Always, after: None }
}

/// The first error of this type in the chain of causes.
fn find<'a, E: std::error::Error + 'static>(
    err: &'a (dyn std::error::Error + 'static),
) -> Option<&'a E> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(found) = err.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = err.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match inner {
            Some(inner) => Some(inner),
            None => err.source(),
        };
    }
    None
}

/// The wait that a registry asks for, if it is given in seconds.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_registries_say_is_shown_in_a_line() {
        let body = br#"{"errors": [{"code": "DENIED", "message": "no\nway"}, {"code": "X"}]}"#;
        assert_eq!(detail(body), ": noway");
        assert_eq!(detail(b"plain words\nmore"), ": plain words");
        assert_eq!(detail(b"<html>x"), "");
        assert_eq!(detail(b""), "");
    }

    #[test]
    fn causes_are_found_through_io_errors() {
        let tls = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let io = std::io::Error::other(std::io::Error::other(tls));
        assert!(find::<rustls::Error>(&io).is_some());
        assert!(find::<rustls::Error>(&std::io::Error::other("x")).is_none());
    }

    #[tokio::test]
    async fn plain_http_where_it_is_not_expected() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        });
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let err = client.get(format!("https://{address}/v2/")).send().await.unwrap_err();
        let failure = of_request("here", err);
        assert_eq!(failure.error.kind(), Kind::Unavailable);
        assert_eq!(failure.retry, Retry::Never);
        assert!(failure.error.to_string().contains("plain HTTP"), "{}", failure.error);
    }

    #[test]
    fn the_wait_that_is_asked_for() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
    }
}
