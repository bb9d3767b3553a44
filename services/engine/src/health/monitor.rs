//! When a container is checked, and what the results make of its health.

use std::time::Duration;

use gantry_core::Timestamp;
use tokio::time::{Instant, sleep};

use super::config::{HealthConfig, HealthStatus};
use super::record::CheckResult;

/// What one check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// 0 is good; -1 when it did not come to an end, or not to a beginning.
    pub(crate) exit_code: i32,
    /// What was said, not much of it.
    pub(crate) output: String,
}

impl Outcome {
    /// A good one.
    pub(super) fn good(output: String) -> Self {
        Self { exit_code: 0, output }
    }

    /// A bad one.
    pub(super) fn bad(output: String) -> Self {
        Self { exit_code: 1, output }
    }

    /// One of which nothing is known.
    pub(super) fn none(output: String) -> Self {
        Self { exit_code: -1, output }
    }

    pub(super) fn is_good(&self) -> bool {
        self.exit_code == 0
    }
}

/// Docker's rules of a container's health.
#[derive(Clone, Debug)]
pub(crate) struct Checks {
    status: HealthStatus,
    /// Failures in a row.
    streak: u32,
    interval: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

impl Checks {
    /// Goes on from what is known.
    pub(crate) fn new(config: &HealthConfig, status: HealthStatus, streak: u32) -> Self {
        Self {
            status: if status == HealthStatus::None { HealthStatus::Starting } else { status },
            streak,
            interval: config.interval(),
            start_period: config.start_period(),
            start_interval: config.start_interval(),
            retries: config.retries(),
        }
    }

    pub(crate) fn status(&self) -> HealthStatus {
        self.status
    }

    pub(crate) fn streak(&self) -> u32 {
        self.streak
    }

    /// From the end of one check, or the start of the container, to the next check, when it
    /// has run for so long.
    fn pause(&self, age: Duration) -> Duration {
        if self.status == HealthStatus::Starting && age < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }

    /// Until the first check that somebody makes who finds it running for so long: as if
    /// it had been checked all the time. So the checks of many containers don't gather
    /// when the daemon is restarted.
    fn first(&self, age: Duration) -> Duration {
        let pause = self.pause(age);
        let behind = age.as_nanos() % pause.as_nanos().max(1);
        // Less than a pause, which fits.
        pause - Duration::from_nanos(u64::try_from(behind).unwrap_or_default())
    }

    /// Takes a result of a check that began when the container had run for so long.
    fn take(&mut self, good: bool, age: Duration) {
        if good {
            self.streak = 0;
            self.status = HealthStatus::Healthy;
            return;
        }
        if self.status == HealthStatus::Starting && age < self.start_period {
            return;
        }
        self.streak = self.streak.saturating_add(1);
        if self.streak >= self.retries {
            self.status = HealthStatus::Unhealthy;
        }
    }
}

/// What is checked.
pub(crate) trait Patient: Send {
    /// Whether it is frozen: it is left alone then.
    fn is_frozen(&self) -> impl Future<Output = bool> + Send;

    /// Checks it once; does not take much longer than its timeout.
    fn check(&mut self) -> impl Future<Output = Outcome> + Send;

