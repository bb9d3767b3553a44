//! `-info` and `-v`.

use gantry_ttrpc::containerd::types::{RuntimeInfo, RuntimeVersion};
use prost::Message;
use prost_types::Any;

/// The runtime's name in containerd's terms.
const NAME: &str = "io.containerd.gantry.v2";

/// What the OCI runtime specification calls features.
const FEATURES: &str = r#"{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.1",
"hooks":["prestart","createRuntime","createContainer","startContainer","poststart","poststop"],
"linux":{"namespaces":["cgroup","ipc","mount","network","pid","user","uts"],
"cgroup":{"v1":true,"v2":true,"systemd":false,"systemdUser":false},
"seccomp":{"enabled":true},"apparmor":{"enabled":false},"selinux":{"enabled":false}}}"#;

/// The encoded `RuntimeInfo`.
pub(super) fn message() -> Vec<u8> {
    RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: String::new(),
        }),
        features: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
                .to_owned(),
            value: FEATURES.as_bytes().to_vec(),
        }),
        ..RuntimeInfo::default()
    }
    .encode_to_vec()
}

/// The text of `-v`.
pub(super) fn version() -> String {
    format!("containerd-shim-gantry-v2:\n  Version: {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_json() {
        let info = RuntimeInfo::decode(message().as_slice()).unwrap();
        assert_eq!(info.name, NAME);
        let features: serde_json::Value =
            serde_json::from_slice(&info.features.unwrap().value).unwrap();
        assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    }
}
