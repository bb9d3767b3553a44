//! Images from the store into an archive: an OCI layout that Docker reads as well.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::StreamExt;
use gantry_core::images::Image;
use gantry_core::{Context, Descriptor, Digest, Error, Hasher, Labels, Result, labels, media_type};
use serde::Serialize;
use tar::{EntryType, Header};

use super::{INDEX, LAYOUT, MANIFEST, VERSION};
use crate::document::{Document, is_foreign};
use crate::fetch::Fetcher;
use crate::names;
use crate::pieces::Outgoing;
use crate::platform;
use crate::puller::RegistryPuller;
use crate::push::present;
use crate::reference;
use crate::telling::{Event, Teller};
use crate::tree::{self, Selection};

/// Archives are padded to this.
const BLOCK: usize = 512;
/// Longest path that fits into a header.
const NAME: usize = 100;

/// What is asked for.
pub(crate) struct Export {
    pub(crate) images: Vec<Image>,
    pub(crate) selection: Selection,
    /// Whether Docker's description is left out.
    pub(crate) only_oci: bool,
    /// Whether layers are left out that registries need not have.
    pub(crate) without_foreign: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    manifests: &'a [Descriptor],
}

/// An image as Docker describes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// What goes into an archive.
#[derive(Default)]
struct Plan {
    /// By path; of one length with the bytes that are there.
    blobs: BTreeMap<String, Descriptor>,
    index: Vec<Descriptor>,
    saved: Vec<(Digest, Saved)>,
}

impl RegistryPuller {
    /// Sends images as an archive.
    ///
    /// # Errors
    /// `NotFound` for content that is not here, before anything is sent.
    pub(crate) async fn export(
        &self,
        ctx: &Context,
        export: &Export,
        outgoing: Outgoing,
        teller: &Teller,
    ) -> Result<()> {
        teller.say(Event::new("Exporting", ""));
        let fetcher = self.fetcher(ctx, None);
        let mut plan = Plan::default();
        for image in &export.images {
            plan.add(&fetcher, image, export)
                .await
                .map_err(|err| err.context(format!("failed to export image {:?}", image.name)))?;
        }
        let mut archive = Archive { outgoing };
        archive.write(&fetcher, &plan, export.only_oci, teller).await?;
        teller.say(Event::new("Completed export", ""));
        Ok(())
    }
}

impl Plan {
    async fn add(&mut self, fetcher: &Fetcher, image: &Image, export: &Export) -> Result<()> {
        let tree = tree::walk(fetcher, &image.target, &export.selection).await?;
        for part in tree.blobs.iter().chain(&tree.documents) {
            let blob = &part.descriptor;
            if is_foreign(&blob.media_type) {
                // A layer that was not fetched from elsewhere can't be sent.
                let absent = || present(&*fetcher.content, &fetcher.ctx, blob);
                if export.without_foreign || absent().await.is_err() {
                    continue;
                }
            }
            present(&*fetcher.content, &fetcher.ctx, blob).await?;
            self.blobs.insert(tree::path(&blob.digest), blob.clone());
        }
        let mut entry = image.target.clone();
        entry.annotations.extend(names::annotations(&image.name));
        let info = fetcher.content.info(&fetcher.ctx, &entry.digest).await?;
        let sources = info.labels.into_iter();
        let sources = sources.filter(|(key, _)| key.starts_with(labels::DISTRIBUTION_SOURCE));
        entry.annotations.extend(sources.collect::<Labels>());
        self.index.push(entry);
        if export.only_oci {
            return Ok(());
        }
        let manifests: Vec<Descriptor> = tree
            .documents
            .into_iter()
            .map(|part| part.descriptor)
            .filter(|d| media_type::is_manifest(&d.media_type))
            .collect();
        // Docker knows one platform a name: this machine's, or else the first.
        let host = platform::host();
        let chosen = platform::choose(&manifests, &host).ok().or(manifests.first()).cloned();
        match chosen {
            Some(chosen) => self.describe(fetcher, &chosen, &image.name).await,
            None => Ok(()),
        }
    }

    async fn describe(&mut self, fetcher: &Fetcher, of: &Descriptor, name: &str) -> Result<()> {
        let name = reference::familiar_name(name);
        if let Some((_, saved)) = self.saved.iter_mut().find(|(digest, _)| *digest == of.digest) {
            saved.repo_tags.push(name);
            return Ok(());
        }
        if let Document::Manifest { config, layers } = fetcher.document(of, None).await? {
            let layers = layers.iter().map(|layer| tree::path(&layer.digest)).collect();
            let config = tree::path(&config.digest);
            let saved = Saved { config, repo_tags: vec![name], layers };
            self.saved.push((of.digest.clone(), saved));
        }
        Ok(())
    }
}