    /// Hears of each result, and what was thought of its health before.
    fn hear(
        &mut self,
        result: CheckResult,
        before: HealthStatus,
        checks: &Checks,
    ) -> impl Future<Output = ()> + Send;
}

/// Checks a patient that has run for so long, without end.
pub(crate) async fn monitor(patient: &mut impl Patient, mut checks: Checks, age: Duration) {
    let begin = Instant::now();
    let age = || age + begin.elapsed();
    let mut pause = checks.first(age());
    loop {
        sleep(pause).await;
        pause = checks.pause(age());
        if patient.is_frozen().await {
            continue;
        }
        let (start, started) = (Timestamp::now(), age());
        let outcome = patient.check().await;
        let good = outcome.is_good();
        // Who is frozen does not answer.
        if !good && patient.is_frozen().await {
            continue;
        }
        let before = checks.status;
        checks.take(good, started);
        let Outcome { exit_code, output } = outcome;
        let result = CheckResult { start, end: Timestamp::now(), exit_code, output };
        patient.hear(result, before, &checks).await;
        pause = checks.pause(age());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::HealthStatus::{Healthy, Starting, Unhealthy};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Every 10 s, two failures; in the first 30 s every 2 s.
    fn config() -> HealthConfig {
        HealthConfig {
            interval: 10 * SECOND,
            start_period: 30 * SECOND,
            start_interval: 2 * SECOND,
            retries: 2,
            ..HealthConfig::default()
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_in_a_row_count_behind_the_start_period() {
        let mut checks = Checks::new(&config(), HealthStatus::None, 0);
        assert_eq!(checks.status(), Starting);
        let mut take = |good, age| {
            checks.take(good, at(age));
            (checks.status(), checks.streak())
        };
        assert_eq!(take(false, 2), (Starting, 0));
        assert_eq!(take(false, 29), (Starting, 0));
        assert_eq!(take(false, 30), (Starting, 1));
        assert_eq!(take(false, 40), (Unhealthy, 2));
        assert_eq!(take(false, 50), (Unhealthy, 3));
        assert_eq!(take(true, 60), (Healthy, 0));
        assert_eq!(take(false, 70), (Healthy, 1));
        assert_eq!(take(true, 80), (Healthy, 0));
    }

    #[test]
    fn a_good_check_ends_the_start_period() {
        let mut checks = Checks::new(&config(), Starting, 0);
        assert_eq!(checks.pause(at(1)), at(2));
        assert_eq!(checks.pause(at(30)), at(10));
        checks.take(true, at(2));
        assert_eq!(checks.pause(at(3)), at(10));
        checks.take(false, at(12));
        checks.take(false, at(22));
        assert_eq!(checks.status(), Unhealthy, "within the start period");
    }

    #[test]
    fn checks_keep_their_times_over_a_restart_of_the_daemon() {
        let starting = Checks::new(&config(), Starting, 0);
        assert_eq!(starting.first(at(0)), at(2));
        assert_eq!(starting.first(at(5)), at(1));
        let healthy = Checks::new(&config(), Healthy, 0);
        assert_eq!(healthy.first(at(5)), at(5));
        assert_eq!(healthy.first(at(1_000_007)), at(3));
        assert_eq!(healthy.first(at(1_000_010)), at(10));
    }

    /// One whose checks come to this after so many seconds each, and what was heard.
    struct Scripted {
        begin: Instant,
        script: VecDeque<(i32, u64)>,
        /// From when to when, in seconds.
        frozen: (u64, u64),
        heard: Vec<(u64, HealthStatus, HealthStatus, u32)>,
    }

    impl Scripted {
        fn new(script: &[(i32, u64)]) -> Self {
            let script = script.iter().copied().collect();
            Self { begin: Instant::now(), script, frozen: (0, 0), heard: Vec::new() }
        }

        async fn play(&mut self, status: HealthStatus, age: u64, seconds: u64) {
            let checks = Checks::new(&config(), status, 0);
            let end = monitor(self, checks, at(age));
            let _ = tokio::time::timeout(at(seconds), end).await;
        }
    }

    impl Patient for Scripted {
        async fn is_frozen(&self) -> bool {
            let now = self.begin.elapsed().as_secs();
            (self.frozen.0..self.frozen.1).contains(&now)
        }

        async fn check(&mut self) -> Outcome {
            let (exit_code, seconds) = self.script.pop_front().unwrap_or((0, 0));
            sleep(at(seconds)).await;
            Outcome { exit_code, output: String::new() }
        }

        async fn hear(&mut self, result: CheckResult, before: HealthStatus, checks: &Checks) {
            assert!(result.start <= result.end);
            let now = self.begin.elapsed().as_secs();
            self.heard.push((now, before, checks.status(), checks.streak()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn times_count_from_the_end_of_a_check() {
        let mut patient = Scripted::new(&[(1, 1), (0, 0), (1, 4), (2, 0), (0, 0)]);
        patient.play(Starting, 0, 41).await;
        let expected = [
            (3, Starting, Starting, 0),
            (5, Starting, Healthy, 0),
            (19, Healthy, Healthy, 1),
            (29, Healthy, Unhealthy, 2),
            (39, Unhealthy, Healthy, 0),
        ];
        assert_eq!(patient.heard, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_frozen_is_left_alone() {
        let mut patient = Scripted::new(&[(0, 0), (-1, 3), (1, 0), (0, 0)]);
        // From before the end of the second check on, over the times of two others.
        patient.frozen = (22, 46);
        patient.play(Healthy, 1000, 65).await;
        let expected =
            [(10, Healthy, Healthy, 0), (53, Healthy, Healthy, 1), (63, Healthy, Healthy, 0)];
        assert_eq!(patient.heard, expected);
    }
}
