//! Labels that mean something to the engine or to its clients.

use gantry_core::labels::{CONTAINERD_PREFIX, validate_all};
use gantry_core::{Error, Labels, Result};

/// What labels begin with by which this engine and its clients know what is theirs. Out of
/// an image they would speak for somebody who never said so.
const TRUSTED: [&str; 5] =
    [OURS, CONTAINERD_PREFIX, "io.containerd.", "io.cri-containerd", "nerdctl/"];
/// Of this engine.
const OURS: &str = "io.gantry.";

/// An image's labels without those that would take effect.
pub(crate) fn of_image(labels: Labels) -> Labels {
    let plain = |key: &str| !TRUSTED.iter().any(|prefix| key.starts_with(prefix));
    labels.into_iter().filter(|(key, _)| plain(key)).collect()
}

/// Refuses labels that are the engine's own, and those that can't be stored.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn of_caller(labels: &Labels) -> Result<()> {
    let reserved = |key: &&String| key.starts_with(OURS) || key.starts_with(CONTAINERD_PREFIX);
    if let Some(key) = labels.keys().find(reserved) {
        return Err(Error::invalid_argument(format!(
            "label {key:?} is reserved: labels of your own must not begin with {OURS} or \
             {CONTAINERD_PREFIX}"
        )));
    }
    validate_all(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(keys: &[&str]) -> Labels {
        keys.iter().map(|key| ((*key).to_owned(), "x".to_owned())).collect()
    }

    #[test]
    fn images_speak_for_nobody() {
        let given = labels(&[
            "io.gantry.name",
            "containerd.io/gc.ref.content.x",
            "containerd.io/restart.loguri",
            "nerdctl/name",
            "maintainer",
            "org.opencontainers.image.title",
        ]);
        let left = of_image(given);
        assert_eq!(
            left.keys().collect::<Vec<_>>(),
            ["maintainer", "org.opencontainers.image.title"]
        );
    }

    #[test]
    fn callers_may_not_use_ours() {
        of_caller(&labels(&["a", "com.example.io.gantry.x"])).unwrap();
        for bad in ["io.gantry.name", "containerd.io/gc.root"] {
            assert!(of_caller(&labels(&[bad])).is_err(), "{bad}");
        }
        let long = Labels::from([("a".to_owned(), "x".repeat(5000))]);
        assert!(of_caller(&long).is_err());
    }
}
