//! Connections to hosts, and who shares them.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::{Error, Result};
use oci_client::client::{ClientConfig, ClientProtocol};

use super::{Secrets, Session, USER_AGENT};
use crate::config::Config;
use crate::credentials::Credentials;
use crate::hosts::{self, Host, Transport};

/// Registries whose connections are kept.
const MAX_CLIENTS: usize = 16;

/// Clients for registries, kept because connections and trusted roots are
/// expensive to set up.
pub(crate) struct Registries {
    config: Arc<Config>,
    http: reqwest::Client,
    clients: Arc<Clients>,
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

/// The clients of `oci_client`.
pub(super) struct Clients {
    config: Arc<Config>,
    /// Guards the list alone; newest last.
    listed: Mutex<Vec<(OciKey, oci_client::Client)>>,
}

/// What may share an `oci_client`: it knows one set of credentials a host.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct OciKey {
    pub(super) host: String,
    pub(super) plain: bool,
    pub(super) credentials: Credentials,
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
        let clients = Clients { config: Arc::clone(&config), listed: Mutex::default() };
        Ok(Self { config, http, clients: Arc::new(clients) })
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
            clients: Arc::clone(&self.clients),
            config: Arc::clone(&self.config),
            repository: purpose.repository.to_owned(),
            pushing: purpose.pushing,
            sources: purpose.sources.to_vec(),
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

impl Clients {
    /// The client for a host as somebody.
    pub(super) fn get(&self, key: &OciKey) -> Result<oci_client::Client> {
        let mut clients = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(k, _)| k == key) {
            return Ok(client.clone());
        }
        let config = ClientConfig {
            protocol: if key.plain { ClientProtocol::Http } else { ClientProtocol::Https },
            platform_resolver: None,
            read_timeout: Some(self.config.read_timeout),
            connect_timeout: Some(self.config.connect_timeout),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = oci_client::Client::try_from(config)
            .map_err(|err| Error::internal("set up the registry client").with_source(err))?;
        if clients.len() >= MAX_CLIENTS {
            clients.remove(0);
        }
        clients.push((key.clone(), client.clone()));
        Ok(client)
    }
}

fn builder(config: &Config, of: Use) -> reqwest::ClientBuilder {
    let client =
        reqwest::Client::builder().connect_timeout(config.connect_timeout).user_agent(USER_AGENT);
    match of {
        Use::Asking => client.read_timeout(config.read_timeout),
        Use::Sending => client,
    }
}

fn unusable(err: reqwest::Error) -> Error {
    Error::internal("set up the HTTP client").with_source(err)
}

async fn pem(path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|err| hosts::broken(path, &err))
}
