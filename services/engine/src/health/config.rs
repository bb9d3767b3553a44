//! How a container's health is to be found out: what its image says, and its maker over it.

use std::time::Duration;

use gantry_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::target::Target;
use crate::image_config::{Healthcheck, Runtime};

/// Between two checks.
const INTERVAL: Duration = Duration::from_secs(30);
/// For one check.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Between two checks in the start period.
const START_INTERVAL: Duration = Duration::from_secs(5);
/// Failures in a row.
const RETRIES: u32 = 3;
/// Shortest duration, in nanoseconds.
const SHORTEST: u64 = 1_000_000;
/// What runs a command line.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The test of a container that is not checked.
const NONE: &str = "NONE";

/// What is done when a container's health check has failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthAction {
    /// Nothing but to say so.
    #[default]
    None,
    /// It is restarted.
    Restart,
    /// It is stopped.
    Stop,
    /// It is killed.
    Kill,
}

impl HealthAction {
    /// As users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthAction::None => "none",
            HealthAction::Restart => "restart",
            HealthAction::Stop => "stop",
            HealthAction::Kill => "kill",
        }
    }
}

/// How a container's health is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nobody checks it.
    #[default]
    None,
    /// No check was good yet, and it has not failed for good.
    Starting,
    /// The last check was good, or not enough of them have failed since.
    Healthy,
    /// Several checks in a row have failed, or it does not run any more.
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::None => "none",
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }

    /// That of a container that is being started.
    pub(crate) fn at_start(config: Option<&HealthConfig>) -> Self {
        if config.is_some_and(HealthConfig::is_on) { Self::Starting } else { Self::None }
    }

    /// That of one that has ended, as Docker has it: one that is not checked any more is
    /// not healthy.
    #[must_use]
    pub(crate) fn at_end(self) -> Self {
        if self == Self::None { Self::None } else { Self::Unhealthy }
    }
}

/// How a container's health is found out (`HealthCheck` of the API). What is 0 is as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthConfig {
    /// `NONE`; `CMD` and arguments; `CMD-SHELL` and a command line; `HTTP` and a URL; `TCP` and
    /// HOST:PORT; `GRPC` and HOST:PORT[/SERVICE]. The image's when empty.
    pub test: Vec<String>,
    /// Nanoseconds between two checks.
    pub interval: u64,
    /// Nanoseconds that one check may take.
    pub timeout: u64,
    /// Nanoseconds in which failures don't count.
    pub start_period: u64,
    /// Nanoseconds between two checks in the start period.
    pub start_interval: u64,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
    /// What is done then.
    pub on_failure: HealthAction,
    /// What runs a command line, where the image names another shell than the usual one.
    pub shell: Vec<String>,
}

/// What one check does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    /// Runs a command in the container.
    Command(Vec<String>),
    /// Asks something from inside its network.
    Network(Target),
}

fn or(nanos: u64, usual: Duration) -> Duration {
    if nanos == 0 { usual } else { Duration::from_nanos(nanos) }
}

impl HealthConfig {
    /// Whether there is something to check.
    pub(crate) fn is_on(&self) -> bool {
        self.test.first().is_some_and(|kind| kind != NONE)
    }

    /// Between two checks.
    pub(crate) fn interval(&self) -> Duration {
        or(self.interval, INTERVAL)
    }

    /// For one check.
    pub(crate) fn timeout(&self) -> Duration {
        or(self.timeout, TIMEOUT)
    }

    /// In which failures don't count.
    pub(crate) fn start_period(&self) -> Duration {
        Duration::from_nanos(self.start_period)
    }

    /// Between two checks in the start period.
    pub(crate) fn start_interval(&self) -> Duration {
        or(self.start_interval, START_INTERVAL)
    }

    /// Failures in a row.
    pub(crate) fn retries(&self) -> u32 {
        if self.retries == 0 { RETRIES } else { self.retries }
    }

