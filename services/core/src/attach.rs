//! What the daemon and its shim agree on for logs and attached clients.
//!
//! As `stdout` of a task or process, a URI
//! `gantry://LOG?max-size=BYTES&max-file=N&attach=SOCKET&stdin=1` asks the shim to hold the
//! process' pipes (or terminal) itself: it writes the log file LOG in
//! Docker's json-file format, rotates it, and listens on SOCKET for
//! clients. LOG may be empty (no log). Paths are absolute and percent-encoded.
//!
//! Clients and shim exchange frames: one byte type, four bytes length (big
//! endian), then the payload of at most 64 KiB.

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
    /// Rotate at this many bytes; 0 for the default of 10 MiB.
    pub max_size: u64,
    /// Keep this many files; 0 for the default of 3.
    pub max_files: u32,
    /// Socket for clients; empty for none.
    pub attach: String,
    /// Keep standard input open for clients.
    pub stdin: bool,
}

/// The scheme.
pub const SCHEME: &str = "gantry://";

impl LogUri {
    /// Writes the URI.
    pub fn format(&self) -> String {
        let mut out = format!("{SCHEME}{}?", encode(&self.log));
        out += &format!("max-size={}&max-file={}", self.max_size, self.max_files);
        if !self.attach.is_empty() {
            out += &format!("&attach={}", encode(&self.attach));
        }
        if self.stdin {
            out += "&stdin=1";
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
                "attach" => uri.attach = decode(value).ok_or_else(|| bad("bad attach path"))?,
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
        };
        assert_eq!(LogUri::parse(&uri.format()).unwrap(), Some(uri));
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
