//! Images to registries: only what the registry lacks, and nothing before what it
//! points at.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::{StreamExt, TryStreamExt};
use gantry_core::content::ContentStore;
use gantry_core::images::Image;
use gantry_core::{Context, Descriptor, Digest, Error, LabelMask, Labels, Result, labels};

use crate::document::is_foreign;
use crate::fetch::Fetcher;
use crate::hosts::Operation;
use crate::puller::RegistryPuller;
use crate::reference::Reference;
use crate::registry::{Failure, Placed, Retry, Session};
use crate::remote::{Access, Remote};
use crate::telling::{Event, Teller};
use crate::tree::{self, Part, Selection, Tree};

/// Most repositories that blobs are looked for in.
const MAX_SOURCES: usize = 8;
/// Most repositories that one blob is looked for in.
const MAX_MOUNTS: usize = 3;

/// A push under way.
struct Push<'a> {
    fetcher: &'a Fetcher,
    session: &'a Session,
    reference: &'a Reference,
    /// Other repositories that may have a blob: they are known by the host alone, which
    /// may be that of several registries.
    sources: &'a HashMap<Digest, Vec<String>>,
    teller: &'a Teller,
}

impl RegistryPuller {
    /// Sends what is wanted of an image to where `reference` says.
    ///
    /// # Errors
    /// `NotFound` for content that is not here, before anything is sent;
    /// `Unauthenticated` and `PermissionDenied`; `Unavailable` when the registry
    /// can't be reached.
    pub(crate) async fn push(
        &self,
        ctx: &Context,
        image: &Image,
        reference: Reference,
        access: &Access,
        selection: &Selection,
        teller: &Teller,
    ) -> Result<()> {
        let name = reference.to_string();
        teller.say(Event::new(format!("Pushing to {name}"), ""));
        teller.say(Event::new("pushing content", &image.name).about(&image.target));
        let fetcher = self.fetcher(ctx, None);
        let mut tree = tree::walk(&fetcher, &image.target, selection).await?;
        tree.blobs.retain(|part| !is_foreign(&part.descriptor.media_type));
        let on_push = |err: Error| err.context(format!("failed to push {name:?}"));
        let sources = sources(&fetcher, &tree, &reference).await.map_err(on_push)?;
        let repositories: BTreeSet<&String> = sources.values().flatten().collect();
        let repositories: Vec<String> = repositories.into_iter().cloned().collect();
        let remote = self.remote(reference, access, Operation::Push, &repositories).await?;
        self.push_tree(&fetcher, &remote, &tree, &sources, teller).await.map_err(on_push)?;
        teller.say(Event::new("pushed content", &image.name).about(&image.target));
        teller.say(Event::new(format!("Completed push to {name}"), "").about(&image.target));
        Ok(())
    }

    async fn push_tree(
        &self,
        fetcher: &Fetcher,
        remote: &Remote,
        tree: &Tree,
        sources: &HashMap<Digest, Vec<String>>,
        teller: &Teller,
    ) -> Result<()> {
        // What is stored has to be at one host; the first that may store is meant.
        let session = remote.sessions(Operation::Push).next();
        let session = session.ok_or_else(|| remote.unable(Operation::Push))?;
        let push = Push { fetcher, session, reference: &remote.reference, sources, teller };
        for part in tree.blobs.iter().chain(&tree.documents) {
            push.say("waiting", part, 0);
        }
        let blobs = futures::stream::iter(&tree.blobs).map(Ok::<_, Error>);
        let at_once = self.config().concurrency.max(1);
        blobs.try_for_each_concurrent(at_once, |part| push.blob(part)).await?;
        let Some((root, below)) = tree.documents.split_last() else { return Ok(()) };
        for part in below {
            push.document(part, part.descriptor.digest.as_str()).await?;
        }
        push.document(root, remote.reference.pushed(&root.descriptor.digest)).await
    }
}

