//! The threads that work on a layer.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;
use futures::StreamExt;
use gantry_archive::inflate::{Feed, inflate};
use gantry_archive::input::Input;
use gantry_archive::reader::Archive;
use gantry_archive::{Limits, own_umask};
use gantry_core::content::BlobStream;
use gantry_core::{Algorithm, Applied, Digest, Error, Hasher, Result};
use tokio::sync::{mpsc, oneshot};

use crate::target::Target;
use crate::unpack::Unpacker;

/// Pieces that wait between two threads: a few MiB at most.
const QUEUE: usize = 16;

/// Applies a layer. When the caller goes away, the threads end by
/// themselves, since nothing arrives any more.
pub(crate) async fn run(
    layer: BlobStream,
    media_type: &str,
    target: Target,
    limits: Limits,
) -> Result<Applied> {
    let (feed, fed) = mpsc::channel(QUEUE);
    let (to_hash, hashed) = sync_channel(QUEUE);
    let (to_files, pieces) = sync_channel(QUEUE);
    let (digest, has_digest) = oneshot::channel();
    let (written, has_written) = oneshot::channel();
    let media_type = media_type.to_owned();
    spawn("layer-inflate", move || decompress(fed, &media_type, limits, &to_hash, &to_files))?;
    spawn("layer-digest", move || {
        // Nobody waits any more when the call was given up.
        let _ = digest.send(hash(&hashed));
    })?;
    spawn("layer-files", move || {
        let _ = written.send(make_files(pieces, target, limits));
    })?;
    feed_layer(layer, feed).await;
    let lost = |_| Error::internal("a thread that applies a layer panicked");
    has_written.await.map_err(lost)??;
    let (diff_id, size) = has_digest.await.map_err(lost)?;
    Ok(Applied { diff_id, size })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map(drop)
        .map_err(|err| Error::io("start a thread to apply a layer", err))
}

/// Sends the layer on. Ends early when the threads want no more of it.
async fn feed_layer(mut layer: BlobStream, feed: mpsc::Sender<Option<Result<Bytes>>>) {
    while let Some(piece) = layer.next().await {
        let failed = piece.is_err();
        if feed.send(Some(piece)).await.is_err() || failed {
            return;
        }
    }
    let _ = feed.send(None).await;
}

fn decompress(
    fed: Feed,
    media_type: &str,
    limits: Limits,
    to_hash: &SyncSender<Bytes>,
    to_files: &SyncSender<Result<Bytes>>,
) {
    let mut size = 0;
    let result = inflate(fed, media_type, |piece| {
        size += piece.len() as u64;
        if size > limits.max_size {
            return Err(Error::resource_exhausted(format!(
                "layer has more than {} bytes uncompressed: raise the limit or refuse the image",
                limits.max_size
            )));
        }
        Ok(to_hash.send(piece.clone()).is_ok() && to_files.send(Ok(piece)).is_ok())
    });
    if let Err(err) = result {
        // The other side is gone only when it has an error of its own.
        let _ = to_files.send(Err(err));
    }
}

fn hash(pieces: &Receiver<Bytes>) -> (Digest, u64) {
    let (mut hasher, mut size) = (Hasher::new(Algorithm::Sha256), 0);
    while let Ok(piece) = pieces.recv() {
        hasher.update(&piece);
        size += piece.len() as u64;
    }
    (hasher.finish(), size)
}

fn make_files(pieces: Receiver<Result<Bytes>>, target: Target, limits: Limits) -> Result<()> {
    own_umask()?;
    let mut archive = Archive::new(Input::new(move || pieces.recv().ok()), limits);
    let mut unpacker = Unpacker::open(target, limits)?;
    while let Some(entry) = archive.next_entry()? {
        unpacker.apply(&entry, &mut archive.input)?;
    }
    unpacker.finish()?;
    archive.input.drain()
}
