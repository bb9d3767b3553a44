//! Content to a registry.

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use gantry_core::content::BlobStream;
use gantry_core::{Descriptor, Digest, Error, Kind, Result};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::watch;

use super::{CONTENT_DIGEST, Failure, Retry, Session, auth, failure};

/// How long a registry may take to store what it was sent.
const STORING: Duration = Duration::from_secs(600);

/// Does something as often as makes sense.
macro_rules! patiently {
    ($session:expr, $ask:expr) => {{
        let mut attempt = 0;
        loop {
            match $ask.await {
                Ok(found) => break Ok(found),
                Err(failure) => $session.pause(failure, &mut attempt, Retry::Always).await?,
            }
        }
    }};
}

/// How a blob came to be in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It was there, or in another repository of the registry.
    There,
    /// It has to be sent here.
    Wanted(Url),
}

impl Session {
    /// Whether the repository has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        self.has(&format!("blobs/{digest}"), |_| true).await
    }

    /// Whether a tag or digest names this manifest or index already.
    pub(crate) async fn has_manifest(&self, target: &str, digest: &Digest) -> Result<bool> {
        // A digest means one thing; what a tag means, the reply has to say.
        let silent = target == digest.as_str();
        let same = |reply: &HeaderMap| names(reply).map_or(silent, |said| said == digest.as_str());
        self.has(&format!("manifests/{target}"), same).await
    }

    async fn has(&self, what: &str, is_it: impl Fn(&HeaderMap) -> bool) -> Result<bool> {
        let url = self.url(what);
        patiently!(self, self.is_at(&url, &is_it))
    }

    /// Whether another repository has a blob that we may see.
    pub(crate) async fn is_in(&self, repository: &str, digest: &Digest) -> bool {
        let url = self.url_in(repository, &format!("blobs/{digest}"));
        self.is_at(&url, |_| true).await.unwrap_or(false)
    }

    async fn is_at(&self, url: &str, is_it: impl Fn(&HeaderMap) -> bool) -> Result<bool, Failure> {
        let head = || self.request(Method::HEAD, url).header(ACCEPT, super::accepted());
        let reply = self.send(head).await?;
        match reply.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(is_it(reply.headers())),
            _ => Err(self.refusal(reply).await),
        }
    }

    /// Takes a blob over from another repository of the registry, where that is
    /// possible, or opens an upload.
    pub(crate) async fn place(
        &self,
        digest: &Digest,
        source: Option<&str>,
    ) -> Result<Placed, Failure> {
        let what = match source {
            None => "blobs/uploads/".to_owned(),
            Some(from) => {
                format!("blobs/uploads/?mount={digest}&from={}", auth::percent_encode(from))
            }
        };
        let url = self.url(&what);
        let post = || self.request(Method::POST, &url).header(CONTENT_LENGTH, 0);
        let reply = self.send(post).await?;
        match reply.status() {
            StatusCode::CREATED => Ok(Placed::There),
            StatusCode::ACCEPTED => self.location(&reply).map(Placed::Wanted),
            _ => Err(self.refusal(reply).await),
        }
    }

    /// Sends a blob to where [`Session::place`] said, in one piece.
    pub(crate) async fn upload(
        &self,
        mut to: Url,
        blob: &Descriptor,
        bytes: BlobStream,
    ) -> Result<(), Failure> {
        to.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        // Elsewhere nobody is to know who we are: the address says enough.
        let ours = Url::parse(&self.base()).is_ok_and(|own| own.origin() == to.origin());
        let (sent, _) = watch::channel(0);
        let count = sent.clone();
        let bytes = bytes.inspect_ok(move |piece| {
            count.send_modify(|sent| *sent += piece.len() as u64);
        });
        let request = self
            .uploads
            .put(to)
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, blob.size)
            .body(Body::wrap_stream(bytes.boxed()));
        let request = match ours {
            true => self.with_authorization(request).headers(self.host.headers.clone()),
            false => request,
        };
        let reply = self.send_watched(request, &sent, blob.size).await?;
        match reply.status() {
            status if status.is_success() => Ok(()),
            StatusCode::UNAUTHORIZED => {
                // A token that ran out while the layers before this one were sent.
                self.authorize(Some(reply.headers())).await?;
                let mut failure = self.refusal(reply).await;
                failure.retry = Retry::Always;
                Err(failure)
            }
            // An upload that the registry has forgotten is begun again.
            StatusCode::NOT_FOUND => {
                let mut failure = self.refusal(reply).await;
                failure.retry = Retry::Always;
                Err(failure)
            }
            _ => Err(self.refusal(reply).await),
        }
    }

    /// Sends a request of so many bytes, of which `sent` counts those that are taken,
    /// for as long as the registry takes more.
    async fn send_watched(
        &self,
        request: RequestBuilder,
        sent: &watch::Sender<u64>,
        size: u64,
    ) -> Result<Response, Failure> {
        let mut sent = sent.subscribe();
        let reply = request.send();
        tokio::pin!(reply);
        loop {
            let limit = match *sent.borrow_and_update() < size {
                true => self.config.read_timeout,
                false => STORING,
            };
            tokio::select! {
                reply = &mut reply => {
                    return reply.map_err(|err| failure::of_request(self.host(), err));
                }
                moved = tokio::time::timeout(limit, sent.changed()) => {
                    if moved.is_err() {
                        return Err(failure::stalled(self.host()));
                    }
                }
            }
        }
    }

    /// Stores a manifest or index under a tag or digest.
    pub(crate) async fn put_manifest(
        &self,
        target: &str,
        manifest: &Descriptor,
        bytes: Bytes,
    ) -> Result<()> {
        patiently!(self, self.try_put_manifest(target, manifest, bytes.clone()))
    }

    async fn try_put_manifest(
        &self,
        target: &str,
        manifest: &Descriptor,
        bytes: Bytes,
    ) -> Result<(), Failure> {
        let url = self.url(&format!("manifests/{target}"));
        let put = || {
            let request = self.request(Method::PUT, &url).body(bytes.clone());
            request.header(CONTENT_TYPE, &manifest.media_type)
        };
        let reply = self.send(put).await?;
        if !reply.status().is_success() {
            return Err(self.refusal(reply).await);
        }
        if names(reply.headers()).is_none_or(|said| said == manifest.digest.as_str()) {
            return Ok(());
        }
        let words = format!("registry {} stored other bytes than were sent", self.host());
        Err(Error::new(Kind::DataLoss, words).into())
    }

    /// Where an upload goes on; what is relative is so to the registry.
    fn location(&self, reply: &Response) -> Result<Url, Failure> {
        let text = reply.headers().get(LOCATION).and_then(|l| l.to_str().ok());
        let found = text.and_then(|text| reply.url().join(text).ok());
        found.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
            let words = format!("registry {} does not say where to upload to", self.host());
            Error::new(Kind::Internal, words).into()
        })
    }
}

/// The digest that a reply is about, if it says so.
fn names(headers: &HeaderMap) -> Option<&str> {
    headers.get(CONTENT_DIGEST).and_then(|v| v.to_str().ok())
}
