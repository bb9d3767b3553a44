//! Compression, told by the first bytes.

use std::io::{self, BufReader, Cursor, Read};

use bytes::{Bytes, BytesMut};
use flate2::bufread::MultiGzDecoder;
use gantry_core::{Error, Kind, Result};
use tokio::sync::mpsc::Receiver;

/// Bytes in a decompressed piece.
const PIECE: usize = 256 << 10;

/// Largest window of a zstd frame, as a power of two: 128 MiB, what zstd's
/// own program accepts.
const MAX_WINDOW: u32 = 27;

/// What the feeding side sends: pieces, and `None` at the end.
pub type Feed = Receiver<Option<Result<Bytes>>>;

/// The compressed stream. It ends with a `None`: without, the sender went
/// away in the middle.
struct Compressed {
    feed: Feed,
    current: Bytes,
    ended: bool,
    /// Kept so that the caller sees the stream's own error.
    failed: Option<Error>,
}

impl Compressed {
    /// The next non-empty piece; `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.feed.blocking_recv() {
                Some(Some(piece)) => {
                    let piece = piece?;
                    if !piece.is_empty() {
                        return Ok(Some(piece));
                    }
                }
                Some(None) => self.ended = true,
                None => {
                    return Err(Error::new(Kind::Cancelled, "the archive's sender went away"));
                }
            }
        }
    }
}

impl Read for &mut Compressed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.current.is_empty() {
            match self.next() {
                Ok(Some(piece)) => self.current = piece,
                Ok(None) => return Ok(0),
                Err(err) => {
                    let text = err.to_string();
                    self.failed = Some(err);
                    return Err(io::Error::other(text));
                }
            }
        }
        let len = buf.len().min(self.current.len());
        buf[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

/// Reads the feed to its end and gives `emit` the uncompressed pieces.
/// Stops without an error when `emit` says that nobody wants more.
///
/// # Errors
/// `InvalidArgument` for damaged data; `Cancelled` when the feed ended early; what the feed
/// and `emit` say.
pub fn inflate(
    feed: Feed,
    media_type: &str,
    mut emit: impl FnMut(Bytes) -> Result<bool>,
) -> Result<()> {
    let mut stream = Compressed { feed, current: Bytes::new(), ended: false, failed: None };
    let head = first_bytes(&mut stream)?;
    let result = match head.as_ref() {
        [0x1f, 0x8b, ..] => {
            let whole = BufReader::with_capacity(PIECE, Cursor::new(head).chain(&mut stream));
            pump(MultiGzDecoder::new(whole), &mut emit)
        }
        // A frame, or one of the skippable frames that may precede it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let whole = BufReader::with_capacity(PIECE, Cursor::new(head).chain(&mut stream));
            zstd::Decoder::with_buffer(whole)
                .and_then(|mut decoder| decoder.window_log_max(MAX_WINDOW).map(|()| decoder))
                .map_err(Pump::Read)
                .and_then(|decoder| pump(decoder, &mut emit))
        }
        _ => return plain(head, stream, emit),
    };
    match result {
        Ok(()) => Ok(()),
        Err(Pump::Emit(err)) => Err(err),
        Err(Pump::Read(err)) => Err(stream.failed.take().unwrap_or_else(|| {
            Error::invalid_argument(format!("decompress archive of type {media_type:?}"))
                .with_source(err)
        })),
    }
}

/// At least four bytes, unless the stream is shorter.
fn first_bytes(stream: &mut Compressed) -> Result<Bytes> {
    let mut head = BytesMut::new();
    while head.len() < 4 {
        match stream.next()? {
            // The usual case copies nothing.
            Some(piece) if head.is_empty() && piece.len() >= 4 => return Ok(piece),
            Some(piece) => head.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok(head.freeze())
}

fn plain(
    head: Bytes,
    mut stream: Compressed,
    mut emit: impl FnMut(Bytes) -> Result<bool>,
) -> Result<()> {
    let mut next = Some(head);
    while let Some(piece) = next {
        if !emit(piece)? {
            break;
        }
        next = stream.next()?;
    }
    Ok(())
}

enum Pump {
    Read(io::Error),
    Emit(Error),
}

fn pump(mut from: impl Read, emit: &mut impl FnMut(Bytes) -> Result<bool>) -> Result<(), Pump> {
    loop {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < piece.len() {
            match from.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Pump::Read(err)),
            }
        }
        if filled == 0 {
            return Ok(());
        }
        piece.truncate(filled);
        if !emit(piece.into()).map_err(Pump::Emit)? {
            return Ok(());
        }
    }
}
