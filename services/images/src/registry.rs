//! The registry's side of a pull: who we are, what a name points at, and
//! bytes (OCI distribution spec).
//!
//! The protocol is `oci_client`'s: authentication with its tokens, and blobs
//! from an offset. Manifests are asked for here with the same token, because
//! their length has to be bounded and `Retry-After` has to be seen.

mod auth;
mod failure;

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use gantry_core::{Descriptor, Digest, Error, Kind, Labels, Result, media_type};
use oci_client::client::{BlobResponse, ClientConfig, ClientProtocol, LayerDescriptor};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};

pub(crate) use failure::{Failure, Retry, of_stream};

use crate::config::Config;
use crate::credentials::Credentials;
use crate::document;
use crate::reference::Reference;

/// How we call ourselves.
const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));
const CONTENT_DIGEST: &str = "docker-content-digest";
/// Registries whose connections are kept.
const MAX_CLIENTS: usize = 16;

/// Clients for registries, kept because connections and trusted roots are
/// expensive to set up.
pub(crate) struct Registries {
    config: Arc<Config>,
    http: reqwest::Client,
    /// Guards the list alone; newest last.
    clients: Mutex<Vec<(ClientKey, oci_client::Client)>>,
}

/// What may share an `oci_client`: it knows one set of credentials a host.
#[derive(Clone, PartialEq, Eq)]
struct ClientKey {
    host: String,
    plain: bool,
    credentials: Credentials,
}

/// One repository of one registry, as somebody.
pub(crate) struct Session {
    oci: oci_client::Client,
    http: reqwest::Client,
    config: Arc<Config>,
    key: ClientKey,
    repository: String,
    /// What goes into the header `Authorization`, once known. Held for a copy.
    bearer: Mutex<Option<String>>,
}

/// What a name points at.
pub(crate) struct Resolved {
    /// The manifest or index.
    pub(crate) target: Descriptor,
    /// Its bytes, if they had to be fetched to know.
    pub(crate) bytes: Option<Bytes>,
}

/// Bytes of a blob.
pub(crate) struct BlobBody {
    /// The offset of the first byte.
    pub(crate) from: u64,
    /// The bytes.
    pub(crate) stream: BoxStream<'static, Result<Bytes, std::io::Error>>,
}

impl Registries {
    pub(crate) fn new(config: Arc<Config>) -> Result<Self> {
        // Fails when the process has a provider already, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(config.connect_timeout)
            .read_timeout(config.read_timeout)
            .user_agent(USER_AGENT)
            .build()
            .map_err(|err| Error::internal("set up the HTTP client").with_source(err))?;
        Ok(Self { config, http, clients: Mutex::default() })
    }

    /// Speaks to the registry of `reference`.
    pub(crate) fn session(
        &self,
        reference: &Reference,
        plain: bool,
        credentials: Credentials,
    ) -> Result<Session> {
        let host = reference.api_host().to_owned();
        let plain = plain || self.config.is_plain(&host);
        let key = ClientKey { host, plain, credentials };
        Ok(Session {
            oci: self.client(&key)?,
            http: self.http.clone(),
            config: Arc::clone(&self.config),
            key,
            repository: reference.path().to_owned(),
            bearer: Mutex::default(),
        })
    }

    fn client(&self, key: &ClientKey) -> Result<oci_client::Client> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
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

impl Session {
    /// What `target` (a tag or digest) points at now.
    pub(crate) async fn resolve(&self, target: &str) -> Result<Resolved> {
        match self.manifest_reply(Method::HEAD, target).await {
            Ok(reply) => {
                if let Some(target) = reply.descriptor() {
                    return Ok(Resolved { target, bytes: None });
                }
            }
            Err(err) if matches!(err.kind(), Kind::NotFound | Kind::Unavailable) => {
                return Err(err);
            }
            Err(_) => {}
        }
        // A registry that tells digest, type and length with the bytes only,
        // or one that refuses: why is said in a body, which this has.
        let reply = self.manifest_reply(Method::GET, target).await?;
        let bytes = reply.body;
        let kind = document::sniff(&reply.content_type, &bytes)?;
        let target = descriptor(kind, Digest::of(&bytes), bytes.len() as u64);
        Ok(Resolved { target, bytes: Some(bytes) })
    }

    /// The bytes of a manifest or index. Not checked.
    pub(crate) async fn manifest(&self, digest: &Digest) -> Result<Bytes> {
        Ok(self.manifest_reply(Method::GET, digest.as_str()).await?.body)
    }

    /// The bytes of a small blob. Not checked.
    pub(crate) async fn small_blob(&self, blob: &Descriptor) -> Result<Bytes> {
        self.check_length(blob.size)?;
        let mut attempt = 0;
        loop {
            let tried = match self.blob(blob, 0).await {
                Ok(body) => collect(body.stream, blob.size).await,
                Err(failure) => Err(failure),
            };
            match tried {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => self.pause(failure, &mut attempt, Retry::Always).await?,
            }
        }
    }

