use std::sync::atomic::{AtomicBool, Ordering};

use futures::{FutureExt, StreamExt};
use gantry_core::db::memory::MemoryDatabase;
use gantry_core::db::{Durability, GLOBAL, Transaction, Visit, write_blocking};
use gantry_core::history::{Record, STAGED};
use gantry_core::{Kind, Namespace};
use gantry_grpc::containerd::events::TaskExit;

use super::*;

fn context() -> Context {
    Context::new(Namespace::new("a").unwrap())
}

fn event(i: usize) -> Any {
    Any { type_url: "test".into(), value: i.to_string().into_bytes() }
}

fn number(record: &Record) -> usize {
    String::from_utf8(record.envelope.event.value.clone()).unwrap().parse().unwrap()
}

fn publish(journal: &Journal, numbers: impl IntoIterator<Item = usize>) {
    for i in numbers {
        journal.publish(&context(), "/x", event(i)).unwrap();
    }
}

async fn take(records: &mut Records, count: usize) -> Vec<usize> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(number(&records.next().await.unwrap().unwrap()));
    }
    taken
}

fn open(database: &MemoryDatabase) -> Journal {
    Journal::open(database.shared(), Limits::default()).unwrap()
}

#[tokio::test]
async fn reading_goes_on_where_it_stopped_in_another_life() {
    let database = MemoryDatabase::new();
    let journal = open(&database);
    let beginning = journal.cursor().await.unwrap();
    publish(&journal, 0..300);
    let mut records = journal.read(Since::Cursor(beginning), None).await.unwrap();
    assert_eq!(take(&mut records, 200).await, (0..200).collect::<Vec<_>>());
    let last = records.next().await.unwrap().unwrap();
    drop((records, journal));

    let journal = open(&database);
    let mut records = journal.read(Since::Cursor(last.cursor), None).await.unwrap();
    publish(&journal, 300..400);
    assert_eq!(take(&mut records, 199).await, (201..400).collect::<Vec<_>>());
    assert!(records.next().now_or_never().is_none(), "it waits for more");
    publish(&journal, [400]);
    assert_eq!(take(&mut records, 1).await, [400]);
    let mut fresh = journal.read(Since::Now, None).await.unwrap();
    publish(&journal, [401]);
    assert_eq!(take(&mut fresh, 1).await, [401]);
    assert_eq!(take(&mut records, 1).await, [401]);
    drop(journal);
    assert!(records.next().await.is_none(), "it ends with the journal");
}

