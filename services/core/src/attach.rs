//! What the daemon and its shim agree on for logs and attached clients.
//!
//! As `stdout` of a task or process, a URI
//! `gantry://LOG?max-size=BYTES&max-file=N&attach=SOCKET&stdin=1` asks the shim to hold the
//! process' pipes (or terminal) itself: it writes the log file LOG, rotates it, and listens on
//! SOCKET for clients. LOG may be empty (no log). Paths are absolute. Texts are percent-encoded.
//!
//! | parameter | meaning |
//! | --- | --- |
//! | `driver` | form of the log: `json-file` (Docker's, when it is not said) or `local` ([`crate::local_log`]) |
//! | `max-size`, `max-file` | bytes of a file, and how many are kept; 0 for the shim's default |
//! | `max-age` | seconds after which a file is rotated; 0 is never |
//! | `compress` | 1: rotated files are compressed with gzip and have `.gz` behind their names |
//! | `attrs` | a JSON object that is stored with what is recorded |
//! | `mode`, `max-buffer` | `non-blocking`: when so many bytes wait to be written, what follows is left out |
//! | `attach`, `stdin` | the socket for clients, and whether they have an input to write to |
//! | `network` | the socket for the container's networks ([`crate::sockets`]); of a container, not of an exec |
//!
//! Clients and shim exchange frames: one byte type, four bytes length (big
//! endian), then the payload of at most 64 KiB.

use crate::sockets::PARAMETER;
use crate::{Error, Result};

/// Client to shim: bytes for standard input.
pub const FRAME_STDIN: u8 = 0;
/// Shim to client: bytes of standard output.
pub const FRAME_STDOUT: u8 = 1;
/// Shim to client: bytes of standard error.
pub const FRAME_STDERR: u8 = 2;
/// Client to shim: end of standard input.
pub const FRAME_STDIN_END: u8 = 3;
/// Client to shim: terminal size, columns and rows as big-endian `u16`.
pub const FRAME_RESIZE: u8 = 4;
/// Shim to client, last: exit status as big-endian `i32`.
pub const FRAME_EXIT: u8 = 5;
/// Longest payload.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Bytes in front of a payload.
pub const HEADER: usize = 5;

/// The header of a frame.
///
/// # Errors
/// `InvalidArgument` for a payload that is too long.
pub fn header(kind: u8, len: usize) -> Result<[u8; HEADER]> {
    if len > MAX_PAYLOAD {
        return Err(Error::invalid_argument(format!("attach frame of {len} bytes is too long")));
    }
    let len = (len as u32).to_be_bytes();
    Ok([kind, len[0], len[1], len[2], len[3]])
}

/// Type and length from a header.
///
/// # Errors
/// `InvalidArgument` for an unknown type or a length over [`MAX_PAYLOAD`].
pub fn parse_header(bytes: [u8; HEADER]) -> Result<(u8, usize)> {
    let [kind, a, b, c, d] = bytes;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if kind > FRAME_EXIT || len > MAX_PAYLOAD {
        return Err(Error::invalid_argument(format!(
            "malformed attach frame: type {kind}, {len} bytes"
        )));
    }
    Ok((kind, len))
}

/// The URI described above, in parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogUri {
    /// Log file; empty for none.
    pub log: String,
    /// Its form; empty for `json-file`.
    pub driver: String,
    /// Rotate at this many bytes; 0 for the default of 10 MiB.
    pub max_size: u64,
    /// Keep this many files; 0 for the default of 3.
    pub max_files: u32,
    /// Rotate after so many seconds; 0 is never, `None` the default of 7 days.
    pub max_age: Option<u64>,
    /// Compress rotated files.
    pub compress: bool,
    /// JSON object that is stored with what is recorded; empty for none.
    pub attrs: String,
    /// Leave out what a log that can't be written has no room for; else the process waits.
    pub non_blocking: bool,
    /// So many bytes have room while the log can't be written; 0 for the default of 1 MiB.
    pub max_buffer: u64,
    /// Socket for clients; empty for none.
    pub attach: String,
    /// Keep standard input open for clients.
    pub stdin: bool,
    /// Socket for the container's networks; empty for none.
    pub network: String,
}

