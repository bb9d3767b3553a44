//! What is told of images, in Docker's words and once, whoever did it.
//!
//! The engine tells what it does by itself. What other clients do with names of images, through
//! containerd's API, its events tell: these come of both, so that they are only looked at for
//! names that stand for something else than was told.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gantry_core::db::blocking;
use gantry_core::history::Record;
use gantry_core::images::{IMAGES, Image};
use gantry_core::{Context, Descriptor, Labels, Namespace, Result, Timestamp};
use gantry_grpc::containerd::services::images::v1 as messages;
use gantry_grpc::gantry::engine::v1::ImageEvent;
use gantry_grpc::{any, convert};
use prost::Name;
use tokio::sync::Notify;

use super::lock;
use crate::Engine;

/// How long the engine may take to tell of a name once its record has changed.
const PATIENCE: Duration = Duration::from_millis(500);

type Key = (Namespace, String);

fn key(ctx: &Context, name: &str) -> Key {
    (ctx.namespace.clone(), name.to_owned())
}

/// What was told of names of images.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Held for single operations.
    names: Mutex<Names>,
    /// Told when the engine lets a name go.
    freed: Notify,
}

#[derive(Debug, Default)]
struct Names {
    /// What each name stands for, as far as that was told.
    targets: HashMap<Key, Descriptor>,
    /// With which of them the engine is doing something, and how often.
    in_hand: HashMap<Key, usize>,
}

/// A name with which the engine does something, of which it tells by itself, until this is dropped.
pub(super) struct InHand<'a> {
    told: &'a Told,
    key: Key,
}

impl Told {
    fn names(&self) -> MutexGuard<'_, Names> {
        lock(&self.names)
    }

    /// Takes a name in hand.
    pub(super) fn take(&self, ctx: &Context, name: &str) -> InHand<'_> {
        let key = key(ctx, name);
        *self.names().in_hand.entry(key.clone()).or_default() += 1;
        InHand { told: self, key }
    }

    /// Waits, but not for long, until the engine has told what it does with a name.
    async fn wait_free(&self, key: &Key) {
        let free = async {
            loop {
                let freed = self.freed.notified();
                if !self.names().in_hand.contains_key(key) {
                    return;
                }
                freed.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, free).await;
    }

    /// Notes what a name stands for. Whether it stood for something else.
    fn stands_for(&self, key: Key, target: &Descriptor) -> bool {
        let before = self.names().targets.insert(key, target.clone());
        before.is_none_or(|before| before.digest != target.digest)
    }

    /// Notes that a name is gone: what it stood for, and whether no other one does.
    fn gone(&self, key: &Key) -> Option<(Descriptor, bool)> {
        let mut names = self.names();
        let target = names.targets.remove(key)?;
        let same = |(other, stands): (&Key, &Descriptor)| {
            other.0 == key.0 && stands.digest == target.digest
        };
        let last = !names.targets.iter().any(same);
        Some((target, last))
    }
}

impl InHand<'_> {
    /// It was told what the name stands for.
    pub(super) fn stands_for(&self, target: &Descriptor) {
        self.told.stands_for(self.key.clone(), target);
    }

    /// It was told that the name is gone.
    pub(super) fn gone(&self) {
        self.told.gone(&self.key);
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        let mut names = self.told.names();
        if let Some(times) = names.in_hand.get_mut(&self.key) {
            *times -= 1;
            if *times == 0 {
                names.in_hand.remove(&self.key);
            }
        }
        drop(names);
        self.told.freed.notify_waiters();
    }
}

