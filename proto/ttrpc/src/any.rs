//! Packs messages into `google.protobuf.Any` and takes them out again.
//!
//! containerd's clients write type URLs without the customary
//! `type.googleapis.com/` in front, and some compare them as they are, so
//! none is written here; on input it is tolerated. URLs such as
//! `types.containerd.io/opencontainers/runtime-spec/1/Spec` name JSON and
//! stay as they are.

use prost::Name;
use prost_types::Any;

use crate::Status;

const GOOGLE: &str = "type.googleapis.com/";

/// Packs a message under its full name.
pub fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

/// Whether the value is said to be a message `M`.
pub fn is<M: Name>(any: &Any) -> bool {
    type_name(&any.type_url) == M::full_name()
}

/// Unpacks a message.
///
/// # Errors
/// `InvalidArgument` when the value is of another type or malformed.
pub fn unpack<M: Name + Default>(any: &Any) -> Result<M, Status> {
    if !is::<M>(any) {
        return Err(Status::invalid_argument(format!(
            "unpack {}: the value is a {:?}: invalid argument",
            M::full_name(),
            any.type_url
        )));
    }
    M::decode(any.value.as_slice()).map_err(|e| {
        Status::invalid_argument(format!("unpack {}: {e}: invalid argument", M::full_name()))
    })
}

/// The type URL without the prefix that some clients write.
pub fn type_name(url: &str) -> &str {
    let url = url.strip_prefix(GOOGLE).unwrap_or(url);
    url.strip_prefix('/').unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containerd::runc::v1::{Options, ProcessDetails};

    #[test]
    fn urls_have_no_prefix_and_tolerate_one() {
        let options = Options { binary_name: "x".into(), ..Options::default() };
        let mut any = pack(&options);
        assert_eq!(any.type_url, "containerd.runc.v1.Options");
        assert_eq!(unpack::<Options>(&any), Ok(options.clone()));
        for prefix in ["type.googleapis.com/", "/"] {
            any.type_url = format!("{prefix}containerd.runc.v1.Options");
            assert_eq!(unpack::<Options>(&any), Ok(options.clone()));
        }
    }

    #[test]
    fn other_types_and_garbage_are_refused() {
        let any = pack(&ProcessDetails { exec_id: "e".into() });
        assert_eq!(unpack::<Options>(&any).unwrap_err().code, crate::Code::INVALID_ARGUMENT);
        let any = Any { type_url: "containerd.runc.v1.Options".into(), value: vec![0xff] };
        assert_eq!(unpack::<Options>(&any).unwrap_err().code, crate::Code::INVALID_ARGUMENT);
    }

    #[test]
    fn json_urls_stay() {
        let url = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
        assert_eq!(type_name(url), url);
    }
}
