//! Transactions over containers and their names.

use std::ops::ControlFlow;
use std::sync::Arc;

use gantry_core::containers::{CONTAINERS, Container};
use gantry_core::db::{Database, Durability, Table, blocking, write};
use gantry_core::events::Events;
use gantry_core::{Any, Context, Error, Result, Timestamp};
use gantry_grpc::any;
use gantry_grpc::containerd::events::{ContainerCreate, ContainerDelete, container_create};
use gantry_grpc::convert;
use prost::Name;

use crate::live::LiveTable;
use crate::model::{Meta, Phase};
use crate::names;

/// Containers' IDs by name. A row whose container is gone counts for nothing.
const NAMES: Table<String> = Table::new("engine-names");

/// So many random names are tried.
const ATTEMPTS: usize = 16;

/// The containers' records, as the engine uses them.
pub(crate) struct Store {
    pub(crate) database: Arc<dyn Database>,
    pub(crate) events: Arc<dyn Events>,
    pub(crate) live: Arc<LiveTable>,
}

impl Store {
    /// Stores a new container and its name, both or neither. Without a
    /// name, one is chosen; it is set in the answer.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub(crate) async fn create(
        &self,
        ctx: &Context,
        mut container: Container,
        mut meta: Meta,
        durability: Durability,
    ) -> Result<(Container, Meta)> {
        let chosen = !meta.name.is_empty();
        container.created_at = Timestamp::now();
        container.updated_at = container.created_at;
        for attempt in 0..ATTEMPTS {
            if !chosen {
                meta.name = names::random(attempt);
            }
            let label = (crate::NAME_LABEL.to_owned(), meta.name.clone());
            container.labels.extend([label]);
            meta.store(&mut container)?;
            let (row, name) = (container.clone(), meta.name.clone());
            let (live, namespace) = (Arc::clone(&self.live), ctx.namespace.clone());
            let stored = write(&self.database, durability, move |tx| {
                let space = namespace.as_str();
                if let Some(owner) = NAMES.lock(tx, space, &name)? {
                    let there = CONTAINERS.lock(tx, space, &owner)?;
                    let leaving = live.is_removing(&namespace, &owner);
                    if there.is_some_and(|c| !leaving && !is_removing(&c)) {
                        return Err(taken(&name, &owner));
                    }
                }
                if CONTAINERS.lock(tx, space, &row.id)?.is_some() {
                    let text = format!("container {:?}: already exists", row.id);
                    return Err(Error::already_exists(text));
                }
                NAMES.put(tx, space, &name, &row.id)?;
                CONTAINERS.put(tx, space, &row.id, &row)
            })
            .await;
            match stored {
                Err(err) if err.is_already_exists() && !chosen => {}
                Err(err) => return Err(err),
                Ok(()) => {
                    self.publish_create(ctx, &container);
                    return Ok((container, meta));
                }
            }
        }
        Err(Error::already_exists("no free name was found; choose one: already exists"))
    }

    /// Changes what is stored of a container.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub(crate) async fn update(
        &self,
        ctx: &Context,
        id: &str,
        durability: Durability,
        change: impl Fn(&mut Meta) + Send + 'static,
    ) -> Result<()> {
        let (namespace, id) = (ctx.namespace.clone(), id.to_owned());
        write(&self.database, durability, move |tx| {
            let Some(mut container) = CONTAINERS.lock(tx, namespace.as_str(), &id)? else {
                return Err(no_such(&id));
            };
            let mut meta = Meta::of(&container)?;
            if meta.foreign {
                return Ok(());
            }
            change(&mut meta);
            meta.store(&mut container)?;
            container.updated_at = Timestamp::now();
            CONTAINERS.put(tx, namespace.as_str(), &id, &container)
        })
        .await
    }

    /// Removes a container and its name.
    ///
    /// # Errors
    /// The store's; one that is gone is no error.
    pub(crate) async fn remove(
        &self,
        ctx: &Context,
        id: &str,
        name: &str,
        durability: Durability,
    ) -> Result<()> {
        let namespace = ctx.namespace.clone();
        let (row, name) = (id.to_owned(), name.to_owned());
        let there = write(&self.database, durability, move |tx| {
            let space = namespace.as_str();
            // The name may be another container's by now.
            if NAMES.lock(tx, space, &name)?.as_ref() == Some(&row) {
                NAMES.delete(tx, space, &name)?;
            }
            let there = CONTAINERS.lock(tx, space, &row)?.is_some();
            CONTAINERS.delete(tx, space, &row)?;
            Ok(there)
        })
        .await?;
        if there {
            self.publish(ctx, "/containers/delete", &ContainerDelete { id: id.to_owned() });
        }
        Ok(())
    }

    /// All containers of a namespace that are not being taken away.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn list(&self, ctx: &Context) -> Result<Vec<(Container, Meta)>> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let live = Arc::clone(&self.live);
        blocking(move || {
            let rows = CONTAINERS.list(&*database, namespace.as_str())?;
            let mut found = Vec::with_capacity(rows.len());
            for (id, container) in rows {
                if !live.is_removing(&namespace, &id) && !is_removing(&container) {
                    let meta = Meta::of(&container)?;
                    found.push((container, meta));
                }
            }
            Ok(found)
        })
        .await
    }

    /// One container, by name, ID or a unique beginning of its ID.
    ///
    /// # Errors
    /// `NotFound`, with the name that was probably meant; `InvalidArgument` with the candidates
    /// when several IDs begin so.
    pub(crate) async fn resolve(&self, ctx: &Context, text: &str) -> Result<(Container, Meta)> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let live = Arc::clone(&self.live);
        let text = text.strip_prefix('/').unwrap_or(text).to_owned();
        blocking(move || {
            let space = namespace.as_str();
            let visible = |id: &str| -> Result<Option<(Container, Meta)>> {
                let Some(found) = CONTAINERS.get(&*database, space, id)? else { return Ok(None) };
                if live.is_removing(&namespace, id) || is_removing(&found) {
                    return Ok(None);
                }
                let meta = Meta::of(&found)?;
                Ok(Some((found, meta)))
            };
            if text.is_empty() || text.contains('\0') {
                return Err(no_such(&text));
            }
            if let Some(id) = NAMES.get(&*database, space, &text)?
                && let Some(found) = visible(&id)?
            {
                return Ok(found);
            }
            if let Some(found) = visible(&text)? {
                return Ok(found);
            }
            let mut candidates = Vec::new();
            for id in keys(&*database, space, &text)? {
                candidates.extend(visible(&id)?);
            }
            match candidates.len() {
                0 => Err(unknown(&*database, space, &text)?),
                1 => candidates.pop().ok_or_else(|| no_such(&text)),
                _ => Err(ambiguous(&text, &candidates)),
            }
        })
        .await
    }

    fn publish_create(&self, ctx: &Context, container: &Container) {
        let event = ContainerCreate {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: Some(container_create::Runtime {
                name: container.runtime.name.clone(),
                options: container.runtime.options.clone().map(convert::any),
            }),
        };
        self.publish(ctx, "/containers/create", &event);
    }

    fn publish<M: Name>(&self, ctx: &Context, topic: &str, event: &M) {
        let packed = any::pack(event);
        let event = Any { type_url: packed.type_url, value: packed.value };
        if let Err(err) = self.events.publish(ctx, topic, event) {
            tracing::warn!(topic, error = %err, "publish");
        }
    }
}

