//! Whole images for any number of platforms from a registry, unpacked where that is asked for.

use futures::{StreamExt, TryStreamExt};
use gantry_core::images::LayerPhase;
use gantry_core::{Context, Error, Labels, Result};
use gantry_grpc::containerd::types::transfer as types;

use crate::fetch::{Fetcher, Opened};
use crate::hosts::Operation;
use crate::names;
use crate::progress::LayerProgress;
use crate::puller::RegistryPuller;
use crate::reference::Reference;
use crate::registry::Resolved;
use crate::remote::Access;
use crate::telling::{Event, Teller};
use crate::tree::{self, Part, Selection};

/// What is asked for.
pub(crate) struct Gather {
    pub(crate) reference: Reference,
    /// Names of the records, their labels beside those that they have, and what to unpack.
    pub(crate) store: types::ImageStore,
    pub(crate) selection: Selection,
}

impl RegistryPuller {
    /// Brings what is wanted of an image here, unpacks it, and makes its records last:
    /// a name points at what it did before until all is there.
    ///
    /// # Errors
    /// As of a pull; `NotFound` when nothing is for a platform that is wanted.
    pub(crate) async fn gather(
        &self,
        ctx: &Context,
        gather: Gather,
        access: &Access,
        teller: &Teller,
    ) -> Result<()> {
        let Gather { reference, store, selection } = gather;
        let name = match store.name.as_str() {
            "" => reference.to_string(),
            name => name.to_owned(),
        };
        let remote = self.remote(reference, access, Operation::Pull, &[]).await?;
        let Resolved { target, bytes } = self.resolve(&remote).await?;
        teller.say(Event::new("resolved", &name).about(&target));
        let held = self.leasing().hold(ctx, &name).await?;
        let ctx = held.context();
        let on_pull = |err: Error| err.context(format!("failed to pull image \"{name}\""));
        let fetcher = self.fetcher(ctx, Some(remote));
        // What had to be fetched to know the digest is not fetched again.
        if bytes.is_some() {
            fetcher.document(&target, bytes).await.map_err(on_pull)?;
        }
        let tree = tree::walk(&fetcher, &target, &selection).await.map_err(on_pull)?;
        for Part { descriptor: document, .. } in &tree.documents {
            let done = Event::new("complete", tree::name(document)).about(document);
            teller.say(done.progress(document.size, document.size));
        }
        let blobs = futures::stream::iter(&tree.blobs).map(Ok::<_, Error>);
        let at_once = self.config().concurrency.max(1);
        let fetched = blobs.try_for_each_concurrent(at_once, |part| bring(&fetcher, part, teller));
        if let Err(err) = fetched.await {
            let digests = tree.blobs.iter().map(|part| &part.descriptor.digest);
            return Err(self.give_up(ctx, &name, digests, err).await);
        }
        self.unpack_as_asked(ctx, &name, &target, &store.unpacks, teller).await?;
        let mut names = names::of_target(&store, &target);
        if names.is_empty() {
            names.push(name);
        }
        let labels: Labels = store.labels.into_iter().collect();
        for name in names {
            self.record(ctx, &name, target.clone(), labels.clone()).await?;
            teller.say(Event::new("saved", name).about(&target));
        }
        // What is here for this machine may be more than before.
        self.forget(ctx, &target);
        held.release().await;
        Ok(())
    }
}

/// Brings a blob here.
async fn bring(fetcher: &Fetcher, part: &Part, teller: &Teller) -> Result<()> {
    let blob = &part.descriptor;
    let mut progress = LayerProgress::new(Some(teller.sink(part)), blob);
    progress.report(LayerPhase::Waiting, 0);
    let on = |err: Error| err.context(tree::name(blob));
    match fetcher.open(blob).await.map_err(on)? {
        Opened::Here => progress.end(LayerPhase::Exists),
        Opened::Ingest(ingest) => {
            fetcher.fill(blob, ingest, None, &mut progress).await.map_err(on)?;
            progress.end(LayerPhase::Complete);
        }
    }
    Ok(())
}
