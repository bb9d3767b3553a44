//! What is told of containers: one event for each change, as `gantry.engine.v1` has it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use futures::future::ready;
use futures::{Stream, StreamExt};
use gantry_core::containers::Container;
use gantry_core::history::{Cursor, Record, Since, Staged};
use gantry_core::{Context, Result, Timestamp};
use gantry_grpc::gantry::engine::v1::{
    Container as Shown, ContainerAction as Action, ContainerEvent,
};
use gantry_grpc::{any, convert};

use crate::grpc::convert::container as show;
use crate::lifecycle::Found;
use crate::live::Live;
use crate::model::Meta;
use crate::{Engine, Summary, scope};

/// What the topics begin with.
pub(crate) const TOPICS: &str = "/gantry/containers/";

/// Topic of the removal of a container that was being made: nobody was told of it.
const UNDONE: &str = "/gantry/undone";

/// A change of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The position behind it.
    pub cursor: Cursor,
    /// When it happened.
    pub at: Timestamp,
    /// What happened.
    pub action: Action,
    /// The container right after it.
    pub container: Shown,
}

/// Changes as they come.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change>> + Send>>;

fn word(action: Action) -> &'static str {
    match action {
        Action::Unspecified => "unspecified",
        Action::Created => "created",
        Action::Started => "started",
        Action::Died => "died",
        Action::Paused => "paused",
        Action::Unpaused => "unpaused",
        Action::Oom => "oom",
        Action::Updated => "updated",
        Action::Removed => "removed",
        Action::Healthy => "healthy",
        Action::Unhealthy => "unhealthy",
        Action::Renamed => "renamed",
        Action::Killed => "killed",
        Action::Stopped => "stopped",
        Action::Restarted => "restarted",
        Action::Attached => "attached",
        Action::ExecCreated => "exec_created",
        Action::ExecStarted => "exec_started",
        Action::ExecDied => "exec_died",
        Action::Detached => "detached",
        Action::Resized => "resized",
        Action::ExecDetached => "exec_detached",
        Action::Top => "top",
        Action::Exported => "exported",
        Action::CopiedFrom => "copied_from",
        Action::CopiedTo => "copied_to",
        Action::Pruned => "pruned",
    }
}

/// Whether an action leaves another container behind it: others are no changes.
fn changes(action: Action) -> bool {
    !matches!(
        action,
        Action::Killed
            | Action::Stopped
            | Action::Restarted
            | Action::Attached
            | Action::ExecCreated
            | Action::ExecStarted
            | Action::ExecDied
            | Action::Detached
            | Action::Resized
            | Action::ExecDetached
            | Action::Top
            | Action::Exported
            | Action::CopiedFrom
            | Action::CopiedTo
            | Action::Pruned
    )
}

/// What an event tells beside the container.
pub(crate) type Attributes<'a> = &'a [(&'static str, &'a str)];

/// The event of a change, to be stored with it.
pub(crate) fn staged(ctx: &Context, action: Action, container: &Container, meta: Meta) -> Staged {
    staged_with(ctx, action, container, meta, &[])
}

/// [`staged`], with what is known beside.
pub(crate) fn staged_with(
    ctx: &Context,
    action: Action,
    container: &Container,
    meta: Meta,
    attributes: Attributes<'_>,
) -> Staged {
    let state = meta.state.clone();
    event(ctx, action, show(Summary::of(container, meta, state)), attributes)
}

/// What stands for the removal of a container of which nobody was told.
pub(crate) fn undone(ctx: &Context, container: &Container, meta: Meta) -> Staged {
    let mut staged = staged(ctx, Action::Removed, container, meta);
    staged.envelope.topic = UNDONE.to_owned();
    staged
}

/// ID of the container that the engine has removed, if an event tells of that.
pub(crate) fn removed(record: &Record) -> Option<String> {
    let topic = record.envelope.topic.as_str();
    let ours = topic == UNDONE || topic.strip_prefix(TOPICS) == Some(word(Action::Removed));
    let event: ContainerEvent = ours.then(|| any::unpack(&message(record)).ok()).flatten()?;
    Some(event.container?.id)
}

fn message(record: &Record) -> prost_types::Any {
    convert::any(record.envelope.event.clone())
}

/// [`staged`], for those of whom no record is left.
pub(crate) fn event(
    ctx: &Context,
    action: Action,
    container: Shown,
    attributes: Attributes<'_>,
) -> Staged {
    packed(ctx, action, Some(container), attributes)
}

fn packed(
    ctx: &Context,
    action: Action,
    container: Option<Shown>,
    attributes: Attributes<'_>,
) -> Staged {
    let topic = format!("{TOPICS}{}", word(action));
    let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let attributes: BTreeMap<_, _> = attributes.iter().map(text).collect();
    let event = ContainerEvent { action: action.into(), container, attributes };
    Staged::new(ctx, &topic, convert::from_any(any::pack(&event))).private()
}

/// The change that an event tells of; `None` for other events.
pub(crate) fn change(record: &Record) -> Option<Change> {
    if !record.envelope.topic.starts_with(TOPICS) {
        return None;
    }
    let event: ContainerEvent = any::unpack(&message(record)).ok()?;
    if !changes(event.action()) {
        return None;
    }
    Some(Change {
        cursor: record.cursor,
        at: record.envelope.timestamp,
        action: event.action(),
        container: event.container?,
    })
}

