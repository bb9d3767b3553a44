//! Limits and the restart policy of a container that is there.

use std::time::Duration;

use gantry_core::db::{Durability, blocking};
use gantry_core::{Any, Context, Error, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::checks;
use crate::host::devices;
use crate::model::{Meta, Phase, Resources, RestartMode, RestartPolicy};
use crate::scope;
use crate::spec::resources::limits;
use crate::store::no_such;

/// How long a shim may take to change limits.
const LIMIT: Duration = Duration::from_secs(20);

/// What is to change of a container; what is unset stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// Limits.
    pub resources: Resources,
    /// Restart policy.
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes limits and the restart policy of a container, of one that runs at once. Answers
    /// with what a user should know.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for limits that can't be; `FailedPrecondition` while it is
    /// being removed. Nothing has changed then.
    pub async fn update(&self, ctx: &Context, text: &str, change: Update) -> Result<Vec<String>> {
        if change == Update::default() {
            return Err(Error::invalid_argument(
                "you must provide one or more flags when using this command",
            ));
        }
        scope::admit_resources(ctx, &change.resources)?;
        let found = self.find(ctx, text).await?;
        let id = found.container.id.as_str();
        if found.meta.foreign {
            return Err(Error::failed_precondition(format!(
                "update container {text}: another client made it and has to update it"
            ))
            .about("container", text));
        }
        let busy = found.live.hold().await;
        let Some((_, meta)) = self.store.get(ctx, id).await? else { return Err(no_such(text)) };
        let state = self.live.state(&ctx.namespace, id).unwrap_or(found.state);
        if matches!(state.phase, Phase::Removing | Phase::Dead) {
            return Err(Error::failed_precondition(format!(
                "Cannot update container {text}: Container is marked for removal and cannot be \
                 \"update\"."
            ))
            .about("container", text));
        }
        let policy = change.restart.filter(|policy| policy.mode != RestartMode::No);
        if policy.is_some() && meta.settings.auto_remove {
            return Err(Error::invalid_argument(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            ));
        }
        if let Some(policy) = change.restart {
            checks::restart(policy, meta.settings.auto_remove)?;
        }
        let before = meta.settings.flags.resources;
        let facts = self.host.facts();
        let (after, warnings) = checks::resources::updated(&before, &change.resources, facts)?;
        let changed = after != before;
        if changed && state.phase.is_running() {
            self.limit(ctx, id, &after).await?;
        }
        let stored = self.store_update(ctx, id, &after, change.restart).await;
        if let Err(err) = stored {
            if changed && state.phase.is_running() {
                // As it was. Whether that helped can't be told any better.
                let _ = self.limit(ctx, id, &before).await;
            }
            return Err(err);
        }
        if let Some(policy) = change.restart {
            found.live.follow_policy(policy);
        }
        drop(busy);
        Ok(warnings)
    }

    /// Has a running container's shim set its limits.
    async fn limit(&self, ctx: &Context, id: &str, resources: &Resources) -> Result<()> {
        let wanted = resources.device_limits.clone();
        let numbers = move || wanted.iter().map(devices::of_limit).collect::<Result<Vec<_>>>();
        let limited = blocking(numbers).await?;
        let section = limits(resources, &limited, true);
        let update = self.parts.tasks.update(ctx, id, Any::resources(section.to_string().into()));
        match tokio::time::timeout(LIMIT, update).await {
            Ok(updated) => updated,
            Err(_) => Err(Error::new(
                gantry_core::Kind::DeadlineExceeded,
                format!("update container {id}: its shim does not answer: try again"),
            )),
        }
    }

    async fn store_update(
        &self,
        ctx: &Context,
        id: &str,
        resources: &Resources,
        restart: Option<RestartPolicy>,
    ) -> Result<()> {
        let resources = resources.clone();
        let change = move |meta: &mut Meta| {
            meta.settings.flags.resources = resources.clone();
            meta.settings.restart = restart.unwrap_or(meta.settings.restart);
        };
        self.store.update(ctx, id, Durability::Sync, Some(Action::Updated), change).await
    }
}