/// Four publishers and a reader that began before: replay and live meet
/// without a gap, a double or a change of order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replay_and_live_meet() {
    const EACH: usize = 2000;
    let journal = Arc::new(open(&MemoryDatabase::new()));
    let mut publishers = Vec::new();
    for publisher in 0..4 {
        let journal = Arc::clone(&journal);
        publishers.push(tokio::spawn(async move {
            for i in 0..EACH {
                publish(&journal, [publisher * EACH + i]);
                if i % 50 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    let mut records = journal.read(Since::Cursor(Cursor::default()), None).await.unwrap();
    let mut next: Vec<usize> = (0..4).map(|p| p * EACH).collect();
    for sequence in 1..=4 * EACH as u64 {
        let record = records.next().await.unwrap().unwrap();
        assert_eq!(record.cursor.sequence, sequence);
        let number = number(&record);
        assert_eq!(number, next[number / EACH]);
        next[number / EACH] += 1;
    }
    for publisher in publishers {
        publisher.await.unwrap();
    }
}

#[tokio::test]
async fn old_events_go_and_their_readers_are_told() {
    let database = MemoryDatabase::new();
    let limits = Limits { events: 100, ..Limits::default() };
    let journal = Journal::open(database.shared(), limits).unwrap();
    let beginning = journal.cursor().await.unwrap();
    let mut slow = journal.read(Since::Cursor(beginning), None).await.unwrap();
    publish(&journal, [0]);
    let first = slow.next().await.unwrap().unwrap();
    publish(&journal, 1..1000);
    let last = journal.cursor().await.unwrap();
    for cursor in [beginning, first.cursor] {
        let gone = journal.read(Since::Cursor(cursor), None).await.map(drop).unwrap_err();
        assert_eq!(gone.kind(), Kind::OutOfRange);
        assert!(gone.to_string().contains("List again"), "{gone}");
    }
    assert_eq!(slow.next().await.unwrap().unwrap_err().kind(), Kind::OutOfRange);
    assert!(slow.next().await.is_none());
    let kept = journal.read(Since::Time(Timestamp::default()), None).await.unwrap();
    let kept: Vec<_> = kept.take(100).map(|record| number(&record.unwrap())).collect().await;
    assert_eq!(kept, (900..1000).collect::<Vec<_>>());
    // The last stays, however old, so that its cursor stays good.
    drop((slow, journal));
    let limits = Limits { events: 100, age: Duration::ZERO };
    let journal = Journal::open(database.shared(), limits).unwrap();
    publish(&journal, [1000]);
    let end = journal.cursor().await.unwrap();
    assert_eq!(
        journal.read(Since::Cursor(last), None).await.map(drop).unwrap_err().kind(),
        Kind::OutOfRange
    );
    assert!(journal.read(Since::Cursor(end), None).await.is_ok());
}

#[tokio::test]
async fn cursors_of_elsewhere_are_refused() {
    let journal = open(&MemoryDatabase::new());
    publish(&journal, 0..10);
    let Cursor { sequence, at } = journal.cursor().await.unwrap();
    let strange = [
        // Of another store, or of an event that was lost with the power.
        Cursor { sequence, at: at - 1 },
        Cursor { sequence: sequence + 1, at },
        Cursor { sequence: 0, at },
    ];
    for cursor in strange {
        let refused = journal.read(Since::Cursor(cursor), None).await.map(drop).unwrap_err();
        assert_eq!(refused.kind(), Kind::OutOfRange, "{cursor}");
    }
}

#[tokio::test]
async fn reading_begins_at_a_time() {
    let journal = open(&MemoryDatabase::new());
    let envelope = |seconds, i| Envelope {
        timestamp: Timestamp { seconds, nanos: 0 },
        namespace: "a".into(),
        topic: "/x".into(),
        event: event(i),
    };
    publish(&journal, [0, 1]);
    journal.cursor().await.unwrap();
    let then = Timestamp::now();
    publish(&journal, [2]);
    // A shim tells of it late.
    journal.forward(envelope(7, 3)).unwrap();
    publish(&journal, [4]);
    let mut records = journal.read(Since::Time(then), None).await.unwrap();
    assert_eq!(take(&mut records, 2).await, [2, 4]);
    let later = Timestamp { seconds: then.seconds + 3600, nanos: 0 };
    let mut records = journal.read(Since::Time(later), None).await.unwrap();
    publish(&journal, [5]);
    assert!(records.next().now_or_never().is_none());
}

#[tokio::test]
async fn reading_ends_at_a_time() {
    let journal = open(&MemoryDatabase::new());
    publish(&journal, 0..3);
    let all = Since::Cursor(Cursor::default());
    let numbers = async |until| -> Vec<usize> {
        let records = journal.read(all, Some(until)).await.unwrap();
        records.map(|record| number(&record.unwrap())).collect().await
    };
    let now = Timestamp::now();
    assert_eq!(numbers(now).await, [0, 1, 2]);
    publish(&journal, [3]);
    assert_eq!(numbers(now).await, [0, 1, 2]);
    assert!(numbers(Timestamp { seconds: now.seconds - 60, nanos: 0 }).await.is_empty());
    let soon = Timestamp { seconds: now.seconds + 1, nanos: now.nanos };
    assert_eq!(numbers(soon).await, [0, 1, 2, 3]);
    assert!(Timestamp::now() >= soon);
}

/// The number is the process' own.
fn exit(number: usize, suffix: &str) -> Any {
    let id = format!("{number}{suffix}");
    let exit = TaskExit { container_id: "c1".into(), id, ..TaskExit::default() };
    gantry_grpc::convert::from_any(gantry_grpc::any::pack(&exit))
}

/// Numbers of the events that come, and of the exits of processes.
async fn told(records: &mut Records, count: usize) -> Vec<(String, Cursor)> {
    let mut told = Vec::new();
    for _ in 0..count {
        let record = records.next().await.unwrap().unwrap();
        let event = gantry_grpc::convert::any(record.envelope.event.clone());
        let said = match gantry_grpc::any::unpack::<TaskExit>(&event) {
            Ok(exit) => exit.id,
            Err(_) => number(&record).to_string(),
        };
        told.push((said, record.cursor));
    }
    told
}

#[tokio::test]
async fn checks_of_health_are_told_and_not_kept() {
    let database = MemoryDatabase::new();
    let limits = Limits { events: 10, ..Limits::default() };
    let journal = Journal::open(database.shared(), limits).unwrap();
    let exits = |number, suffix| {
        journal.publish(&context(), "/tasks/exit", exit(number, suffix)).unwrap();
    };
    let beginning = journal.cursor().await.unwrap();
    let mut subscribed = journal.subscribe(Filters::all());
    let mut reader = journal.read(Since::Now, None).await.unwrap();
    exits(1, "-health");
    publish(&journal, [2]);
    exits(3, "-health");
    exits(4, "-health");
    exits(5, "");
    exits(6, "-health");
    let seen = told(&mut reader, 6).await;
    let said: Vec<_> = seen.iter().map(|(said, _)| said.as_str()).collect();
    assert_eq!(said, ["1-health", "2", "3-health", "4-health", "5", "6-health"]);
    // The cursors of what is not kept are those of what was there before.
    let cursors: Vec<_> = seen.iter().map(|(_, cursor)| cursor.sequence).collect();
    assert_eq!(cursors, [0, 1, 1, 1, 2, 2]);
    for _ in 0..6 {
        assert!(subscribed.next().await.unwrap().is_ok());
    }
    // However many there are, what matters stays.
    for number in 0..2 * PASSING {
        exits(number, "-health");
    }
    assert_eq!(journal.cursor().await.unwrap(), seen[5].1);
    let mut late = journal.read(Since::Cursor(beginning), None).await.unwrap();
    let said = told(&mut late, 2).await;
    assert_eq!((said[0].0.as_str(), said[1].0.as_str()), ("2", "5"));
    // A reader that is slow misses some of these, and nothing else.
    publish(&journal, [7]);
    journal.cursor().await.unwrap();
    let rest = told(&mut reader, PASSING + 1).await;
    assert_eq!(rest.last().unwrap().0, "7");
    drop((reader, late, journal));
    let journal = open(&database);
    let mut again = journal.read(Since::Cursor(seen[2].1), None).await.unwrap();
    let said: Vec<_> = told(&mut again, 2).await.into_iter().map(|(said, _)| said).collect();
    assert_eq!(said, ["5", "7"]);
}

/// What `Staged` promises: wherever the daemon dies, the event is told once.
#[tokio::test]
async fn a_staged_event_is_told_once() {
    let database = MemoryDatabase::new();
    let stage = |i| {
        let staged = Staged::new(&context(), "/x", event(i));
        write_blocking(&database, Durability::Buffered, &mut |tx| staged.put(tx)).unwrap();
        staged
    };
    let journal = open(&database);
    let mut subscribed = journal.subscribe(Filters::all());
    let released = stage(0);
    Events::release(&journal, released).unwrap();
    History::release(&journal, stage(1).private());
    // Killed before these were released.
    stage(2);
    stage(3);
    assert_eq!(subscribed.next().await.unwrap().unwrap().event, event(0));
    assert!(subscribed.next().now_or_never().is_none(), "the second is private");
    drop(journal);
    for _ in 0..2 {
        let journal = open(&database);
        assert!(STAGED.list(&database, GLOBAL).unwrap().is_empty());
        let mut records = journal.read(Since::Cursor(Cursor::default()), None).await.unwrap();
        assert_eq!(take(&mut records, 4).await, [0, 1, 2, 3]);
        assert!(records.next().now_or_never().is_none());
    }
}

/// A database whose transactions fail while it is told so.
struct Full(MemoryDatabase, AtomicBool);

impl Database for Full {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.0.get(table, namespace, key)
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        self.0.scan(table, namespace, prefix, visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        self.0.namespaces(table)
    }

    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        if self.1.load(Ordering::Relaxed) {
            return Err(Error::resource_exhausted("no space left on device"));
        }
        self.0.transact(durability, body)
    }
}

#[tokio::test]
async fn a_full_disk_stops_nobody_and_what_was_lost_is_told() {
    let database = Arc::new(Full(MemoryDatabase::new(), AtomicBool::new(false)));
    let journal = Journal::open(Arc::clone(&database) as _, Limits::default()).unwrap();
    publish(&journal, [0]);
    let good = journal.cursor().await.unwrap();
    let mut reader = journal.read(Since::Cursor(good), None).await.unwrap();
    database.1.store(true, Ordering::Relaxed);
    publish(&journal, [1]);
    assert_eq!(journal.cursor().await.unwrap_err().kind(), Kind::Unavailable);
    // The writer holds the first; there is room for so many behind it.
    publish(&journal, 2..WAITING_LIMIT + 10);
    database.1.store(false, Ordering::Relaxed);
    let mut progress = journal.shared.progress.subscribe();
    progress.wait_for(|progress| progress.floor > 0).await.unwrap();
    let end = journal.cursor().await.unwrap();
    let gone = journal.read(Since::Cursor(good), None).await.map(drop).unwrap_err();
    assert_eq!(gone.kind(), Kind::OutOfRange);
    assert_eq!(reader.next().await.unwrap().unwrap_err().kind(), Kind::OutOfRange);
    let mut reader = journal.read(Since::Cursor(end), None).await.unwrap();
    publish(&journal, [7]);
    assert_eq!(take(&mut reader, 1).await, [7]);
}

#[test]
fn who_waits_is_not_kept_waiting_by_who_does_not() {
    let [hour, minute, second] = [3600, 60, 1].map(Duration::from_secs);
    let mut queue = Queue::default();
    assert!(queue.hurry(hour));
    assert!(!queue.hurry(hour), "what comes later is written along with the first");
    assert!(queue.hurry(minute));
    assert!(!queue.hurry(hour));
    assert!(queue.hurry(second));
}

#[tokio::test]
async fn what_was_taken_gets_stored() {
    let journal = open(&MemoryDatabase::new());
    let last = || journal.shared.progress.borrow().last.sequence;
    journal.stored().await.unwrap();
    assert_eq!(last(), 0);
    publish(&journal, 0..3);
    journal.stored().await.unwrap();
    assert_eq!(last(), 3);
}

/// Says what publishing costs its caller:
/// `cargo test … -- --ignored --nocapture cost_of_publishing`.
#[test]
#[ignore = "a measurement"]
fn cost_of_publishing() {
    use std::io::Write as _;
    let journal = open(&MemoryDatabase::new());
    let mut times: Vec<_> = (0..20_000)
        .map(|i| {
            let begun = std::time::Instant::now();
            publish(&journal, [i]);
            let cost = begun.elapsed();
            if i % 8 == 0 {
                std::thread::sleep(Duration::from_micros(500));
            }
            cost
        })
        .collect();
    times.sort();
    let (median, worst) = (times[10_000], times[19_800]);
    writeln!(std::io::stdout(), "median {median:?}, 99 % {worst:?}").unwrap();
}
