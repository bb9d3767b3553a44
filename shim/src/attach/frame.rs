//! The frames of the attach socket (layout in [`gantry_core::attach`]).

use bytes::{BufMut, Bytes, BytesMut};
use gantry_core::attach::{
    FRAME_EXIT, FRAME_RESIZE, FRAME_STDERR, FRAME_STDIN, FRAME_STDIN_END, FRAME_STDOUT, HEADER,
    MAX_PAYLOAD, parse_header,
};

use crate::error::{self, Error};
use crate::log::Stream;

/// What an attached client says.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// Bytes for standard input.
    Stdin(Bytes),
    /// No more input comes.
    StdinEnd,
    /// The client's terminal changed.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// Cuts whole frames out of the bytes received so far.
///
/// # Errors
/// A frame that a client may not send, or of a wrong length.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Request>, Error> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let (kind, len) = parse_header(*header)?;
    if buffer.len() < HEADER + len {
        return Ok(None);
    }
    let payload = buffer.split_to(HEADER + len).freeze().slice(HEADER..);
    match (kind, payload.as_ref()) {
        (FRAME_STDIN, _) => Ok(Some(Request::Stdin(payload))),
        (FRAME_STDIN_END, []) => Ok(Some(Request::StdinEnd)),
        (FRAME_RESIZE, &[a, b, c, d]) => Ok(Some(Request::Resize {
            width: u16::from_be_bytes([a, b]),
            height: u16::from_be_bytes([c, d]),
        })),
        _ => Err(error::invalid(format!(
            "attach frame of type {kind} with {len} bytes is not for the shim"
        ))),
    }
}

/// A frame of output; `bytes` are at most [`MAX_PAYLOAD`].
pub fn output(stream: Stream, bytes: &[u8]) -> Bytes {
    let kind = match stream {
        Stream::Stdout => FRAME_STDOUT,
        Stream::Stderr => FRAME_STDERR,
    };
    debug_assert!(bytes.len() <= MAX_PAYLOAD);
    encode(kind, bytes)
}

/// The last frame: the process's exit status.
pub fn exit(status: i32) -> Bytes {
    encode(FRAME_EXIT, &status.to_be_bytes())
}

fn encode(kind: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER + payload.len());
    frame.put_u8(kind);
    frame.put_u32(payload.len() as u32);
    frame.put_slice(payload);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_arrive_in_any_pieces() {
        let mut wire = Vec::new();
        wire.extend(encode(FRAME_STDIN, b"hello"));
        wire.extend(encode(FRAME_RESIZE, &[0, 80, 0, 24]));
        wire.extend(encode(FRAME_STDIN, b""));
        wire.extend(encode(FRAME_STDIN_END, b""));
        for size in 1..wire.len() {
            let mut buffer = BytesMut::new();
            let mut got = Vec::new();
            for piece in wire.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(request) = decode(&mut buffer).unwrap() {
                    got.push(request);
                }
            }
            let want = [
                Request::Stdin(Bytes::from_static(b"hello")),
                Request::Resize { width: 80, height: 24 },
                Request::Stdin(Bytes::new()),
                Request::StdinEnd,
            ];
            assert_eq!(got, want, "in pieces of {size}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_clients_may_not_send() {
        for bad in [
            encode(FRAME_STDOUT, b"x"),
            encode(FRAME_EXIT, b"1234"),
            encode(FRAME_RESIZE, b"123"),
            encode(FRAME_STDIN_END, b"x"),
            Bytes::from_static(&[0, 0, 1, 0, 1]),
            Bytes::from_static(&[9, 0, 0, 0, 0]),
        ] {
            assert!(decode(&mut BytesMut::from(bad.as_ref())).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_the_shim_sends() {
        assert_eq!(output(Stream::Stderr, b"ab").as_ref(), [2, 0, 0, 0, 2, b'a', b'b']);
        assert_eq!(exit(-2).as_ref(), [5, 0, 0, 0, 4, 255, 255, 255, 254]);
    }
}
