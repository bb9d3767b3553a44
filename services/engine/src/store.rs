//! Transactions over containers and their names.

use std::ops::ControlFlow;
use std::sync::Arc;

use gantry_core::containers::{CONTAINERS, Container};
use gantry_core::db::{Database, Durability, Table, Transaction, blocking, write_then};
use gantry_core::history::{History, Staged};
use gantry_core::{Any, Context, Error, Namespace, Result, Timestamp};
use gantry_grpc::any;
use gantry_grpc::containerd::events::{ContainerCreate, ContainerDelete, container_create};
use gantry_grpc::convert;
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use prost::Name;

use crate::live::{Live, LiveTable};
use crate::model::{Meta, Phase};
use crate::{changes, health, names, scope};

mod brief;
#[cfg(test)]
mod tests;

/// Containers' IDs by name. A row whose container is gone counts for nothing.
const NAMES: Table<String> = Table::new("engine-names");

/// Containers' IDs by idempotency key, as `NAMES`.
const KEYS: Table<String> = Table::new("engine-idempotency-keys");

/// So many random names are tried.
const ATTEMPTS: usize = 16;

/// The containers' records, as the engine uses them.
pub(crate) struct Store {
    pub(crate) database: Arc<dyn Database>,
    pub(crate) history: Arc<dyn History>,
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
            let (live, caller) = (Arc::clone(&self.live), ctx.clone());
            let key = meta.idempotency.as_ref().map(|once| once.key.clone());
            let created = created(ctx, &container);
            let staged = created.clone();
            let history = Arc::clone(&self.history);
            let stored = write_then(
                &self.database,
                durability,
                move |tx| {
                    let space = caller.namespace.as_str();
                    check_name(tx, &caller, &live, &name, &row.id)?;
                    if CONTAINERS.lock(tx, space, &row.id)?.is_some() {
                        let text = format!("container {:?}: already exists", row.id);
                        return Err(Error::already_exists(text));
                    }
                    NAMES.put(tx, space, &name, &row.id)?;
                    if let Some(key) = &key {
                        KEYS.put(tx, space, key, &row.id)?;
                    }
                    CONTAINERS.put(tx, space, &row.id, &row)?;
                    staged.put(tx)
                },
                move |()| history.release(created),
            )
            .await;
            match stored {
                Err(err) if err.is_already_exists() && !chosen => {}
                Err(err) => return Err(err),
                Ok(()) => return Ok((container, meta)),
            }
        }
        Err(Error::already_exists("no free name was found; choose one: already exists"))
    }

    /// Changes what is stored of a container, and stores with it the event that tells
    /// of that, if one does.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub(crate) async fn update(
        &self,
        ctx: &Context,
        id: &str,
        durability: Durability,
        action: Option<Action>,
        change: impl Fn(&mut Meta) + Send + 'static,
    ) -> Result<()> {
        let (ctx, id) = (ctx.clone(), id.to_owned());
        let (live, history) = (Arc::clone(&self.live), Arc::clone(&self.history));
        write_then(
            &self.database,
            durability,
            move |tx| {
                let namespace = ctx.namespace.as_str();
                let Some(mut container) = CONTAINERS.lock(tx, namespace, &id)? else {
                    return Err(no_such(&id));
                };
                let mut meta = Meta::of(&container)?;
                if meta.foreign {
                    return Ok(None);
                }
                change(&mut meta);
                meta.store(&mut container)?;
                container.updated_at = Timestamp::now();
                CONTAINERS.put(tx, namespace, &id, &container)?;
                if meta.state.phase.is_running() {
                    meta.state.connected = live.connected(&ctx.namespace, &id);
                }
                let event = |action| changes::staged(&ctx, action, &container, meta);
                let staged = action.map(event);
                staged.iter().try_for_each(|staged| staged.put(tx))?;
                Ok(staged)
            },
            move |staged| staged.into_iter().for_each(|staged| history.release(staged)),
        )
        .await
    }

    /// Stores a container's state, if there is one to be stored, and what made it so. It is
    /// read within the transaction: of two that record at once the last one stores the newest.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub(crate) async fn record(
        &self,
        ctx: &Context,
        id: &str,
        live: &Arc<Live>,
        durability: Durability,
        action: Option<Action>,
    ) -> Result<()> {
        if live.now().state.is_none() {
            return Ok(());
        }
        let live = Arc::clone(live);
        let change = move |meta: &mut Meta| {
            if let Some(state) = live.now().state {
                meta.state = state;
            }
        };
        self.update(ctx, id, durability, action, change).await
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
        let (ctx, row, name) = (ctx.clone(), id.to_owned(), name.to_owned());
        let live = Arc::clone(&self.live);
        let history = Arc::clone(&self.history);
        write_then(
            &self.database,
            durability,
            move |tx| {
                let space = ctx.namespace.as_str();
                let container = CONTAINERS.lock(tx, space, &row)?;
                // Damage is no reason to keep it. It may have been renamed meanwhile.
                let mut meta =
                    container.as_ref().and_then(|c| Meta::of(c).ok()).unwrap_or_default();
                for name in [&name, &meta.name] {
                    // The name may be another container's by now.
                    if !name.is_empty() && NAMES.lock(tx, space, name)?.as_ref() == Some(&row) {
                        NAMES.delete(tx, space, name)?;
                    }
                }
                let Some(container) = container else { return Ok(Vec::new()) };
                CONTAINERS.delete(tx, space, &row)?;
                health::delete(tx, space, &row)?;
                meta.state = live.state(&ctx.namespace, &row).unwrap_or(meta.state);
                if let Some(once) = &meta.idempotency
                    && KEYS.lock(tx, space, &once.key)?.as_ref() == Some(&row)
                {
                    KEYS.delete(tx, space, &once.key)?;
                }
                // Of one that was still being made nobody was told, unless it was to go by itself.
                let told = meta.state.phase != Phase::Creating || meta.settings.auto_remove;
                let removed = if told {
                    changes::staged(&ctx, Action::Removed, &container, meta)
                } else {
                    changes::undone(&ctx, &container, meta)
                };
                let deleted = ContainerDelete { id: row.clone() };
                let staged = vec![removed, public(&ctx, "/containers/delete", &deleted)];
                staged.iter().try_for_each(|staged| staged.put(tx))?;
                Ok(staged)
            },
            move |staged| staged.into_iter().for_each(|staged| history.release(staged)),
        )
        .await
    }

    /// Gives a container another name, both names' rows and its own in one.
    ///
    /// # Errors
    /// `NotFound` when it is gone; `AlreadyExists` when another container has the name.
    pub(crate) async fn rename(&self, ctx: &Context, id: &str, name: &str) -> Result<()> {
        let (ctx, id, name) = (ctx.clone(), id.to_owned(), name.to_owned());
        let live = Arc::clone(&self.live);
        let history = Arc::clone(&self.history);
        write_then(
            &self.database,
            Durability::Sync,
            move |tx| {
                let space = ctx.namespace.as_str();
                let Some(mut container) = CONTAINERS.lock(tx, space, &id)? else {
                    return Err(no_such(&id));
                };
                let mut meta = Meta::of(&container)?;
                check_name(tx, &ctx, &live, &name, &id)?;
                if NAMES.lock(tx, space, &meta.name)?.as_ref() == Some(&id) {
                    NAMES.delete(tx, space, &meta.name)?;
                }
                NAMES.put(tx, space, &name, &id)?;
                let old = std::mem::replace(&mut meta.name, name.clone());
                container.labels.insert(crate::NAME_LABEL.to_owned(), name.clone());
                meta.store(&mut container)?;
                container.updated_at = Timestamp::now();
                CONTAINERS.put(tx, space, &id, &container)?;
                meta.state = live.state(&ctx.namespace, &id).unwrap_or(meta.state);
                let old = [("old_name", old.as_str())];
                let staged = changes::staged_with(&ctx, Action::Renamed, &container, meta, &old);
                staged.put(tx)?;
                Ok(staged)
            },
            move |staged| history.release(staged),
        )
        .await
    }

    /// One container by its ID, unless it is being taken away.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn get(&self, ctx: &Context, id: &str) -> Result<Option<(Container, Meta)>> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let (live, id) = (Arc::clone(&self.live), id.to_owned());
        blocking(move || visible(&*database, &live, &namespace, &id)).await
    }

    /// The container that a request with this key made.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn by_key(
        &self,
        ctx: &Context,
        key: &str,
    ) -> Result<Option<(Container, Meta)>> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let (live, key) = (Arc::clone(&self.live), key.to_owned());
        blocking(move || match KEYS.get(&*database, namespace.as_str(), &key)? {
            Some(id) => visible(&*database, &live, &namespace, &id),
            None => Ok(None),
        })
        .await
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
    /// when several IDs begin so; `PermissionDenied` for one beyond the client's scope.
    pub(crate) async fn resolve(&self, ctx: &Context, text: &str) -> Result<(Container, Meta)> {
        let (database, namespace) = (Arc::clone(&self.database), ctx.namespace.clone());
        let (live, scope) = (Arc::clone(&self.live), ctx.scope.clone());
        let text = text.strip_prefix('/').unwrap_or(text).to_owned();
        blocking(move || {
            let (space, scope) = (namespace.as_str(), scope.as_deref());
            let visible = |id: &str| visible(&*database, &live, &namespace, id);
            let admitted = |found: (Container, Meta)| {
                scope::check(scope, "container", &text, &found.1.labels).map(|()| found)
            };
            if text.is_empty() || text.contains('\0') {
                return Err(no_such(&text));
            }
            if let Some(id) = NAMES.get(&*database, space, &text)?
                && let Some(found) = visible(&id)?
            {
                return admitted(found);
            }
            if let Some(found) = visible(&text)? {
                return admitted(found);
            }
            let mut candidates = Vec::new();
            for id in keys(&*database, space, &text)? {
                let seen = |(_, meta): &(_, Meta)| scope.is_none_or(|s| s.covers(&meta.labels));
                candidates.extend(visible(&id)?.filter(seen));
            }
            match candidates.len() {
                // Other names are none of a limited client's business.
                0 if scope.is_some_and(|s| s.label.is_some()) => Err(no_such(&text)),
                0 => Err(unknown(&*database, space, &text)?),
                1 => candidates.pop().ok_or_else(|| no_such(&text)),
                _ => Err(ambiguous(&text, &candidates)),
            }
        })
        .await
    }
}

