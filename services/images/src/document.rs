//! Manifests, indexes and configurations: parsed, checked and bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::{
    Descriptor, Digest, Error, Labels, Platform, Result, chain_id, labels, media_type,
};
use serde::Deserialize;

use crate::unfit::Unfit;

/// Manifest of Docker's first schema, unsigned and signed.
const SCHEMA_1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// Whether this names a layer that registries need not have.
pub(crate) fn is_foreign(media_type: &str) -> bool {
    media_type.contains("foreign") || media_type.contains("nondistributable")
}

/// A document that an image consists of.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    /// Points at manifests.
    Index(Vec<Descriptor>),
    /// Points at a configuration and layers, lowest first.
    Manifest {
        /// The configuration.
        config: Box<Descriptor>,
        /// The layers.
        layers: Vec<Descriptor>,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u32>,
    media_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// Which kind of document a registry or a parent says that this is; empty
/// when it does not say. Told by the document itself then.
///
/// # Errors
/// `Unimplemented` for schema 1, `InvalidArgument` for what is neither a manifest nor an index.
pub(crate) fn sniff(said: &str, bytes: &[u8]) -> Result<String> {
    let said = said.split(';').next().unwrap_or("").trim();
    if SCHEMA_1.contains(&said) {
        return Err(schema_1());
    }
    if media_type::is_manifest(said) || media_type::is_index(said) {
        return Ok(said.to_owned());
    }
    let raw = parse_raw(bytes)?;
    if raw.schema_version == Some(1) {
        return Err(schema_1());
    }
    match (raw.media_type, raw.manifests, raw.config) {
        (Some(own), ..) if media_type::is_manifest(&own) || media_type::is_index(&own) => Ok(own),
        (None, Some(_), None) => Ok(media_type::OCI_INDEX.to_owned()),
        (None, None, Some(_)) => Ok(media_type::OCI_MANIFEST.to_owned()),
        (own, ..) => Err(Error::invalid_argument(format!(
            "media type {:?} is neither an image manifest nor an index",
            own.as_deref().unwrap_or(said)
        ))),
    }
}

fn schema_1() -> Error {
    Error::unimplemented(
        "manifest schema 1 is not supported: push the image again with a client of this decade",
    )
}

fn parse_raw(bytes: &[u8]) -> Result<Raw> {
    serde_json::from_slice(bytes)
        .map_err(|err| Error::invalid_argument("malformed manifest").with_source(err))
}

impl Document {
    /// Parses a document that was announced under this media type.
    ///
    /// # Errors
    /// `InvalidArgument` when it is malformed or another kind of document than announced.
    pub(crate) fn parse(announced: &str, bytes: &[u8]) -> Result<Self> {
        let raw = parse_raw(bytes)?;
        let bad = |why: &str| Error::invalid_argument(format!("malformed {announced}: {why}"));
        if raw.media_type.as_deref().is_some_and(|own| !own.is_empty() && own != announced) {
            return Err(bad("it says that it is something else"));
        }
        // A document that can be read both ways would mean different things
        // to different clients.
        match (raw.manifests, raw.config, raw.layers) {
            (manifests, None, None) if media_type::is_index(announced) => {
                Ok(Self::Index(manifests.unwrap_or_default()))
            }
            (None, Some(config), layers) if media_type::is_manifest(announced) => {
                Ok(Self::Manifest { config: Box::new(config), layers: layers.unwrap_or_default() })
            }
            _ => Err(bad("unexpected fields")),
        }
    }

    /// Labels that keep what the document points at.
    pub(crate) fn reference_labels(&self) -> Labels {
        let entry = |kind: &str, digest: &Digest| {
            (format!("{}.{kind}", labels::GC_REF_CONTENT), digest.to_string())
        };
        match self {
            Document::Index(manifests) => manifests
                .iter()
                .enumerate()
                .map(|(i, m)| entry(&format!("m.{i}"), &m.digest))
                .collect(),
            Document::Manifest { config, layers } => layers
                .iter()
                .enumerate()
                .map(|(i, l)| entry(&format!("l.{i}"), &l.digest))
                .chain([entry("config", &config.digest)])
                .collect(),
        }
    }
}

/// All that is known of an image for one platform.
#[derive(Debug)]
pub(crate) struct ImageParts {
    /// The manifest.
    pub(crate) manifest: Descriptor,
    /// The configuration as it came.
    pub(crate) config: Arc<Vec<u8>>,
    /// Its descriptor.
    pub(crate) config_descriptor: Descriptor,
    /// What it is for, as the index says or else the configuration; empty
    /// fields when neither does.
    pub(crate) platform: Platform,
    /// Layers, lowest first.
    pub(crate) layers: Vec<Layer>,
    /// Length of everything as transported.
    pub(crate) size: u64,
}

/// One layer of an image.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Its blob.
    pub(crate) blob: Descriptor,
    /// Digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    /// Names the layer together with all below it.
    pub(crate) chain: Digest,
    /// The chain below it.
    pub(crate) parent: Option<Digest>,
}

