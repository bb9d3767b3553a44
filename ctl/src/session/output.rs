//! Standard output and error, written by a thread of its own: a reader that
//! is slow must not hold up signals and input.

use std::io;

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::printer::{write_all, written};

/// Pieces that wait for the thread; more wait in the daemon.
const WAITING: usize = 8;

/// Where a piece of output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output.
pub(crate) type Piece = (Stream, Bytes);

/// Writes output in its order. The thread begins with the first piece.
#[derive(Debug, Default)]
pub(crate) struct Output {
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    pieces: Option<mpsc::Sender<Piece>>,
    result: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    /// Waits until a piece can be handed over or, when there is none to hand
    /// over, until writing fails. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// When writing failed.
    pub(crate) async fn ready(&mut self, piece: bool) -> anyhow::Result<mpsc::OwnedPermit<Piece>> {
        if piece { self.room().await } else { Err(self.failure().await) }
    }

    async fn room(&mut self) -> anyhow::Result<mpsc::OwnedPermit<Piece>> {
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Thread::start()?),
        };
        if let Some(pieces) = thread.pieces.clone()
            && let Ok(permit) = pieces.reserve_owned().await
        {
            return Ok(permit);
        }
        Err(thread.end().await.err().unwrap_or_else(|| anyhow::anyhow!("the output has ended")))
    }

    async fn failure(&mut self) -> anyhow::Error {
        if let Some(thread) = &mut self.thread
            && let Err(error) = thread.end().await
        {
            return error;
        }
        std::future::pending().await
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// When writing failed.
    pub(crate) async fn finish(&mut self) -> anyhow::Result<()> {
        let Some(thread) = &mut self.thread else { return Ok(()) };
        thread.pieces = None;
        thread.end().await
    }
}

impl Thread {
    fn start() -> anyhow::Result<Self> {
        let (pieces, receiver) = mpsc::channel(WAITING);
        let (sender, result) = oneshot::channel();
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                // Nobody listens when the process ends early.
                let _ = sender.send(write_pieces(receiver));
            })
            .context("start a thread for the output")?;
        Ok(Self { pieces: Some(pieces), result })
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        match (&mut self.result).await {
            Ok(result) => written(result),
            Err(_) => Ok(()),
        }
    }
}

fn write_pieces(mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    while let Some((stream, bytes)) = pieces.blocking_recv() {
        match stream {
            Stream::Stdout => write_all(io::stdout(), &bytes)?,
            Stream::Stderr => write_all(io::stderr(), &bytes)?,
        }
    }
    Ok(())
}
