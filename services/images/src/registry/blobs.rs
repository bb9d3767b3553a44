//! Blobs from a registry.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gantry_core::{Descriptor, Error, Result};
use oci_client::RegistryOperation;
use oci_client::client::{BlobResponse, LayerDescriptor};
use oci_client::secrets::RegistryAuth;
use oci_client::token_cache::{RegistryToken, RegistryTokenType};
use reqwest::header::RANGE;
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Authorization;
use super::{Failure, OciKey, Retry, Session, collect, failure};
use crate::credentials::Credentials;
use crate::document::is_foreign;

/// Bytes of a blob.
pub(crate) struct BlobBody {
    /// The offset of the first byte.
    pub(crate) from: u64,
    /// The bytes.
    pub(crate) stream: BoxStream<'static, Result<Bytes, std::io::Error>>,
}

impl Session {
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
        match self.library_client().await? {
            Some(client) => self.blob_by_library(client, blob, offset).await,
            None => self.blob_by_request(blob, offset).await,
        }
    }

    /// The client that serves ordinary hosts.
    async fn library_client(&self) -> Result<Option<oci_client::Client>> {
        if !self.host.is_ordinary() {
            return Ok(None);
        }
        let Some(authorization) = self.authorization() else { return Ok(None) };
        let (credentials, auth) = match &authorization {
            Authorization::Header(_) => return Ok(None),
            Authorization::Nobody => (Credentials::Anonymous, None),
            Authorization::Basic(user, password) => {
                let auth = RegistryAuth::Basic(user.clone(), password.clone());
                let token = RegistryTokenType::Basic(user.clone(), password.clone());
                (Credentials::Basic(user.clone(), password.clone()), Some((auth, token)))
            }
            Authorization::Bearer(token, credentials) => {
                let auth = RegistryAuth::Bearer(token.clone());
                let kept = RegistryToken::Token { token: token.clone() };
                (credentials.clone(), Some((auth, RegistryTokenType::Bearer(kept))))
            }
        };
        let (host, plain) = (self.host.authority.clone(), self.host.plain);
        let client = self.clients.get(&OciKey { host, plain, credentials })?;
        if let Some((auth, token)) = auth {
            client.store_auth_if_needed(&self.host.authority, &auth).await;
            client.tokens.insert(&self.reference(), RegistryOperation::Pull, token).await;
        }
        Ok(Some(client))
    }

    async fn blob_by_library(
        &self,
        mut client: oci_client::Client,
        blob: &Descriptor,
        offset: u64,
    ) -> Result<BlobBody, Failure> {
        let urls = elsewhere(blob).map(<[String]>::to_vec);
        let layer = LayerDescriptor { digest: blob.digest.as_str(), urls: &urls };
        let reference = self.reference();
        let mut reply = client.pull_blob_stream_partial(&reference, &layer, offset, None).await;
        if reply.as_ref().is_err_and(failure::is_unauthorized) {
            self.authorize(None).await?;
            if let Some(renewed) = self.library_client().await? {
                client = renewed;
            }
            reply = client.pull_blob_stream_partial(&reference, &layer, offset, None).await;
        }
        match reply {
            Ok(BlobResponse::Partial(body)) => Ok(BlobBody { from: offset, stream: body.stream }),
            Ok(BlobResponse::Full(body)) => Ok(BlobBody { from: 0, stream: body.stream }),
            Err(err) => Err(self.failure(err)),
        }
    }

    async fn blob_by_request(&self, blob: &Descriptor, offset: u64) -> Result<BlobBody, Failure> {
        let url = self.url(&format!("blobs/{}", blob.digest));
        let range = format!("bytes={offset}-");
        let mut reply = self.send(|| self.request(Method::GET, &url).header(RANGE, &range)).await?;
        for url in elsewhere(blob).unwrap_or_default() {
            if reply.status().is_success() {
                break;
            }
            // Without who we are, which is the registry's business alone.
            let url = Url::parse(url).map_err(|err| {
                let words = format!("layer {} is offered at {url:?}", blob.digest);
                Error::invalid_argument(words).with_source(err)
            })?;
            if matches!(url.scheme(), "http" | "https") {
                let asked = self.http.get(url).header(RANGE, &range).send().await;
                reply = asked.map_err(|err| failure::of_request(self.host(), err))?;
            }
        }
        match reply.status() {
            StatusCode::PARTIAL_CONTENT => Ok(BlobBody { from: offset, stream: bytes_of(reply) }),
            StatusCode::OK => Ok(BlobBody { from: 0, stream: bytes_of(reply) }),
            _ => Err(self.refusal(reply).await),
        }
    }

    fn reference(&self) -> oci_client::Reference {
        let (host, repository) = (self.host.authority.clone(), self.repository.clone());
        oci_client::Reference::with_tag(host, repository, String::new())
    }
}

/// Where else a layer may be that its registry need not have.
fn elsewhere(blob: &Descriptor) -> Option<&[String]> {
    (is_foreign(&blob.media_type) && !blob.urls.is_empty()).then_some(blob.urls.as_slice())
}

fn bytes_of(reply: Response) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
    reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed()
}
