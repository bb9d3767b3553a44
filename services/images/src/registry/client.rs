//! Connections to hosts, and who shares them.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use gantry_core::{Error, Result};
use reqwest::{Url, redirect};

use super::{MAX_REDIRECTS, Secrets, Session, USER_AGENT};
use crate::config::Config;
use crate::hosts::{self, Host, Transport};

/// Clients for registries, kept because connections and trusted roots are
/// expensive to set up.
pub(crate) struct Registries {
    config: Arc<Config>,
    http: reqwest::Client,
}

/// What a client is for.
#[derive(Clone, Copy)]
enum Use {
    /// Requests that are answered at once.
    Asking,
    /// Requests whose bodies take as long as they are: nothing here limits the wait
    /// for a reply.
    Sending,
}

/// What a session is for.
pub(crate) struct Purpose<'a> {
    /// The repository.
    pub(crate) repository: &'a str,
    /// Whether it is to store something.
    pub(crate) pushing: bool,
    /// Repositories that blobs may be taken over from.
    pub(crate) sources: &'a [String],
}

impl Registries {
    pub(crate) fn new(config: Arc<Config>) -> Result<Self> {
        // Fails when the process has a provider already, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = builder(&config, Use::Asking).build().map_err(unusable)?;
        Ok(Self { config, http })
    }

    /// Speaks to a host.
    ///
    /// # Errors
    /// `FailedPrecondition`, naming the certificate that can't be used.
    pub(crate) async fn session(
        &self,
        host: Host,
        purpose: &Purpose<'_>,
        secrets: Secrets,
    ) -> Result<Session> {
        let http = match host.transport == Transport::default() {
            true => self.http.clone(),
            false => self.client(&host.transport, Use::Asking).await?,
        };
        let uploads = match purpose.pushing {
            true => self.client(&host.transport, Use::Sending).await?,
            false => http.clone(),
        };
        Ok(Session {
            host,
            http,
            uploads,
            config: Arc::clone(&self.config),
            repository: purpose.repository.to_owned(),
            pushing: purpose.pushing,
            sources: purpose.sources.to_vec(),
            alone: AtomicBool::new(false),
            secrets,
            authorization: Mutex::default(),
            answer: tokio::sync::Mutex::default(),
            scopes: Mutex::default(),
        })
    }

    /// A client whose connections are made so.
    async fn client(&self, transport: &Transport, of: Use) -> Result<reqwest::Client> {
        let mut client =
            builder(&self.config, of).tls_danger_accept_invalid_certs(transport.skip_verify);
        for path in &transport.authorities {
            let found = reqwest::Certificate::from_pem_bundle(&pem(path).await?);
            let found = found.map_err(|err| hosts::broken(path, &err))?;
            if found.is_empty() {
                return Err(hosts::broken(path, &"it holds no certificate"));
            }
            client = client.tls_certs_merge(found);
        }
        if let Some((certificate, key)) = &transport.identity {
            let mut both = pem(certificate).await?;
            if let Some(key) = key {
                both.push(b'\n');
                both.extend(pem(key).await?);
            }
            let identity = reqwest::Identity::from_pem(&both);
            client = client.identity(identity.map_err(|err| hosts::broken(certificate, &err))?);
        }
        if let Some(limit) = transport.connect_timeout {
            client = client.connect_timeout(limit);
        }
        if let Some(proxy) = &transport.proxy {
            let parsed = reqwest::Proxy::all(proxy);
            client = client.proxy(parsed.map_err(|err| {
                Error::failed_precondition(format!("proxy {proxy:?} of a registry"))
                    .with_source(err)
            })?);
        }
        client.build().map_err(unusable)
    }
}

fn builder(config: &Config, of: Use) -> reqwest::ClientBuilder {
    let client = reqwest::Client::builder()
        .connect_timeout(config.connect_timeout)
        .user_agent(USER_AGENT)
        .redirect(redirect::Policy::custom(within_a_host));
    match of {
        Use::Asking => client.read_timeout(config.read_timeout),
        Use::Sending => client,
    }
}

/// Follows a redirect that stays where it is; one to elsewhere is for
/// [`Session::follow`], because it must not take along what is for this host alone.
fn within_a_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let stays = |from: &Url| from.origin() == attempt.url().origin();
    match attempt.previous().first() {
        Some(from) if !stays(from) => attempt.stop(),
        _ if attempt.previous().len() > MAX_REDIRECTS => attempt.error("too many redirects"),
        _ => attempt.follow(),
    }
}

fn unusable(err: reqwest::Error) -> Error {
    Error::internal("set up the HTTP client").with_source(err)
}

async fn pem(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|err| hosts::broken(path, &err))
}
