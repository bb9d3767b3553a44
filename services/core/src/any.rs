//! Values that are carried without being understood.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A typed value that is carried without being understood: protobuf's `Any`.
/// Type URLs have no `type.googleapis.com/` prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Any {
    /// What the value is, such as
    /// `types.containerd.io/opencontainers/runtime-spec/1/Spec`.
    pub type_url: String,
    /// Encoded value.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub value: Vec<u8>,
}

/// Type URL of an OCI runtime specification as JSON.
pub const SPEC_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Type URL of an OCI process as JSON.
pub const PROCESS_TYPE_URL: &str = "types.containerd.io/opencontainers/runtime-spec/1/Process";
/// Type URL of OCI Linux resources as JSON.
pub const RESOURCES_TYPE_URL: &str =
    "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources";

impl Any {
    /// An OCI runtime specification, given as JSON.
    pub fn spec(json: Vec<u8>) -> Self {
        Self { type_url: SPEC_TYPE_URL.into(), value: json }
    }

    /// An OCI process, given as JSON.
    pub fn process(json: Vec<u8>) -> Self {
        Self { type_url: PROCESS_TYPE_URL.into(), value: json }
    }

    /// OCI Linux resources, given as JSON.
    pub fn resources(json: Vec<u8>) -> Self {
        Self { type_url: RESOURCES_TYPE_URL.into(), value: json }
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
    STANDARD.decode(text.as_bytes()).map_err(serde::de::Error::custom)
}
