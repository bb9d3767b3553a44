//! Bytes on a stream, in pieces, as fast as their reader allows.

use bytes::Bytes;
use gantry_core::{Error, Result};
use gantry_grpc::any;
use gantry_grpc::containerd::types::transfer as types;
use prost_types::Any;

use crate::streams::Stream;

/// Longest piece that is sent.
pub(crate) const PIECE: usize = 32 << 10;
/// By how much the client may be ahead of us.
const WINDOW: i64 = 2 * PIECE as i64;

/// Bytes that a client sends.
pub(crate) struct Incoming {
    stream: Stream,
    /// What the client may still send.
    window: i64,
}

impl Incoming {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, window: 0 }
    }

    /// The next bytes; `None` when the client has sent all, or has gone.
    ///
    /// # Errors
    /// `InvalidArgument` for a client that sends something else, or more than it may.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.window < WINDOW {
                let update = types::WindowUpdate { update: WINDOW as i32 };
                // Who has sent all need not listen any more.
                if self.stream.send(any::pack(&update)).await.is_ok() {
                    self.window += WINDOW;
                }
            }
            let Some(message) = self.stream.receive().await else { return Ok(None) };
            let data: types::Data = unpack(&message)?;
            self.window -= data.data.len() as i64;
            if self.window < 0 {
                return Err(Error::invalid_argument(
                    "more was sent on a stream than its window allows: invalid argument",
                ));
            }
            if !data.data.is_empty() {
                return Ok(Some(data.data));
            }
        }
    }
}

/// Bytes for a client.
pub(crate) struct Outgoing {
    stream: Stream,
    /// What we may still send.
    window: i64,
}

impl Outgoing {
    pub(crate) fn new(stream: Stream) -> Self {
        Self { stream, window: 0 }
    }

    /// Sends bytes, when the client wants them.
    ///
    /// # Errors
    /// `Unavailable` when the client has gone, `InvalidArgument` when it says
    /// something else than how much it wants.
    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<()> {
        while !bytes.is_empty() {
            while self.window == 0 {
                let message = self.stream.receive().await;
                let message =
                    message.ok_or_else(|| Error::unavailable("the client closed the stream"))?;
                let update: types::WindowUpdate = unpack(&message)?;
                let more = i64::from(update.update);
                if more <= 0 {
                    return Err(Error::invalid_argument(format!(
                        "a window can't grow by {more} bytes: invalid argument"
                    )));
                }
                self.window = self.window.saturating_add(more);
            }
            let room = usize::try_from(self.window).unwrap_or(usize::MAX);
            let piece = bytes.split_to(bytes.len().min(PIECE).min(room));
            self.window -= piece.len() as i64;
            self.stream.send(any::pack(&types::Data { data: piece })).await?;
        }
        Ok(())
    }
}

fn unpack<M: prost::Message + prost::Name + Default>(message: &Any) -> Result<M> {
    any::unpack(message).map_err(|_| {
        let (found, wanted) = (&message.type_url, M::full_name());
        Error::invalid_argument(format!(
            "a stream of bytes holds {found:?} in place of {wanted}: invalid argument"
        ))
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::streams::QUEUE;

    fn pair() -> (Stream, mpsc::Sender<Any>, mpsc::Receiver<Any>) {
        let (incoming, from) = mpsc::channel(QUEUE);
        let (to, outgoing) = mpsc::channel(QUEUE);
        (Stream { from, to }, incoming, outgoing)
    }

    fn data(len: usize) -> Any {
        any::pack(&types::Data { data: vec![7; len].into() })
    }

    #[tokio::test]
    async fn the_window_is_what_a_client_may_send() {
        let (stream, to, mut from) = pair();
        let mut incoming = Incoming::new(stream);
        to.send(data(100)).await.unwrap();
        assert_eq!(incoming.next().await.unwrap().unwrap().len(), 100);
        let first: types::WindowUpdate = any::unpack(&from.recv().await.unwrap()).unwrap();
        assert_eq!(i64::from(first.update), WINDOW);
        to.send(data(WINDOW as usize)).await.unwrap();
        assert!(incoming.next().await.unwrap().is_some(), "a second window was opened");
        to.send(data(2 * WINDOW as usize)).await.unwrap();
        assert!(incoming.next().await.is_err());

        let (stream, to, _from) = pair();
        let mut incoming = Incoming::new(stream);
        to.send(any::pack(&())).await.unwrap();
        let err = incoming.next().await.unwrap_err();
        assert!(err.to_string().contains("transfer.Data"), "{err}");
        drop(to);
        assert!(incoming.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn nothing_is_sent_that_is_not_wanted() {
        let (stream, to, mut from) = pair();
        let mut outgoing = Outgoing::new(stream);
        let sending = tokio::spawn(async move {
            outgoing.send(Bytes::from(vec![1; 3 * PIECE])).await.map(|()| outgoing)
        });
        let mut sizes = Vec::new();
        for update in [10, 2 * PIECE as i32, PIECE as i32] {
            let update = types::WindowUpdate { update };
            to.send(any::pack(&update)).await.unwrap();
            tokio::task::yield_now().await;
        }
        let outgoing = sending.await.unwrap().unwrap();
        drop(outgoing);
        while let Some(message) = from.recv().await {
            let data: types::Data = any::unpack(&message).unwrap();
            sizes.push(data.data.len());
        }
        assert_eq!(sizes.iter().sum::<usize>(), 3 * PIECE);
        assert!(sizes.iter().all(|size| *size <= PIECE) && sizes[0] == 10, "{sizes:?}");

        let (stream, to, _from) = pair();
        to.send(any::pack(&types::WindowUpdate { update: -1 })).await.unwrap();
        assert!(Outgoing::new(stream).send(Bytes::from_static(b"x")).await.is_err());
        let (stream, to, _from) = pair();
        drop(to);
        assert!(Outgoing::new(stream).send(Bytes::from_static(b"x")).await.is_err());
    }
}
