//! The three ways in which containerd's versions ask a shim to start.
//!
//! | caller | standard input | standard output |
//! | --- | --- | --- |
//! | 1.6 | nothing, or an Any with options | the bare address |
//! | 1.7 to 2.2 (sets `MAX_SHIM_VERSION`) | the same | JSON |
//! | 2.3 and later | `BootstrapParams` | `BootstrapResult` |
//!
//! An Any also decodes as `BootstrapParams` (its first two fields are strings
//! and bytes), so these are believed only if id and namespace in them are those
//! of the flags.

use std::path::PathBuf;

use gantry_ttrpc::containerd::runtime::bootstrap::v1::{BootstrapParams, BootstrapResult};
use prost::Message;
use serde::Serialize;

use super::{Environment, Flags};

/// Versions of the task API that are served.
const OLDEST: u32 = 2;
const NEWEST: u32 = 3;

/// How the caller wants to be answered.
#[derive(Debug, Clone, PartialEq)]
pub enum Dialect {
    /// The bare address.
    Bare,
    /// JSON that names this version of the task API.
    Json(u32),
    /// A binary `BootstrapResult`.
    Binary(Box<BootstrapParams>),
}

impl Dialect {
    /// Finds out from what the caller sent.
    pub fn of(stdin: &[u8], flags: &Flags, env: &Environment) -> Self {
        if let Ok(params) = BootstrapParams::decode(stdin)
            && params.instance_id == flags.id
            && params.namespace == flags.namespace
        {
            return Self::Binary(Box::new(params));
        }
        match env.max_shim_version {
            Some(max) => Self::Json(max.clamp(OLDEST, NEWEST)),
            None => Self::Bare,
        }
    }

    /// Where the caller wants sockets, if it says so.
    pub fn socket_dir(&self) -> Option<PathBuf> {
        match self {
            Self::Binary(params) => {
                params.socket_dir.as_ref().filter(|dir| dir.starts_with('/')).map(PathBuf::from)
            }
            _ => None,
        }
    }

    /// The address for events, if the caller sends it here.
    pub fn ttrpc_address(&self) -> Option<&str> {
        match self {
            Self::Binary(params) => {
                Some(params.containerd_ttrpc_address.as_str()).filter(|a| !a.is_empty())
            }
            _ => None,
        }
    }

    /// The answer: the shim listens on `address`.
    pub fn answer(&self, address: &str) -> Vec<u8> {
        #[derive(Serialize)]
        struct Answer<'a> {
            version: u32,
            address: &'a str,
            protocol: &'a str,
        }
        match self {
            Self::Bare => address.as_bytes().to_vec(),
            Self::Json(version) => {
                let answer = Answer { version: *version, address, protocol: "ttrpc" };
                // Strings and numbers always have a JSON form.
                serde_json::to_vec(&answer).unwrap_or_default()
            }
            Self::Binary(_) => BootstrapResult {
                version: NEWEST as i32,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_ttrpc::any;
    use gantry_ttrpc::containerd::runc::v1::Options;

    const ADDRESS: &str = "unix:///run/s/abc";

    fn flags() -> Flags {
        Flags { namespace: "default".into(), id: "c1".into(), ..Flags::default() }
    }

    fn env(max: Option<u32>) -> Environment {
        Environment { max_shim_version: max, ..Environment::default() }
    }

    #[test]
    fn containerd_1_6() {
        let options =
            any::pack(&Options { systemd_cgroup: true, ..Options::default() }).encode_to_vec();
        for stdin in [&b""[..], &options] {
            let dialect = Dialect::of(stdin, &flags(), &env(None));
            assert_eq!(dialect, Dialect::Bare);
            assert_eq!(dialect.answer(ADDRESS), ADDRESS.as_bytes());
        }
    }

    #[test]
    fn containerd_up_to_2_2() {
        let dialect = Dialect::of(b"", &flags(), &env(Some(2)));
        let want = r#"{"version":2,"address":"unix:///run/s/abc","protocol":"ttrpc"}"#;
        assert_eq!(String::from_utf8(dialect.answer(ADDRESS)).unwrap(), want);
        assert_eq!(Dialect::of(b"", &flags(), &env(Some(9))), Dialect::Json(3));
        assert_eq!(Dialect::of(b"\xff\xff", &flags(), &env(Some(3))), Dialect::Json(3));
    }

    #[test]
    fn containerd_2_3_and_later() {
        let params = BootstrapParams {
            instance_id: "c1".into(),
            namespace: "default".into(),
            containerd_ttrpc_address: "/run/c.ttrpc".into(),
            socket_dir: Some("/run/x".into()),
            ..BootstrapParams::default()
        };
        let dialect = Dialect::of(&params.encode_to_vec(), &flags(), &env(Some(2)));
        assert_eq!(dialect.socket_dir(), Some("/run/x".into()));
        assert_eq!(dialect.ttrpc_address(), Some("/run/c.ttrpc"));
        let result = BootstrapResult::decode(dialect.answer(ADDRESS).as_slice()).unwrap();
        assert_eq!(
            (result.version, result.address.as_str(), result.protocol.as_str()),
            (3, ADDRESS, "ttrpc")
        );
    }

    /// As they are on the wire: field numbers and types are the contract.
    #[test]
    fn bytes_of_the_newest_dialect() {
        let params = b"\x0a\x02c1\x12\x07default\x22\x052.4.0\x2a\x0c/run/c.ttrpc\
            \x32\x07/run/c.\x3a\x06/bin/c\x4a\x06/run/x";
        let dialect = Dialect::of(params, &flags(), &env(Some(2)));
        assert_eq!(dialect.ttrpc_address(), Some("/run/c.ttrpc"));
        assert_eq!(dialect.socket_dir(), Some("/run/x".into()));
        let answer = b"\x08\x03\x12\x11unix:///run/s/abc\x1a\x05ttrpc";
        assert_eq!(dialect.answer(ADDRESS), answer);
    }

    #[test]
    fn foreign_bootstrap_params_are_not_believed() {
        let params = BootstrapParams {
            instance_id: "c2".into(),
            namespace: "default".into(),
            ..Default::default()
        };
        assert_eq!(Dialect::of(&params.encode_to_vec(), &flags(), &env(None)), Dialect::Bare);
    }
}
