//! What containers use: processors, memory, networks, devices.
//!
//! It is read from the files of their cgroups, by one [`Sampler`] for all who want to know. No shim
//! is asked, so a stuck one delays nothing.

#[cfg(test)]
mod fake;
mod hierarchy;
mod meter;
mod parse;
mod sampler;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, stream};
use gantry_core::{Context, Error, Result, Timestamp};
use tokio::time::Instant;

use crate::Engine;
use crate::model::Phase;

pub(crate) use hierarchy::{Hierarchies, Version};
use meter::Reading;
pub(crate) use meter::cpu_of;
pub(crate) use sampler::Sampler;
use sampler::{Sample, Subscription};

/// Between two answers, unless a caller says otherwise.
const INTERVAL: Duration = Duration::from_secs(1);
/// The shortest and the longest that a caller may want.
const INTERVALS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(24 * 3600));
/// The first answer measures the use of processors over so long. The kernel counts it at its
/// ticks, a few milliseconds apart.
const FIRST: Duration = Duration::from_millis(20);
/// A sample that somebody else wanted, and that is no older, is as good as one of one's own to
/// begin with.
const FRESH: Duration = Duration::from_secs(2);

/// What a caller wants to know.
#[derive(Clone, Debug, Default)]
pub struct StatsRequest {
    /// Names, IDs or prefixes; all that run when empty.
    pub containers: Vec<String>,
    /// Those that do not run as well.
    pub all: bool,
    /// One answer is enough.
    pub once: bool,
    /// Between two answers; with `once`, over so long use of processors is measured.
    pub interval: Option<Duration>,
}

/// What containers use at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// When it was measured.
    pub time: Timestamp,
    /// The containers: in the order in which they were named, or by name.
    pub containers: Vec<ContainerStats>,
}

/// What one container uses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    /// ID.
    pub id: String,
    /// Name.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
    /// Whether it could be measured; all else is zero when not.
    pub measured: bool,
    /// Nanoseconds of processors, since its start.
    pub cpu_nanos: u64,
    /// Processors used since the answer before, 1.0 for one.
    pub cpus: f64,
    /// Bytes of memory, without cache that can go.
    pub memory: u64,
    /// The most that it may use; the machine's when it has no limit.
    pub memory_limit: u64,
    /// Bytes received from and sent to networks.
    pub network: (u64, u64),
    /// Bytes read from and written to devices.
    pub block: (u64, u64),
    /// Processes and threads.
    pub pids: u64,
}

/// Answers as they come.
pub type StatsStream = Pin<Box<dyn Stream<Item = Result<Stats>> + Send>>;

impl Engine {
    /// Measures containers, once or again and again. The stream ends when all that were named
    /// are gone.
    ///
    /// # Errors
    /// `NotFound` for a container; `InvalidArgument` for several whose IDs begin so, and for the
    /// interval.
    pub async fn stats(
        self: &Arc<Self>,
        ctx: &Context,
        request: StatsRequest,
    ) -> Result<StatsStream> {
        let interval = interval(&request)?;
        let mut named = Vec::new();
        for text in &request.containers {
            let id = self.find(ctx, text).await?.container.id;
            if !named.contains(&id) {
                named.push(id);
            }
        }
        let only = (!named.is_empty()).then(|| named.iter().cloned().collect::<HashSet<_>>());
        let watch = Watch {
            subscription: self.sampler.subscribe(&ctx.namespace, only),
            engine: Arc::clone(self),
            ctx: ctx.clone(),
            named,
            all: request.all,
            once: request.once,
            interval,
            before: None,
        };
        Ok(Box::pin(stream::try_unfold(Some(watch), |watch| async move {
            let Some(mut watch) = watch else { return Ok(None) };
            let stats = watch.next().await?;
            let rest = if watch.once { None } else { Some(watch) };
            Ok::<_, Error>(stats.map(|stats| (stats, rest)))
        })))
    }
}

