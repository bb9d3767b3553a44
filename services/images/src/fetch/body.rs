//! A layer's bytes from one host.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use gantry_core::content::Writer;
use gantry_core::images::LayerPhase;
use gantry_core::{Descriptor, Error, Result};

use crate::feed::Feed;
use crate::progress::LayerProgress;
use crate::registry::{Failure, Retry, Session};

/// Bytes that are gathered before they are written.
const PIECE: usize = 512 << 10;
/// An attempt that got this many bytes does not count as one in vain.
const HEADWAY: u64 = 64 << 10;

/// Fetches until the ingest is as long as the blob, over as many connections as it
/// takes while it gets anywhere.
pub(super) async fn fetch(
    session: &Session,
    blob: &Descriptor,
    writer: &mut dyn Writer,
    feed: &mut Option<Feed>,
    progress: &mut LayerProgress,
) -> Result<()> {
    let mut attempt = 0;
    loop {
        let before = writer.status().offset;
        if before == blob.size {
            return Ok(());
        }
        progress.report(LayerPhase::Downloading, before);
        let result = continue_from(session, blob, before, writer, feed, progress).await;
        let now = writer.status().offset;
        if now == blob.size && result.is_ok() {
            return Ok(());
        }
        if now - before >= HEADWAY {
            attempt = 0;
        }
        let failure = match result {
            Err(failure) => failure,
            Ok(()) => Failure {
                error: Error::unavailable(format!(
                    "registry {} sent {now} bytes of {}",
                    session.host(),
                    blob.size
                )),
                retry: Retry::Always,
                after: None,
            },
        };
        session.pause(failure, &mut attempt, Retry::Transfer).await?;
    }
}

/// One connection's worth of a blob, from `offset`.
async fn continue_from(
    session: &Session,
    blob: &Descriptor,
    offset: u64,
    writer: &mut dyn Writer,
    feed: &mut Option<Feed>,
    progress: &mut LayerProgress,
) -> Result<(), Failure> {
    let mut body = session.blob(blob, offset).await?;
    // A registry that can't begin in the middle sends again what is here.
    let mut skip = offset - body.from;
    let mut left = blob.size - offset;
    let mut gathered = BytesMut::with_capacity(PIECE);
    loop {
        let (mut bytes, end) = match body.stream.next().await {
            Some(Ok(bytes)) => (bytes, None),
            Some(Err(err)) => (Bytes::new(), Some(Err(crate::registry::of_stream(err)))),
            None => (Bytes::new(), Some(Ok(()))),
        };
        let skipped = skip.min(bytes.len() as u64);
        skip -= skipped;
        // At most the length of `bytes`, which is a `usize`.
        let _ = bytes.split_to(skipped as usize);
        left = left.checked_sub(bytes.len() as u64).ok_or_else(|| too_long(session, blob))?;
        gathered.extend_from_slice(&bytes);
        if gathered.len() >= PIECE || (end.is_some() && !gathered.is_empty()) {
            let bytes = gathered.split().freeze();
            writer.write(bytes.clone()).await?;
            progress.report(LayerPhase::Downloading, writer.status().offset);
            let lost = match feed.as_ref() {
                Some(feed) => !feed.send(bytes).await,
                None => false,
            };
            if lost {
                *feed = None;
            }
        }
        if let Some(end) = end {
            return end;
        }
    }
}

fn too_long(session: &Session, blob: &Descriptor) -> Failure {
    let words = format!(
        "registry {} sends more than the {} bytes that {} has",
        session.host(),
        blob.size,
        blob.digest
    );
    Error::data_loss(words).into()
}