impl Engine {
    /// Takes in what names stand for: that was told, or is past telling.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn know_names(&self) -> Result<()> {
        let database = Arc::clone(&self.parts.database);
        let targets = blocking(move || {
            let mut targets = HashMap::new();
            for namespace in database.namespaces(IMAGES.name())? {
                let namespace = Namespace::new(namespace)?;
                IMAGES.each(&*database, namespace.as_str(), |image| {
                    targets.insert((namespace.clone(), image.name), image.target);
                })?;
            }
            Ok(targets)
        })
        .await?;
        self.told.names().targets = targets;
        Ok(())
    }

    /// Tells what is done with a name of an image that is here.
    pub(super) async fn tell_of_name(&self, ctx: &Context, action: &str, image: &Image) {
        let event = self.event_of(ctx, image).await;
        self.tell_of_image(ctx, action, &event);
    }

    /// Tells that the last name of an image is gone.
    pub(super) fn tell_deleted(&self, ctx: &Context, id: String) {
        self.tell_of_image(ctx, "delete", &ImageEvent { id, ..ImageEvent::default() });
    }

    /// Tells that images were pruned.
    pub(super) fn tell_images_pruned(&self, ctx: &Context, reclaimed: u64) {
        let reclaimed = Some(reclaimed);
        self.tell_of_image(ctx, "prune", &ImageEvent { reclaimed, ..ImageEvent::default() });
    }

    pub(super) fn tell_of_image(&self, ctx: &Context, action: &str, event: &ImageEvent) {
        let topic = format!("/gantry/images/{action}");
        self.parts.history.append(ctx, &topic, convert::from_any(any::pack(event)));
    }

    /// What events tell of a name: its image has to be here, or only its digest is known.
    pub(super) async fn event_of(&self, ctx: &Context, image: &Image) -> ImageEvent {
        let (id, labels) = match self.image_info(ctx, image).await {
            Ok(info) => (info.id.to_string(), info.config.runtime().labels.unwrap_or_default()),
            Err(_) => (image.target.digest.to_string(), Labels::new()),
        };
        ImageEvent { id, name: image.name.clone(), labels, ..ImageEvent::default() }
    }

    /// Tells what another client did with a name, if an event is about one.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn retell_name(&self, record: &Record) -> Result<()> {
        let Some(name) = renamed(record) else { return Ok(()) };
        let Ok(namespace) = Namespace::new(record.envelope.namespace.as_str()) else {
            return Ok(());
        };
        let ctx = Context::new(namespace);
        let key = key(&ctx, &name);
        self.told.wait_free(&key).await;
        match self.parts.images.get(&ctx, &name).await {
            Ok(image) => {
                if self.told.stands_for(key, &image.target) {
                    self.tell_of_name(&ctx, "tag", &image).await;
                }
            }
            Err(err) if err.is_not_found() => self.retell_gone(&ctx, key).await,
            Err(err) => return Err(err),
        }
        Ok(())
    }

    async fn retell_gone(&self, ctx: &Context, key: Key) {
        let Some((target, last)) = self.told.gone(&key) else { return };
        let (created_at, updated_at) = (Timestamp::default(), Timestamp::default());
        let image = Image { name: key.1, labels: Labels::new(), target, created_at, updated_at };
        // What it consists of is collected later.
        let event = self.event_of(ctx, &image).await;
        self.tell_of_image(ctx, "untag", &event);
        if last {
            self.cache.forget(ctx, &image.target.digest);
            self.tell_deleted(ctx, event.id);
        }
    }
}

/// The name of which one of containerd's events tells.
fn renamed(record: &Record) -> Option<String> {
    fn name<M: Name + Default>(record: &Record, read: fn(M) -> String) -> Option<String> {
        any::unpack::<M>(&convert::any(record.envelope.event.clone())).ok().map(read)
    }
    match record.envelope.topic.as_str() {
        "/images/create" => name(record, |e: messages::ImageCreate| e.name),
        "/images/update" => name(record, |e: messages::ImageUpdate| e.name),
        "/images/delete" => name(record, |e: messages::ImageDelete| e.name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Digest;
    use gantry_core::events::Envelope;
    use gantry_core::history::Cursor;

    use super::*;

    fn target(content: &[u8]) -> Descriptor {
        Descriptor {
            media_type: gantry_core::media_type::OCI_MANIFEST.into(),
            digest: Digest::of(content),
            size: 1,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        }
    }

    fn context(namespace: &str) -> Context {
        Context::new(Namespace::new(namespace).unwrap())
    }

    #[test]
    fn what_was_told_is_no_news() {
        let (told, ctx, other) = (Told::default(), context("default"), context("other"));
        let (one, two) = (target(b"1"), target(b"2"));
        told.take(&ctx, "a").stands_for(&one);
        assert!(!told.stands_for(key(&ctx, "a"), &one), "the engine told it");
        assert!(told.stands_for(key(&ctx, "a"), &two));
        assert!(told.stands_for(key(&ctx, "b"), &two));
        assert!(told.stands_for(key(&other, "a"), &two));
        assert_eq!(told.gone(&key(&ctx, "a")), Some((two.clone(), false)), "b stands for it");
        assert_eq!(told.gone(&key(&ctx, "a")), None);
        assert_eq!(told.gone(&key(&ctx, "b")), Some((two.clone(), true)), "a is elsewhere");
        told.take(&other, "a").gone();
        assert_eq!(told.gone(&key(&other, "a")), None, "the engine told it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_waited_for_but_not_for_ever() {
        let (told, ctx) = (Told::default(), context("default"));
        told.wait_free(&key(&ctx, "a")).await;
        let (first, second) = (told.take(&ctx, "a"), told.take(&ctx, "a"));
        let began = tokio::time::Instant::now();
        told.wait_free(&key(&ctx, "a")).await;
        let waited = began.elapsed();
        assert!(waited >= PATIENCE, "{waited:?}");
        drop(first);
        let key = key(&ctx, "a");
        tokio::join!(told.wait_free(&key), async { drop(second) });
        assert_eq!(began.elapsed(), waited, "it was let go");
    }

    #[test]
    fn containerds_events_name_it() {
        let record = |topic: &str, event| Record {
            cursor: Cursor::default(),
            envelope: Arc::new(Envelope {
                timestamp: Timestamp::now(),
                namespace: "default".into(),
                topic: topic.into(),
                event: convert::from_any(event),
            }),
        };
        let deleted = || any::pack(&messages::ImageDelete { name: "a".into() });
        assert_eq!(renamed(&record("/images/delete", deleted())).as_deref(), Some("a"));
        assert_eq!(renamed(&record("/x", deleted())), None);
        let told = ImageEvent { name: "a".into(), ..ImageEvent::default() };
        assert_eq!(renamed(&record("/gantry/images/untag", any::pack(&told))), None);
    }
}