fn interval(request: &StatsRequest) -> Result<Option<Duration>> {
    let Some(interval) = request.interval else { return Ok(None) };
    let (shortest, longest) = INTERVALS;
    if (shortest..=longest).contains(&interval) {
        return Ok(Some(interval));
    }
    Err(Error::invalid_argument(format!(
        "interval {interval:?} is not between {shortest:?} and {longest:?}"
    )))
}

/// One caller that wants to know.
struct Watch {
    subscription: Subscription,
    engine: Arc<Engine>,
    ctx: Context,
    /// IDs of those that were named; all when empty.
    named: Vec<String>,
    all: bool,
    once: bool,
    interval: Option<Duration>,
    /// What the last answer was made from.
    before: Option<Arc<Sample>>,
}

impl Watch {
    /// The next answer; `None` when nothing is left that could be measured.
    async fn next(&mut self) -> Result<Option<Stats>> {
        let now = Instant::now();
        let (before, due) = match self.before.take() {
            Some(before) => {
                let interval = self.interval.unwrap_or(INTERVAL);
                let due = next_tick(self.subscription.epoch(), began(&before, now), interval);
                (before, Some(due))
            }
            None => self.first(now).await,
        };
        let sample = match due {
            Some(due) => self.subscription.at(due).await,
            None => Arc::clone(&before),
        };
        let stats = self.answer(&before, &sample).await?;
        self.before = Some(sample);
        Ok(stats)
    }

    /// A sample to compare the first answer with, and when that may be measured; `None` when
    /// nothing runs that could be compared.
    async fn first(&mut self, now: Instant) -> (Arc<Sample>, Option<Instant>) {
        let window = if self.once { self.interval.unwrap_or(FIRST) } else { FIRST };
        let fresh = |sample: &Arc<Sample>| sample.began.is_some_and(|at| now - at < FRESH);
        if let Some(last) = self.subscription.last().filter(fresh) {
            let due = now.max(began(&last, now) + window);
            return (last, Some(due));
        }
        let own = self.subscription.at(now).await;
        let runs = own.of(&self.ctx.namespace).next().is_some();
        let due = runs.then(|| began(&own, now) + window);
        (own, due)
    }

