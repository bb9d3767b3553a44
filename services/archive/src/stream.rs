//! Archives that are made while they are read.

use std::io::{self, Write};
use std::thread;

use bytes::Bytes;
use futures::stream;
use gantry_core::content::BlobStream;
use gantry_core::{Error, Result};
use tokio::sync::{mpsc, oneshot};

/// Bytes that are gathered before they are handed on.
const PIECE: usize = 256 << 10;
/// Pieces that wait for their reader.
const QUEUE: usize = 4;

/// Hands bytes on in pieces, and waits while the reader has enough of them.
#[derive(Debug)]
pub struct Output {
    pieces: mpsc::Sender<Bytes>,
    gathered: Vec<u8>,
}

impl Output {
    /// Hands pieces to this channel. For threads outside of the runtime.
    pub fn new(pieces: mpsc::Sender<Bytes>) -> Self {
        Self { pieces, gathered: Vec::with_capacity(PIECE) }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.gathered, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads it any more");
        self.pieces.blocking_send(piece.into()).map_err(gone)
    }
}

/// What a thread of its own writes, as a stream: its failure is the last item. The thread ends
/// by itself when the stream is dropped, with its next piece.
///
/// # Errors
/// When no thread can be started.
pub fn produce(
    name: &str,
    work: impl FnOnce(&mut Output) -> Result<()> + Send + 'static,
) -> Result<BlobStream> {
    let (pieces, arriving) = mpsc::channel(QUEUE);
    let (done, result) = oneshot::channel();
    let body = move || {
        let mut output = Output::new(pieces);
        let sent = |err| Error::io("send an archive", err);
        let outcome = work(&mut output).and_then(|()| output.flush().map_err(sent));
        // Nobody waits any more when the stream was dropped.
        let _ = done.send(outcome);
    };
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(|err| Error::io("start a thread to make an archive", err))?;
    let next = |(mut arriving, result): (mpsc::Receiver<Bytes>, Option<Ended>)| async move {
        if let Some(piece) = arriving.recv().await {
            return Some((Ok(piece), (arriving, result)));
        }
        let err = match result?.await {
            Ok(Ok(())) => return None,
            Ok(Err(err)) => err,
            Err(_) => Error::internal("a thread that makes an archive panicked"),
        };
        Some((Err(err), (arriving, None)))
    };
    Ok(Box::pin(stream::unfold((arriving, Some(result)), next)))
}

type Ended = oneshot::Receiver<Result<()>>;

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test]
    async fn what_is_written_arrives_with_its_end() {
        let mut whole = produce("test", |output| {
            output.write_all(&[7; 3 * PIECE]).map_err(|err| Error::io("write", err))?;
            output.write_all(b"end").map_err(|err| Error::io("write", err))
        })
        .unwrap();
        let mut bytes = Vec::new();
        while let Some(piece) = whole.next().await {
            bytes.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(bytes.len(), 3 * PIECE + 3);
        assert!(bytes.ends_with(b"end"));

        let failing = |output: &mut Output| {
            output.write_all(b"x").map_err(|err| Error::io("write", err))?;
            output.flush().map_err(|err| Error::io("write", err))?;
            Err(Error::data_loss("gone"))
        };
        let items: Vec<_> = produce("test", failing).unwrap().collect().await;
        assert_eq!(items[0].as_ref().unwrap().as_ref(), b"x");
        assert_eq!(items[1].as_ref().unwrap_err().kind(), gantry_core::Kind::DataLoss);
        assert_eq!(items.len(), 2);

        let panicking = produce("test", |_| panic!("on purpose")).unwrap();
        let items: Vec<_> = panicking.collect().await;
        assert_eq!(items[0].as_ref().unwrap_err().kind(), gantry_core::Kind::Internal);
    }

    #[tokio::test]
    async fn a_thread_ends_when_nobody_reads() {
        let (ended, has_ended) = oneshot::channel();
        let endless = produce("test", move |output| {
            let mut written = Ok(());
            while written.is_ok() {
                written = output.write_all(&[0; PIECE]);
            }
            let _ = ended.send(());
            Ok(())
        });
        drop(endless);
        has_ended.await.unwrap();
    }
}
