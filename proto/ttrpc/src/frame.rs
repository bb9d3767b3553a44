//! ttrpc's frames: a header of ten bytes and at most 4 MiB of a protobuf
//! message.
//!
//! The header is the length of the message (4 bytes, big endian), the stream
//! (4 bytes, big endian; clients count odd numbers upwards), the type of the
//! message and flags. Only unary calls are spoken here: one request, one
//! response.

use std::fmt;
use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::Status;
use crate::google::rpc;

/// Bytes of a header.
pub const HEADER_SIZE: usize = 10;

/// Largest message, without its header.
pub const MAX_MESSAGE: usize = 4 << 20;

/// Type of a message from the client that starts a call.
pub const REQUEST: u8 = 1;
/// Type of a message from the server that ends a call.
pub const RESPONSE: u8 = 2;
/// Type of a message within a streaming call, which is not spoken here.
pub const DATA: u8 = 3;

/// How much is asked of the socket at once.
const READ_SIZE: usize = 16 << 10;

/// What precedes each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the message.
    pub length: u32,
    /// The call it belongs to.
    pub stream: u32,
    /// [`REQUEST`], [`RESPONSE`] or [`DATA`].
    pub kind: u8,
    /// Flags of streaming calls; 0 for others.
    pub flags: u8,
}

impl Header {
    /// The header on the wire.
    pub fn encode(self) -> [u8; HEADER_SIZE] {
        let mut out = [0; HEADER_SIZE];
        out[..4].copy_from_slice(&self.length.to_be_bytes());
        out[4..8].copy_from_slice(&self.stream.to_be_bytes());
        out[8] = self.kind;
        out[9] = self.flags;
        out
    }

    /// The header from the wire.
    pub fn decode(mut bytes: [u8; HEADER_SIZE]) -> Self {
        let mut buf = bytes.as_mut_slice() as &[u8];
        Self {
            length: buf.get_u32(),
            stream: buf.get_u32(),
            kind: buf.get_u8(),
            flags: buf.get_u8(),
        }
    }
}

/// A request but for its payload, which is encoded straight into the frame.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RequestHead {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) metadata: Vec<KeyValue>,
}

/// A request as it arrives.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(string, tag = "1")]
    pub(crate) service: String,
    #[prost(string, tag = "2")]
    pub(crate) method: String,
    #[prost(bytes = "bytes", tag = "3")]
    pub(crate) payload: Bytes,
    #[prost(int64, tag = "4")]
    pub(crate) timeout_nano: i64,
    #[prost(message, repeated, tag = "5")]
    pub(crate) metadata: Vec<KeyValue>,
}

/// One item of metadata; keys may repeat.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(crate) key: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// A response as it arrives.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<rpc::Status>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) payload: Bytes,
}

/// Number of the payload's field in a request.
const REQUEST_PAYLOAD: u32 = 3;
/// Number of the payload's field in a response.
const RESPONSE_PAYLOAD: u32 = 2;

/// Encodes a request, with 0 for the stream until [`set_stream`].
pub(crate) fn request(head: &RequestHead, payload: &impl Message) -> Result<BytesMut, Status> {
    frame(REQUEST, head, REQUEST_PAYLOAD, payload)
}

/// Encodes a successful response, with 0 for the stream until [`set_stream`].
pub(crate) fn response(payload: &impl Message) -> Result<BytesMut, Status> {
    frame(RESPONSE, &(), RESPONSE_PAYLOAD, payload)
}

/// Encodes a failed response, with 0 for the stream until [`set_stream`].
pub(crate) fn failure(status: &Status) -> BytesMut {
    let mut message = status.message.clone();
    // Far below the largest message, whatever else the response holds.
    const MAX_TEXT: usize = 64 << 10;
    if message.len() > MAX_TEXT {
        let end = (0..=MAX_TEXT).rev().find(|i| message.is_char_boundary(*i)).unwrap_or(0);
        message.truncate(end);
    }
    let status = rpc::Status { code: status.code.0, message, details: Vec::new() };
    let response = Response { status: Some(status), payload: Bytes::new() };
    let length = response.encoded_len();
    let mut out = start(RESPONSE, length);
    response.encode_raw(&mut out);
    out
}