impl Engine {
    /// Tells of a change that is not recorded.
    pub(crate) fn tell(
        &self,
        ctx: &Context,
        action: Action,
        container: &Container,
        meta: &Meta,
        live: &Live,
    ) {
        let state = live.now().state.unwrap_or_else(|| meta.state.clone());
        self.append(ctx, action, container, Meta { state, ..meta.clone() }, &[]);
    }

    /// Tells of what is done with a container that was found.
    pub(crate) fn tell_of(
        &self,
        ctx: &Context,
        action: Action,
        found: &Found,
        attributes: Attributes<'_>,
    ) {
        let state = found.live.now().state.unwrap_or_else(|| found.state.clone());
        let meta = Meta { state, ..found.meta.clone() };
        self.append(ctx, action, &found.container, meta, attributes);
    }

    /// Tells of what is done with a container of which only the ID is at hand. Of one that is
    /// gone nothing is told.
    pub(crate) async fn tell_of_id(
        &self,
        ctx: &Context,
        action: Action,
        id: &str,
        attributes: Attributes<'_>,
    ) {
        let Ok(Some((container, meta))) = self.store.get(ctx, id).await else { return };
        let state = self.live.state(&ctx.namespace, id).unwrap_or_else(|| meta.state.clone());
        self.append(ctx, action, &container, Meta { state, ..meta }, attributes);
    }

    /// Tells of what was done with a container that was found, once it is called.
    pub(crate) fn teller(
        &self,
        ctx: &Context,
        action: Action,
        found: &Found,
    ) -> impl FnOnce() + Send + use<> {
        let meta = Meta { state: found.state.clone(), ..found.meta.clone() };
        let Staged { envelope, .. } = staged(ctx, action, &found.container, meta);
        let (history, ctx) = (Arc::clone(&self.parts.history), ctx.clone());
        move || history.append(&ctx, &envelope.topic, envelope.event)
    }

    /// Tells that containers were pruned.
    pub(crate) fn tell_pruned(&self, ctx: &Context, reclaimed: u64) {
        let reclaimed = reclaimed.to_string();
        let told = [("reclaimed", reclaimed.as_str())];
        let Staged { envelope, .. } = packed(ctx, Action::Pruned, None, &told);
        self.parts.history.append(ctx, &envelope.topic, envelope.event);
    }

    fn append(
        &self,
        ctx: &Context,
        action: Action,
        container: &Container,
        meta: Meta,
        attributes: Attributes<'_>,
    ) {
        let Staged { envelope, .. } = staged_with(ctx, action, container, meta, attributes);
        self.parts.history.append(ctx, &envelope.topic, envelope.event);
    }

    /// Every change of the namespace's containers behind this position, or from now on.
    ///
    /// # Errors
    /// `OutOfRange` when what follows the cursor is not kept any more.
    pub async fn changes(&self, ctx: &Context, cursor: Option<Cursor>) -> Result<Changes> {
        let since = cursor.map_or(Since::Now, Since::Cursor);
        let records = self.parts.history.read(since, None).await?;
        let ctx = ctx.clone();
        let changes = records.filter_map(move |record| {
            ready(match record {
                Ok(record) if record.envelope.namespace == ctx.namespace.as_str() => {
                    let seen = |change: &Change| scope::sees(&ctx, &change.container.labels);
                    change(&record).filter(seen).map(Ok)
                }
                Ok(_) => None,
                Err(err) => Some(Err(err)),
            })
        });
        Ok(Box::pin(changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Phase, State};
    use gantry_core::Namespace;

    #[test]
    fn an_event_tells_what_the_container_was_then() {
        let ctx = Context::new(Namespace::new("default").unwrap());
        let container = Container { id: "c1".into(), ..Container::default() };
        let state = State { phase: Phase::Exited, exit_code: 3, ..State::default() };
        let meta = Meta { name: "web".into(), state, ..Meta::default() };
        let staged = staged(&ctx, Action::Died, &container, meta);
        assert!(!staged.public, "containerd's clients don't know such events");
        assert_eq!(staged.envelope.topic, "/gantry/containers/died");
        let cursor = Cursor { sequence: 7, at: 1 };
        let record = Record { cursor, envelope: Arc::new(staged.envelope.clone()) };
        let told = change(&record).unwrap();
        assert_eq!((told.cursor, told.action), (cursor, Action::Died));
        assert_eq!((told.container.name.as_str(), told.container.exit_code), ("web", 3));
        assert_eq!(removed(&record), None);
        let signal = [("signal", "9")];
        let killed = staged_with(&ctx, Action::Killed, &container, Meta::default(), &signal);
        let killed = Record { cursor, envelope: Arc::new(killed.envelope) };
        assert_eq!((change(&killed), removed(&killed)), (None, None), "it may live on");
        let event: ContainerEvent = any::unpack(&message(&killed)).unwrap();
        assert_eq!(event.attributes["signal"], "9");
        let pruned = packed(&ctx, Action::Pruned, None, &[("reclaimed", "0")]).envelope;
        let pruned = Record { cursor, envelope: Arc::new(pruned) };
        assert_eq!((change(&pruned), removed(&pruned)), (None, None), "it is about none");
        let undone = undone(&ctx, &container, Meta::default()).envelope;
        let undone = Record { cursor, envelope: Arc::new(undone) };
        assert_eq!((change(&undone), removed(&undone).as_deref()), (None, Some("c1")));
        let mut envelope = staged.envelope;
        envelope.topic = "/tasks/exit".into();
        assert_eq!(change(&Record { cursor, envelope: Arc::new(envelope) }), None);
    }
}