#[derive(Deserialize)]
struct ConfigDocument {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Option<Vec<Digest>>,
}

impl ImageParts {
    /// Puts a manifest and its configuration together.
    ///
    /// # Errors
    /// `InvalidArgument` when they do not fit, `FailedPrecondition` that is [`Unfit`] for
    /// another operating system.
    pub(crate) fn new(
        manifest: Descriptor,
        config_descriptor: Descriptor,
        blobs: Vec<Descriptor>,
        config: Vec<u8>,
    ) -> Result<Self> {
        let parsed: ConfigDocument = serde_json::from_slice(&config).map_err(|err| {
            let what = format!("malformed image configuration {}", config_descriptor.digest);
            Error::invalid_argument(what).with_source(err)
        })?;
        let platform = manifest.platform.clone().unwrap_or(Platform {
            architecture: parsed.architecture,
            os: parsed.os,
            variant: parsed.variant.filter(|variant| !variant.is_empty()),
            os_version: None,
        });
        if !matches!(platform.os.as_str(), "" | "linux") {
            return Err(Unfit::mark(Error::failed_precondition(format!(
                "image operating system {:?} cannot be used on this platform",
                platform.os
            ))));
        }
        let diff_ids = parsed.rootfs.and_then(|r| r.diff_ids).unwrap_or_default();
        if diff_ids.len() != blobs.len() {
            return Err(Error::invalid_argument(format!(
                "manifest {} has {} layers, but its configuration names {}",
                manifest.digest,
                blobs.len(),
                diff_ids.len()
            )));
        }
        let total = blobs.iter().chain([&manifest, &config_descriptor]);
        let size = total.map(|d| d.size).try_fold(0_u64, u64::checked_add).ok_or_else(|| {
            Error::invalid_argument(format!("the sizes in manifest {} overflow", manifest.digest))
        })?;
        let chain = chain_id(&diff_ids);
        let parents = std::iter::once(None).chain(chain.iter().cloned().map(Some));
        let layers = blobs.into_iter().zip(diff_ids).zip(chain.iter().cloned().zip(parents));
        let layers = layers
            .map(|((blob, diff_id), (chain, parent))| Layer { blob, diff_id, chain, parent })
            .collect();
        let config = Arc::new(config);
        Ok(Self { manifest, config, config_descriptor, platform, layers, size })
    }

    /// Names all layers together; `None` without layers.
    pub(crate) fn chain_id(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.chain)
    }
}

/// Checks before anything of an image is fetched that it is one, and within bounds.
///
/// # Errors
/// `FailedPrecondition` and `Unimplemented` that are [`Unfit`] for something else,
/// `ResourceExhausted` for too many layers.
pub(crate) fn check_manifest(
    config: &Descriptor,
    layers: &[Descriptor],
    max_layers: usize,
) -> Result<()> {
    // Early clients of Docker's second schema left the type open.
    let image = [media_type::OCI_CONFIG, media_type::DOCKER_CONFIG, "application/octet-stream"];
    if !image.contains(&config.media_type.as_str()) {
        return Err(Unfit::mark(Error::failed_precondition(format!(
            "not a container image, but something of type {:?}",
            config.media_type
        ))));
    }
    check_count(layers, max_layers)?;
    match layers.iter().find(|layer| !media_type::is_layer(&layer.media_type)) {
        None => Ok(()),
        Some(layer) => Err(Unfit::mark(Error::unimplemented(format!(
            "layer {} is of unknown type {:?}",
            layer.digest, layer.media_type
        )))),
    }
}

/// Checks that an image has no more layers than it may.
///
/// # Errors
/// `ResourceExhausted`.
pub(crate) fn check_count(layers: &[Descriptor], max_layers: usize) -> Result<()> {
    if layers.len() <= max_layers {
        return Ok(());
    }
    Err(Error::resource_exhausted(format!(
        "{} layers are more than the {max_layers} that an image may have",
        layers.len()
    )))
}

/// Parsed images by namespace and target, so that starting a container from
/// an unpacked image reads no content.
///
/// The lock guards the map alone and is held for a look-up.
#[derive(Default)]
pub(crate) struct PartsCache(Mutex<CacheState>);

#[derive(Default)]
struct CacheState {
    entries: HashMap<(String, Digest), (u64, Arc<ImageParts>)>,
    clock: u64,
}

/// Most images kept parsed.
const MAX_CACHED: usize = 128;
/// Most bytes of their configurations, beside the latest, which is kept however long it is.
const MAX_CACHED_BYTES: usize = 8 << 20;

impl CacheState {
    fn is_full(&self) -> bool {
        let bytes: usize = self.entries.values().map(|(_, parts)| parts.config.len()).sum();
        self.entries.len() > MAX_CACHED || bytes > MAX_CACHED_BYTES
    }
}

