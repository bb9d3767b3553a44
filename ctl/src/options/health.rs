//! How the health of a container is found out.

use anyhow::bail;
use clap::{Args, ValueEnum};
use gantry_grpc::gantry::engine::v1 as api;
use prost_types::Duration;

use crate::units;

/// What is done with a container that is not healthy.
// Comments of the values would make the help of all options long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnFailure {
    // Nothing but to say so
    None,
    // Restart it
    Restart,
    // Stop it
    Stop,
    // Kill it
    Kill,
}

impl From<OnFailure> for api::HealthAction {
    fn from(action: OnFailure) -> Self {
        match action {
            OnFailure::None => Self::None,
            OnFailure::Restart => Self::Restart,
            OnFailure::Stop => Self::Stop,
            OnFailure::Kill => Self::Kill,
        }
    }
}

/// Options about health.
#[derive(Debug, Args)]
#[command(next_help_heading = "Health")]
pub(crate) struct Health {
    /// Check it by a command line that a shell in it runs
    #[arg(long, value_name = "COMMAND")]
    health_cmd: Option<String>,
    /// Check it by HTTP: http://localhost:8080/health
    #[arg(long, value_name = "URL")]
    health_http: Option<String>,
    /// Check it by a connection from inside its network
    #[arg(long, value_name = "HOST:PORT")]
    health_tcp: Option<String>,
    /// Check it by gRPC's health service: HOST:PORT[/SERVICE]
    #[arg(long, value_name = "HOST:PORT")]
    health_grpc: Option<String>,
    /// Time between two checks [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    health_interval: Option<Duration>,
    /// How long a check may take [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    health_timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    health_retries: Option<i64>,
    /// How long it may fail after its start
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    health_start_period: Option<Duration>,
    /// Time between two checks in that time [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    health_start_interval: Option<Duration>,
    /// What to do when it is unhealthy: none, restart, stop, kill
    #[arg(long, value_name = "ACTION", hide_possible_values = true)]
    health_on_failure: Option<OnFailure>,
    /// Don't check it, whatever the image says
    #[arg(long)]
    no_healthcheck: bool,
}

impl Health {
    /// The check; `None` for the image's as it is.
    ///
    /// # Errors
    /// When options contradict each other.
    pub(super) fn into_check(self) -> anyhow::Result<Option<api::HealthCheck>> {
        let retries = match self.health_retries.map(u32::try_from) {
            Some(Err(_)) if self.health_retries.is_some_and(|retries| retries < 0) => {
                bail!("--health-retries cannot be negative")
            }
            Some(Err(_)) => bail!("--health-retries is too large"),
            Some(Ok(retries)) => retries,
            None => 0,
        };
        // Nothing of nothing is nothing: `--health-cmd ""` and durations of 0.
        let probes = [
            ("--health-cmd", "CMD-SHELL", self.health_cmd),
            ("--health-http", "HTTP", self.health_http),
            ("--health-tcp", "TCP", self.health_tcp),
            ("--health-grpc", "GRPC", self.health_grpc),
        ];
        let wanted = |(flag, kind, probe): (&'static str, &'static str, Option<String>)| {
            probe.filter(|probe| !probe.is_empty()).map(|probe| (flag, kind, probe))
        };
        let mut given: Vec<_> = probes.into_iter().filter_map(wanted).collect();
        if let [(one, ..), (other, ..), ..] = given.as_slice() {
            bail!("conflicting options: cannot specify both {one} and {other}");
        }
        let test = given.pop().map(|(_, kind, probe)| vec![kind.to_owned(), probe]);
        let set = |length: Option<Duration>| length.filter(|length| *length != Duration::default());
        let on_failure = self.health_on_failure.map(api::HealthAction::from);
        let check = api::HealthCheck {
            test: test.unwrap_or_default(),
            interval: set(self.health_interval),
            timeout: set(self.health_timeout),
            start_period: set(self.health_start_period),
            start_interval: set(self.health_start_interval),
            retries,
            on_failure: on_failure.unwrap_or_default().into(),
        };
        match (self.no_healthcheck, check == api::HealthCheck::default()) {
            (true, true) => {
                let test = vec!["NONE".to_owned()];
                Ok(Some(api::HealthCheck { test, ..Default::default() }))
            }
            (true, false) => bail!("--no-healthcheck conflicts with --health-* options"),
            (false, true) => Ok(None),
            (false, false) => Ok(Some(check)),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn check(line: &[&str]) -> anyhow::Result<Option<api::HealthCheck>> {
        let command = Health::augment_args(clap::Command::new("x").no_binary_name(true));
        let matches = command.try_get_matches_from(line)?;
        Health::from_arg_matches(&matches)?.into_check()
    }

    fn refused(line: &[&str]) -> String {
        check(line).unwrap_err().to_string()
    }

    #[test]
    fn checks_and_their_times() {
        let made = check(&[
            "--health-cmd",
            "curl -f localhost || exit 1",
            "--health-interval=1m30s",
            "--health-timeout",
            "500ms",
            "--health-retries",
            "5",
            "--health-start-period=0",
            "--health-on-failure=restart",
        ]);
        let made = made.unwrap().unwrap();
        assert_eq!(made.test, ["CMD-SHELL", "curl -f localhost || exit 1"]);
        assert_eq!(made.interval, Some(Duration { seconds: 90, nanos: 0 }));
        assert_eq!(made.timeout, Some(Duration { seconds: 0, nanos: 500_000_000 }));
        assert_eq!((made.start_period, made.retries), (None, 5));
        assert_eq!(made.on_failure(), api::HealthAction::Restart);
        for (flag, kind) in
            [("--health-http", "HTTP"), ("--health-tcp", "TCP"), ("--health-grpc", "GRPC")]
        {
            assert_eq!(check(&[flag, "x:1"]).unwrap().unwrap().test, [kind, "x:1"]);
        }
    }

    #[test]
    fn without_a_wish_the_image_counts() {
        assert_eq!(check(&[]).unwrap(), None);
        assert_eq!(check(&["--health-cmd", "", "--health-interval=0s"]).unwrap(), None);
        let times = check(&["--health-interval", "5s"]).unwrap().unwrap();
        assert!(times.test.is_empty() && times.interval.is_some());
        assert_eq!(check(&["--no-healthcheck"]).unwrap().unwrap().test, ["NONE"]);
    }

    #[test]
    fn contradictions_are_refused_in_dockers_words() {
        let both = refused(&["--no-healthcheck", "--health-retries=1"]);
        assert_eq!(both, "--no-healthcheck conflicts with --health-* options");
        let negative = refused(&["--health-retries", "-1"]);
        assert_eq!(negative, "--health-retries cannot be negative");
        let two = refused(&["--health-cmd=x", "--health-tcp=:1"]);
        assert_eq!(two, "conflicting options: cannot specify both --health-cmd and --health-tcp");
        assert!(refused(&["--health-interval=-5s"]).contains("cannot be negative"));
        assert!(refused(&["--health-timeout=5"]).contains("missing unit in duration"));
        assert!(refused(&["--health-on-failure=panic"]).contains("restart"));
    }
}
