//! Labels: small texts that clients hang on objects.

use std::collections::BTreeMap;

use crate::{Error, Result};

/// Key to value, ordered by key.
pub type Labels = BTreeMap<String, String>;

/// Longest key and value together, in bytes, as in containerd.
const MAX_LENGTH: usize = 4096;

/// The prefix of labels that mean something to the engine itself.
pub const CONTAINERD_PREFIX: &str = "containerd.io/";

/// Default snapshotter of a namespace.
pub const DEFAULT_SNAPSHOTTER: &str = "containerd.io/defaults/snapshotter";
/// Default runtime of a namespace.
pub const DEFAULT_RUNTIME: &str = "containerd.io/defaults/runtime";
/// The diff ID of a compressed layer blob.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// When a lease ends, RFC 3339.
pub const GC_EXPIRE: &str = "containerd.io/gc.expire";
/// Keeps an object that nothing else references.
pub const GC_ROOT: &str = "containerd.io/gc.root";
/// Prefix of references from a blob to blobs.
pub const GC_REF_CONTENT: &str = "containerd.io/gc.ref.content";
/// Prefix of references to snapshots; the snapshotter's name follows.
pub const GC_REF_SNAPSHOT: &str = "containerd.io/gc.ref.snapshot.";
/// Prefix of the registries that a blob came from; the host follows.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";

/// Checks one label.
///
/// # Errors
/// `InvalidArgument` when key and value together are over 4096 bytes.
pub fn validate(key: &str, value: &str) -> Result<()> {
    let total = key.len() + value.len();
    if total <= MAX_LENGTH {
        return Ok(());
    }
    let shown: String = key.chars().take(64).collect();
    Err(Error::invalid_argument(format!(
        "label key and value length ({total} bytes) greater than maximum size ({MAX_LENGTH} bytes), key: {shown}: invalid argument"
    )))
}

/// Checks all labels of an object.
///
/// # Errors
/// As [`validate`], for the first that is too long.
pub fn validate_all(labels: &Labels) -> Result<()> {
    labels.iter().try_for_each(|(k, v)| validate(k, v))
}

/// Applies a field-mask path `labels.KEY` (KEY is everything behind the first
/// dot) of an update: the key takes `from`'s value, or goes when `from` lacks
/// it or has it empty.
pub fn update_one(to: &mut Labels, from: &Labels, key: &str) {
    match from.get(key).filter(|v| !v.is_empty()) {
        Some(value) => to.insert(key.to_owned(), value.clone()),
        None => to.remove(key),
    };
}
