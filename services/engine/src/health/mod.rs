//! Health checks: commands in containers, and questions from inside their networks.
//!
//! Each container that is checked and runs has one task here, which sleeps until its next
//! check. A check that hangs is ended by its timeout and holds up nobody else.
//!
//! | module | what it does |
//! | --- | --- |
//! | `config`, `target` | what is to be checked, as images and users write it |
//! | `monitor` | when, and what the results make of a container's health |
//! | `command` | runs a command |
//! | `netns`, `ask` | connects from inside a container's network, and asks |
//! | `charge` | a container that is checked, and what follows from its health |
//! | `record` | the last results |

mod ask;
mod charge;
mod command;
mod config;
mod monitor;
mod netns;
mod record;
mod target;

use std::sync::Arc;
use std::time::Duration;

use gantry_core::containers::Container;
use gantry_core::{Context, Timestamp};

pub(crate) use config::merged;
pub use config::{HealthAction, HealthConfig, HealthStatus};
pub(crate) use record::{Records, delete};

use crate::Engine;
use crate::live::Live;
use crate::model::Meta;
use charge::Charge;
use monitor::{Checks, Outcome, monitor};

/// Bytes that are kept of what a check says.
const OUTPUT: usize = 4096;

impl Engine {
    /// Begins to check the health of a container that runs, if it is to be checked. Ends
    /// with this run.
    pub(crate) fn begin_health(
        self: &Arc<Self>,
        ctx: &Context,
        container: &Container,
        meta: &Meta,
        live: &Arc<Live>,
    ) {
        let Some(config) = meta.settings.health.as_ref().filter(|config| config.is_on()) else {
            return;
        };
        let now = live.now();
        let (run, state) = (now.run(), now.state.unwrap_or_default());
        let ctx = ctx.of_daemon();
        let made = Charge::new(self, ctx, container, config, live, run);
        let Some(mut charge) = made.unwrap_or_else(|err| {
            tracing::warn!(id = %container.id, error = %err, "the health is not checked");
            None
        }) else {
            return;
        };
        let (config, live) = (config.clone(), Arc::clone(live));
        tokio::spawn(async move {
            let checks = async {
                let streak = charge.begin().await;
                let checks = Checks::new(&config, state.health, streak);
                monitor(&mut charge, checks, age(state.started_at)).await;
            };
            tokio::select! {
                biased;
                _ = live.wait_run(run) => {}
                () = checks => {}
            }
            charge.end().await;
        });
    }
}

/// How long a container has run.
fn age(started: Timestamp) -> Duration {
    let nanos = Timestamp::now().unix_nanos() - started.unix_nanos();
    // A clock that was set back makes it young.
    Duration::from_nanos(u64::try_from(nanos).unwrap_or_default())
}

/// What is kept of what was said.
fn limited(bytes: &[u8]) -> String {
    let kept = &bytes[..bytes.len().min(OUTPUT)];
    let mut text = String::from_utf8_lossy(kept).into_owned();
    if kept.len() < bytes.len() {
        text.push_str("...");
    }
    text
}

/// The outcome of a check that did not end in time.
fn too_long(limit: Duration, said: &str) -> Outcome {
    let limit = words(limit);
    Outcome::none(if said.is_empty() {
        format!("Health check exceeded timeout ({limit})")
    } else {
        format!("Health check exceeded timeout ({limit}): {said}")
    })
}

/// `1m30s`, `1.5s`, `500ms`.
fn words(time: Duration) -> String {
    let whole = time.as_secs();
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    let seconds = (time - Duration::from_secs(whole - whole % 60)).as_secs_f64();
    match (hours, minutes) {
        (0, 0) => format!("{time:?}"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long() {
        for (millis, text) in
            [(500, "500ms"), (30_000, "30s"), (90_500, "1m30.5s"), (3_600_000, "1h0m0s")]
        {
            assert_eq!(words(Duration::from_millis(millis)), text);
        }
        let outcome = too_long(Duration::from_secs(2), "x");
        assert_eq!(outcome.output, "Health check exceeded timeout (2s): x");
        assert_eq!(outcome.exit_code, -1);
    }

    #[test]
    fn nothing_is_older_than_its_clock() {
        assert_eq!(age(Timestamp { seconds: i64::from(i32::MAX) * 4, nanos: 0 }), Duration::ZERO);
        assert!(age(Timestamp::now()) < Duration::from_secs(5));
    }

    #[test]
    fn long_answers_are_cut() {
        assert_eq!(limited(b"ok"), "ok");
        assert_eq!(limited(&[b'x'; OUTPUT]).len(), OUTPUT);
        assert!(limited(&[b'x'; OUTPUT + 1]).ends_with("x..."));
    }
}
