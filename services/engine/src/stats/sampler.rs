//! The one sampler that all share who want to know what containers use. It works while somebody
//! wants to know, as often as the most impatient does, and asks no shim.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gantry_core::db::blocking;
use gantry_core::tasks::{Process, Status, Tasks};
use gantry_core::{Context, Namespace, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::meter::{Meters, Reading, Readings, Target};

/// Files stay open for so long after the last look.
const KEEP: Duration = Duration::from_secs(2);

/// Which containers: of each namespace some, by their IDs, or all.
type Wanted = HashMap<Namespace, Option<HashSet<String>>>;

/// What containers had used when a sample was taken.
#[derive(Debug, Default)]
pub(super) struct Sample {
    /// When it was begun; `None` before the first.
    pub(super) began: Option<Instant>,
    pub(super) time: Timestamp,
    /// Whose containers were looked at, as far as they run.
    wanted: Wanted,
    readings: Readings,
}

impl Sample {
    /// What was read of a namespace's containers, by their IDs.
    pub(super) fn of(
        &self,
        namespace: &Namespace,
    ) -> impl Iterator<Item = (&String, &Option<Reading>)> {
        self.readings.get(namespace).into_iter().flatten()
    }

    /// One container; `None` when it did not run.
    pub(super) fn get(&self, namespace: &Namespace, id: &str) -> Option<Option<Reading>> {
        self.readings.get(namespace)?.get(id).copied()
    }

    /// Whether these were looked at.
    fn covers(&self, namespace: &Namespace, ids: Option<&HashSet<String>>) -> bool {
        match (self.wanted.get(namespace), ids) {
            (Some(None), _) => true,
            (Some(Some(seen)), Some(ids)) => ids.is_subset(seen),
            (None, _) | (Some(Some(_)), None) => false,
        }
    }
}

/// Takes samples while somebody subscribes.
pub(crate) struct Sampler {
    shared: Arc<Shared>,
}

struct Shared {
    tasks: Arc<dyn Tasks>,
    /// Held for looking up and changing entries only.
    state: Mutex<State>,
    /// Told when there are other wishes than before.
    changed: Notify,
    samples: watch::Sender<Arc<Sample>>,
    epoch: Instant,
}

#[derive(Default)]
struct State {
    wishes: HashMap<u64, Wish>,
    next: u64,
    /// Whether a task takes samples.
    working: bool,
}

/// What a subscriber wants.
struct Wish {
    namespace: Namespace,
    /// Only these containers.
    ids: Option<HashSet<String>>,
    /// A sample that is begun at this time or later.
    at: Option<Instant>,
    /// That sample: by the time its subscriber looks, others may have had another one taken.
    found: Option<Arc<Sample>>,
}

impl Sampler {
    /// Measures the first processes of these tasks.
    pub(crate) fn new(tasks: Arc<dyn Tasks>) -> Self {
        let shared = Shared {
            tasks,
            state: Mutex::default(),
            changed: Notify::new(),
            samples: watch::Sender::new(Arc::default()),
            epoch: Instant::now(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Wants samples of a namespace's containers, or of some of them. Needs a tokio runtime.
    pub(super) fn subscribe(
        &self,
        namespace: &Namespace,
        ids: Option<HashSet<String>>,
    ) -> Subscription {
        let samples = self.shared.samples.subscribe();
        let namespace = namespace.clone();
        let mut state = self.shared.state();
        let key = state.next;
        state.next += 1;
        let wish = Wish { namespace: namespace.clone(), ids: ids.clone(), at: None, found: None };
        state.wishes.insert(key, wish);
        if !std::mem::replace(&mut state.working, true) {
            tokio::spawn(work(Arc::clone(&self.shared)));
        }
        drop(state);
        Subscription { shared: Arc::clone(&self.shared), key, namespace, ids, samples }
    }
}

/// A subscriber; it wants nothing any more when it is dropped.
pub(super) struct Subscription {
    shared: Arc<Shared>,
    key: u64,
    namespace: Namespace,
    ids: Option<HashSet<String>>,
    samples: watch::Receiver<Arc<Sample>>,
}

impl Subscription {
    /// What all subscribers count from who want samples at the same times.
    pub(super) fn epoch(&self) -> Instant {
        self.shared.epoch
    }

    /// The latest sample, if somebody wanted the same containers.
    pub(super) fn last(&self) -> Option<Arc<Sample>> {
        let sample = Arc::clone(&self.samples.borrow());
        sample.covers(&self.namespace, self.ids.as_ref()).then_some(sample)
    }

    /// The first sample that is begun at this time or later.
    pub(super) async fn at(&mut self, when: Instant) -> Arc<Sample> {
        if let Some(last) = self.last().filter(|last| last.began.is_some_and(|at| at >= when)) {
            return last;
        }
        if let Some(wish) = self.shared.state().wishes.get_mut(&self.key) {
            (wish.at, wish.found) = (Some(when), None);
        }
        self.shared.changed.notify_one();
        loop {
            let latest = Arc::clone(&self.samples.borrow_and_update());
            let (namespace, ids) = (&self.namespace, self.ids.as_ref());
            if latest.began.is_some_and(|at| at >= when) && latest.covers(namespace, ids) {
                return latest;
            }
            if let Some(found) = self.shared.found(self.key) {
                return found;
            }
            if self.samples.changed().await.is_err() {
                // The sender is part of what is shared.
                return Arc::default();
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.state().wishes.remove(&self.key);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the next sample is wanted.
    fn due(&self) -> Option<Instant> {
        self.state().wishes.values().filter_map(|wish| wish.at).min()
    }

    /// Whether nobody is left: whoever comes from now on starts the work anew.
    fn ends(&self) -> bool {
        let mut state = self.state();
        state.working = !state.wishes.is_empty();
        !state.working
    }

    /// The sample that a subscriber wanted, once it is taken.
    fn found(&self, key: u64) -> Option<Arc<Sample>> {
        self.state().wishes.get_mut(&key)?.found.take()
    }

    /// Takes the wishes that a sample fulfils that is begun now, and whose they are.
    fn take(&self, now: Instant) -> (Wanted, Vec<u64>) {
        let (mut wanted, mut keys) = (Wanted::new(), Vec::new());
        for (key, wish) in &mut self.state().wishes {
            if wish.at.take_if(|at| *at <= now).is_none() {
                continue;
            }
            keys.push(*key);
            let ids = wanted.entry(wish.namespace.clone()).or_insert_with(|| Some(HashSet::new()));
            match (&wish.ids, ids) {
                (None, ids) => *ids = None,
                (Some(more), Some(ids)) => ids.extend(more.iter().cloned()),
                (Some(_), None) => {}
            }
        }
        (wanted, keys)
    }

    /// Hands a sample to those who wanted it, and shows it to all others.
    fn give(&self, sample: Sample, keys: &[u64]) {
        let sample = Arc::new(sample);
        let mut state = self.state();
        for key in keys {
            // Who has gone meanwhile wants nothing.
            if let Some(wish) = state.wishes.get_mut(key) {
                wish.found = Some(Arc::clone(&sample));
            }
        }
        drop(state);
        self.samples.send_replace(sample);
    }

    async fn sample(&self, meters: Option<Meters>) -> Option<Meters> {
        let began = Instant::now();
        let (wanted, keys) = self.take(began);
        let mut targets = Vec::new();
        for (namespace, ids) in &wanted {
            let ctx = Context::new(namespace.clone());
            // What is known of them: no shim is asked.
            let tasks = self.tasks.list(&ctx).await.unwrap_or_default();
            let is_wanted = |id: &String| ids.as_ref().is_none_or(|ids| ids.contains(id));
            let running = tasks.into_iter().filter(runs);
            let running = running.filter(|task| is_wanted(&task.container_id));
            targets.extend(running.map(|task| Target {
                namespace: namespace.clone(),
                id: task.container_id,
                pid: task.pid,
            }));
        }
        let measured = blocking(move || {
            let mut meters = meters.unwrap_or_else(Meters::new);
            let readings = meters.read(&targets);
            Ok((Some(meters), readings))
        });
        let (meters, readings) = measured.await.unwrap_or_else(|err| {
            tracing::error!(error = %err, "measure containers");
            (None, Readings::new())
        });
        let time = Timestamp::now();
        self.give(Sample { began: Some(began), time, wanted, readings }, &keys);
        meters
    }
}

/// Also of one whose shim does not say: what can't be measured is shown as such.
fn runs(task: &Process) -> bool {
    match task.status {
        Status::Unknown => true,
        Status::Running | Status::Paused | Status::Pausing => task.pid > 0,
        Status::Created | Status::Stopped => false,
    }
}

/// Takes samples until nobody wants any, and a little longer: whoever asks once may ask again.
async fn work(shared: Arc<Shared>) {
    let mut meters: Option<Meters> = None;
    loop {
        let (now, due) = (Instant::now(), shared.due());
        if due.is_some_and(|due| due <= now) {
            meters = shared.sample(meters).await;
            continue;
        }
        if meters.is_none() && shared.ends() {
            return;
        }
        let kept = meters.is_some().then_some(now + KEEP);
        let wake = due.into_iter().chain(kept).min();
        tokio::select! {
            () = shared.changed.notified() => continue,
            () = until(wake) => {}
        }
        if wake != due {
            // To close takes as long as to open.
            tokio::task::spawn_blocking(|| drop(meters));
            meters = None;
        }
    }
}

/// For ever without a time.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::super::fake::FakeTasks;
    use super::*;

    fn namespace() -> Namespace {
        Namespace::new("default").unwrap()
    }

    #[tokio::test]
    async fn it_works_while_somebody_wants_to_know() {
        let tasks = FakeTasks::default();
        tasks.add("c1", std::process::id());
        tasks.add("c2", std::process::id());
        let sampler = Sampler::new(Arc::new(tasks));
        let shared = Arc::clone(&sampler.shared);
        // The test does the work, to wait for its end.
        shared.state().working = true;
        let mut all = sampler.subscribe(&namespace(), None);
        let one = HashSet::from(["c1".to_owned()]);
        let mut one = sampler.subscribe(&namespace(), Some(one));
        let work = tokio::spawn(work(Arc::clone(&shared)));
        let now = Instant::now();
        let sample = one.at(now).await;
        assert!(sample.began.unwrap() >= now);
        let ids: Vec<_> = sample.of(&namespace()).map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["c1"], "nobody wants the other now");
        assert!(all.last().is_none());
        let sample = all.at(now).await;
        assert_eq!(sample.of(&namespace()).count(), 2, "one that has what is wanted");
        assert!(Arc::ptr_eq(&all.last().unwrap(), &sample));
        assert!(Arc::ptr_eq(&one.at(now).await, &sample), "it has that, too");
        drop((all, one));
        tokio::time::timeout(Duration::from_secs(60), work).await.unwrap().unwrap();
        assert!(!shared.state().working);
        let mut again = sampler.subscribe(&namespace(), None);
        assert_eq!(again.at(Instant::now()).await.of(&namespace()).count(), 2);
    }

    #[tokio::test]
    async fn those_who_want_it_at_one_time_share_a_sample() {
        let sampler = Sampler::new(Arc::new(FakeTasks::default()));
        let mut a = sampler.subscribe(&namespace(), None);
        let mut b = sampler.subscribe(&namespace(), None);
        let when = Instant::now() + Duration::from_millis(30);
        let (a, b) = tokio::join!(a.at(when), b.at(when));
        assert!(Arc::ptr_eq(&a, &b));
    }

    #[tokio::test]
    async fn who_looks_late_has_what_it_wanted() {
        let tasks = FakeTasks::default();
        tasks.add("c1", std::process::id());
        tasks.add("c2", std::process::id());
        let sampler = Sampler::new(Arc::new(tasks));
        let of = |id: &str| Some(HashSet::from([id.to_owned()]));
        let mut one = sampler.subscribe(&namespace(), of("c1"));
        let mut two = sampler.subscribe(&namespace(), of("c2"));
        let mut late = pin!(one.at(Instant::now()));
        assert!(late.as_mut().now_or_never().is_none());
        // The other's sample comes behind, and stands where the first one stood.
        two.at(Instant::now() + Duration::from_millis(20)).await;
        let sample = tokio::time::timeout(Duration::from_secs(60), late).await.unwrap();
        assert!(sample.get(&namespace(), "c1").is_some());
    }
}
