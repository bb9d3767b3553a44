//! What an image consists of, as far as it is wanted.

use std::collections::HashSet;
use std::sync::Arc;

use gantry_core::{Descriptor, Digest, Error, Platform, Result, media_type};

use crate::document::{self, Document};
use crate::fetch::Fetcher;
use crate::platform;
use crate::unfit::Unfit;

/// How deep indexes may lie in each other.
pub(crate) const MAX_DEPTH: usize = 4;
/// Most documents and blobs of one image.
const MAX_PARTS: usize = 20_000;

/// Which manifests of an index are wanted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selection {
    /// Those for one of these platforms; all when there are none. An entry that
    /// does not say what it is for is wanted always.
    pub(crate) platforms: Vec<Platform>,
    /// Whether manifests and configurations of the others are wanted as well.
    pub(crate) all_metadata: bool,
    /// At most so many manifests of an index, best first; 0 for no limit.
    pub(crate) limit: usize,
}

/// What was found, children before what points at them.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Manifests and indexes, the root last.
    pub(crate) documents: Vec<Part>,
    /// Configurations and layers.
    pub(crate) blobs: Vec<Part>,
}

/// One piece of content.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) descriptor: Descriptor,
    /// The name of what pointed at it first.
    pub(crate) parent: Option<Arc<str>>,
}

/// A document whose children may still have to be looked at.
struct Pending {
    part: Part,
    depth: usize,
    /// Whether its layers are wanted.
    whole: bool,
    opened: bool,
}

impl Selection {
    /// Whether an index's entry is wanted.
    fn takes(&self, entry: &Descriptor) -> bool {
        let fits = |p: &Platform| self.platforms.iter().any(|wanted| platform::same(wanted, p));
        self.platforms.is_empty() || entry.platform.as_ref().is_none_or(fits)
    }

    /// The entries that are wanted, and whether wholly.
    pub(crate) fn of(&self, entries: Vec<Descriptor>) -> Vec<(Descriptor, bool)> {
        let rank = |entry: &Descriptor| {
            let p = entry.platform.as_ref();
            let at = p.and_then(|p| self.platforms.iter().position(|w| platform::same(w, p)));
            at.unwrap_or(self.platforms.len())
        };
        let (mut taken, others): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| self.takes(entry));
        if self.limit > 0 {
            taken.sort_by_key(rank);
            taken.truncate(self.limit);
        }
        let others = others.into_iter().filter(|_| self.all_metadata).map(|entry| (entry, false));
        taken.into_iter().map(|entry| (entry, true)).chain(others).collect()
    }
}

/// Looks through an image. Documents come from where `fetcher` takes them.
///
/// # Errors
/// `NotFound` for documents that are missing, and one that is [`Unfit`] when nothing is
/// for a platform that is wanted; those of malformed documents.
pub(crate) async fn walk(
    fetcher: &Fetcher,
    root: &Descriptor,
    selection: &Selection,
) -> Result<Tree> {
    let mut tree = Tree::default();
    let mut seen = HashSet::new();
    let first = Part { descriptor: root.clone(), parent: None };
    let mut stack = vec![Pending { part: first, depth: 0, whole: true, opened: false }];
    while let Some(pending) = stack.pop() {
        let descriptor = &pending.part.descriptor;
        if pending.opened {
            tree.documents.push(pending.part);
            continue;
        }
        if !seen.insert(descriptor.digest.clone()) {
            continue;
        }
        if !is_document(&descriptor.media_type) {
            tree.blobs.push(pending.part);
            continue;
        }
        if pending.depth > MAX_DEPTH {
            let words = format!("index {} lies more than {MAX_DEPTH} deep", root.digest);
            return Err(Error::invalid_argument(words));
        }
        let document = fetcher.document(descriptor, None).await?;
        if let Document::Manifest { layers, .. } = &document {
            document::check_count(layers, fetcher.config.max_layers)?;
        }
        let (depth, whole) = (pending.depth + 1, pending.whole);
        let parent = Some(Arc::from(name(descriptor)));
        let children = children(document, whole, selection);
        // Counted before anything is made of them.
        if seen.len() + stack.len() + children.len() > MAX_PARTS {
            let words = format!("image {} has more than {MAX_PARTS} parts", root.digest);
            return Err(Error::resource_exhausted(words));
        }
        stack.push(Pending { opened: true, ..pending });
        let before = stack.len();
        for (descriptor, whole) in children {
            let part = Part { descriptor, parent: parent.clone() };
            stack.push(Pending { part, depth, whole, opened: false });
        }
        // The first child is looked at first.
        stack[before..].reverse();
    }
    check_any(&tree, root, selection)?;
    Ok(tree)
}