    /// What a check does; `None` when there is none.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong.
    pub(crate) fn test(&self) -> Result<Option<Test>> {
        let Some((kind, rest)) = self.test.split_first() else { return Ok(None) };
        let one = || match rest {
            [one] if !one.is_empty() => Ok(one.as_str()),
            _ => Err(Error::invalid_argument(format!(
                "a health check of kind {kind} has one argument, not {}: {rest:?}",
                rest.len()
            ))),
        };
        let test = match kind.as_str() {
            NONE if rest.is_empty() => return Ok(None),
            "CMD" if rest.first().is_some_and(|command| !command.is_empty()) => {
                Test::Command(rest.to_vec())
            }
            "CMD-SHELL" if rest.first().is_some_and(|line| !line.is_empty()) => {
                let mut command = self.shell.clone();
                if command.is_empty() {
                    command.extend(SHELL.map(str::to_owned));
                }
                command.extend_from_slice(rest);
                Test::Command(command)
            }
            "CMD" | "CMD-SHELL" => {
                return Err(Error::invalid_argument("the health check has no command"));
            }
            "HTTP" => Test::Network(Target::http(one()?)?),
            "TCP" => Test::Network(Target::tcp(one()?)?),
            "GRPC" => Test::Network(Target::grpc(one()?)?),
            other => {
                return Err(Error::invalid_argument(format!(
                    "unknown kind of health check {other:?}: NONE, CMD, CMD-SHELL, HTTP, TCP and \
                     GRPC are known"
                )));
            }
        };
        Ok(Some(test))
    }

    /// As Docker shows it: what is usual is left out.
    pub(crate) fn show(&self) -> Value {
        let mut shown = json!({});
        if !self.test.is_empty() {
            shown["Test"] = json!(self.test);
        }
        let durations = [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
            ("Retries", u64::from(self.retries)),
        ];
        for (name, value) in durations.into_iter().filter(|(_, value)| *value > 0) {
            shown[name] = json!(value);
        }
        if self.on_failure != HealthAction::None {
            shown["OnFailure"] = json!(self.on_failure.as_str());
        }
        shown
    }

    /// Refuses what can't be meant.
    fn check(&self) -> Result<()> {
        let durations = [
            ("Interval", self.interval),
            ("Timeout", self.timeout),
            ("StartPeriod", self.start_period),
            ("StartInterval", self.start_interval),
        ];
        for (name, nanos) in durations {
            if nanos != 0 && nanos < SHORTEST {
                return Err(Error::invalid_argument(format!(
                    "{name} in Healthcheck cannot be less than 1ms"
                )));
            }
        }
        let test = self.test()?;
        if test.is_none() && self.on_failure != HealthAction::None {
            return Err(Error::invalid_argument(format!(
                "cannot set on-failure action to {} without a health check",
                self.on_failure.as_str()
            )));
        }
        Ok(())
    }
}

/// The caller's wishes over the image's ways; `None` when neither says anything.
///
/// # Errors
/// `InvalidArgument`, saying what is wrong. An image's test that nobody understands is
/// none, as for Docker.
pub(crate) fn merged(wishes: &HealthConfig, image: &Runtime) -> Result<Option<HealthConfig>> {
    let mut merged = wishes.clone();
    merged.shell = image.shell.clone().unwrap_or_default();
    if let Some(theirs) = &image.healthcheck {
        let theirs = of_image(theirs, &merged.shell);
        let fill = |own: &mut u64, theirs: u64| {
            if *own == 0 {
                *own = theirs;
            }
        };
        fill(&mut merged.interval, theirs.interval);
        fill(&mut merged.timeout, theirs.timeout);
        fill(&mut merged.start_period, theirs.start_period);
        fill(&mut merged.start_interval, theirs.start_interval);
        if merged.retries == 0 {
            merged.retries = theirs.retries;
        }
        if merged.test.is_empty() {
            merged.test = theirs.test;
        }
    }
    merged.check()?;
    if merged.test.first().is_none_or(|kind| kind != "CMD-SHELL") {
        merged.shell.clear();
    }
    Ok((merged != HealthConfig::default()).then_some(merged))
}

