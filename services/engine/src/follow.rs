//! What other clients do with containers and names of images, through containerd's API: their
//! events become those that the engine tells.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use gantry_core::containers::{CONTAINERS, Container};
use gantry_core::db::{Durability, GLOBAL, Table, blocking, write};
use gantry_core::history::{Cursor, Record, Records, Since};
use gantry_core::tasks::{Process, Status};
use gantry_core::{Context, Namespace, Result};
use gantry_grpc::containerd::events as ev;
use gantry_grpc::gantry::engine::v1::{Container as Shown, ContainerAction as Action};
use gantry_grpc::{any, convert};
use prost::Name;

use crate::changes::{self, TOPICS};
use crate::lifecycle::current;
use crate::model::Meta;
use crate::{Engine, Summary};

/// Up to where the history was followed.
const FOLLOWED: Table<Cursor> = Table::new("engine-followed");
/// Its only row.
const KEY: &str = "cursor";
/// After so many events that mean nothing here the position is stored as well.
const MANY: u32 = 1024;
/// Removals that are remembered, until containerd's event about the same one comes.
const REMEMBERED: usize = 4096;
/// How often a task is asked whether it has changed by now, and the time in between.
const ASKED: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// What is known between events.
#[derive(Default)]
struct Follower {
    /// Containers of which the engine has told that they are gone.
    removed: HashSet<(String, String)>,
    skipped: u32,
}

/// What an event of containerd's API says of a container.
struct Said {
    id: String,
    action: Action,
    /// Only what others do with containers of their own is news.
    foreign_only: bool,
}

impl Engine {
    /// Follows the history for as long as the engine lives, from where it was followed last.
    pub(crate) async fn follow_others(self: &Arc<Self>) {
        let engine = Arc::downgrade(self);
        if let Err(err) = self.know_names().await {
            tracing::warn!(error = %err, "names of images may be told twice");
        }
        let records = match self.followed().await {
            Ok(records) => records,
            Err(err) => {
                // Whoever watches has to list again anyway.
                tracing::warn!(error = %err, "changes by other clients may have been missed");
                match self.parts.history.read(Since::Now, None).await {
                    Ok(records) => records,
                    Err(err) => {
                        tracing::error!(error = %err, "changes by other clients are not told");
                        return;
                    }
                }
            }
        };
        tokio::spawn(follow(engine, records));
    }

    async fn followed(&self) -> Result<Records> {
        let database = Arc::clone(&self.parts.database);
        let cursor = blocking(move || FOLLOWED.get(&*database, GLOBAL, KEY)).await?;
        // Without one this is the first start: from the beginning.
        self.parts.history.read(Since::Cursor(cursor.unwrap_or_default()), None).await
    }

    /// Tells what an event says of a container. Whether the position was stored.
    async fn retell(&self, record: &Record, follower: &mut Follower) -> Result<bool> {
        let Some(said) = said(record) else {
            self.retell_name(record).await?;
            return Ok(false);
        };
        let Ok(namespace) = Namespace::new(record.envelope.namespace.as_str()) else {
            return Ok(false);
        };
        let ctx = Context::new(namespace);
        let shown = if said.action == Action::Removed {
            let key = (record.envelope.namespace.clone(), said.id.clone());
            let told = follower.removed.remove(&key);
            (!told).then(|| Shown { name: said.id.clone(), id: said.id, ..Shown::default() })
        } else {
            self.shown(&ctx, &said, record).await?
        };
        let Some(shown) = shown else { return Ok(false) };
        let staged = changes::event(&ctx, said.action, shown, &[]);
        let (event, cursor) = (staged.clone(), record.cursor);
        write(&self.parts.database, Durability::Buffered, move |tx| {
            FOLLOWED.put(tx, GLOBAL, KEY, &cursor)?;
            event.put(tx)
        })
        .await?;
        self.parts.history.release(staged);
        Ok(true)
    }

    /// The container as it is after what was said; `None` when that is no news.
    async fn shown(&self, ctx: &Context, said: &Said, record: &Record) -> Result<Option<Shown>> {
        let Some((container, meta)) = self.record_of(ctx, &said.id).await? else {
            return Ok(None);
        };
        if said.foreign_only && !meta.foreign {
            return Ok(None);
        }
        // A listing must show what is told of: the tasks may learn of it only now.
        match said.action {
            Action::Died => {
                let exit: Result<ev::TaskExit, _> = any::unpack(&event_of(record));
                let pid = exit.map(|exit| exit.pid).unwrap_or_default();
                let lives = |task: &Process| task.pid == pid && task.status != Status::Stopped;
                self.wait_while(ctx, &said.id, lives).await;
            }
            Action::Paused => {
                self.wait_while(ctx, &said.id, |task| task.status == Status::Running).await;
            }
            Action::Unpaused => {
                self.wait_while(ctx, &said.id, |task| task.status == Status::Paused).await;
            }
            _ => {}
        }
        let tasks = self.parts.tasks.list(ctx).await?;
        let task = tasks.iter().find(|task| task.container_id == said.id);
        let mut state = current(&meta, self.live.state(&ctx.namespace, &said.id), task);
        if said.action == Action::Died {
            // The task may be gone by now.
            let exit: Result<ev::TaskExit, _> = any::unpack(&event_of(record));
            if let Ok(exit) = exit {
                crate::watch::end(&meta, exit.exit_status)(&mut state);
                state.pid = 0;
            }
        }
        Ok(Some(crate::grpc::convert::container(Summary::of(&container, meta, state))))
    }