/// A container that is not being taken away.
fn visible(
    database: &dyn Database,
    live: &LiveTable,
    namespace: &Namespace,
    id: &str,
) -> Result<Option<(Container, Meta)>> {
    let Some(found) = CONTAINERS.get(database, namespace.as_str(), id)? else { return Ok(None) };
    if live.is_removing(namespace, id) || is_removing(&found) {
        return Ok(None);
    }
    let meta = Meta::of(&found)?;
    Ok(Some((found, meta)))
}

/// What containerd's clients are told of a new container.
fn created(ctx: &Context, container: &Container) -> Staged {
    let event = ContainerCreate {
        id: container.id.clone(),
        image: container.image.clone(),
        runtime: Some(container_create::Runtime {
            name: container.runtime.name.clone(),
            options: container.runtime.options.clone().map(convert::any),
        }),
    };
    public(ctx, "/containers/create", &event)
}

fn public<M: Name>(ctx: &Context, topic: &str, event: &M) -> Staged {
    let packed = any::pack(event);
    Staged::new(ctx, topic, Any { type_url: packed.type_url, value: packed.value })
}

/// `No such container: x`.
pub(crate) fn no_such(text: &str) -> Error {
    Error::not_found(format!("No such container: {text}")).about("container", text)
}

fn is_removing(container: &Container) -> bool {
    Meta::of(container).is_ok_and(|meta| meta.state.phase == Phase::Removing)
}

