//! Showing a registry who we are, and getting a token where it wants one.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use gantry_core::{Error, Kind};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::Deserialize;

use super::{Failure, Session, collect, failure};
use crate::credentials::{self, Credentials};

/// Longest answer of a token service in bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Most scopes that a registry may ask for in one session.
const MAX_SCOPES: usize = 32;

/// Gives credentials when a registry asks for them.
#[async_trait]
pub(crate) trait Asking: Send + Sync {
    /// Who we are to `host`, which asks in these words.
    ///
    /// # Errors
    /// Its own.
    async fn ask(&self, host: &str, challenges: Vec<String>) -> gantry_core::Result<Credentials>;
}

/// Where credentials come from.
#[derive(Clone)]
pub(crate) enum Secrets {
    /// From the request.
    Given(Credentials),
    /// From Docker's configuration in this directory, under this name.
    Docker { directory: PathBuf, name: String, helper_timeout: Duration },
    /// From the client, when a registry wants them.
    Asked(Arc<dyn Asking>),
}

/// How we show who we are.
#[derive(Clone)]
pub(super) enum Authorization {
    /// Not at all.
    Nobody,
    /// By name and password.
    Basic(String, String),
    /// By a token.
    Bearer(String),
    /// By this value of the header.
    Header(String),
}

/// What a `Bearer` challenge says (RFC 6750, section 3).
#[derive(Debug, PartialEq, Eq)]
struct Challenge {
    realm: String,
    service: String,
    scopes: Vec<String>,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    token: Option<String>,
}

impl Session {
    /// Makes sure that there was one exchange of credentials.
    pub(super) async fn authorized(&self) -> Result<(), Failure> {
        if self.authorization().is_some() { Ok(()) } else { self.authorize(None).await }
    }

    /// Finds out how the registry wants to be asked, if it has not said so in
    /// `asked`, and gets a token where that is how.
    pub(super) async fn authorize(&self, asked: Option<&HeaderMap>) -> Result<(), Failure> {
        let mut challenges = asked.map(challenges).unwrap_or_default();
        if challenges.is_empty() {
            let url = format!("{}/", self.base());
            let reply = self.follow(self.request(Method::GET, &url)).await?;
            challenges = self::challenges(reply.headers());
        }
        if challenges.is_empty() {
            self.remember(Authorization::Nobody);
            return Ok(());
        }
        let credentials = self.credentials(&challenges).await?;
        let bearer = challenges.iter().find_map(|challenge| bearer_challenge(challenge));
        let authorization = match (bearer, credentials) {
            (_, Credentials::Header(value)) => Authorization::Header(value),
            (Some(challenge), credentials) => {
                Authorization::Bearer(self.token(challenge, &credentials).await?)
            }
            (None, Credentials::Basic(user, password)) => Authorization::Basic(user, password),
            (None, Credentials::Anonymous) => Authorization::Nobody,
            (None, Credentials::Identity(_)) => {
                let words = ": it does not take the identity token that is stored for it";
                return Err(self.denied(Kind::Unauthenticated, words));
            }
        };
        self.check(&authorization)?;
        self.remember(authorization);
        Ok(())
    }

    /// Shows who we are. Redirects to another host do not take it along.
    pub(super) fn with_authorization(&self, request: RequestBuilder) -> RequestBuilder {
        match self.authorization() {
            None | Some(Authorization::Nobody) => request,
            Some(Authorization::Basic(user, password)) => request.basic_auth(user, Some(password)),
            Some(Authorization::Bearer(token)) if token.is_empty() => request,
            Some(Authorization::Bearer(token)) => request.bearer_auth(token),
            Some(Authorization::Header(value)) => request.header(AUTHORIZATION, value),
        }
    }

