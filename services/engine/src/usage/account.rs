//! Who takes how much of the disk: each thing counted once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use gantry_core::Digest;
use gantry_core::snapshots::{Kind, SnapshotUsage};

use crate::images::Parts;

/// What lies on the disk in one namespace, with the bytes that it takes.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Blobs by digest.
    pub(crate) blobs: HashMap<Digest, u64>,
    /// Snapshots by snapshotter and name.
    snapshots: BTreeMap<String, HashMap<String, SnapshotUsage>>,
}

/// A thing that takes space, and that several may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thing<'a> {
    Blob(&'a Digest),
    /// Snapshotter and name.
    Layer(&'a str, &'a str),
}

type Things<'a> = HashSet<Thing<'a>>;

/// An image of which something is on the disk.
#[derive(Debug)]
pub(crate) struct Holder {
    /// What it consists of.
    pub(crate) parts: Vec<Arc<Parts>>,
    /// Whether a container was made from it.
    pub(crate) used: bool,
}

/// What is held by images and containers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes that each image shares with others, and that no other has.
    pub(crate) images: Vec<(u64, u64)>,
    /// Bytes in all.
    pub(crate) total: u64,
    /// Bytes that go when all images go that are not used.
    pub(crate) reclaimable: u64,
}

impl Disk {
    pub(super) fn new(blobs: HashMap<Digest, u64>) -> Self {
        Self { blobs, snapshots: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, snapshotter: &str, snapshots: Vec<SnapshotUsage>) {
        let by_name = snapshots.into_iter().map(|found| (found.info.name.clone(), found));
        self.snapshots.insert(snapshotter.to_owned(), by_name.collect());
    }

    /// The snapshotter that has a writable snapshot of this key.
    pub(super) fn writable(&self, key: &str) -> Option<&str> {
        let is_it = |of: &HashMap<String, SnapshotUsage>| {
            of.get(key).is_some_and(|found| found.info.kind == Kind::Active)
        };
        self.snapshots.iter().find(|(_, of)| is_it(of)).map(|(name, _)| name.as_str())
    }

    /// Bytes of all that a snapshot lies on.
    pub(super) fn below(&self, snapshotter: &str, key: &str) -> u64 {
        self.layers(snapshotter, key).map(|layer| self.size(layer)).sum()
    }

    /// What a snapshot lies on.
    fn layers<'a>(&'a self, snapshotter: &str, key: &str) -> impl Iterator<Item = Thing<'a>> {
        let found = self.snapshots.get_key_value(snapshotter);
        let parent = move |key: &str| {
            let (name, of) = found?;
            let (parent, _) = of.get_key_value(of.get(key)?.info.parent.as_deref()?)?;
            Some(Thing::Layer(name, parent))
        };
        std::iter::successors(parent(key), move |layer| match layer {
            Thing::Layer(_, name) => parent(name),
            Thing::Blob(_) => None,
        })
    }

    fn size(&self, thing: Thing<'_>) -> u64 {
        match thing {
            Thing::Blob(digest) => self.blobs.get(digest).copied(),
            Thing::Layer(snapshotter, name) => {
                let found = self.snapshots.get(snapshotter).and_then(|of| of.get(name));
                found.and_then(|found| found.usage).map(|usage| usage.size)
            }
        }
        .unwrap_or(0)
    }

    fn sum<'a>(&self, things: impl IntoIterator<Item = Thing<'a>>) -> u64 {
        things.into_iter().map(|thing| self.size(thing)).sum()
    }

    /// What of an image is here.
    fn of_image<'a>(&'a self, holder: &Holder) -> Things<'a> {
        let mut things = Things::new();
        for parts in &holder.parts {
            let blobs = parts.blobs.iter().filter_map(|digest| self.blobs.get_key_value(digest));
            things.extend(blobs.map(|(digest, _)| Thing::Blob(digest)));
            for (snapshotter, of) in &self.snapshots {
                let layers = parts.chains.iter().filter_map(|c| of.get_key_value(c.as_str()));
                things.extend(layers.map(|(name, _)| Thing::Layer(snapshotter, name)));
            }
        }
        things
    }

    /// What lies below file systems that are in use.
    fn in_use(&self) -> Things<'_> {
        let mut things = Things::new();
        for (snapshotter, of) in &self.snapshots {
            let used = of.values().filter(|found| found.info.kind != Kind::Committed);
            for found in used {
                things.extend(self.layers(snapshotter, &found.info.name));
            }
        }
        things
    }

    /// Adds up what images and containers hold.
    pub(crate) fn held(&self, images: &[Holder]) -> Held {
        let things: Vec<Things<'_>> = images.iter().map(|image| self.of_image(image)).collect();
        let mut holders: HashMap<Thing<'_>, u32> = HashMap::new();
        for thing in things.iter().flatten() {
            *holders.entry(*thing).or_default() += 1;
        }
        let of_one = |things: &Things<'_>| {
            let (shared, unique): (Vec<_>, Vec<_>) =
                things.iter().copied().partition(|thing| holders[thing] > 1);
            (self.sum(shared), self.sum(unique))
        };
        let in_use = self.in_use();
        let all: Things<'_> = holders.keys().chain(&in_use).copied().collect();
        let used = images.iter().zip(&things).filter(|(image, _)| image.used);
        let needed = used.flat_map(|(_, things)| things).chain(&in_use);
        let needed: Things<'_> = needed.copied().collect();
        Held {
            images: things.iter().map(of_one).collect(),
            total: self.sum(all.iter().copied()),
            reclaimable: self.sum(all.difference(&needed).copied()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::snapshots::{Info, Usage};
    use gantry_core::{Labels, Timestamp};

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    fn snapshot(name: &str, parent: Option<&str>, size: Option<u64>) -> SnapshotUsage {
        let kind = if size.is_some() { Kind::Committed } else { Kind::Active };
        let info = Info {
            kind,
            name: name.to_owned(),
            parent: parent.map(str::to_owned),
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
            labels: Labels::new(),
        };
        SnapshotUsage { info, usage: size.map(|size| Usage { inodes: 1, size }) }
    }

    /// Layers 1 and 2 on it, 3 beside 2; blobs of the same numbers.
    fn disk() -> Disk {
        let mut disk = Disk::new((1..=4).map(|n| (digest(n), u64::from(n))).collect());
        let name = |n| digest(n).to_string();
        let (one, two, three) = (name(1), name(2), name(3));
        disk.add(
            "overlayfs",
            vec![
                snapshot(&one, None, Some(100)),
                snapshot(&two, Some(&one), Some(200)),
                snapshot(&three, Some(&one), Some(400)),
                snapshot("c1", Some(&two), None),
                snapshot("garbage", None, Some(5000)),
            ],
        );
        disk
    }

    fn holder(numbers: &[u8], used: bool) -> Holder {
        let digests: Vec<_> = numbers.iter().map(|n| digest(*n)).collect();
        let parts = Parts { blobs: digests.clone(), chains: digests, ..Parts::default() };
        Holder { parts: vec![Arc::new(parts)], used }
    }

    #[test]
    fn shared_layers_count_once() {
        let disk = disk();
        let held = disk.held(&[holder(&[1, 2], true), holder(&[1, 3, 4], false)]);
        assert_eq!(held.images, [(101, 202), (101, 407)]);
        assert_eq!(held.total, 101 + 202 + 407);
        assert_eq!(held.reclaimable, 407, "its own, not what the used one has as well");
    }

    #[test]
    fn a_container_keeps_the_layers_of_an_image_without_a_name() {
        let disk = disk();
        assert_eq!(disk.held(&[]), Held { images: Vec::new(), total: 300, reclaimable: 0 });
        let held = disk.held(&[holder(&[1, 2], false)]);
        assert_eq!((held.total, held.reclaimable), (303, 3), "what it was packed in is nobody's");
    }

    #[test]
    fn several_names_of_one_image_are_one() {
        let disk = disk();
        let mut twice = holder(&[1, 2], true);
        twice.parts.push(Arc::clone(&twice.parts[0]));
        assert_eq!(disk.held(&[twice]).images, [(0, 303)]);
    }

    #[test]
    fn what_a_container_lies_on() {
        let disk = disk();
        assert_eq!(disk.writable("c1"), Some("overlayfs"));
        assert_eq!(disk.writable("garbage"), None);
        assert_eq!(disk.below("overlayfs", "c1"), 300);
        assert_eq!((disk.below("overlayfs", "nope"), disk.below("native", "c1")), (0, 0));
    }
}
