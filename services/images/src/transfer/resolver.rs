//! How a client wants a registry to be reached, and who it says that it is.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gantry_core::{Context, Error, Kind, Result};
use gantry_grpc::any;
use gantry_grpc::containerd::types::transfer as types;
use tokio::sync::Mutex;

use super::decode;
use crate::credentials::Credentials;
use crate::reference::Reference;
use crate::registry::{Asking, Secrets};
use crate::remote::{self, Access};
use crate::streams::{Stream, Streams};

/// How long a client may take to answer for credentials.
const ANSWER: Duration = Duration::from_secs(120);

/// A client that gives credentials on a stream.
struct Client {
    /// Held for a question and its answer; gone when one was left without, whose
    /// answer would be taken for that to the next.
    stream: Mutex<Option<Stream>>,
    reference: String,
}

/// What a resolver asks for.
///
/// # Errors
/// `Unimplemented` for what would be ignored otherwise, `NotFound` for the stream of
/// credentials, `InvalidArgument` for values that are none.
pub(super) fn access(
    resolver: types::RegistryResolver,
    reference: &Reference,
    streams: &Streams,
    ctx: &Context,
) -> Result<Access> {
    refuse(&resolver)?;
    let plain = match resolver.default_scheme.as_str() {
        "" => None,
        "http" => Some(true),
        "https" => Some(false),
        other => {
            return Err(Error::invalid_argument(format!(
                "scheme {other:?} is neither http nor https: invalid argument"
            )));
        }
    };
    let directory = match resolver.host_dir.as_str() {
        "" => None,
        path if path.starts_with('/') => Some(PathBuf::from(path)),
        path => {
            return Err(Error::invalid_argument(format!(
                "host_dir {path:?} must be an absolute path: invalid argument"
            )));
        }
    };
    let headers = remote::headers(resolver.headers)?;
    let secrets = match resolver.auth_stream.as_str() {
        "" => None,
        id => {
            let stream = Mutex::new(Some(streams.take(ctx, id)?));
            let client = Client { stream, reference: reference.to_string() };
            Some(Secrets::Asked(Arc::new(client)))
        }
    };
    Ok(Access { secrets, plain, directory, headers })
}

/// What would be ignored otherwise.
fn refuse(resolver: &types::RegistryResolver) -> Result<()> {
    let refused = [
        ("http_debug", resolver.http_debug != 0),
        ("logs_stream", !resolver.logs_stream.is_empty()),
    ];
    match refused.into_iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(Error::unimplemented(format!(
            "{field} of a registry's resolver is not supported: not implemented"
        ))),
        None => Ok(()),
    }
}

#[async_trait]
impl Asking for Client {
    async fn ask(&self, host: &str, challenges: Vec<String>) -> Result<Credentials> {
        let request = types::AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            wwwauthenticate: challenges,
        };
        let mut place = self.stream.lock().await;
        let mut stream = place.take().ok_or_else(|| {
            Error::unavailable("the client left a question for credentials without an answer")
        })?;
        let answer = async {
            stream.send(any::pack(&request)).await?;
            stream
                .receive()
                .await
                .ok_or_else(|| Error::unavailable("the client closed the stream for credentials"))
        };
        let answer = tokio::time::timeout(ANSWER, answer)
            .await
            .map_err(|_| Error::new(Kind::DeadlineExceeded, "the client gives no credentials"))??;
        *place = Some(stream);
        let answer: types::AuthResponse = decode(&answer)?;
        match types::AuthType::try_from(answer.auth_type) {
            Ok(types::AuthType::None) => Ok(Credentials::Anonymous),
            Ok(types::AuthType::Credentials) => {
                Ok(Credentials::Basic(answer.username, answer.secret))
            }
            Ok(types::AuthType::Refresh) => Ok(Credentials::Identity(answer.secret)),
            Ok(types::AuthType::Header) => Ok(Credentials::Header(answer.secret)),
            Err(_) => Err(Error::invalid_argument(format!(
                "credentials of kind {}: invalid argument",
                answer.auth_type
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn an_answer_is_not_taken_for_that_to_another_question() {
        let (to, from) = mpsc::channel(4);
        let (answers, mut questions) = mpsc::channel(4);
        let stream = Mutex::new(Some(Stream { from, to: answers }));
        let client = Client { stream, reference: "r".into() };
        let answer = types::AuthResponse {
            auth_type: types::AuthType::Credentials.into(),
            username: "u".into(),
            secret: "s".into(),
            ..Default::default()
        };
        to.send(any::pack(&answer)).await.unwrap();
        let given = client.ask("a", Vec::new()).await.unwrap();
        assert_eq!(given, Credentials::Basic("u".into(), "s".into()));
        assert!(questions.recv().await.is_some());
        tokio::select! {
            _ = client.ask("a", Vec::new()) => panic!("nobody answers"),
            asked = questions.recv() => assert!(asked.is_some()),
        }
        // Too late, and nobody is there to take it.
        let _ = to.send(any::pack(&answer)).await;
        let err = client.ask("b", Vec::new()).await.unwrap_err();
        assert_eq!(err.kind(), Kind::Unavailable);
        assert!(questions.recv().await.is_none(), "and b is not asked for");
    }
}