    /// Who we are, if that is known.
    pub(super) fn authorization(&self) -> Option<Authorization> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, found: Authorization) {
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
    }

    async fn credentials(&self, challenges: &[String]) -> Result<Credentials, Failure> {
        Ok(match &self.secrets {
            Secrets::Given(credentials) => credentials.clone(),
            Secrets::Docker { directory, name, helper_timeout } => {
                credentials::lookup(directory, name, *helper_timeout).await?
            }
            // One answer serves for all that the registry asks later, or several at once.
            Secrets::Asked(client) => {
                let mut answer = self.answer.lock().await;
                if answer.is_none() {
                    *answer = Some(client.ask(self.host(), challenges.to_vec()).await?);
                }
                answer.clone().unwrap_or(Credentials::Anonymous)
            }
        })
    }

    fn check(&self, authorization: &Authorization) -> Result<(), Failure> {
        let value = match authorization {
            Authorization::Bearer(value) | Authorization::Header(value) => value,
            Authorization::Nobody | Authorization::Basic(..) => return Ok(()),
        };
        match HeaderValue::from_str(value) {
            Ok(_) => Ok(()),
            Err(err) => Err(self.confused("a token that can't be used").with_source(err).into()),
        }
    }

    fn confused(&self, what: &str) -> Error {
        Error::internal(format!("registry {} answered with {what}", self.host()))
    }

    /// What the token is to allow: what we need, and what the registry asked for now
    /// and before, which may know the repository by another name.
    fn scopes(&self, asked: Vec<String>) -> Vec<String> {
        let rights = if self.pushing { "pull,push" } else { "pull" };
        let own = format!("repository:{}:{rights}", self.repository);
        let sources = if self.may_mount() { self.sources.as_slice() } else { &[] };
        let others = sources.iter().map(|source| format!("repository:{source}:pull"));
        let mut all: Vec<String> = std::iter::once(own).chain(others).collect();
        let mut known = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(asked);
        known.sort_unstable();
        known.dedup();
        known.truncate(MAX_SCOPES);
        all.extend(known.iter().cloned());
        let mut seen = HashSet::new();
        all.retain(|scope| seen.insert(scope.clone()));
        if !self.may_mount() {
            // The registry may have asked for them when we did.
            let of = |scope: &str, source| scope.starts_with(&format!("repository:{source}:"));
            all.retain(|scope| !self.sources.iter().any(|source| of(scope, source)));
        }
        all
    }

    /// Whether blobs may be taken over from other repositories.
    pub(crate) fn may_mount(&self) -> bool {
        !self.sources.is_empty() && !self.alone.load(Ordering::Relaxed)
    }

    /// Gets a token: for an identity token by exchange (OAuth 2 refresh), else
    /// by name and password or as nobody.
    async fn token(
        &self,
        challenge: Challenge,
        credentials: &Credentials,
    ) -> Result<String, Failure> {
        let mounting = self.may_mount();
        match self.try_token(&challenge, credentials).await {
            Err(refused) if mounting && refused.error.kind() == Kind::Unauthenticated => {}
            other => return other,
        }
        // Some refuse all when one of the repositories is not for us, and none of those
        // that blobs may be taken over from is needed.
        self.alone.store(true, Ordering::Relaxed);
        self.try_token(&challenge, credentials).await
    }

    async fn try_token(
        &self,
        challenge: &Challenge,
        credentials: &Credentials,
    ) -> Result<String, Failure> {
        let Challenge { realm, service, scopes } = challenge;
        let scopes = self.scopes(scopes.clone());
        let request = match credentials {
            Credentials::Identity(identity) => {
                let scope = scopes.join(" ");
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", "gantry"),
                    ("scope", &scope),
                    ("refresh_token", identity),
                ];
                let kind = "application/x-www-form-urlencoded";
                self.http.post(realm).header("content-type", kind).body(encode(&form))
            }
            _ => {
                let named = (!service.is_empty()).then_some(("service", service.as_str()));
                let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
                let query: Vec<_> = named.into_iter().chain(scopes).collect();
                let mark = if realm.contains('?') { '&' } else { '?' };
                self.http.get(format!("{realm}{mark}{}", encode(&query)))
            }
        };
        let request = match credentials {
            Credentials::Basic(user, password) => request.basic_auth(user, Some(password)),
            _ => request,
        };
        // Headers of the host are for the host: a token service may be somebody else's.
        let reply = self.follow(request).await?;
        let status = reply.status();
        let stream = reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed();
        let body = collect(stream, MAX_ANSWER).await?;
        if !status.is_success() {
            return Err(
                match status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
                    true => self.denied(Kind::Unauthenticated, &failure::detail(&body)),
                    false => self.refused(status, &body, None),
                },
            );
        }
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|err| self.confused("a malformed token").with_source(err))?;
        Ok(answer.access_token.or(answer.token).unwrap_or_default())
    }
}

fn challenges(headers: &HeaderMap) -> Vec<String> {
    let all = headers.get_all(WWW_AUTHENTICATE).iter();
    all.filter_map(|value| value.to_str().ok()).map(str::to_owned).collect()
}

fn bearer_challenge(header: &str) -> Option<Challenge> {
    let (scheme, parameters) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        let start = parameters.find(&format!("{name}=\""))? + name.len() + 2;
        let rest = &parameters[start..];
        rest.find('"').map(|end| rest[..end].to_owned())
    };
    let scopes = value("scope").unwrap_or_default();
    Some(Challenge {
        realm: value("realm")?,
        service: value("service").unwrap_or_default(),
        scopes: scopes.split_whitespace().map(str::to_owned).collect(),
    })
}

fn encode(form: &[(&str, &str)]) -> String {
    let encoded: Vec<String> =
        form.iter().map(|(key, value)| format!("{key}={}", percent_encode(value))).collect();
    encoded.join("&")
}

/// A text as it may stand in a URL's query.
pub(super) fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, b| {
        match b {
            b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            b if b.is_ascii_alphanumeric() => out.push(char::from(b)),
            b => out.push_str(&format!("%{b:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let text = r#"Bearer realm="https://a.b/token",service="s",scope="x y"#;
        let whole = Challenge {
            realm: "https://a.b/token".into(),
            service: "s".into(),
            scopes: vec!["x".into(), "y".into()],
        };
        assert_eq!(bearer_challenge(&format!("{text}\"")), Some(whole));
        let bare = bearer_challenge(r#"bearer realm="r""#).unwrap();
        assert!(bare.service.is_empty() && bare.scopes.is_empty());
        assert_eq!(bearer_challenge(r#"Basic realm="x""#), None);
        assert_eq!(bearer_challenge("Bearer"), None);
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(percent_encode("a b&c=ä~"), "a%20b%26c%3D%C3%A4~");
        assert_eq!(encode(&[("a", "b c"), ("d", "")]), "a=b%20c&d=");
    }
}
