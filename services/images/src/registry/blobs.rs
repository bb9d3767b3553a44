//! Blobs from a registry.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use gantry_core::{Descriptor, Error, Result};
use reqwest::header::RANGE;
use reqwest::{Method, Response, StatusCode, Url};

use super::{Failure, Retry, Session, collect};
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
                reply = self.follow(self.http.get(url).header(RANGE, &range)).await?;
            }
        }
        match reply.status() {
            StatusCode::PARTIAL_CONTENT => Ok(BlobBody { from: offset, stream: bytes_of(reply) }),
            StatusCode::OK => Ok(BlobBody { from: 0, stream: bytes_of(reply) }),
            _ => Err(self.refusal(reply).await),
        }
    }
}

/// Where else a layer may be that its registry need not have.
fn elsewhere(blob: &Descriptor) -> Option<&[String]> {
    (is_foreign(&blob.media_type) && !blob.urls.is_empty()).then_some(blob.urls.as_slice())
}

fn bytes_of(reply: Response) -> BoxStream<'static, Result<Bytes, std::io::Error>> {
    reply.bytes_stream().map(|r| r.map_err(std::io::Error::other)).boxed()
}
