//! What `SHIM start` prints, in the three ways in which shims say it.

use gantry_core::{Error, Result};
use gantry_ttrpc::containerd::runtime::bootstrap::v1::BootstrapResult;
use prost::Message;
use serde::{Deserialize, Serialize};

/// Where a shim listens. Kept as JSON in the bundle, as containerd does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    /// Version of the task service, 2 or 3.
    pub(crate) version: i32,
    /// `unix://` and a path.
    pub(crate) address: String,
    /// `ttrpc`; absent in some shims' JSON.
    #[serde(default)]
    pub(crate) protocol: String,
}

impl Endpoint {
    /// A socket that speaks ttrpc.
    pub(crate) fn ttrpc(version: i32, address: impl Into<String>) -> Self {
        Self { version, address: address.into(), protocol: "ttrpc".into() }
    }

    /// A task service that runs already, as a client names it: the protocol may
    /// stand before the scheme, as in `ttrpc+unix:///run/s`.
    pub(crate) fn named(version: u32, address: &str) -> Self {
        let version = if version == 2 { 2 } else { 3 };
        match address.split_once("://").and_then(|(scheme, _)| scheme.split_once('+')) {
            Some((protocol, _)) => Self {
                version,
                address: address[protocol.len() + 1..].to_owned(),
                protocol: protocol.to_owned(),
            },
            None => Self::ttrpc(version, address),
        }
    }

    /// The path of the socket.
    ///
    /// # Errors
    /// `Unimplemented` for another transport or protocol.
    pub(crate) fn socket(&self) -> Result<&str> {
        if !self.protocol.is_empty() && self.protocol != "ttrpc" {
            return Err(Error::unimplemented(format!(
                "the shim speaks {} at {}; only ttrpc is supported: not implemented",
                self.protocol, self.address
            )));
        }
        let path = self.address.strip_prefix("unix://").unwrap_or(&self.address);
        if path.starts_with('/') {
            return Ok(path);
        }
        Err(Error::unimplemented(format!(
            "the shim listens at {:?}; only unix sockets are supported: not implemented",
            self.address
        )))
    }
}

/// Reads the answer of `SHIM start`: a bare address (task service version 2),
/// JSON, or a `BootstrapResult`.
///
/// # Errors
/// `Internal` when it is none of them.
pub(crate) fn parse(answer: &[u8]) -> Result<Endpoint> {
    let text = answer.trim_ascii();
    if text.starts_with(b"{") {
        return serde_json::from_slice(text).map_err(|err| {
            Error::internal("read what the shim answered to `start`").with_source(err)
        });
    }
    if let Ok(text) = std::str::from_utf8(text) {
        // Go's shims put nothing else on standard output, but others may log
        // there before: the address is the last line.
        let last = text.lines().last().unwrap_or_default().trim();
        if last.starts_with("unix://") || last.starts_with('/') {
            return Ok(Endpoint::ttrpc(2, last));
        }
    }
    newest(answer).ok_or_else(|| {
        Error::internal(format!(
            "the shim answered {:?} to `start`, which is no address",
            String::from_utf8_lossy(&answer[..answer.len().min(200)])
        ))
    })
}

/// Reads the answer of a shim that was started with parameters: a `BootstrapResult`.
pub(crate) fn newest(answer: &[u8]) -> Option<Endpoint> {
    let result = BootstrapResult::decode(answer).ok()?;
    let BootstrapResult { version, address, protocol, .. } = result;
    address.contains("://").then_some(Endpoint { version, address, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_answers() {
        let bare = b"unix:///run/containerd/s/abc\n";
        assert_eq!(parse(bare).unwrap(), Endpoint::ttrpc(2, "unix:///run/containerd/s/abc"));
        let json = br#"{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}"#;
        assert_eq!(parse(json).unwrap(), Endpoint::ttrpc(3, "unix:///run/s"));
        assert_eq!((newest(bare), newest(json)), (None, None));
        let binary = BootstrapResult {
            version: 3,
            address: "unix:///run/s".into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        assert_eq!(parse(&binary.encode_to_vec()).unwrap(), Endpoint::ttrpc(3, "unix:///run/s"));
    }

    /// As they are on the wire: field numbers and types are the contract.
    #[test]
    fn bytes_of_the_newest_answer() {
        let answer = b"\x08\x03\x12\x11unix:///run/s/abc\x1a\x05ttrpc";
        assert_eq!(parse(answer).unwrap(), Endpoint::ttrpc(3, "unix:///run/s/abc"));
        // With capabilities and metadata, of which nothing is known yet.
        let more = b"\x08\x02\x12\x0aunix:///s1\x1a\x05ttrpc\x22\x01\x00\x2a\x06\x0a\x01a\x12\x01b";
        assert_eq!(parse(more).unwrap(), Endpoint::ttrpc(2, "unix:///s1"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"hello", b"{", b"\x08\x03", b"\xff\xff"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_that_a_client_names() {
        let plain = Endpoint::named(0, "unix:///run/s");
        assert_eq!((plain.version, plain.socket().unwrap()), (3, "/run/s"));
        let old = Endpoint::named(2, "ttrpc+unix:///run/s");
        assert_eq!((old.version, old.socket().unwrap()), (2, "/run/s"));
        assert!(Endpoint::named(3, "grpc+vsock://1:2").socket().is_err());
    }

    #[test]
    fn only_ttrpc_over_unix_sockets() {
        assert_eq!(Endpoint::ttrpc(3, "unix:///run/s").socket().unwrap(), "/run/s");
        assert!(Endpoint::ttrpc(3, "vsock://1:2").socket().is_err());
        let grpc = Endpoint { protocol: "grpc".into(), ..Endpoint::ttrpc(3, "unix:///run/s") };
        assert!(grpc.socket().is_err());
    }
}
