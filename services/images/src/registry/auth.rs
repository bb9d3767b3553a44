//! Getting a token from a registry, and showing it.

use std::sync::PoisonError;

use futures::StreamExt;
use gantry_core::{Error, Kind};
use oci_client::RegistryOperation;
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use reqwest::RequestBuilder;
use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{Failure, Session, collect, failure};
use crate::credentials::Credentials;

/// Longest answer of a token service in bytes.
const MAX_ANSWER: u64 = 1 << 20;

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: Option<String>,
    token: Option<String>,
}

impl Session {
    /// Makes sure that there was one exchange of credentials.
    pub(super) async fn authorized(&self) -> Result<(), Failure> {
        if self.bearer().is_some() { Ok(()) } else { self.authorize().await }
    }

    /// Asks the registry how it wants to be asked, and gets a token where
    /// that is how.
    pub(super) async fn authorize(&self) -> Result<(), Failure> {
        let reference = self.oci_reference();
        let auth = match &self.key.credentials {
            Credentials::Identity(identity) => {
                let token = self.exchange(identity).await?;
                let auth = RegistryAuth::Bearer(token.clone());
                self.oci.store_auth_if_needed(&self.key.host, &auth).await;
                let kept = RegistryTokenType::Bearer(RegistryToken::Token { token: token.clone() });
                self.oci.tokens.insert(&reference, RegistryOperation::Pull, kept).await;
                self.remember(token);
                return Ok(());
            }
            Credentials::Basic(user, password) => {
                RegistryAuth::Basic(user.clone(), password.clone())
            }
            Credentials::Anonymous => RegistryAuth::Anonymous,
        };
        let token = self.oci.auth(&reference, &auth, RegistryOperation::Pull).await;
        let token = token.map_err(|err| self.failure(err))?.unwrap_or_default();
        self.check_token(&token)?;
        self.remember(token);
        Ok(())
    }

    /// Shows who we are. Redirects to another host do not take it along.
    pub(super) fn with_authorization(&self, request: RequestBuilder) -> RequestBuilder {
        match (self.bearer(), &self.key.credentials) {
            (Some(token), _) if !token.is_empty() => request.bearer_auth(token),
            (_, Credentials::Basic(user, password)) => request.basic_auth(user, Some(password)),
            _ => request,
        }
    }

    /// The token; empty when none is asked for, `None` before that is known.
    fn bearer(&self) -> Option<String> {
        self.bearer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, token: String) {
        *self.bearer.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
    }

    fn check_token(&self, token: &str) -> Result<(), Failure> {
        match HeaderValue::from_str(token) {
            Ok(_) => Ok(()),
            Err(err) => Err(self.confused("a token that can't be used").with_source(err).into()),
        }
    }

    fn confused(&self, what: &str) -> Error {
        Error::internal(format!("registry {} answered with {what}", self.key.host))
    }

    /// Exchanges an identity token for an access token (OAuth 2 refresh).
    async fn exchange(&self, identity: &str) -> Result<String, Failure> {
        let host = &self.key.host;
        let url = format!("{}://{host}/v2/", self.scheme());
        let reply = self.http.get(url).send().await.map_err(|e| failure::of_request(host, e))?;
        let header = reply.headers().get(WWW_AUTHENTICATE).and_then(|h| h.to_str().ok());
        let Some((realm, service)) = header.and_then(bearer_challenge) else {
            return Err(self.denied(
                Kind::Unauthenticated,
                ": it does not take the identity token that is stored for it",
            ));
        };
        let scope = format!("repository:{}:pull", self.repository);
        let form = [
            ("grant_type", "refresh_token"),
            ("service", service.as_str()),
            ("client_id", "gantry"),
            ("scope", scope.as_str()),
            ("refresh_token", identity),
        ];
        let encoded: Vec<String> =
            form.iter().map(|(key, value)| format!("{key}={}", percent_encode(value))).collect();
        let reply = self
            .http
            .post(realm)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(encoded.join("&"))
            .send()
            .await
            .map_err(|err| failure::of_request(host, err))?;
        let status = reply.status();
        let stream = reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed();
        let body = collect(stream, MAX_ANSWER).await?;
        if !status.is_success() {
            return Err(self.refused(status, &body, None));
        }
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|err| self.confused("a malformed token").with_source(err))?;
        let token = answer.access_token.or(answer.token).unwrap_or_default();
        self.check_token(&token)?;
        Ok(token)
    }
}

/// Realm and service of a `Bearer` challenge (RFC 6750, section 3).
fn bearer_challenge(header: &str) -> Option<(String, String)> {
    let (scheme, parameters) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let value = |name: &str| {
        let start = parameters.find(&format!("{name}=\""))? + name.len() + 2;
        let rest = &parameters[start..];
        rest.find('"').map(|end| rest[..end].to_owned())
    };
    Some((value("realm")?, value("service").unwrap_or_default()))
}

fn percent_encode(text: &str) -> String {
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
        let parsed = bearer_challenge(r#"Bearer realm="https://a.b/token",service="s",scope="x""#);
        assert_eq!(parsed, Some(("https://a.b/token".into(), "s".into())));
        assert_eq!(bearer_challenge(r#"Basic realm="x""#), None);
        assert_eq!(bearer_challenge("Bearer"), None);
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(percent_encode("a b&c=ä~"), "a%20b%26c%3D%C3%A4~");
    }
}
