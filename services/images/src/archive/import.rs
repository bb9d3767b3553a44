//! Archives into the image store.

use futures::StreamExt;
use gantry_core::content::BlobStream;
use gantry_core::{Context, Descriptor, Error, Labels, Result, media_type};
use gantry_grpc::containerd::types::transfer as types;
use serde::{Deserialize, Serialize};

use super::entries::{self, Entries};
use super::{INDEX, LAYOUT, MANIFEST, VERSION, docker};
use crate::document::Document;
use crate::feed;
use crate::fetch::Fetcher;
use crate::names;
use crate::pieces::Incoming;
use crate::puller::RegistryPuller;
use crate::push::present;
use crate::telling::{Event, Teller};
use crate::tree::{self, Selection};
use crate::unfit::Unfit;

/// Media types of archives that are understood; what they hold tells the rest.
const ARCHIVES: [&str; 4] =
    ["", "application/vnd.oci.image.layout.v1+tar", "application/x-tar", "application/tar"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: &'static str,
    manifests: Vec<Descriptor>,
}

/// What is asked for besides the bytes.
pub(crate) struct Import<'a> {
    pub(crate) store: &'a types::ImageStore,
    pub(crate) selection: Selection,
    /// The archive's type, if the client says it.
    pub(crate) media_type: String,
    /// Whether layers that are not compressed are to be.
    pub(crate) compress: bool,
}

impl RegistryPuller {
    /// Stores the images of an archive, unpacks them where that is asked for, and makes
    /// their records last.
    ///
    /// # Errors
    /// `InvalidArgument` for something that is no archive of images, `DataLoss` for
    /// content that does not match its digest, `NotFound` for an archive that lacks
    /// what its images consist of, or when no image gets a name.
    pub(crate) async fn import(
        &self,
        ctx: &Context,
        import: Import<'_>,
        incoming: Incoming,
        teller: &Teller,
    ) -> Result<()> {
        if !ARCHIVES.contains(&import.media_type.as_str()) {
            return Err(Error::unimplemented(format!(
                "archive of type {:?} is not supported: not implemented",
                import.media_type
            )));
        }
        teller.say(Event::new("Importing", ""));
        let held = self.leasing().hold_until_dropped(ctx, "import").await?;
        let done = self.import_held(held.context(), &import, incoming, teller).await;
        // What came of it has records now, or else is not wanted.
        held.release().await;
        done?;
        teller.say(Event::new("Completed import", ""));
        Ok(())
    }

    async fn import_held(
        &self,
        ctx: &Context,
        import: &Import<'_>,
        incoming: Incoming,
        teller: &Teller,
    ) -> Result<()> {
        let entries = self.receive(ctx, incoming).await?;
        let fetcher = self.fetcher(ctx, None);
        let (root, images) = index(&fetcher, &entries, import.compress).await?;
        let wanted = import.selection.of(images);
        let mut complete = Vec::new();
        for (entry, whole) in wanted {
            let inner = match whole {
                true => import.selection.clone(),
                false => Selection { all_metadata: true, ..import.selection.clone() },
            };
            match keep(&fetcher, &entry, &inner).await {
                Ok(()) => complete.push(entry),
                // Others of the archive may be for the platform.
                Err(err) if Unfit::is(&err) => tracing::debug!(error = %err, "left out"),
                Err(err) => return Err(err),
            }
        }
        if complete.is_empty() {
            return Err(Error::not_found("the archive has no image for the platform: not found"));
        }
        let named = named(import.store, &root, &complete);
        if named.is_empty() {
            return Err(Error::not_found("no image name found: not found"));
        }
        for (name, target) in &named {
            self.unpack_as_asked(ctx, name, target, &import.store.unpacks, teller).await?;
        }
        let labels: Labels = import.store.labels.clone().into_iter().collect();
        for (name, target) in named {
            self.record(ctx, &name, target.clone(), labels.clone()).await?;
            teller.say(Event::new("saved", name).about(&target));
        }
        Ok(())
    }