    /// The bytes of a blob, from `offset` if the registry can do that and
    /// from the beginning if it can't.
    pub(crate) async fn blob(&self, blob: &Descriptor, offset: u64) -> Result<BlobBody, Failure> {
        self.authorized().await?;
        let foreign = blob.media_type.contains("foreign") || blob.media_type.contains("nondistrib");
        let urls = (foreign && !blob.urls.is_empty()).then(|| blob.urls.clone());
        let layer = LayerDescriptor { digest: blob.digest.as_str(), urls: &urls };
        let mut reply =
            self.oci.pull_blob_stream_partial(&self.oci_reference(), &layer, offset, None).await;
        if reply.as_ref().is_err_and(failure::is_unauthorized) {
            self.authorize().await?;
            reply = self
                .oci
                .pull_blob_stream_partial(&self.oci_reference(), &layer, offset, None)
                .await;
        }
        match reply {
            Ok(BlobResponse::Partial(body)) => Ok(BlobBody { from: offset, stream: body.stream }),
            Ok(BlobResponse::Full(body)) => Ok(BlobBody { from: 0, stream: body.stream }),
            Err(err) => Err(self.failure(err)),
        }
    }

    /// Waits before the next attempt, or gives the failure back when there
    /// should be none.
    pub(crate) async fn pause(
        &self,
        failure: Failure,
        attempt: &mut u32,
        patience: Retry,
    ) -> Result<()> {
        *attempt += 1;
        if failure.retry < patience || *attempt >= self.config.attempts {
            return Err(failure.error);
        }
        let pause = self.config.pause(*attempt);
        let pause = failure.after.map_or(pause, |asked| asked.min(crate::config::MAX_PAUSE));
        tracing::debug!(error = %failure.error, ?pause, "trying again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        &self.key.host
    }

    fn scheme(&self) -> &'static str {
        if self.key.plain { "http" } else { "https" }
    }

    fn oci_reference(&self) -> oci_client::Reference {
        let (host, repository) = (self.key.host.clone(), self.repository.clone());
        oci_client::Reference::with_tag(host, repository, String::new())
    }

    fn check_length(&self, size: u64) -> Result<()> {
        if size <= self.config.max_document {
            return Ok(());
        }
        Err(Error::resource_exhausted(format!(
            "a document of {size} bytes is longer than the {} that are accepted",
            self.config.max_document
        )))
    }

    async fn manifest_reply(&self, method: Method, target: &str) -> Result<ManifestReply> {
        let mut attempt = 0;
        loop {
            match self.try_manifest(&method, target).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => self.pause(failure, &mut attempt, Retry::Always).await?,
            }
        }
    }

    async fn try_manifest(&self, method: &Method, target: &str) -> Result<ManifestReply, Failure> {
        self.authorized().await?;
        let (host, repository) = (&self.key.host, &self.repository);
        let url = format!("{}://{host}/v2/{repository}/manifests/{target}", self.scheme());
        let mut again = true;
        let reply = loop {
            let request = self.http.request(method.clone(), &url).header(ACCEPT, accepted());
            let reply = self.with_authorization(request).send().await;
            let reply = reply.map_err(|err| failure::of_request(host, err))?;
            if reply.status() != StatusCode::UNAUTHORIZED || !again {
                break reply;
            }
            again = false;
            self.authorize().await?;
        };
        let (status, headers) = (reply.status(), reply.headers().clone());
        if !status.is_success() {
            let after = failure::retry_after(&headers);
            let detail = collect_start(reply.bytes_stream().boxed()).await;
            return Err(self.refused(status, &detail, after));
        }
        if let Some(announced) = reply.content_length() {
            self.check_length(announced)?;
        }
        let stream = reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed();
        let body = collect(stream, self.config.max_document).await?;
        Ok(ManifestReply::new(&headers, body))
    }
}

struct ManifestReply {
    content_type: String,
    digest: Option<Digest>,
    length: Option<u64>,
    body: Bytes,
}

impl ManifestReply {
    fn new(headers: &HeaderMap, body: Bytes) -> Self {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        Self {
            content_type: text(CONTENT_TYPE.as_str()).unwrap_or("").to_owned(),
            digest: text(CONTENT_DIGEST).and_then(|d| Digest::parse(d).ok()),
            length: text(CONTENT_LENGTH.as_str()).and_then(|l| l.parse().ok()),
            body,
        }
    }

    /// What the headers say, if they say it all.
    fn descriptor(&self) -> Option<Descriptor> {
        let kind = self.content_type.split(';').next().unwrap_or("").trim();
        let known = media_type::is_manifest(kind) || media_type::is_index(kind);
        let length = self.length.filter(|length| *length > 0)?;
        known.then_some(descriptor(kind.to_owned(), self.digest.clone()?, length))
    }
}

fn descriptor(media_type: String, digest: Digest, size: u64) -> Descriptor {
    let annotations = Labels::new();
    Descriptor { media_type, digest, size, annotations, platform: None, urls: Vec::new() }
}

fn accepted() -> String {
    let all = [
        media_type::OCI_INDEX,
        media_type::DOCKER_LIST,
        media_type::OCI_MANIFEST,
        media_type::DOCKER_MANIFEST,
        "*/*",
    ];
    all.join(", ")
}

/// All bytes of a stream that must not be longer than `limit`.
async fn collect(
    mut stream: BoxStream<'static, Result<Bytes, std::io::Error>>,
    limit: u64,
) -> Result<Bytes, Failure> {
    let mut all = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(failure::of_stream)?;
        if (all.len() + piece.len()) as u64 > limit {
            let words = format!("the registry sends more than the {limit} bytes that are accepted");
            return Err(Error::new(Kind::ResourceExhausted, words).into());
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The beginning of a reply that says what went wrong.
async fn collect_start(mut stream: BoxStream<'static, reqwest::Result<Bytes>>) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        all.extend_from_slice(&piece);
        if all.len() > 16 << 10 {
            break;
        }
    }
    all
}