    async fn record_of(&self, ctx: &Context, id: &str) -> Result<Option<(Container, Meta)>> {
        let (database, namespace) = (Arc::clone(&self.parts.database), ctx.namespace.clone());
        let id = id.to_owned();
        blocking(move || {
            let found = CONTAINERS.get(&*database, namespace.as_str(), &id)?;
            found.map(|container| Ok((Meta::of(&container)?, container))).transpose()
        })
        .await
        .map(|found| found.map(|(meta, container)| (container, meta)))
    }

    /// Waits, but not for long, while a task is still as it was before what was told of it:
    /// its shim tells of that before it answers whoever asked for it.
    async fn wait_while(&self, ctx: &Context, id: &str, still: impl Fn(&Process) -> bool) {
        for _ in 0..ASKED {
            let Ok(tasks) = self.parts.tasks.list(ctx).await else { return };
            if !tasks.iter().any(|task| task.container_id == id && still(task)) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Follows the history until it, or the engine, ends.
async fn follow(engine: Weak<Engine>, mut records: Records) {
    let mut follower = Follower::default();
    while let Some(record) = records.next().await {
        let Some(engine) = engine.upgrade() else { return };
        let record = match record {
            Ok(record) => record,
            Err(err) => {
                // Its reader is here: it was behind by all that is kept, or the store fails.
                tracing::warn!(error = %err, "changes by other clients are missed");
                match engine.parts.history.read(Since::Now, None).await {
                    Ok(fresh) => records = fresh,
                    Err(err) => {
                        tracing::error!(error = %err, "changes by other clients are not told");
                        return;
                    }
                }
                continue;
            }
        };
        remember(&record, &mut follower);
        match engine.retell(&record, &mut follower).await {
            Ok(true) => follower.skipped = 0,
            Ok(false) => follower.skipped += 1,
            Err(err) => tracing::warn!(error = %err, "tell what another client did"),
        }
        if follower.skipped >= MANY {
            follower.skipped = 0;
            let cursor = record.cursor;
            let store = |cursor| {
                write(&engine.parts.database, Durability::Buffered, move |tx| {
                    FOLLOWED.put(tx, GLOBAL, KEY, &cursor)
                })
            };
            if let Err(err) = store(cursor).await {
                tracing::warn!(error = %err, "store up to where the history was followed");
            }
        }
    }
}

/// Keeps in mind what the engine itself has told.
fn remember(record: &Record, follower: &mut Follower) {
    if let Some(id) = changes::removed(record) {
        if follower.removed.len() >= REMEMBERED {
            follower.removed.clear();
        }
        follower.removed.insert((record.envelope.namespace.clone(), id));
    }
}

fn event_of(record: &Record) -> prost_types::Any {
    convert::any(record.envelope.event.clone())
}

/// What an event says of a container, as far as the engine does not tell it by itself.
fn said(record: &Record) -> Option<Said> {
    fn id<M: Name + Default>(record: &Record, read: fn(M) -> String) -> Option<String> {
        any::unpack::<M>(&event_of(record)).ok().map(read)
    }
    let topic = record.envelope.topic.as_str();
    if topic.starts_with(TOPICS) {
        return None;
    }
    let (id, action, foreign_only) = match topic {
        "/containers/create" => (id(record, |e: ev::ContainerCreate| e.id), Action::Created, true),
        "/containers/update" => (id(record, |e: ev::ContainerUpdate| e.id), Action::Updated, false),
        "/containers/delete" => (id(record, |e: ev::ContainerDelete| e.id), Action::Removed, false),
        "/tasks/start" => (id(record, |e: ev::TaskStart| e.container_id), Action::Started, true),
        "/tasks/exit" => {
            let exit: ev::TaskExit = any::unpack(&event_of(record)).ok()?;
            // Not of a process that was added.
            let first = exit.id.is_empty() || exit.id == exit.container_id;
            (first.then_some(exit.container_id), Action::Died, true)
        }
        "/tasks/paused" => (id(record, |e: ev::TaskPaused| e.container_id), Action::Paused, false),
        "/tasks/resumed" => {
            (id(record, |e: ev::TaskResumed| e.container_id), Action::Unpaused, false)
        }
        "/tasks/oom" => (id(record, |e: ev::TaskOom| e.container_id), Action::Oom, false),
        _ => return None,
    };
    Some(Said { id: id?, action, foreign_only })
}