fn children(document: Document, whole: bool, selection: &Selection) -> Vec<(Descriptor, bool)> {
    match document {
        Document::Index(entries) => {
            let wanted = selection.of(entries).into_iter();
            wanted.map(|(entry, taken)| (entry, taken && whole)).collect()
        }
        Document::Manifest { config, layers } => {
            let layers = if whole { layers } else { Vec::new() };
            std::iter::once(*config).chain(layers).map(|child| (child, whole)).collect()
        }
    }
}

/// An index of which nothing was wanted is a mistake of who asks.
fn check_any(tree: &Tree, root: &Descriptor, selection: &Selection) -> Result<()> {
    let manifests =
        tree.documents.iter().any(|part| media_type::is_manifest(&part.descriptor.media_type));
    if manifests || selection.platforms.is_empty() {
        return Ok(());
    }
    let wanted: Vec<String> = selection.platforms.iter().map(platform::describe).collect();
    Err(Unfit::mark(Error::not_found(format!(
        "no manifest of {} is for platform {}: not found",
        root.digest,
        wanted.join(", ")
    ))))
}

/// Whether this is a document that points at others.
pub(crate) fn is_document(kind: &str) -> bool {
    media_type::is_manifest(kind) || media_type::is_index(kind)
}

/// How clients know a part: what it is and its digest.
pub(crate) fn name(descriptor: &Descriptor) -> String {
    let Descriptor { media_type: kind, digest, .. } = descriptor;
    let what = match kind.as_str() {
        kind if media_type::is_manifest(kind) => "manifest",
        kind if media_type::is_index(kind) => "index",
        kind if media_type::is_layer(kind) => "layer",
        media_type::OCI_CONFIG | media_type::DOCKER_CONFIG => "config",
        "application/vnd.in-toto+json" => "attestation",
        _ => "unknown",
    };
    format!("{what}-{digest}")
}

/// Where the bytes of a blob lie in an OCI layout.
pub(crate) fn path(digest: &Digest) -> String {
    let algorithm = digest.as_str().split(':').next().unwrap_or_default();
    format!("blobs/{algorithm}/{}", digest.hex())
}

#[cfg(test)]
mod tests {
    use gantry_core::Labels;

    use super::*;

    fn entry(architecture: Option<&str>) -> Descriptor {
        let platform = architecture.map(|a| Platform {
            architecture: a.to_owned(),
            os: "linux".to_owned(),
            ..Platform::default()
        });
        Descriptor {
            media_type: media_type::OCI_MANIFEST.into(),
            digest: Digest::of(architecture.unwrap_or("none").as_bytes()),
            size: 1,
            annotations: Labels::new(),
            platform,
            urls: Vec::new(),
        }
    }

    fn taken(selection: &Selection) -> Vec<(String, bool)> {
        let entries = [Some("arm64"), Some("amd64"), None, Some("s390x")].map(entry);
        let found = selection.of(entries.to_vec()).into_iter();
        let name = |d: Descriptor| d.platform.map_or("-".to_owned(), |p| p.architecture);
        found.map(|(entry, whole)| (name(entry), whole)).collect()
    }

    #[test]
    fn what_is_wanted_of_an_index() {
        let list = |names: &[(&str, bool)]| -> Vec<(String, bool)> {
            names.iter().map(|(name, whole)| ((*name).to_owned(), *whole)).collect()
        };
        let platforms: Vec<Platform> =
            ["amd64", "arm64"].iter().filter_map(|a| entry(Some(a)).platform).collect();
        let all = Selection::default();
        let every = [("arm64", true), ("amd64", true), ("-", true), ("s390x", true)];
        assert_eq!(taken(&all), list(&every));
        let some = Selection { platforms, ..Selection::default() };
        assert_eq!(taken(&some), list(&[("arm64", true), ("amd64", true), ("-", true)]));
        let one = Selection { limit: 1, all_metadata: true, ..some };
        assert_eq!(taken(&one), list(&[("amd64", true), ("s390x", false)]));
    }

    #[test]
    fn parts_have_names() {
        let digest = Digest::of(b"x");
        assert_eq!(path(&digest), format!("blobs/sha256/{}", digest.hex()));
        assert!(name(&entry(None)).starts_with("manifest-sha256:"));
    }
}
