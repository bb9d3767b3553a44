//! Moves the output of a process to where it belongs.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::Owner;
use super::input::write_some;
use crate::log::Stream;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;
/// A terminal's bytes reach its master a moment after they were written: so
/// many looks in a row must find nothing before it counts as empty.
const QUIET_LOOKS: u32 = 5;
/// Time between two such looks.
const QUIET: Duration = Duration::from_millis(10);

/// Where one stream's bytes go.
#[derive(Debug)]
pub(super) enum Sink {
    /// A FIFO or pipe.
    Pipe(AsyncFd<OwnedFd>),
    /// A regular file, opened for appending.
    File(Arc<File>),
    /// The shim's own log and attached clients.
    Owner(Arc<Owner>, Stream),
}

impl Sink {
    async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Pipe(fd) => {
                while !bytes.is_empty() {
                    let n = write_some(fd, bytes).await?;
                    bytes = &bytes[n..];
                }
                Ok(())
            }
            Self::File(file) => loop {
                match file.as_ref().write(bytes) {
                    Ok(n) if n == bytes.len() => return Ok(()),
                    Ok(n) => bytes = &bytes[n..],
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                        tokio::time::sleep(super::DISK_FULL_PAUSE).await
                    }
                    Err(e) => return Err(e),
                }
            },
            Self::Owner(owner, stream) => {
                owner.take(*stream, bytes).await;
                Ok(())
            }
        }
    }

    /// The stream ended.
    fn end(&self) {
        if let Self::Owner(owner, stream) = self {
            owner.end(*stream);
        }
    }

    /// Waits, with a log that has fallen behind until it was tried again, else for ever.
    async fn retry(&self) {
        match self {
            Self::Owner(owner, _) => owner.retry().await,
            _ => std::future::pending().await,
        }
    }

    /// Waits until all that was taken is stored.
    async fn settle(&self) {
        if let Self::Owner(owner, _) = self {
            owner.settle().await;
        }
    }
}

/// One running copy.
#[derive(Debug)]
pub(super) struct Pump {
    task: AbortHandle,
    drained: watch::Receiver<bool>,
}

impl Pump {
    /// Starts copying. `exited` turns true when the process is gone: from then
    /// on, the first time the source is found empty all that the process wrote
    /// is through, even if others hold the other end open.
    pub(super) fn start(
        source: Arc<AsyncFd<OwnedFd>>,
        sink: Sink,
        terminal: bool,
        exited: watch::Receiver<bool>,
    ) -> Self {
        let (done, drained) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut copy = Copy { source, sink, terminal, exited, done };
            copy.run().await;
            copy.sink.end();
            copy.done.send_replace(true);
            copy.sink.settle().await;
        });
        Self { task: task.abort_handle(), drained }
    }

    /// Waits until all that the process wrote before it exited has arrived.
    pub(super) async fn drained(&self) {
        let mut drained = self.drained.clone();
        // An aborted pump drops its end: nothing more will come.
        let _ = drained.wait_for(|done| *done).await;
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Copy {
    source: Arc<AsyncFd<OwnedFd>>,
    sink: Sink,
    terminal: bool,
    exited: watch::Receiver<bool>,
    done: watch::Sender<bool>,
}

impl Copy {
    /// Copies until the source ends.
    async fn run(&mut self) {
        loop {
            let announced = *self.exited.borrow_and_update();
            // Only waiting is interrupted, never a copy under way.
            let exited = tokio::select! {
                biased;
                changed = self.exited.changed(), if !announced => changed.is_ok(),
                ready = self.source.readable() => match ready {
                    Ok(_) => false,
                    Err(_) => return,
                },
                () = self.sink.retry() => continue,
            };
            if !(if exited { self.copy_last().await } else { self.copy_chunk().await }) {
                return;
            }
        }
    }

    /// Waits for bytes and copies them; false at the end.
    async fn copy_chunk(&self) -> bool {
        let Ok(mut ready) = self.source.readable().await else { return false };
        let mut buffer = vec![0; CHUNK];
        match ready
            .try_io(|fd| nix::unistd::read(fd.get_ref(), &mut buffer).map_err(io::Error::from))
        {
            Ok(Ok(0)) => false,
            Ok(Ok(n)) => self.sink.write_all(&buffer[..n]).await.is_ok(),
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => true,
            // A terminal whose last user is gone says EIO.
            Ok(Err(_)) => false,
            Err(_would_block) => true,
        }
    }

    /// After the exit: copies what is there and reports that this was all.
    async fn copy_last(&self) -> bool {
        let looks = if self.terminal { QUIET_LOOKS } else { 1 };
        for look in 0..looks {
            if look > 0 {
                tokio::time::sleep(QUIET).await;
            }
            if !self.copy_present().await {
                return false;
            }
        }
        self.sink.end();
        self.done.send_replace(true);
        true
    }

    /// Copies without waiting for more; false at the end.
    async fn copy_present(&self) -> bool {
        let mut buffer = vec![0; CHUNK];
        loop {
            match nix::unistd::read(self.source.get_ref(), &mut buffer) {
                Ok(0) => return false,
                Ok(n) => {
                    if self.sink.write_all(&buffer[..n]).await.is_err() {
                        return false;
                    }
                }
                Err(nix::Error::EAGAIN) => return true,
                Err(nix::Error::EINTR) => {}
                Err(_) => return false,
            }
            // Someone else may keep the pipe full: the shim's other work goes on.
            tokio::task::yield_now().await;
        }
    }
}
