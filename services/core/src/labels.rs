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

/// Which labels an update changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelMask {
    /// All of them are replaced.
    All,
    /// These keys only; an empty or missing value removes the key.
    Keys(Vec<String>),
}

impl LabelMask {
    /// What the paths of a field mask say for `what`, of which nothing but labels can
    /// change; no paths mean all labels.
    ///
    /// # Errors
    /// `InvalidArgument` for any other path.
    pub fn of_paths(paths: &[String], what: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for path in paths.iter().filter(|path| *path != "labels") {
            let key = path.strip_prefix("labels.").ok_or_else(|| {
                Error::invalid_argument(format!(
                    "cannot update {path:?} field on {what}: invalid argument"
                ))
            })?;
            keys.push(key.to_owned());
        }
        // A path that was left out stands for all.
        Ok(if keys.len() < paths.len().max(1) { Self::All } else { Self::Keys(keys) })
    }

    /// Takes what it names from `new`.
    pub fn apply(&self, to: &mut Labels, new: &Labels) {
        match self {
            Self::All => to.clone_from(new),
            Self::Keys(keys) => keys.iter().for_each(|key| update_one(to, new, key)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn masks_name_labels_only() {
        let mask = |paths: &[&str]| {
            LabelMask::of_paths(&paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>(), "x")
        };
        assert_eq!(mask(&[]).unwrap(), LabelMask::All);
        assert_eq!(mask(&["labels.a", "labels"]).unwrap(), LabelMask::All);
        let key = "containerd.io/gc.root";
        assert_eq!(mask(&[&format!("labels.{key}")]).unwrap(), LabelMask::Keys(vec![key.into()]));
        for bad in [["labels", "parent"], ["parent", "labels.a"]] {
            let err = mask(&bad).unwrap_err();
            assert_eq!(err.kind(), Kind::InvalidArgument);
            assert!(err.to_string().contains("cannot update \"parent\" field on x"), "{err}");
        }
    }
}
