//! What `docker save` writes, as an OCI index of Docker's manifests.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression as Level;
use flate2::write::GzEncoder;
use futures::StreamExt;
use gantry_core::{Descriptor, Error, Labels, Platform, Result, labels, media_type};
use serde::{Deserialize, Serialize};

use super::MANIFEST;
use super::entries::{Compression, Entries, Stored, compression};
use crate::fetch::Fetcher;
use crate::names;
use crate::reference::Reference;

/// Docker's type of a layer with zstd.
const LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";

/// One image of an archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// What of a configuration says what it is for.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

/// Makes manifests for the images of an archive, and gives the entries of an index.
///
/// # Errors
/// `InvalidArgument` for an archive that lacks what it names.
pub(super) async fn index(
    fetcher: &Fetcher,
    entries: &Entries,
    compress: bool,
) -> Result<Vec<Descriptor>> {
    let text = entries.documents.get(MANIFEST).map_or(&[][..], Vec::as_slice);
    let images: Vec<Saved> = serde_json::from_slice(text).map_err(|err| {
        Error::invalid_argument("malformed manifest.json of the archive").with_source(err)
    })?;
    let mut index = Vec::new();
    for image in images {
        let config = find(entries, &image.config)?.descriptor(media_type::DOCKER_CONFIG);
        let platform = platform(fetcher, &config).await?;
        let listed = image.layers.unwrap_or_default();
        if listed.len() > fetcher.config.max_layers {
            let (count, most) = (listed.len(), fetcher.config.max_layers);
            return Err(Error::resource_exhausted(format!(
                "{count} layers are more than the {most} that an image may have"
            )));
        }
        let mut layers = Vec::with_capacity(listed.len());
        for path in &listed {
            layers.push(layer(fetcher, find(entries, path)?, compress).await?);
        }
        let kind = media_type::DOCKER_MANIFEST;
        let manifest = Manifest { schema_version: 2, media_type: kind, config, layers };
        let mut entry = fetcher.store_json("manifest", kind, &manifest).await?;
        entry.platform = platform;
        let tags = image.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            index.push(entry.clone());
        }
        for tag in tags {
            let name = Reference::parse(&tag)?.to_string();
            index.push(Descriptor { annotations: names::annotations(&name), ..entry.clone() });
        }
    }
    Ok(index)
}

fn find<'a>(entries: &'a Entries, path: &str) -> Result<&'a Stored> {
    entries.find(path).ok_or_else(|| {
        Error::invalid_argument(format!("the archive has no {path:?}: invalid argument"))
    })
}

async fn platform(fetcher: &Fetcher, config: &Descriptor) -> Result<Option<Platform>> {
    let bytes = fetcher.bytes_of_document(config).await?;
    let parsed: Config = serde_json::from_slice(&bytes).map_err(|err| {
        let what = format!("malformed image configuration {}", config.digest);
        Error::invalid_argument(what).with_source(err)
    })?;
    let known = !parsed.architecture.is_empty() && !parsed.os.is_empty();
    Ok(known.then_some(Platform {
        architecture: parsed.architecture,
        os: parsed.os,
        variant: parsed.variant.filter(|variant| !variant.is_empty()),
        os_version: None,
    }))
}

/// A layer with its type, compressed if that is asked for.
async fn layer(fetcher: &Fetcher, stored: &Stored, compress: bool) -> Result<Descriptor> {
    let content = &fetcher.content;
    let mut start = Vec::new();
    let mut stream = content.read(&fetcher.ctx, &stored.digest, 0, Some(4)).await?;
    while let Some(piece) = stream.next().await {
        start.extend_from_slice(&piece?);
    }
    match compression(&start) {
        Compression::Gzip => Ok(stored.descriptor(media_type::DOCKER_LAYER_GZIP)),
        Compression::Zstd => Ok(stored.descriptor(LAYER_ZSTD)),
        Compression::None if !compress => Ok(stored.descriptor(media_type::DOCKER_LAYER)),
        Compression::None => {
            let found = gzip(fetcher, stored).await;
            found.map_err(|err| err.context(format!("compress layer {}", stored.digest)))
        }
    }
}

/// The same layer with gzip.
async fn gzip(fetcher: &Fetcher, stored: &Stored) -> Result<Descriptor> {
    let content = &fetcher.content;
    let reference = format!("compress-{:032x}", rand::random::<u128>());
    let mut writer = content.writer(&fetcher.ctx, &reference, 0, None).await?;
    let mut stream = content.read(&fetcher.ctx, &stored.digest, 0, None).await?;
    let written = async {
        let failed = |err| Error::io("compress", err);
        let mut encoder = GzEncoder::new(Vec::new(), Level::default());
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            // Off the threads that everything else waits on.
            let deflate = move || encoder.write_all(&piece).map(|()| encoder);
            let done = tokio::task::spawn_blocking(deflate).await;
            encoder = done.map_err(|err| failed(std::io::Error::other(err)))?.map_err(failed)?;
            let ready = std::mem::take(encoder.get_mut());
            writer.write(Bytes::from(ready)).await?;
        }
        writer.write(Bytes::from(encoder.finish().map_err(failed)?)).await?;
        let (digest, size) = (writer.digest(), writer.status().offset);
        let kept = Labels::from([(labels::UNCOMPRESSED.to_owned(), stored.digest.to_string())]);
        match writer.commit(Some(size), Some(&digest), kept).await {
            Err(err) if !err.is_already_exists() => return Err(err),
            Err(_) => fetcher.hold("content", digest.as_str()).await?,
            Ok(_) => {}
        }
        Ok(Stored { digest, size }.descriptor(media_type::DOCKER_LAYER_GZIP))
    }
    .await;
    if written.is_err() {
        drop(writer);
        // Gone already when it was committed.
        let _ = content.abort(&fetcher.ctx, &reference).await;
    }
    written
}
