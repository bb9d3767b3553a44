//! Images made in memory.

use std::io::Write;
use std::path::Path;

use gantry_core::{Descriptor, Digest, Labels, Platform, media_type};
use serde_json::{Value, json};

/// Bytes with a digest and a type.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl Blob {
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.bytes)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest(), "size": self.bytes.len() })
    }

    pub(crate) fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.to_owned(),
            digest: self.digest(),
            size: self.bytes.len() as u64,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        }
    }
}

/// What a layer holds.
pub(crate) enum Entry {
    File(&'static str, Vec<u8>),
    Dir(&'static str),
    /// Path and the path that it is another name of.
    HardLink(&'static str, &'static str),
    /// Something deleted.
    Whiteout(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

/// An image with all it consists of.
#[derive(Clone)]
pub(crate) struct Image {
    pub(crate) manifest: Blob,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
    pub(crate) diff_ids: Vec<Digest>,
}

impl Image {
    /// An OCI image.
    pub(crate) fn new(compression: Compression, layers: &[Vec<Entry>]) -> Self {
        let tars: Vec<Vec<u8>> = layers.iter().map(|entries| tar(entries)).collect();
        Self::of_tars(compression, "amd64", &tars)
    }

    pub(crate) fn of_tars(compression: Compression, architecture: &str, tars: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let layers = tars.iter().map(|tar| compress(compression, tar)).collect();
        Self::of_layers(architecture, layers, diff_ids)
    }

    pub(crate) fn of_layers(architecture: &str, layers: Vec<Blob>, diff_ids: Vec<Digest>) -> Self {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config =
            Blob { media_type: media_type::OCI_CONFIG, bytes: config.to_string().into_bytes() };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type::OCI_MANIFEST,
            "config": config.json(),
            "layers": layers.iter().map(Blob::json).collect::<Vec<_>>(),
        });
        let manifest =
            Blob { media_type: media_type::OCI_MANIFEST, bytes: manifest.to_string().into_bytes() };
        Self { manifest, config, layers, diff_ids }
    }

    /// Everything, the manifest last.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.layers.iter().chain([&self.config, &self.manifest])
    }

    /// The name of the snapshot of all layers.
    pub(crate) fn chain(&self) -> Digest {
        gantry_core::chain_id(&self.diff_ids).pop().expect("an image with layers")
    }

    /// Writes the image as an OCI layout.
    pub(crate) fn write_layout(&self, dir: &Path) {
        write_layout(dir, self.blobs(), &self.manifest);
    }
}

/// An index of images by platform; `None` for an attestation.
pub(crate) fn index(images: &[(&Image, Option<&str>)]) -> Blob {
    let entries: Vec<Value> = images
        .iter()
        .map(|(image, architecture)| {
            let mut entry = image.manifest.json();
            let platform = Platform {
                architecture: architecture.unwrap_or("unknown").to_owned(),
                os: architecture.map_or("unknown", |_| "linux").to_owned(),
                ..Platform::default()
            };
            entry["platform"] = serde_json::to_value(platform).expect("a platform is JSON");
            entry
        })
        .collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": entries,
    });
    Blob { media_type: media_type::OCI_INDEX, bytes: index.to_string().into_bytes() }
}

/// Writes blobs as an OCI layout whose tag `latest` is `target`.
pub(crate) fn write_layout<'a>(
    dir: &Path,
    blobs: impl Iterator<Item = &'a Blob>,
    target: &'a Blob,
) {
    let into = dir.join("blobs/sha256");
    std::fs::create_dir_all(&into).expect("make the layout");
    for blob in blobs.chain([target]) {
        std::fs::write(into.join(blob.digest().hex()), &blob.bytes).expect("write a blob");
    }
    let mut entry = target.json();
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    std::fs::write(dir.join("index.json"), index.to_string()).expect("write the index");
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)
        .expect("write the version");
}

pub(crate) fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        match entry {
            Entry::File(path, bytes) => {
                header.set_size(bytes.len() as u64);
                archive.append_data(&mut header, path, &bytes[..])
            }
            Entry::Dir(path) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_size(0);
                archive.append_data(&mut header, path, &b""[..])
            }
            Entry::HardLink(path, to) => {
                header.set_entry_type(tar::EntryType::Link);
                header.set_size(0);
                archive.append_link(&mut header, path, to)
            }
            Entry::Whiteout(path) => {
                header.set_size(0);
                let path = Path::new(path);
                let name = path.file_name().expect("a name").to_str().expect("a text");
                archive.append_data(
                    &mut header,
                    path.with_file_name(format!(".wh.{name}")),
                    &b""[..],
                )
            }
        }
        .expect("append to the archive");
    }
    archive.into_inner().expect("end the archive")
}

fn compress(compression: Compression, tar: &[u8]) -> Blob {
    match compression {
        Compression::Plain => Blob { media_type: media_type::OCI_LAYER, bytes: tar.to_vec() },
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(tar).expect("compress");
            let bytes = encoder.finish().expect("compress");
            Blob { media_type: media_type::OCI_LAYER_GZIP, bytes }
        }
        Compression::Zstd => Blob {
            media_type: media_type::OCI_LAYER_ZSTD,
            bytes: zstd::encode_all(tar, 1).expect("compress"),
        },
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = 2 * seed + 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
