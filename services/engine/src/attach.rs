//! The connection to a process' input and output, which its shim holds.

use std::path::Path;

use bytes::Bytes;
use gantry_core::attach::{
    FRAME_EXIT, FRAME_RESIZE, FRAME_STDERR, FRAME_STDIN, FRAME_STDIN_END, FRAME_STDOUT, HEADER,
    MAX_PAYLOAD, header, parse_header,
};
use gantry_core::{Error, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::options::Size;

/// A connection.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) from: Output,
    pub(crate) to: Input,
}

/// What comes from the process.
#[derive(Debug)]
pub(crate) struct Output(BufReader<OwnedReadHalf>);

/// What goes to the process.
#[derive(Debug)]
pub(crate) struct Input {
    half: OwnedWriteHalf,
    size: Option<Size>,
}

/// From a process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Stdout(Bytes),
    Stderr(Bytes),
    /// It has ended, and this is all.
    Exit(u32),
}

impl Attached {
    /// Connects to the socket that a shim was asked to make.
    ///
    /// # Errors
    /// `Unavailable` when nobody listens there.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).await.map_err(|err| {
            Error::io(format!("attach to {}", socket.display()), err)
                .with_kind(gantry_core::Kind::Unavailable)
        })?;
        let (from, to) = stream.into_split();
        let from = Output(BufReader::with_capacity(MAX_PAYLOAD + HEADER, from));
        Ok(Self { from, to: Input { half: to, size: None } })
    }
}

impl Output {
    /// The next frame; `None` when the connection ended without an exit.
    ///
    /// # Errors
    /// `Internal` for a frame that is none; the connection's.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        let failed = |err| Error::io("read from the shim", err);
        let mut head = [0; HEADER];
        match self.0.read_exact(&mut head).await {
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.map_err(failed)?,
        };
        let (kind, len) = parse_header(head)?;
        let mut payload = vec![0; len];
        self.0.read_exact(&mut payload).await.map_err(failed)?;
        match kind {
            FRAME_STDOUT => Ok(Some(Frame::Stdout(payload.into()))),
            FRAME_STDERR => Ok(Some(Frame::Stderr(payload.into()))),
            FRAME_EXIT => {
                let status: [u8; 4] = payload
                    .try_into()
                    .map_err(|_| Error::internal("the shim sent a malformed exit"))?;
                // An exit code is never negative.
                Ok(Some(Frame::Exit(u32::try_from(i32::from_be_bytes(status)).unwrap_or(255))))
            }
            kind => Err(Error::internal(format!("the shim sent a frame of type {kind}"))),
        }
    }
}

impl Input {
    /// Bytes for standard input.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn stdin(&mut self, bytes: &[u8]) -> Result<()> {
        for piece in bytes.chunks(MAX_PAYLOAD) {
            self.frame(FRAME_STDIN, piece).await?;
        }
        Ok(())
    }

    /// The end of standard input.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn stdin_end(&mut self) -> Result<()> {
        self.frame(FRAME_STDIN_END, &[]).await
    }

    /// The terminal's size.
    ///
    /// # Errors
    /// The connection's.
    pub(crate) async fn resize(&mut self, size: Size) -> Result<()> {
        let [a, b] = size.columns.to_be_bytes();
        let [c, d] = size.rows.to_be_bytes();
        self.frame(FRAME_RESIZE, &[a, b, c, d]).await?;
        self.size = Some(size);
        Ok(())
    }

    /// The terminal's size, as it was said last.
    pub(crate) fn size(&self) -> Option<Size> {
        self.size
    }

    async fn frame(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend(header(kind, payload.len())?);
        frame.extend(payload);
        self.half.write_all(&frame).await.map_err(|err| Error::io("write to the shim", err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn frames_both_ways() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let mut attached = Attached::connect(&path).await.unwrap();
        let (mut shim, _) = listener.accept().await.unwrap();
        attached.to.stdin(b"hi").await.unwrap();
        attached.to.resize(Size { columns: 258, rows: 3 }).await.unwrap();
        attached.to.stdin_end().await.unwrap();
        assert_eq!(attached.to.size(), Some(Size { columns: 258, rows: 3 }));
        let mut seen = vec![0; 7 + 9 + 5];
        shim.read_exact(&mut seen).await.unwrap();
        assert_eq!(seen, b"\0\0\0\0\x02hi\x04\0\0\0\x04\x01\x02\0\x03\x03\0\0\0\0");
        shim.write_all(b"\x01\0\0\0\x01a\x02\0\0\0\x01b\x05\0\0\0\x04\0\0\0\x07").await.unwrap();
        drop(shim);
        assert_eq!(attached.from.next().await.unwrap(), Some(Frame::Stdout("a".into())));
        assert_eq!(attached.from.next().await.unwrap(), Some(Frame::Stderr("b".into())));
        assert_eq!(attached.from.next().await.unwrap(), Some(Frame::Exit(7)));
        assert_eq!(attached.from.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn nobody_there() {
        let err = Attached::connect(Path::new("/nonexistent/s")).await.unwrap_err();
        assert_eq!(err.kind(), gantry_core::Kind::Unavailable);
    }
}