/// `No such container: x`.
pub(crate) fn no_such(text: &str) -> Error {
    Error::not_found(format!("No such container: {text}"))
}

fn is_removing(container: &Container) -> bool {
    Meta::of(container).is_ok_and(|meta| meta.state.phase == Phase::Removing)
}

fn taken(name: &str, owner: &str) -> Error {
    Error::already_exists(format!(
        "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". \
         You have to remove (or rename) that container to be able to reuse that name."
    ))
}

fn keys(database: &dyn Database, namespace: &str, prefix: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    database.scan(CONTAINERS.name(), namespace, prefix, &mut |key, _| {
        found.push(key.to_owned());
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(found)
}

fn unknown(database: &dyn Database, namespace: &str, text: &str) -> Result<Error> {
    let names = NAMES.list(database, namespace)?;
    let meant = names::closest(text, names.iter().map(|(name, _)| name.as_str()));
    Ok(match meant {
        Some(meant) => {
            Error::not_found(format!("No such container: {text}. Did you mean {meant}?"))
        }
        None => no_such(text),
    })
}

fn ambiguous(text: &str, candidates: &[(Container, Meta)]) -> Error {
    const SHOWN: usize = 8;
    let shown = candidates.iter().take(SHOWN).map(|(container, meta)| {
        format!("{} ({})", &container.id[..container.id.len().min(12)], meta.name)
    });
    let more = if candidates.len() > SHOWN { ", …" } else { "" };
    Error::invalid_argument(format!(
        "{} containers have an ID that begins with {text}: {}{more}. Write more of it.",
        candidates.len(),
        shown.collect::<Vec<_>>().join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    use gantry_core::Namespace;
    use gantry_core::db::memory::MemoryDatabase;
    use gantry_core::events::{Envelope, EventStream};
    use gantry_core::filter::Filters;

    use crate::model::State;

    /// Keeps topics.
    #[derive(Default)]
    struct Topics(Mutex<Vec<String>>);

    impl Events for Topics {
        fn publish(&self, _: &Context, topic: &str, _: Any) -> Result<()> {
            self.0.lock().unwrap().push(topic.to_owned());
            Ok(())
        }

        fn forward(&self, _: Envelope) -> Result<()> {
            Ok(())
        }

        fn subscribe(&self, _: Filters) -> EventStream {
            Box::pin(futures::stream::empty())
        }
    }

    fn store() -> (Store, Context, Arc<Topics>) {
        let topics = Arc::new(Topics::default());
        let store = Store {
            database: MemoryDatabase::new().shared(),
            events: Arc::clone(&topics) as Arc<dyn Events>,
            live: Arc::default(),
        };
        (store, Context::new(Namespace::new("default").unwrap()), topics)
    }

    async fn make(store: &Store, ctx: &Context, id: &str, name: &str) -> Result<Meta> {
        let container = Container { id: id.into(), ..Container::default() };
        let meta = Meta { name: name.into(), ..Meta::default() };
        store.create(ctx, container, meta, Durability::Buffered).await.map(|(_, meta)| meta)
    }

    #[tokio::test]
    async fn a_name_belongs_to_one_container() {
        let (store, ctx, topics) = store();
        make(&store, &ctx, "aa1", "web").await.unwrap();
        let err = make(&store, &ctx, "aa2", "web").await.unwrap_err();
        assert!(err.is_already_exists() && err.to_string().contains("\"aa1\""), "{err}");
        // The refused one left nothing.
        assert!(store.resolve(&ctx, "aa2").await.unwrap_err().is_not_found());
        let random = make(&store, &ctx, "aa3", "").await.unwrap();
        assert!(random.name.contains('_'));
        store.remove(&ctx, "aa1", "web", Durability::Sync).await.unwrap();
        make(&store, &ctx, "aa2", "web").await.unwrap();
        let seen = topics.0.lock().unwrap().join(" ");
        let want = "/containers/create /containers/create /containers/delete /containers/create";
        assert_eq!(seen, want);
    }

    #[tokio::test]
    async fn a_container_on_its_way_out_gives_its_name_free() {
        let (store, ctx, _) = store();
        make(&store, &ctx, "aa1", "web").await.unwrap();
        let leaving = State { phase: Phase::Removing, ..State::default() };
        store.live.entry(&ctx, "aa1").set(leaving);
        assert!(store.resolve(&ctx, "web").await.unwrap_err().is_not_found());
        assert!(store.list(&ctx).await.unwrap().is_empty());
        make(&store, &ctx, "aa2", "web").await.unwrap();
        // Its end does not take the name from its new owner.
        store.remove(&ctx, "aa1", "web", Durability::Sync).await.unwrap();
        assert_eq!(store.resolve(&ctx, "web").await.unwrap().0.id, "aa2");
    }

    #[tokio::test]
    async fn names_ids_and_their_beginnings() {
        let (store, ctx, _) = store();
        for (id, name) in [("abc1", "web"), ("abd2", "cache"), ("ffff", "abc")] {
            make(&store, &ctx, id, name).await.unwrap();
        }
        let id = async |text: &str| store.resolve(&ctx, text).await.map(|(c, _)| c.id);
        assert_eq!(id("web").await.unwrap(), "abc1");
        assert_eq!(id("/web").await.unwrap(), "abc1");
        assert_eq!(id("abd2").await.unwrap(), "abd2");
        assert_eq!(id("abd").await.unwrap(), "abd2");
        // A name counts before the beginning of an ID.
        assert_eq!(id("abc").await.unwrap(), "ffff");
        let err = id("ab").await.unwrap_err();
        assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
        assert!(err.to_string().contains("abc1 (web), abd2 (cache)"), "{err}");
        let err = id("wbe").await.unwrap_err();
        assert_eq!(err.to_string(), "No such container: wbe. Did you mean web?");
        assert_eq!(id("nothing").await.unwrap_err().to_string(), "No such container: nothing");
        assert!(id("").await.unwrap_err().is_not_found());
    }

    #[tokio::test]
    async fn changes_are_stored() {
        let (store, ctx, _) = store();
        make(&store, &ctx, "aa1", "web").await.unwrap();
        let change = |meta: &mut Meta| meta.state.exit_code = 3;
        store.update(&ctx, "aa1", Durability::Sync, change).await.unwrap();
        assert_eq!(store.resolve(&ctx, "web").await.unwrap().1.state.exit_code, 3);
        let gone = store.update(&ctx, "zz", Durability::Sync, change).await.unwrap_err();
        assert!(gone.is_not_found());
    }
}