/// Puts the stream into a frame made with 0.
pub(crate) fn set_stream(frame: &mut BytesMut, stream: u32) {
    frame[4..8].copy_from_slice(&stream.to_be_bytes());
}

fn start(kind: u8, length: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER_SIZE + length);
    // Callers have checked the length against MAX_MESSAGE, which fits.
    out.put_slice(&Header { length: length as u32, stream: 0, kind, flags: 0 }.encode());
    out
}

/// One buffer with header, head and payload: the payload is encoded once,
/// where it is sent from.
fn frame(
    kind: u8,
    head: &impl Message,
    field: u32,
    payload: &impl Message,
) -> Result<BytesMut, Status> {
    let inner = payload.encoded_len();
    let length = head.encoded_len() + key_len(field) + encoded_len_varint(inner as u64) + inner;
    if length > MAX_MESSAGE {
        return Err(too_large(length));
    }
    let mut out = start(kind, length);
    head.encode_raw(&mut out);
    encode_key(field, WireType::LengthDelimited, &mut out);
    encode_varint(inner as u64, &mut out);
    payload.encode_raw(&mut out);
    Ok(out)
}

/// The failure of a call whose message is over the limit.
pub(crate) fn too_large(length: usize) -> Status {
    Status::new(
        crate::Code::RESOURCE_EXHAUSTED,
        format!(
            "message of {length} bytes exceeds ttrpc's maximum of {MAX_MESSAGE}: resource exhausted"
        ),
    )
}

/// What a [`Reader`] found.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A whole message.
    Message(Header, Bytes),
    /// A message over the limit, which is skipped while it arrives.
    TooLarge(Header),
}

/// Why a connection cannot go on.
#[derive(Debug)]
pub(crate) enum Broken {
    /// Reading or writing failed.
    Io(io::Error),
    /// The peer does not speak ttrpc.
    Malformed(String),
}

impl From<io::Error> for Broken {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Io(e) => write!(f, "ttrpc connection: {e}"),
            Broken::Malformed(what) => write!(f, "ttrpc connection: {what}"),
        }
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Io(e) => e,
            Broken::Malformed(_) => Self::new(io::ErrorKind::InvalidData, broken.to_string()),
        }
    }
}