/// An archive on its way to a client.
struct Archive {
    outgoing: Outgoing,
}

impl Archive {
    async fn write(
        &mut self,
        fetcher: &Fetcher,
        plan: &Plan,
        only_oci: bool,
        teller: &Teller,
    ) -> Result<()> {
        self.header("blobs/", EntryType::Directory, 0).await?;
        let mut directories: Vec<&str> =
            plan.blobs.keys().filter_map(|path| path.rsplit_once('/')).map(|(d, _)| d).collect();
        directories.dedup();
        for directory in directories {
            self.header(&format!("{directory}/"), EntryType::Directory, 0).await?;
        }
        for (path, blob) in &plan.blobs {
            self.blob(fetcher, path, blob).await?;
            let done = Event::new("exported", tree::name(blob)).about(blob);
            teller.say(done.progress(blob.size, blob.size));
        }
        let index = Index { schema_version: 2, manifests: &plan.index };
        self.file(INDEX, json(&index)?).await?;
        if !only_oci && !plan.saved.is_empty() {
            let saved: Vec<&Saved> = plan.saved.iter().map(|(_, saved)| saved).collect();
            self.file(MANIFEST, json(&saved)?).await?;
        }
        let layout = BTreeMap::from([("imageLayoutVersion", VERSION)]);
        self.file(LAYOUT, json(&layout)?).await?;
        self.outgoing.send(Bytes::from(vec![0; 2 * BLOCK])).await
    }

    async fn header(&mut self, path: &str, kind: EntryType, size: u64) -> Result<()> {
        if path.len() <= NAME {
            return self.short_header(path, kind, size).await;
        }
        let whole = pax_record("path", path);
        let length = whole.len() as u64;
        self.short_header("PaxHeaders.0/path", EntryType::XHeader, length).await?;
        self.outgoing.send(whole.into()).await?;
        self.pad(length).await?;
        // A digest made it long: it is ASCII.
        self.short_header(&path[..NAME], kind, size).await
    }

    async fn short_header(&mut self, path: &str, kind: EntryType, size: u64) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(path).map_err(|err| Error::io(format!("archive {path}"), err))?;
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o444 });
        header.set_size(size);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        self.outgoing.send(Bytes::copy_from_slice(header.as_bytes())).await
    }

    async fn file(&mut self, path: &str, bytes: Vec<u8>) -> Result<()> {
        let size = bytes.len() as u64;
        self.header(path, EntryType::Regular, size).await?;
        self.outgoing.send(bytes.into()).await?;
        self.pad(size).await
    }

    async fn blob(&mut self, fetcher: &Fetcher, path: &str, blob: &Descriptor) -> Result<()> {
        self.header(path, EntryType::Regular, blob.size).await?;
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let mut stream = fetcher.read(blob).await?;
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            hasher.update(&piece);
            self.outgoing.send(piece).await?;
        }
        if hasher.finish() != blob.digest {
            let words = format!("content {} is damaged: remove the image", blob.digest);
            return Err(Error::data_loss(words));
        }
        self.pad(blob.size).await
    }

    async fn pad(&mut self, size: u64) -> Result<()> {
        // Less than a block.
        let over = (size % BLOCK as u64) as usize;
        match over {
            0 => Ok(()),
            over => self.outgoing.send(Bytes::from(vec![0; BLOCK - over])).await,
        }
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|err| Error::internal("write JSON").with_source(err))
}

/// A record of an extended header (POSIX pax), which begins with its own length.
fn pax_record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}")
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use gantry_grpc::any;
    use gantry_grpc::containerd::types::transfer as types;
    use tokio::sync::mpsc;

    use super::*;
    use crate::streams::Stream;

    #[tokio::test]
    async fn paths_of_any_length() {
        let (incoming, from) = mpsc::channel(1);
        let (to, mut outgoing) = mpsc::channel(64);
        incoming.send(any::pack(&types::WindowUpdate { update: 1 << 20 })).await.unwrap();
        let mut archive = Archive { outgoing: Outgoing::new(Stream { from, to }) };
        let paths = [40, 99, 100, 101, 141, 300].map(|length| "x".repeat(length));
        for path in &paths {
            archive.file(path, path.clone().into_bytes()).await.unwrap();
        }
        drop(archive);
        let mut bytes = Vec::new();
        while let Some(message) = outgoing.recv().await {
            bytes.extend(any::unpack::<types::Data>(&message).unwrap().data);
        }
        let mut found = Vec::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            assert_eq!(text, path);
            found.push(path);
        }
        assert_eq!(found, paths);
        for (length, whole) in [(90, 99), (91, 101)] {
            let record = pax_record("path", &"x".repeat(length));
            assert!(record.len() == whole && record.starts_with(&format!("{whole} ")), "{record}");
        }
    }
}