    /// Reads the archive from the client.
    async fn receive(&self, ctx: &Context, mut incoming: Incoming) -> Result<Entries> {
        let (feed, bytes) = feed::feed();
        let receiving = async {
            loop {
                match incoming.next().await {
                    Ok(Some(bytes)) => {
                        // Who reads says what is wrong.
                        if !feed.send(bytes).await {
                            return Ok(());
                        }
                    }
                    Ok(None) => {
                        feed.finish().await;
                        return Ok(());
                    }
                    // Dropping the feed ends the reader.
                    Err(err) => return Err(err),
                }
            }
        };
        let bytes: BlobStream = bytes.boxed();
        let reading = entries::read(self.fetcher(ctx, None), bytes);
        let (received, read) = futures::future::join(receiving, reading).await;
        received.and(read)
    }
}

/// What gets a name, by that name.
fn named(
    store: &types::ImageStore,
    root: &Descriptor,
    entries: &[Descriptor],
) -> Vec<(String, Descriptor)> {
    let own = names::of_target(store, root).into_iter().map(|name| (name, root));
    let entries = entries
        .iter()
        .flat_map(|entry| names::of_entry(store, entry).into_iter().map(move |name| (name, entry)));
    let plain = |target: &Descriptor| Descriptor { annotations: Labels::new(), ..target.clone() };
    own.chain(entries).map(|(name, target)| (name, plain(target))).collect()
}

/// The index of an archive, and the images in it.
async fn index(
    fetcher: &Fetcher,
    entries: &Entries,
    compress: bool,
) -> Result<(Descriptor, Vec<Descriptor>)> {
    if let Some(text) = entries.documents.get(LAYOUT) {
        let layout: Layout = serde_json::from_slice(text).map_err(|err| {
            Error::invalid_argument("malformed oci-layout of the archive").with_source(err)
        })?;
        if layout.image_layout_version != VERSION {
            return Err(Error::unimplemented(format!(
                "OCI layout of version {:?} is not supported: not implemented",
                layout.image_layout_version
            )));
        }
        let text = entries.documents.get(INDEX).ok_or_else(|| {
            Error::invalid_argument("the OCI layout has no index.json: invalid argument")
        })?;
        let Document::Index(images) = Document::parse(media_type::OCI_INDEX, text)? else {
            return Err(Error::invalid_argument("index.json is no index: invalid argument"));
        };
        let root = fetcher.store_document("index", media_type::OCI_INDEX, text).await?;
        return Ok((root, images));
    }
    if !entries.documents.contains_key(MANIFEST) {
        return Err(Error::invalid_argument(
            "unrecognized image format: the archive has neither oci-layout nor manifest.json",
        ));
    }
    let manifests = docker::index(fetcher, entries, compress).await?;
    let kind = media_type::OCI_INDEX;
    let index = Index { schema_version: 2, media_type: kind, manifests };
    let root = fetcher.store_json("index", kind, &index).await?;
    Ok((root, index.manifests))
}

/// Makes sure that all that is wanted of an image is here, and that the image keeps it.
async fn keep(fetcher: &Fetcher, entry: &Descriptor, selection: &Selection) -> Result<()> {
    let tree = tree::walk(fetcher, entry, selection).await?;
    for part in &tree.blobs {
        let blob = &part.descriptor;
        // These come from elsewhere when they are needed.
        if crate::document::is_foreign(&blob.media_type) {
            continue;
        }
        // It may have been here before: then only a record keeps it. What is held
        // before it is looked for is not collected after that.
        fetcher.hold("content", blob.digest.as_str()).await?;
        present(&*fetcher.content, &fetcher.ctx, blob)
            .await
            .map_err(|err| err.context(format!("{} is not in the archive", tree::name(blob))))?;
    }
    for part in &tree.documents {
        fetcher.hold("content", part.descriptor.digest.as_str()).await?;
        let document = fetcher.document(&part.descriptor, None).await?;
        fetcher.label(&part.descriptor.digest, document.reference_labels()).await?;
    }
    Ok(())
}
