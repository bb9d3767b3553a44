//! Bytes on their way from the network into the unpacker.

use bytes::Bytes;
use futures::StreamExt as _;
use gantry_core::content::BlobStream;
use gantry_core::{Error, Kind};
use tokio::sync::mpsc;

/// Pieces that wait between network and disk.
const DEPTH: usize = 8;

/// The writing end. Dropped without [`Feed::finish`], the reading end ends
/// with an error, so that half a layer never looks like a whole one.
pub(crate) struct Feed(mpsc::Sender<Piece>);

enum Piece {
    Bytes(Bytes),
    End,
}

/// Both ends of a feed.
pub(crate) fn feed() -> (Feed, BlobStream) {
    let (sender, mut receiver) = mpsc::channel(DEPTH);
    let pieces = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(Some));
    // Ends behind the first `None`: the end of the layer or the loss of the writer.
    let bytes = pieces.scan(false, |over, piece| {
        let item = match piece {
            _ if *over => None,
            Some(Piece::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Piece::End) => None,
            None => {
                *over = true;
                Some(Err(Error::new(Kind::Cancelled, "the transfer of the layer was given up")))
            }
        };
        futures::future::ready(item)
    });
    (Feed(sender), bytes.boxed())
}

impl Feed {
    /// Hands over bytes. `false` when nobody reads any more.
    pub(crate) async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Says that this was all.
    pub(crate) async fn finish(self) {
        // A reader that is gone does not need to know.
        let _ = self.0.send(Piece::End).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whole_and_broken_off() {
        let (feed_in, mut out) = feed();
        assert!(feed_in.send(Bytes::from_static(b"x")).await);
        feed_in.finish().await;
        assert_eq!(out.next().await.unwrap().unwrap(), "x");
        assert!(out.next().await.is_none());

        let (feed_in, mut out) = feed();
        assert!(feed_in.send(Bytes::from_static(b"x")).await);
        drop(feed_in);
        assert_eq!(out.next().await.unwrap().unwrap(), "x");
        assert_eq!(out.next().await.unwrap().unwrap_err().kind(), Kind::Cancelled);
        assert!(out.next().await.is_none());

        let (feed_in, out) = feed();
        drop(out);
        assert!(!feed_in.send(Bytes::from_static(b"x")).await);
    }
}
