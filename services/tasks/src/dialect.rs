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
    match BootstrapResult::decode(answer) {
        Ok(result) if result.address.contains("://") => Ok(Endpoint {
            version: result.version,
            address: result.address,
            protocol: result.protocol,
        }),
        _ => Err(Error::internal(format!(
            "the shim answered {:?} to `start`, which is no address",
            String::from_utf8_lossy(&answer[..answer.len().min(200)])
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_answers() {
        let bare = parse(b"unix:///run/containerd/s/abc\n").unwrap();
        assert_eq!(bare, Endpoint::ttrpc(2, "unix:///run/containerd/s/abc"));
        let json = br#"{"version":3,"address":"unix:///run/s","protocol":"ttrpc"}"#;
        assert_eq!(parse(json).unwrap(), Endpoint::ttrpc(3, "unix:///run/s"));
        let binary = BootstrapResult {
            version: 3,
            address: "unix:///run/s".into(),
            protocol: "ttrpc".into(),
            ..BootstrapResult::default()
        };
        assert_eq!(parse(&binary.encode_to_vec()).unwrap(), Endpoint::ttrpc(3, "unix:///run/s"));
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [&b""[..], b"hello", b"{", b"\x08\x03", b"\xff\xff"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_ttrpc_over_unix_sockets() {
        assert_eq!(Endpoint::ttrpc(3, "unix:///run/s").socket().unwrap(), "/run/s");
        assert!(Endpoint::ttrpc(3, "vsock://1:2").socket().is_err());
        let grpc = Endpoint { protocol: "grpc".into(), ..Endpoint::ttrpc(3, "unix:///run/s") };
        assert!(grpc.socket().is_err());
    }
}