impl Push<'_> {
    fn say(&self, event: &str, part: &Part, done: u64) {
        self.teller.say(Event::of(event, part).progress(done, part.descriptor.size));
    }

    async fn blob(&self, part: &Part) -> Result<()> {
        let blob = &part.descriptor;
        if self.session.has_blob(&blob.digest).await.map_err(|err| on(blob, err))? {
            self.say("already exists", part, blob.size);
        } else {
            self.send(part).await.map_err(|err| on(blob, err))?;
            self.say("complete", part, blob.size);
        }
        self.mark(&blob.digest).await
    }

    /// Sends a blob, as often as makes sense: an upload that broke off is begun again.
    async fn send(&self, part: &Part) -> Result<()> {
        let sources = self.sources.get(&part.descriptor.digest);
        let mut sources = sources.map(Vec::as_slice).unwrap_or_default();
        let mut attempt = 0;
        loop {
            if !self.session.may_mount() {
                sources = &[];
            }
            match self.try_send(part, sources).await {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    // Some registries refuse to take over instead of asking for the bytes.
                    if std::mem::take(&mut sources).is_empty() {
                        self.session.pause(failure, &mut attempt, Retry::Transfer).await?;
                    }
                }
            }
        }
    }

    /// The repository to take a blob over from. One that lacks it is not tried, because
    /// what it can't give is waited for in an upload; the last need not be asked.
    async fn source<'s>(&self, blob: &Digest, sources: &'s [String]) -> Option<&'s str> {
        let (last, others) = sources.split_last()?;
        for source in others {
            if self.session.is_in(source, blob).await {
                return Some(source);
            }
        }
        Some(last)
    }

    async fn try_send(&self, part: &Part, sources: &[String]) -> Result<(), Failure> {
        let blob = &part.descriptor;
        let source = self.source(&blob.digest, sources).await;
        let placed = self.session.place(&blob.digest, source).await?;
        let Placed::Wanted(to) = placed else { return Ok(()) };
        let bytes = self.fetcher.read(blob).await?;
        let (sent, part, teller) = (Arc::new(AtomicU64::new(0)), part.clone(), self.teller.clone());
        let counted = Arc::clone(&sent);
        let bytes = bytes.inspect_ok(move |piece| {
            let done = counted.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let done = done + piece.len() as u64;
            teller.now_and_then(Event::of("uploading", &part).progress(done, part.descriptor.size));
        });
        self.session.upload(to, blob, bytes.boxed()).await
    }

    async fn document(&self, part: &Part, target: &str) -> Result<()> {
        let document = &part.descriptor;
        let stored = self.session.has_manifest(target, &document.digest).await;
        if stored.map_err(|err| on(document, err))? {
            self.say("already exists", part, document.size);
        } else {
            let bytes = self.fetcher.bytes_of_document(document).await?;
            let put = self.session.put_manifest(target, document, bytes).await;
            put.map_err(|err| on(document, err))?;
            self.say("complete", part, document.size);
        }
        self.mark(&document.digest).await
    }

    /// Notes that the repository has this.
    async fn mark(&self, digest: &Digest) -> Result<()> {
        let content = &self.fetcher.content;
        let info = content.info(&self.fetcher.ctx, digest).await?;
        let Some((key, value)) = self.reference.source_label(&info.labels) else { return Ok(()) };
        if info.labels.get(&key) == Some(&value) {
            return Ok(());
        }
        let mask = LabelMask::Keys(vec![key.clone()]);
        content.update(&self.fetcher.ctx, digest, Labels::from([(key, value)]), mask).await?;
        Ok(())
    }
}

/// Makes sure that every blob is here, and finds which other repositories of the
/// registry have it.
async fn sources(
    fetcher: &Fetcher,
    tree: &Tree,
    reference: &Reference,
) -> Result<HashMap<Digest, Vec<String>>> {
    let mut found = HashMap::new();
    let mut repositories = BTreeSet::new();
    for Part { descriptor, .. } in &tree.blobs {
        let info = present(&*fetcher.content, &fetcher.ctx, descriptor).await?;
        let hosts = [reference.hostname(), reference.domain()];
        let listed = hosts
            .iter()
            .filter_map(|host| info.labels.get(&format!("{}{host}", labels::DISTRIBUTION_SOURCE)));
        let others = listed.flat_map(|all| all.split(',')).filter(|r| *r != reference.path());
        let mut sources = Vec::new();
        for source in others.map(str::to_owned) {
            let room = repositories.len() < MAX_SOURCES || repositories.contains(&source);
            if room && sources.len() < MAX_MOUNTS && !sources.contains(&source) {
                repositories.insert(source.clone());
                sources.push(source);
            }
        }
        found.insert(descriptor.digest.clone(), sources);
    }
    Ok(found)
}

/// What is known of a blob that has to be here, in the length that it should have.
pub(crate) async fn present(
    content: &dyn ContentStore,
    ctx: &Context,
    blob: &Descriptor,
) -> Result<gantry_core::content::Info> {
    let info = content.info(ctx, &blob.digest).await?;
    match info.size == blob.size {
        true => Ok(info),
        false => Err(Error::data_loss(format!(
            "content {} has {} bytes, but {} are promised",
            blob.digest, info.size, blob.size
        ))),
    }
}

fn on(part: &Descriptor, err: Error) -> Error {
    err.context(tree::name(part))
}
