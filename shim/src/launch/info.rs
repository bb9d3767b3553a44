//! `-info` and `-v`.

use gantry_ttrpc::containerd::types::{RuntimeInfo, RuntimeVersion};
use prost::Message;
use prost_types::Any;

use super::features;
use crate::error::{self, Error};
use crate::service;

/// The runtime's name in containerd's terms.
const NAME: &str = "io.containerd.gantry.v2";

/// What the features are told as.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// The encoded `RuntimeInfo`, for options as they may come on standard input.
///
/// # Errors
/// The options are not those of this runtime, or can't be honoured.
pub(super) fn message(stdin: &[u8]) -> Result<Vec<u8>, Error> {
    let options = if stdin.is_empty() {
        None
    } else {
        let options = Any::decode(stdin).map_err(|e| {
            error::invalid("standard input holds no options: invalid argument").with_source(e)
        })?;
        service::check_options(&options)?;
        Some(options)
    };
    let info = RuntimeInfo {
        name: NAME.to_owned(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: option_env!("GANTRY_REVISION").unwrap_or_default().to_owned(),
        }),
        options,
        features: Some(Any {
            type_url: FEATURES.to_owned(),
            value: features::document().to_string().into_bytes(),
        }),
        ..RuntimeInfo::default()
    };
    Ok(info.encode_to_vec())
}

/// The text of `-v`.
pub(super) fn version() -> String {
    format!("containerd-shim-gantry-v2:\n  Version: {}\n", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_ttrpc::any;
    use gantry_ttrpc::containerd::runc::v1::Options;

    #[test]
    fn features_are_json() {
        let info = RuntimeInfo::decode(message(b"").unwrap().as_slice()).unwrap();
        assert_eq!((info.name.as_str(), info.options), (NAME, None));
        let features: serde_json::Value =
            serde_json::from_slice(&info.features.unwrap().value).unwrap();
        assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    }

    #[test]
    fn options_are_looked_through() {
        let options = any::pack(&Options { no_pivot_root: true, ..Options::default() });
        let said = message(&options.encode_to_vec()).unwrap();
        assert_eq!(RuntimeInfo::decode(said.as_slice()).unwrap().options, Some(options));
        let bad = any::pack(&Options { criu_image_path: "/x".into(), ..Options::default() });
        assert!(message(&bad.encode_to_vec()).is_err());
        assert!(message(b"\xff").is_err());
    }
}
