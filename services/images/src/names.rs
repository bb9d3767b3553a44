//! Under which names images are stored, as a client's `ImageStore` says.

use gantry_core::{Descriptor, Labels};
use gantry_grpc::containerd::types::transfer as types;

use crate::reference::{Reference, Target};

/// Full name of an image, in an archive's index.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// Tag or name of an image, in an archive's index.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Names for what a whole request is about: its own name and full references.
pub(crate) fn of_target(store: &types::ImageStore, target: &Descriptor) -> Vec<String> {
    let own = Some(store.name.clone()).filter(|name| !name.is_empty());
    let full = store.extra_references.iter().filter(|r| !r.is_prefix);
    let full = full.map(|r| match r.add_digest {
        true => format!("{}@{}", r.name, target.digest),
        false => r.name.clone(),
    });
    unique(own.into_iter().chain(full))
}

/// Names for an entry of an archive's index.
///
/// Those of the archive are looked at with each prefix; where the request names
/// nothing at all, the full names in the archive are taken as they are.
pub(crate) fn of_entry(store: &types::ImageStore, entry: &Descriptor) -> Vec<String> {
    if store.name.is_empty() && store.extra_references.is_empty() {
        return entry
            .annotations
            .get(IMAGE_NAME)
            .filter(|n| !n.is_empty())
            .cloned()
            .into_iter()
            .collect();
    }
    let prefixes = store.extra_references.iter().filter(|r| r.is_prefix);
    unique(prefixes.flat_map(|prefix| {
        let named = named(&entry.annotations, prefix);
        let digest = prefix.add_digest && !(prefix.skip_named_digest && named.is_some());
        let digest = digest.then(|| format!("{}@{}", prefix.name, entry.digest));
        named.into_iter().chain(digest)
    }))
}

/// The name that an entry gets by one prefix.
fn named(annotations: &Labels, prefix: &types::ImageReference) -> Option<String> {
    let given = |key: &str| annotations.get(key).filter(|name| !name.is_empty());
    match given(IMAGE_NAME) {
        // A full name is taken as it is or not at all.
        Some(name) => completed(name, prefix).filter(|completed| completed == name),
        None => completed(given(REF_NAME)?, prefix),
    }
}

/// A full name that the prefix allows; a tag becomes one.
fn completed(name: &str, prefix: &types::ImageReference) -> Option<String> {
    if prefix.name.is_empty() {
        return None;
    }
    if !name.contains(['/', ':', '@']) {
        return Some(format!("{}:{name}", prefix.name));
    }
    let rest = name.strip_prefix(&prefix.name);
    let beneath = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', ':', '@']));
    (prefix.allow_overwrite || beneath).then(|| name.to_owned())
}

/// What an archive says of an image of this name: the name and its tag.
pub(crate) fn annotations(name: &str) -> Labels {
    let tag = match Reference::parse(name).map(|reference| reference.target().clone()) {
        Ok(Target::Tag(tag)) => tag,
        Ok(Target::Digest(digest)) => digest.to_string(),
        Err(_) => name.to_owned(),
    };
    Labels::from([(IMAGE_NAME.to_owned(), name.to_owned()), (REF_NAME.to_owned(), tag)])
}

fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for name in names {
        if !all.contains(&name) {
            all.push(name);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use gantry_core::Digest;

    use super::*;

    fn entry(annotations: &[(&str, &str)]) -> Descriptor {
        Descriptor {
            media_type: gantry_core::media_type::OCI_MANIFEST.into(),
            digest: Digest::of(b""),
            size: 1,
            annotations: annotations.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            platform: None,
            urls: Vec::new(),
        }
    }

    fn prefix(name: &str, overwrite: bool) -> types::ImageReference {
        types::ImageReference {
            name: name.into(),
            is_prefix: true,
            allow_overwrite: overwrite,
            ..Default::default()
        }
    }

    fn store(references: &[types::ImageReference]) -> types::ImageStore {
        types::ImageStore { extra_references: references.to_vec(), ..Default::default() }
    }

    #[test]
    fn by_prefix() {
        let full = |name: &'static str| entry(&[(IMAGE_NAME, name), (REF_NAME, "1")]);
        let tag = entry(&[(REF_NAME, "1.2")]);
        let table = [
            (prefix("a.b/c", false), &tag, Some("a.b/c:1.2")),
            (prefix("a.b/c", false), &full("a.b/c:1"), Some("a.b/c:1")),
            (prefix("a.b", false), &full("a.b/c:1"), Some("a.b/c:1")),
            (prefix("a", false), &full("a.b/c:1"), None),
            (prefix("x.y/z", false), &full("a.b/c:1"), None),
            (prefix("x.y/z", true), &full("a.b/c:1"), Some("a.b/c:1")),
            (prefix("x.y/z", true), &entry(&[]), None),
            (prefix("x.y/z", true), &full("short"), None),
        ];
        for (reference, entry, expected) in table {
            let names = of_entry(&store(std::slice::from_ref(&reference)), entry);
            assert_eq!(names, expected.map(str::to_owned).into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn with_digests() {
        let digest = Digest::of(b"");
        let with = |skip: bool| {
            let reference = types::ImageReference {
                add_digest: true,
                skip_named_digest: skip,
                ..prefix("a", false)
            };
            store(&[reference])
        };
        let (named, nameless) = (entry(&[(REF_NAME, "t")]), entry(&[]));
        let by_digest = format!("a@{digest}");
        assert_eq!(of_entry(&with(false), &named), ["a:t".to_owned(), by_digest.clone()]);
        assert_eq!(of_entry(&with(true), &named), ["a:t"]);
        assert_eq!(of_entry(&with(true), &nameless), [by_digest]);
    }

    #[test]
    fn for_the_whole() {
        let full = types::ImageReference { name: "b".into(), ..Default::default() };
        let mut store = store(&[full.clone(), prefix("p", true)]);
        store.name = "b".into();
        assert_eq!(of_target(&store, &entry(&[])), ["b"]);
        store.extra_references[0].add_digest = true;
        assert_eq!(of_target(&store, &entry(&[]))[1], format!("b@{}", Digest::of(b"")));
        let nothing = types::ImageStore::default();
        assert!(of_target(&nothing, &entry(&[])).is_empty());
        assert_eq!(of_entry(&nothing, &entry(&[(IMAGE_NAME, "x:1")])), ["x:1"]);
        assert!(of_entry(&nothing, &entry(&[(REF_NAME, "1")])).is_empty());
    }

    #[test]
    fn what_archives_say() {
        assert_eq!(annotations("a.b/c:1")[REF_NAME], "1");
        assert_eq!(annotations("no reference")[REF_NAME], "no reference");
    }
}
