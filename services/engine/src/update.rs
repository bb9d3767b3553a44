//! Limits and the restart policy of a container that is there.

use std::sync::Arc;
use std::time::Duration;

use gantry_core::db::{Durability, blocking};
use gantry_core::{Any, Context, Error, Kind, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::checks;
use crate::host::{Facts, devices};
use crate::live::Live;
use crate::model::{
    DeviceLimit, DeviceLimitKind, Meta, Phase, Resources, RestartMode, RestartPolicy,
};
use crate::scope;
use crate::spec::resources::limits;
use crate::store::no_such;

/// How long a shim may take to change limits.
const LIMIT: Duration = Duration::from_secs(20);
/// Between attempts to change limits of a container whose shim does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// Shares of processors that a container has when nobody says how many.
const SHARES: i64 = 1024;
/// Microseconds of the kernel's own period of processors.
const PERIOD: i64 = 100_000;

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
    /// being removed. Nothing has changed then, also not once a shim answers that did not
    /// (`DeadlineExceeded`), unless the daemon ends before that.
    pub async fn update(
        self: &Arc<Self>,
        ctx: &Context,
        text: &str,
        change: Update,
    ) -> Result<Vec<String>> {
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
        // Also what is recorded already: the container may have got something else since.
        let applied = change.resources != Resources::default() && state.phase.is_running();
        if applied && let Err(err) = self.limit(ctx, id, &after).await {
            // The shim sets all of them, or none and names the one that is refused.
            if err.kind() == Kind::DeadlineExceeded {
                self.limit_later(ctx, id, &found.live, &after);
            }
            return Err(err.context(format!("Cannot update container {text}")));
        }
        if let Err(err) = self.store_update(ctx, id, &after, change.restart).await {
            if applied {
                let before = changed_back(&before, &after, facts);
                if let Err(left) = self.limit(ctx, id, &before).await {
                    tracing::warn!(id, error = %left, "change limits back");
                }
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
            Err(_) => {
                let text = "its shim does not answer: try again";
                Err(Error::new(Kind::DeadlineExceeded, text))
            }
        }
    }

    /// Has a container's shim set the limits that are recorded once it answers: until then it may
    /// still set others, which were refused. No daemon that comes after this one does so.
    fn limit_later(
        self: &Arc<Self>,
        ctx: &Context,
        id: &str,
        live: &Arc<Live>,
        refused: &Resources,
    ) {
        let (engine, ctx, id) = (Arc::clone(self), ctx.clone(), id.to_owned());
        let (live, run, refused) = (Arc::clone(live), live.now().run(), refused.clone());
        tokio::spawn(async move {
            loop {
                // It answers in the order in which it was asked.
                let asked = engine.parts.tasks.get(&ctx, &id, "").await;
                let busy = live.hold().await;
                let now = live.now();
                if now.run() != run || !now.runs() {
                    return;
                }
                let limited = match asked {
                    Ok(_) => engine.limit_back(&ctx, &id, &refused).await,
                    Err(err) => Err(err),
                };
                match limited {
                    Ok(()) => return,
                    Err(err) if err.is_not_found() => return,
                    Err(err) => {
                        tracing::warn!(id, error = %err, "change limits back");
                        if !matches!(err.kind(), Kind::DeadlineExceeded | Kind::Unavailable) {
                            return;
                        }
                    }
                }
                drop(busy);
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Changes the limits of a running container that may have these back to what is recorded.
    async fn limit_back(&self, ctx: &Context, id: &str, refused: &Resources) -> Result<()> {
        let Some((_, meta)) = self.store.get(ctx, id).await? else { return Ok(()) };
        let recorded = meta.settings.flags.resources;
        let back = changed_back(&recorded, refused, self.host.facts());
        self.limit(ctx, id, &back).await
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

/// The limits of before, for a container that has those of after by now: where there was none,
/// what stands for that. Nothing does for weights of input and output, and real-time scheduling.
fn changed_back(before: &Resources, after: &Resources, facts: &Facts) -> Resources {
    let mut back = before.clone();
    let none = |to: &mut Option<i64>, set: Option<i64>, none: i64| {
        *to = to.or(set.map(|_| none));
    };
    none(&mut back.memory, after.memory, -1);
    none(&mut back.memory_swap, after.memory_swap, -1);
    none(&mut back.memory_reservation, after.memory_reservation, -1);
    none(&mut back.pids, after.pids, -1);
    none(&mut back.cpu_shares, after.cpu_shares, SHARES);
    if before.nano_cpus.is_none() {
        none(&mut back.cpu_quota, after.nano_cpus.or(after.cpu_quota), -1);
        none(&mut back.cpu_period, after.nano_cpus.or(after.cpu_period), PERIOD);
    }
    let all = |to: &mut Option<String>, set: &Option<String>, all: &str| {
        if to.is_none() && set.is_some() {
            *to = Some(all.to_owned());
        }
    };
    all(&mut back.cpuset_cpus, &after.cpuset_cpus, &facts.cpus);
    all(&mut back.cpuset_mems, &after.cpuset_mems, &facts.mems);
    let of = |limit: &DeviceLimit| (limit.kind, limit.path.clone());
    for limit in &after.device_limits {
        let had = before.device_limits.iter().any(|other| of(other) == of(limit));
        if !had && limit.kind != DeviceLimitKind::Weight {
            back.device_limits.push(DeviceLimit { rate: 0, ..limit.clone() });
        }
    }
    back
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_had_no_limit_has_none_again() {
        let before = Resources { memory: Some(64), pids: Some(40), ..Resources::default() };
        let limit = |kind, path: &str, rate| DeviceLimit { kind, path: path.into(), rate };
        let after = Resources {
            memory: Some(128),
            memory_reservation: Some(32),
            nano_cpus: Some(500_000_000),
            cpu_shares: Some(512),
            cpuset_cpus: Some("0".into()),
            device_limits: vec![
                limit(DeviceLimitKind::ReadBps, "/dev/sda", 7),
                limit(DeviceLimitKind::Weight, "/dev/sda", 300),
            ],
            ..before.clone()
        };
        let facts = Facts { cpus: "0-3".into(), ..Facts::default() };
        let wanted = Resources {
            memory_reservation: Some(-1),
            cpu_quota: Some(-1),
            cpu_period: Some(PERIOD),
            cpu_shares: Some(SHARES),
            cpuset_cpus: Some("0-3".into()),
            device_limits: vec![limit(DeviceLimitKind::ReadBps, "/dev/sda", 0)],
            ..before.clone()
        };
        assert_eq!(changed_back(&before, &after, &facts), wanted);
        let spare = Resources { nano_cpus: Some(700_000_000), ..after.clone() };
        assert_eq!(changed_back(&after, &spare, &facts), after);
    }
}