/// The scheme.
pub const SCHEME: &str = "gantry://";
/// The parameter of a log that nobody waits for.
const NON_BLOCKING: &str = "mode=non-blocking";

impl LogUri {
    /// Writes the URI.
    pub fn format(&self) -> String {
        let mut out = format!("{SCHEME}{}?", encode(&self.log));
        out += &format!("max-size={}&max-file={}", self.max_size, self.max_files);
        let texts = [
            ("driver", &self.driver),
            ("attrs", &self.attrs),
            ("attach", &self.attach),
            (PARAMETER, &self.network),
        ];
        for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
            out += &format!("&{key}={}", encode(text));
        }
        if let Some(age) = self.max_age {
            out += &format!("&max-age={age}");
        }
        if self.max_buffer > 0 {
            out += &format!("&max-buffer={}", self.max_buffer);
        }
        let switches = [
            ("compress=1", self.compress),
            (NON_BLOCKING, self.non_blocking),
            ("stdin=1", self.stdin),
        ];
        for (switch, _) in switches.into_iter().filter(|(_, on)| *on) {
            out += &format!("&{switch}");
        }
        out
    }

    /// Reads the URI; `None` when the scheme is another.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown or malformed parameter.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some(rest) = text.strip_prefix(SCHEME) else { return Ok(None) };
        let bad = |what: &str| Error::invalid_argument(format!("stdout URI {text:?}: {what}"));
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri =
            LogUri { log: decode(path).ok_or_else(|| bad("bad path"))?, ..Self::default() };
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| bad("parameter without value"))?;
            let number = || value.parse::<u64>().map_err(|_| bad("not a number"));
            match key {
                "max-size" => uri.max_size = number()?,
                "max-file" => {
                    uri.max_files = u32::try_from(number()?).map_err(|_| bad("too many files"))?
                }
                "max-age" => uri.max_age = Some(number()?),
                "max-buffer" => uri.max_buffer = number()?,
                "driver" => uri.driver = decode(value).ok_or_else(|| bad("bad driver"))?,
                "attrs" => uri.attrs = decode(value).ok_or_else(|| bad("bad attributes"))?,
                "attach" => uri.attach = decode(value).ok_or_else(|| bad("bad attach path"))?,
                PARAMETER => uri.network = decode(value).ok_or_else(|| bad("bad network path"))?,
                "compress" => uri.compress = value == "1",
                "mode" => uri.non_blocking = value == "non-blocking",
                "stdin" => uri.stdin = value == "1",
                _ => return Err(bad("unknown parameter")),
            }
        }
        Ok(Some(uri))
    }
}

fn encode(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.bytes() {
        match b {
            b'?' | b'&' | b'%' | b'=' | b'#' | 0..=0x20 | 0x7f.. => out += &format!("%{b:02x}"),
            _ => out.push(char::from(b)),
        }
    }
    out
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let hex = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_round_trip() {
        let uri = LogUri {
            log: "/var/lib/a b?c/äx-json.log".into(),
            max_size: 10,
            max_files: 3,
            attach: "/run/x.sock".into(),
            stdin: true,
            ..LogUri::default()
        };
        assert_eq!(LogUri::parse(&uri.format()).unwrap(), Some(uri.clone()));
        let uri = LogUri {
            driver: "local".into(),
            max_age: Some(0),
            compress: true,
            attrs: r#"{"a b":"x&y=ä%41+\n"}"#.into(),
            non_blocking: true,
            max_buffer: 4096,
            network: "/run/n?1.sock".into(),
            ..uri
        };
        assert_eq!(LogUri::parse(&uri.format()).unwrap(), Some(uri));
        let plain = "gantry:///x?max-size=0&max-file=0";
        assert_eq!(LogUri { log: "/x".into(), ..LogUri::default() }.format(), plain);
        assert_eq!(LogUri::parse("file:///x").unwrap(), None);
        assert!(LogUri::parse("gantry:///x?nope=1").is_err());
    }

    #[test]
    fn frames() {
        let h = header(FRAME_STDOUT, 300).unwrap();
        assert_eq!(parse_header(h).unwrap(), (FRAME_STDOUT, 300));
        assert!(parse_header([9, 0, 0, 0, 0]).is_err());
        assert!(header(FRAME_STDIN, MAX_PAYLOAD + 1).is_err());
    }
}
