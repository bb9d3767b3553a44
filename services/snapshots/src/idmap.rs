//! Owners that are shifted into a user namespace.

use std::fs;

use gantry_core::{Error, Labels, Result};

/// Label with the users of a snapshot's container, `CONTAINER:HOST:COUNT`, joined by commas.
const USERS: &str = "containerd.io/snapshot/uidmapping";
/// The same for groups.
const GROUPS: &str = "containerd.io/snapshot/gidmapping";

/// The most ranges that the kernel takes.
const MAX_RANGES: usize = 340;

/// How the owners of a container's files are shifted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdMap {
    /// As the label says.
    users: String,
    groups: String,
    /// Who the container's root is on the host.
    root: (u32, u32),
}

impl IdMap {
    /// What labels say; `None` when they say nothing.
    ///
    /// # Errors
    /// `InvalidArgument` for one label without the other, for what is no map, and for one
    /// without the container's root.
    pub(crate) fn of(labels: &Labels) -> Result<Option<Self>> {
        let (users, groups) = match (labels.get(USERS), labels.get(GROUPS)) {
            (None, None) => return Ok(None),
            (users, groups) => (users.cloned(), groups.cloned()),
        };
        let (users, groups) = (users.unwrap_or_default(), groups.unwrap_or_default());
        let root = |label: &str, map: &str| {
            root_of(map).ok_or_else(|| {
                Error::invalid_argument(format!(
                    "label {label}={map:?} is no map of IDs with the container's root, such as \
                     0:100000:65536: invalid argument"
                ))
            })
        };
        let root = (root(USERS, &users)?, root(GROUPS, &groups)?);
        Ok(Some(Self { users, groups, root }))
    }

    /// Options of a mount that shifts owners.
    pub(crate) fn options(&self) -> [String; 2] {
        [format!("uidmap={}", self.users), format!("gidmap={}", self.groups)]
    }

    /// User and group on the host that the container's root is.
    pub(crate) fn root(&self) -> (u32, u32) {
        self.root
    }
}

/// The host's ID of the container's 0.
fn root_of(map: &str) -> Option<u32> {
    let mut root = None;
    if map.split(',').count() > MAX_RANGES {
        return None;
    }
    for range in map.split(',') {
        let numbers: Vec<u32> = range.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [container, host, count] = numbers[..] else { return None };
        if count == 0 || container.checked_add(count).is_none() || host.checked_add(count).is_none()
        {
            return None;
        }
        if container == 0 {
            root = Some(host);
        }
    }
    root
}

/// Whether the kernel takes shifted mounts as layers of an overlay: since 5.19.
pub(crate) fn is_supported() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-', '\n']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(19))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(users: Option<&str>, groups: Option<&str>) -> Labels {
        let pairs = [(USERS, users), (GROUPS, groups)];
        pairs.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?.to_owned()))).collect()
    }

    #[test]
    fn maps_are_read_as_containerd_writes_them() {
        assert_eq!(IdMap::of(&Labels::new()).unwrap(), None);
        let map = IdMap::of(&labels(Some("1:2000:9,0:1000:1"), Some("0:3000:65536")));
        let map = map.unwrap().unwrap();
        assert_eq!(map.root(), (1000, 3000));
        assert_eq!(map.options(), ["uidmap=1:2000:9,0:1000:1", "gidmap=0:3000:65536"]);
        let good = "0:1:1";
        for bad in ["", "x", "0:1", "0:1:0", "1:1:1", "0:1:1:1", "0:4294967295:2", "0:1:1,"] {
            for labels in [labels(Some(bad), Some(good)), labels(Some(good), Some(bad))] {
                let err = IdMap::of(&labels).unwrap_err();
                assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{bad:?}");
            }
        }
        assert!(IdMap::of(&labels(Some(good), None)).is_err());
    }
}
