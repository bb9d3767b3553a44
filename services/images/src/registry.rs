//! The registry's side of a transfer: who we are, what a name points at, and
//! bytes (OCI distribution spec).
//!
//! Requests are made here, and the client of `oci_client` is not used for them: what a
//! registry says has to be bounded, errors as well as documents, `Retry-After` has to be
//! seen, tokens are those of one transfer, and mirrors may want headers, certificates and
//! paths of their own. From that crate comes the form of errors.

mod auth;
mod blobs;
mod client;
mod failure;
mod upload;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use gantry_core::{Descriptor, Digest, Error, Kind, Labels, Result, media_type};
use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION, RANGE,
};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode};

use auth::Authorization;
pub(crate) use auth::{Asking, Secrets};
pub(crate) use client::{Purpose, Registries};
pub(crate) use failure::{Failure, Retry, of_stream};
pub(crate) use upload::Placed;

use crate::config::Config;
use crate::credentials::Credentials;
use crate::document;
use crate::hosts::{Host, Operation};

/// How we call ourselves.
const USER_AGENT: &str = concat!("gantry/", env!("CARGO_PKG_VERSION"));
const CONTENT_DIGEST: &str = "docker-content-digest";
/// Most redirects of one request, within a host and from host to host.
const MAX_REDIRECTS: usize = 10;
/// What a request keeps when it is redirected to another host. All else is for the
/// host that was meant: who we are, and the headers that are configured for it.
const KEPT: [HeaderName; 3] = [ACCEPT, CONTENT_TYPE, RANGE];

/// One repository at one host, as somebody.
pub(crate) struct Session {
    host: Host,
    http: reqwest::Client,
    /// For bodies of any length.
    uploads: reqwest::Client,
    config: Arc<Config>,
    repository: String,
    /// Whether the rights to store are asked for.
    pushing: bool,
    /// Repositories that blobs may be taken over from.
    sources: Vec<String>,
    /// Whether no token was to be had that allows it.
    alone: AtomicBool,
    secrets: Secrets,
    /// Who we are, once that is known. Held for a copy.
    authorization: Mutex<Option<Authorization>>,
    /// What the client answered when it was asked. Held while it is.
    answer: tokio::sync::Mutex<Option<Credentials>>,
    /// Scopes that the registry asked for. Held for a copy.
    scopes: Mutex<Vec<String>>,
}

/// What a name points at.
pub(crate) struct Resolved {
    /// The manifest or index.
    pub(crate) target: Descriptor,
    /// Its bytes, if they had to be fetched to know.
    pub(crate) bytes: Option<Bytes>,
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

    /// Whether its host may be used for this.
    pub(crate) fn can(&self, operation: Operation) -> bool {
        self.host.can(operation)
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        &self.host.authority
    }

    /// Where the API is.
    fn base(&self) -> String {
        let scheme = if self.host.plain { "http" } else { "https" };
        format!("{scheme}://{}{}", self.host.authority, self.host.path)
    }

    /// The address of something in the repository.
    fn url(&self, what: &str) -> String {
        self.url_in(&self.repository, what)
    }

    /// The same, in a repository of the same host.
    fn url_in(&self, repository: &str, what: &str) -> String {
        let mut url = format!("{}/{repository}/{what}", self.base());
        if let Some(registry) = &self.host.mirror_of {
            url += if url.contains('?') { "&ns=" } else { "?ns=" };
            url += &auth::percent_encode(registry);
        }
        url
    }

    /// A request with what the host's configuration adds to it.
    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        self.http.request(method, url).headers(self.host.headers.clone())
    }

    /// Sends a request as whom we are, and once more when that was not enough.
    async fn send(&self, make: impl Fn() -> RequestBuilder) -> Result<Response, Failure> {
        self.authorized().await?;
        let mut again = true;
        loop {
            let reply = self.follow(self.with_authorization(make())).await?;
            if reply.status() != StatusCode::UNAUTHORIZED || !again {
                return Ok(reply);
            }
            again = false;
            self.authorize(Some(reply.headers())).await?;
        }
    }

    /// Sends a request, also to where other hosts are named by redirects.
    async fn follow(&self, request: RequestBuilder) -> Result<Response, Failure> {
        let failed = |err| failure::of_request(self.host(), err);
        let (client, request) = request.build_split();
        let mut request = request.map_err(failed)?;
        for _ in 0..=MAX_REDIRECTS {
            let copy = request.try_clone();
            let reply = client.execute(request).await.map_err(failed)?;
            match copy.and_then(|copy| redirected(copy, &reply)) {
                Some(next) => request = next,
                None => return Ok(reply),
            }
        }
        Err(failure::redirected(self.host()))
    }

    /// A reply that says no.
    async fn refusal(&self, reply: Response) -> Failure {
        let (status, after) = (reply.status(), failure::retry_after(reply.headers()));
        let detail = collect_start(reply.bytes_stream().boxed()).await;
        self.refused(status, &detail, after)
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
        let url = self.url(&format!("manifests/{target}"));
        let reply =
            self.send(|| self.request(method.clone(), &url).header(ACCEPT, accepted())).await?;
        if !reply.status().is_success() {
            return Err(self.refusal(reply).await);
        }
        let headers = reply.headers().clone();
        if let Some(announced) = reply.content_length() {
            self.check_length(announced)?;
        }
        let stream = reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed();
        let body = collect(stream, self.config.max_document).await?;
        Ok(ManifestReply::new(&headers, body))
    }
}

/// The request that a redirect to another host asks for.
fn redirected(mut asked: Request, reply: &Response) -> Option<Request> {
    let location = reply.headers().get(LOCATION)?.to_str().ok()?;
    let to = reply.url().join(location).ok()?;
    let same = match reply.status() {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *asked.method() != Method::POST,
        StatusCode::SEE_OTHER => *asked.method() == Method::HEAD,
        _ => return None,
    };
    let method = if same { asked.method().clone() } else { Method::GET };
    let mut next = Request::new(method, to);
    for name in KEPT {
        if let Some(value) = asked.headers_mut().remove(&name) {
            next.headers_mut().insert(name, value);
        }
    }
    if same {
        *next.body_mut() = asked.body_mut().take();
    }
    Some(next)
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