/// Takes messages out of a byte stream.
pub(crate) struct Reader<R> {
    io: R,
    buffer: BytesMut,
    /// Bytes that belong to a message over the limit and are still to come.
    skip: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(crate) fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new(), skip: 0 }
    }

    /// The next message; `None` at the end of the stream. May be dropped at
    /// any await: what has arrived stays in the buffer.
    pub(crate) async fn next(&mut self) -> Result<Option<Incoming>, Broken> {
        loop {
            if let Some(found) = self.take()? {
                return Ok(Some(found));
            }
            self.buffer.reserve(READ_SIZE);
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() && self.skip == 0 {
                    return Ok(None);
                }
                return Err(Broken::Malformed("the peer closed it within a message".into()));
            }
        }
    }

    fn take(&mut self) -> Result<Option<Incoming>, Broken> {
        let skipped = self.skip.min(self.buffer.len());
        self.buffer.advance(skipped);
        self.skip -= skipped;
        let Some(header) = self.buffer.first_chunk::<HEADER_SIZE>().copied() else {
            return Ok(None);
        };
        let header = Header::decode(header);
        if !(REQUEST..=DATA).contains(&header.kind) {
            let what = format!("message type {} does not exist", header.kind);
            return Err(Broken::Malformed(what));
        }
        let length = header.length as usize;
        if length > MAX_MESSAGE {
            self.buffer.advance(HEADER_SIZE);
            self.skip = length;
            return Ok(Some(Incoming::TooLarge(header)));
        }
        if self.buffer.len() < HEADER_SIZE + length {
            self.buffer.reserve(HEADER_SIZE + length - self.buffer.len());
            return Ok(None);
        }
        self.buffer.advance(HEADER_SIZE);
        Ok(Some(Incoming::Message(header, self.buffer.split_to(length).freeze())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::task::v3::StartRequest;

    /// A call as Go's client sends it, field by field.
    const RECORDED: &[u8] = b"\x00\x00\x00\x0d\x00\x00\x00\x03\x01\x00\
        \x0a\x01S\x12\x01M\x1a\x03\x0a\x01c\x20\x05";

    #[tokio::test(flavor = "current_thread")]
    async fn recorded_bytes() {
        let header = Header { length: 13, stream: 3, kind: REQUEST, flags: 0 };
        assert_eq!(header.encode(), RECORDED[..HEADER_SIZE]);
        let mut reader = Reader::new(RECORDED);
        let Ok(Some(Incoming::Message(got, body))) = reader.next().await else {
            panic!("no message");
        };
        assert_eq!(got, header);
        let request = Request::decode(body).unwrap();
        assert_eq!((request.service.as_str(), request.method.as_str()), ("S", "M"));
        assert_eq!(request.timeout_nano, 5);
        let start = StartRequest::decode(request.payload).unwrap();
        assert_eq!(start.id, "c");
        assert!(matches!(reader.next().await, Ok(None)));
    }

    #[test]
    fn requests_decode_to_what_was_encoded() {
        let metadata = vec![KeyValue { key: "k".into(), value: "v".into() }];
        let head =
            RequestHead { service: "S".into(), method: "M".into(), timeout_nano: 7, metadata };
        let payload = StartRequest { id: "c".into(), exec_id: "e".into() };
        let mut bytes = request(&head, &payload).unwrap();
        set_stream(&mut bytes, 5);
        let header = Header::decode(*bytes.first_chunk().unwrap());
        assert_eq!(header.stream, 5);
        assert_eq!(header.length as usize, bytes.len() - HEADER_SIZE);
        let got = Request::decode(&bytes[HEADER_SIZE..]).unwrap();
        assert_eq!(got.metadata, head.metadata);
        assert_eq!(got.payload, payload.encode_to_vec());
    }

    #[test]
    fn the_largest_message_passes_and_one_byte_more_does_not() {
        let head = RequestHead::default();
        // One byte of key and four of length precede the payload, and the
        // string in it has a key and four bytes of length, too.
        let fits = StartRequest { id: "x".repeat(MAX_MESSAGE - 10), exec_id: String::new() };
        assert_eq!(request(&head, &fits).unwrap().len(), HEADER_SIZE + MAX_MESSAGE);
        let over = StartRequest { id: "x".repeat(MAX_MESSAGE - 9), exec_id: String::new() };
        assert_eq!(request(&head, &over).unwrap_err().code, crate::Code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn long_messages_of_failures_are_cut() {
        let status = Status::unavailable("ä".repeat(100_000));
        let bytes = failure(&status);
        assert!(bytes.len() < 70_000);
        let got = Response::decode(&bytes[HEADER_SIZE..]).unwrap();
        assert!(got.status.unwrap().message.starts_with("ää"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_oversized_message_is_skipped() {
        let mut stream = Vec::new();
        let big = Header { length: 5 << 20, stream: 1, kind: REQUEST, flags: 0 };
        stream.extend_from_slice(&big.encode());
        stream.resize(stream.len() + (5 << 20), 7);
        stream.extend_from_slice(RECORDED);
        let mut reader = Reader::new(stream.as_slice());
        assert!(matches!(reader.next().await, Ok(Some(Incoming::TooLarge(h))) if h == big));
        let next = reader.next().await;
        assert!(matches!(next, Ok(Some(Incoming::Message(h, _))) if h.stream == 3));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn strange_types_and_half_messages_break_the_connection() {
        let mut strange = RECORDED.to_vec();
        strange[8] = 9;
        for bytes in [strange.as_slice(), &RECORDED[..4], &RECORDED[..15]] {
            let got = Reader::new(bytes).next().await;
            assert!(matches!(got, Err(Broken::Malformed(_))), "{bytes:?}");
        }
    }
}