/// Refuses a name that another container than this one has. What is on its way out gives its
/// name free.
fn check_name(
    tx: &mut dyn Transaction,
    ctx: &Context,
    live: &LiveTable,
    name: &str,
    id: &str,
) -> Result<()> {
    let space = ctx.namespace.as_str();
    let Some(owner) = NAMES.lock(tx, space, name)?.filter(|owner| owner != id) else {
        return Ok(());
    };
    match CONTAINERS.lock(tx, space, &owner)? {
        Some(there) if !live.is_removing(&ctx.namespace, &owner) && !is_removing(&there) => {
            // A damaged record has no labels, so it is within nobody's scope.
            let labels = Meta::of(&there).map(|meta| meta.labels).unwrap_or_default();
            Err(taken(name, scope::sees(ctx, &labels).then_some(owner.as_str())))
        }
        _ => Ok(()),
    }
}

/// `owner` is `None` when who asks must not know it.
fn taken(name: &str, owner: Option<&str>) -> Error {
    let text = format!("Conflict. The container name \"/{name}\" is already in use");
    Error::already_exists(match owner {
        Some(owner) => format!(
            "{text} by container \"{owner}\". You have to remove (or rename) that container to be \
             able to reuse that name."
        ),
        None => format!("{text}. Choose another name."),
    })
    .about("container", name)
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
    Ok(names::suggest(no_such(text), text, names.iter().map(|(name, _)| name.as_str())))
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
    .about("container", text)
}
