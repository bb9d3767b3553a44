//! What of a list of mounts the host has to do.

use gantry_core::{Error, Mount, Result};

use crate::LOOP;

/// The most mounts of one activation.
const MAX_MOUNTS: usize = 255;

/// What is done to a mount before it is mounted, as prefixes of its type say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Transforms {
    /// `format/`: fill in templates.
    pub(crate) format: bool,
    /// `mkfs/`: make the image that the source names.
    pub(crate) mkfs: bool,
    /// `mkdir/`: make directories that options name.
    pub(crate) mkdir: bool,
}

impl Transforms {
    fn any(self) -> bool {
        self != Self::default()
    }

    /// Splits a type such as `format/mkdir/overlay`. An unknown prefix belongs to the
    /// type, which somebody else may know.
    fn split(kind: &str) -> (Self, &str) {
        let (mut transforms, mut rest) = (Self::default(), kind);
        while let Some((prefix, behind)) = rest.split_once('/') {
            match prefix {
                "format" => transforms.format = true,
                "mkfs" => transforms.mkfs = true,
                "mkdir" => transforms.mkdir = true,
                _ => break,
            }
            rest = behind;
        }
        (transforms, rest)
    }
}

/// A mount, and what is done to it first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) transforms: Transforms,
    /// With its type free of prefixes.
    pub(crate) mount: Mount,
}

/// Mounts in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// To be made by the host.
    pub(crate) ours: Vec<Step>,
    /// The first one left to the client: the only one of those that has transforms.
    pub(crate) first: Option<Step>,
    /// Left to the client as they are.
    pub(crate) rest: Vec<Mount>,
}

impl Plan {
    /// Sorts mounts. The host makes loop devices and all that comes before one, before
    /// a mount with transforms, or at all if it is to be `temporary`.
    ///
    /// # Errors
    /// `Unimplemented` when nothing needs the host; `InvalidArgument`.
    pub(crate) fn new(mounts: &[Mount], temporary: bool) -> Result<Self> {
        if mounts.len() > MAX_MOUNTS {
            return Err(Error::invalid_argument(format!(
                "{} mounts in one activation, {MAX_MOUNTS} at most: invalid argument",
                mounts.len()
            )));
        }
        let mut ours = None;
        for (at, mount) in mounts.iter().enumerate() {
            let (transforms, kind) = Transforms::split(&mount.kind);
            if transforms.any() {
                ours = Some(at);
            }
            if kind == LOOP || temporary {
                ours = Some(at + 1);
            }
        }
        let Some(ours) = ours else {
            return Err(Error::unimplemented(
                "none of the mounts needs the mount manager: mount them as they are: \
                 not implemented",
            ));
        };
        let (ours, rest) = mounts.split_at(ours);
        let step = |mount: &Mount| {
            let (transforms, kind) = Transforms::split(&mount.kind);
            Step { transforms, mount: Mount { kind: kind.to_owned(), ..mount.clone() } }
        };
        let first = rest.first().map(step);
        let rest = rest.get(1..).unwrap_or_default().to_vec();
        Ok(Self { ours: ours.iter().map(step).collect(), first, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(kinds: &[&str]) -> Vec<Mount> {
        kinds.iter().map(|kind| Mount { kind: (*kind).into(), ..Mount::default() }).collect()
    }

    fn parts(kinds: &[&str], temporary: bool) -> (usize, Option<String>, usize) {
        let plan = Plan::new(&mounts(kinds), temporary).unwrap();
        (plan.ours.len(), plan.first.map(|step| step.mount.kind), plan.rest.len())
    }

    #[test]
    fn what_needs_the_host_and_what_it_builds_on() {
        assert_eq!(parts(&["bind", "format/overlay"], false), (1, Some("overlay".into()), 0));
        assert_eq!(parts(&["loop", "format/ext4"], false), (1, Some("ext4".into()), 0));
        assert_eq!(parts(&["mkfs/loop"], false), (1, None, 0));
        assert_eq!(parts(&["mkdir/bind", "tmpfs"], false), (0, Some("bind".into()), 1));
        let all = ["mkfs/loop", "format/ext4", "format/mkdir/overlay", "bind"];
        assert_eq!(parts(&all, false), (2, Some("overlay".into()), 1));
        assert_eq!(parts(&all, true), (4, None, 0));
        assert_eq!(parts(&["bind"], true), (1, None, 0));
    }

    #[test]
    fn nothing_to_do_is_told() {
        for kinds in [&[][..], &["bind"], &["overlay", "other/ext4"]] {
            let err = Plan::new(&mounts(kinds), false).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::Unimplemented, "{kinds:?}");
        }
        let many = mounts(&["loop"; 256]);
        let err = Plan::new(&many, false).unwrap_err();
        assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
    }
}