/// What an image says, without what can't be meant.
fn of_image(image: &Healthcheck, shell: &[String]) -> HealthConfig {
    let nanos = |n: Option<i64>| {
        let n = n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
        if n < SHORTEST { 0 } else { n }
    };
    let mut config = HealthConfig {
        test: image.test.clone().unwrap_or_default(),
        interval: nanos(image.interval),
        timeout: nanos(image.timeout),
        start_period: nanos(image.start_period),
        start_interval: nanos(image.start_interval),
        retries: image.retries.and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        on_failure: HealthAction::None,
        shell: shell.to_vec(),
    };
    if let Err(err) = config.test() {
        tracing::warn!(error = %err, "the image's health check is left out");
        config.test.clear();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn wish(test: &[&str]) -> HealthConfig {
        HealthConfig { test: strings(test), ..HealthConfig::default() }
    }

    fn image(test: &[&str]) -> Runtime {
        let healthcheck = Healthcheck {
            test: Some(strings(test)),
            interval: Some(2_000_000_000),
            timeout: Some(-1),
            retries: Some(7),
            ..Healthcheck::default()
        };
        Runtime { healthcheck: Some(healthcheck), ..Runtime::default() }
    }

    #[test]
    fn the_usual_values() {
        let usual = HealthConfig::default();
        assert_eq!((usual.interval(), usual.timeout()), (INTERVAL, TIMEOUT));
        assert_eq!(
            (usual.start_period(), usual.start_interval()),
            (Duration::ZERO, START_INTERVAL)
        );
        assert_eq!(usual.retries(), 3);
        assert!(!usual.is_on());
        assert_eq!(merged(&usual, &Runtime::default()).unwrap(), None);
    }

    #[test]
    fn wishes_go_before_the_image() {
        let image = image(&["CMD", "check"]);
        let made = merged(&HealthConfig::default(), &image).unwrap().unwrap();
        assert_eq!(made.test().unwrap(), Some(Test::Command(strings(&["check"]))));
        assert_eq!((made.interval, made.timeout, made.retries), (2_000_000_000, 0, 7));
        let own = HealthConfig { interval: 5_000_000, retries: 1, ..wish(&["TCP", "[::1]:80"]) };
        let made = merged(&own, &image).unwrap().unwrap();
        assert!(matches!(made.test().unwrap(), Some(Test::Network(_))));
        assert_eq!((made.interval, made.retries), (5_000_000, 1));
        let made = merged(&wish(&["NONE"]), &image).unwrap().unwrap();
        assert!(!made.is_on());
        assert_eq!(HealthStatus::at_start(Some(&made)), HealthStatus::None);
    }

    #[test]
    fn the_images_shell_runs_its_command_lines() {
        let mut image = image(&["CMD-SHELL", "a && b"]);
        let command = |image: &Runtime| {
            merged(&HealthConfig::default(), image).unwrap().unwrap().test().unwrap()
        };
        assert_eq!(command(&image), Some(Test::Command(strings(&["/bin/sh", "-c", "a && b"]))));
        image.shell = Some(strings(&["/bin/bash", "-ec"]));
        assert_eq!(command(&image), Some(Test::Command(strings(&["/bin/bash", "-ec", "a && b"]))));
    }

    #[test]
    fn an_image_that_nobody_understands_is_not_checked() {
        for test in [&["NOPE", "x"][..], &["CMD"], &["HTTP", "https://localhost/"], &["NONE"]] {
            let made = merged(&HealthConfig::default(), &image(test)).unwrap();
            assert!(!made.is_some_and(|made| made.is_on()), "{test:?}");
        }
    }

    #[test]
    fn refusals() {
        let short = HealthConfig { interval: 999_999, ..wish(&["CMD", "x"]) };
        let action = HealthConfig { on_failure: HealthAction::Stop, ..wish(&[]) };
        let never = HealthConfig { on_failure: HealthAction::Stop, ..wish(&["NONE"]) };
        for bad in [
            short,
            action,
            never,
            wish(&["CMD"]),
            wish(&["CMD", ""]),
            wish(&["CMD-SHELL"]),
            wish(&["TCP", "localhost:80", "localhost:81"]),
            wish(&["NONE", "x"]),
            wish(&["cmd", "x"]),
            wish(&["HTTP", "http://example.com/"]),
            wish(&["TCP", "localhost"]),
            wish(&["GRPC", ""]),
        ] {
            let err = merged(&bad, &Runtime::default()).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{err}");
        }
    }

    #[test]
    fn who_has_ended_is_not_healthy() {
        assert_eq!(HealthStatus::None.at_end(), HealthStatus::None);
        assert_eq!(HealthStatus::Healthy.at_end(), HealthStatus::Unhealthy);
    }
}