    async fn answer(&self, before: &Sample, sample: &Sample) -> Result<Option<Stats>> {
        let (engine, ctx) = (&self.engine, &self.ctx);
        let mut names = engine.store.names(ctx).await?;
        let ids = engine.seen(ctx, self.ids(sample).await?).await?;
        if ids.is_empty() && !self.named.is_empty() {
            return Ok(None);
        }
        let mut containers = Vec::with_capacity(ids.len());
        for id in ids {
            let reading = sample.get(&ctx.namespace, &id);
            let earlier = before.get(&ctx.namespace, &id).flatten();
            // One that another client made has its ID for a name.
            let name = names.remove(&id).unwrap_or_else(|| id.clone());
            containers.push(container(id, name, earlier, reading));
        }
        if self.named.is_empty() {
            containers.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Ok(Some(Stats { time: sample.time, containers }))
    }

    /// The containers of an answer.
    async fn ids(&self, sample: &Sample) -> Result<Vec<String>> {
        let namespace = &self.ctx.namespace;
        if self.named.is_empty() && !self.all {
            return Ok(sample.of(namespace).map(|(id, _)| id.clone()).collect());
        }
        let mut there = self.engine.store.ids(&self.ctx).await?;
        if !self.named.is_empty() {
            let there: HashSet<String> = there.into_iter().collect();
            return Ok(self.named.iter().filter(|id| there.contains(*id)).cloned().collect());
        }
        there.retain(|id| {
            let state = self.engine.live.state(namespace, id);
            !state.is_some_and(|state| matches!(state.phase, Phase::Creating | Phase::Removing))
        });
        Ok(there)
    }
}

/// When a sample was begun; all that were taken say so.
fn began(sample: &Sample, otherwise: Instant) -> Instant {
    sample.began.unwrap_or(otherwise)
}

/// The time of the next answer: all callers with the same interval have the same, so that one
/// sample is enough for them.
fn next_tick(epoch: Instant, before: Instant, interval: Duration) -> Instant {
    let (since, every) = (before.saturating_duration_since(epoch).as_nanos(), interval.as_nanos());
    // Not right after the one before.
    let ticks = (since + every / 2) / every + 1;
    let at = u64::try_from(ticks * every).unwrap_or(u64::MAX);
    epoch + Duration::from_nanos(at)
}

/// `reading` is `None` for one that does not run.
fn container(
    id: String,
    name: String,
    before: Option<Reading>,
    reading: Option<Option<Reading>>,
) -> ContainerStats {
    let running = reading.is_some();
    let Some(now) = reading.flatten() else {
        return ContainerStats { id, name, running, ..ContainerStats::default() };
    };
    ContainerStats {
        id,
        name,
        running,
        measured: true,
        cpu_nanos: now.cpu_nanos,
        cpus: cpus(before, &now),
        memory: now.memory,
        memory_limit: now.memory_limit,
        network: now.network,
        block: now.block,
        pids: now.pids,
    }
}

/// Processors used between two readings of one run.
fn cpus(before: Option<Reading>, now: &Reading) -> f64 {
    let Some(before) = before.filter(|before| before.pid == now.pid) else { return 0.0 };
    let elapsed = now.at.saturating_duration_since(before.at).as_nanos();
    if elapsed == 0 {
        return 0.0;
    }
    now.cpu_nanos.saturating_sub(before.cpu_nanos) as f64 / elapsed as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(at: std::time::Instant, pid: u32, cpu_nanos: u64) -> Reading {
        Reading {
            at,
            pid,
            cpu_nanos,
            memory: 1,
            memory_limit: 2,
            network: (3, 4),
            block: (5, 6),
            pids: 7,
        }
    }

    #[test]
    fn use_of_processors_is_that_of_one_run() {
        let start = std::time::Instant::now();
        let later = start + Duration::from_millis(500);
        let now = reading(later, 7, 1_000_000_000);
        assert_eq!(cpus(Some(reading(start, 7, 250_000_000)), &now), 1.5);
        assert_eq!(cpus(Some(reading(start, 6, 0)), &now), 0.0, "that was the run before");
        assert_eq!(cpus(Some(reading(later, 7, 0)), &now), 0.0);
        assert_eq!(cpus(None, &now), 0.0);
    }

    #[test]
    fn what_does_not_run_and_what_can_not_be_measured() {
        let stats = |reading| container("c1".into(), "web".into(), None, reading);
        let stopped = stats(None);
        assert_eq!((stopped.running, stopped.measured), (false, false));
        let odd = stats(Some(None));
        assert_eq!((odd.running, odd.measured, odd.name.as_str()), (true, false, "web"));
        let measured = stats(Some(Some(reading(std::time::Instant::now(), 7, 9))));
        assert!(measured.running && measured.measured);
        assert_eq!((measured.cpu_nanos, measured.block), (9, (5, 6)));
    }

    #[test]
    fn callers_with_one_interval_meet() {
        let second = Duration::from_secs(1);
        let epoch = Instant::now();
        let next = |millis| next_tick(epoch, epoch + Duration::from_millis(millis), second);
        let first = epoch + second;
        for early in [0, 10, 300] {
            assert_eq!(next(early), first, "{early} ms later");
        }
        assert_eq!(next(980), first + second, "there is no answer right after another");
        assert_eq!(next(1000), first + second);
    }

    #[test]
    fn intervals_are_bounded() {
        let wanted = |millis: Option<u64>| {
            let wish = millis.map(Duration::from_millis);
            interval(&StatsRequest { interval: wish, ..StatsRequest::default() })
        };
        assert_eq!(wanted(Some(500)).unwrap(), Some(Duration::from_millis(500)));
        assert!(wanted(Some(5)).is_err() && wanted(Some(48 * 3_600_000)).is_err());
        assert_eq!(wanted(None).unwrap(), None);
    }
}