impl PartsCache {
    pub(crate) fn get(&self, namespace: &str, target: &Digest) -> Option<Arc<ImageParts>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        let (used, parts) = state.entries.get_mut(&(namespace.to_owned(), target.clone()))?;
        *used = now;
        Some(Arc::clone(parts))
    }

    pub(crate) fn put(&self, namespace: &str, target: &Digest, parts: Arc<ImageParts>) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.clock += 1;
        let now = state.clock;
        state.entries.insert((namespace.to_owned(), target.clone()), (now, parts));
        while state.entries.len() > 1 && state.is_full() {
            let oldest = state.entries.iter().min_by_key(|(_, (used, _))| *used);
            let Some(key) = oldest.map(|(key, _)| key.clone()) else { break };
            state.entries.remove(&key);
        }
    }

    pub(crate) fn forget(&self, namespace: &str, target: &Digest) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.entries.remove(&(namespace.to_owned(), target.clone()));
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::*;

    fn descriptor(kind: &str, text: &str) -> String {
        let digest = Digest::of(text.as_bytes());
        format!(r#"{{"mediaType": "{kind}", "digest": "{digest}", "size": 7}}"#)
    }

    #[test]
    fn documents_are_told_apart() {
        let config = descriptor(media_type::OCI_CONFIG, "c");
        let manifest = format!(r#"{{"schemaVersion": 2, "config": {config}, "layers": null}}"#);
        assert_eq!(sniff("text/plain", manifest.as_bytes()).unwrap(), media_type::OCI_MANIFEST);
        let index = r#"{"schemaVersion": 2, "manifests": []}"#;
        assert_eq!(sniff("", index.as_bytes()).unwrap(), media_type::OCI_INDEX);
        let said = format!("{}; charset=utf-8", media_type::DOCKER_LIST);
        assert_eq!(sniff(&said, b"").unwrap(), media_type::DOCKER_LIST);
        let old = sniff("application/json", br#"{"schemaVersion": 1}"#).unwrap_err();
        assert_eq!(old.kind(), Kind::Unimplemented);
        assert!(old.to_string().contains("schema 1"), "{old}");
        assert_eq!(sniff(SCHEMA_1[1], b"").unwrap_err().kind(), Kind::Unimplemented);
        assert_eq!(sniff("", b"<html>").unwrap_err().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn a_document_means_one_thing() {
        let config = descriptor(media_type::OCI_CONFIG, "c");
        let both = format!(r#"{{"manifests": [], "config": {config}, "layers": []}}"#);
        assert!(Document::parse(media_type::OCI_INDEX, both.as_bytes()).is_err());
        assert!(Document::parse(media_type::OCI_MANIFEST, both.as_bytes()).is_err());
        let other = format!(r#"{{"mediaType": "{}", "manifests": []}}"#, media_type::DOCKER_LIST);
        assert!(Document::parse(media_type::OCI_INDEX, other.as_bytes()).is_err());
    }

    #[test]
    fn labels_keep_the_children() {
        let text = format!(
            r#"{{"config": {}, "layers": [{}, {}]}}"#,
            descriptor(media_type::OCI_CONFIG, "c"),
            descriptor(media_type::OCI_LAYER, "0"),
            descriptor(media_type::OCI_LAYER, "1"),
        );
        let labels =
            Document::parse(media_type::OCI_MANIFEST, text.as_bytes()).unwrap().reference_labels();
        let expected: Labels = [("config", "c"), ("l.0", "0"), ("l.1", "1")]
            .into_iter()
            .map(|(k, v)| {
                (format!("containerd.io/gc.ref.content.{k}"), Digest::of(v.as_bytes()).to_string())
            })
            .collect();
        assert_eq!(labels, expected);
    }

    #[test]
    fn the_cache_forgets_what_was_not_used() {
        let parts = |config: usize| {
            let config = format!("{{}}{}", " ".repeat(config)).into_bytes();
            let d = Descriptor {
                media_type: String::new(),
                digest: Digest::of(b""),
                size: 1,
                annotations: Labels::new(),
                platform: None,
                urls: Vec::new(),
            };
            Arc::new(ImageParts::new(d.clone(), d, Vec::new(), config).unwrap())
        };
        let cache = PartsCache::default();
        let digest = |i: usize| Digest::of(i.to_string().as_bytes());
        for i in 0..=MAX_CACHED {
            cache.put("a", &digest(i), parts(0));
            assert!(cache.get("a", &digest(0)).is_some());
        }
        assert!(cache.get("a", &digest(1)).is_none());
        assert!(cache.get("a", &digest(2)).is_some());
        assert!(cache.get("b", &digest(2)).is_none());

        // However few they are, they are short all together, but for a single one.
        for i in 200..203 {
            cache.put("a", &digest(i), parts(MAX_CACHED_BYTES / 2));
        }
        assert!([2, 200, 201].iter().all(|i| cache.get("a", &digest(*i)).is_none()));
        cache.put("a", &digest(203), parts(2 * MAX_CACHED_BYTES));
        assert!(cache.get("a", &digest(202)).is_none());
        assert!(cache.get("a", &digest(203)).is_some());
    }
}
