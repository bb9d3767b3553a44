use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};

use gantry_core::db::{GLOBAL, Table, write_blocking};
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Counter {
    value: u64,
}

const COUNTERS: Table<Counter> = Table::new("counters");

fn open() -> (tempfile::TempDir, RocksDatabase) {
    let dir = tempfile::tempdir().unwrap();
    let db = RocksDatabase::open(dir.path().join("a/b/metadata")).unwrap();
    (dir, db)
}

fn put(db: &dyn Database, table: &str, namespace: &str, key: &str) {
    db.transact(Durability::Buffered, &mut |tx| tx.put(table, namespace, key, key.as_bytes()))
        .unwrap();
}

fn keys_of(db: &dyn Database, table: &str, namespace: &str, prefix: &str) -> Vec<String> {
    let mut keys = Vec::new();
    db.scan(table, namespace, prefix, &mut |key, value| {
        assert_eq!(key.as_bytes(), value);
        keys.push(key.to_owned());
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    keys
}

#[test]
fn scans_keep_to_table_namespace_and_prefix_in_order() {
    let (_dir, db) = open();
    for key in ["b", "a/2", "a/10", "ä", "a"] {
        put(&db, "t", "one", key);
    }
    put(&db, "t", "one-more", "a/0");
    put(&db, "t", GLOBAL, "a/0");
    put(&db, "t2", "one", "a/0");
    put(&db, "s", "two", "x");
    assert_eq!(keys_of(&db, "t", "one", ""), ["a", "a/10", "a/2", "b", "ä"]);
    assert_eq!(keys_of(&db, "t", "one", "a/"), ["a/10", "a/2"]);
    assert_eq!(keys_of(&db, "t", GLOBAL, ""), ["a/0"]);
    assert_eq!(keys_of(&db, "t", "on", ""), [""; 0]);
    assert_eq!(db.namespaces("t").unwrap(), ["", "one", "one-more"]);
    assert_eq!(db.namespaces("s").unwrap(), ["two"]);
    assert_eq!(db.namespaces("none").unwrap(), [""; 0]);
    assert!(any_row(&db, "t", "one").unwrap());
    assert!(!any_row(&db, "t", "two").unwrap());
}

#[test]
fn a_transaction_sees_its_own_writes_and_a_failed_one_leaves_none() {
    let (_dir, db) = open();
    put(&db, "t", "n", "a/0");
    let seen = write_blocking(&db, Durability::Sync, &mut |tx| {
        tx.put("t", "n", "a/1", b"")?;
        tx.put("t", "n", "b", b"")?;
        tx.delete("t", "n", "a/0")?;
        let mut seen = Vec::new();
        tx.scan("t", "n", "a/", &mut |key, _| {
            seen.push(key.to_owned());
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(seen)
    });
    assert_eq!(seen.unwrap(), ["a/1"]);
    let failed = db.transact(Durability::Sync, &mut |tx| {
        tx.put("t", "n", "c", b"")?;
        Err(Error::failed_precondition("no"))
    });
    assert_eq!(failed.unwrap_err().kind(), Kind::FailedPrecondition);
    assert_eq!(db.get("t", "n", "c").unwrap(), None);
    assert_eq!(db.get("t", "n", "b").unwrap(), Some(Vec::new()));
    let nul = db.transact(Durability::Sync, &mut |tx| tx.put("t", "n", "c\0", b""));
    assert_eq!(nul.unwrap_err().kind(), Kind::InvalidArgument);
}

#[test]
fn conflicting_updates_are_never_lost() {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 200;
    let (_dir, db) = open();
    let start = Barrier::new(THREADS as usize);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                for _ in 0..ROUNDS {
                    increment(&db, "one");
                }
            });
        }
    });
    let counter = COUNTERS.get(&db, "n", "one").unwrap().unwrap();
    assert_eq!(counter.value, THREADS * ROUNDS);
}

fn increment(db: &dyn Database, key: &str) {
    write_blocking(db, Durability::Buffered, &mut |tx| {
        let value = COUNTERS.lock(tx, "n", key)?.map_or(0, |c| c.value) + 1;
        COUNTERS.put(tx, "n", key, &Counter { value })
    })
    .unwrap();
}

/// Two threads lock two rows in opposite order again and again: each deadlock
/// ends at once, and both get their turn.
#[test]
fn deadlocks_are_broken_and_run_again() {
    let (_dir, db) = open();
    let start = Barrier::new(2);
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for (first, second) in [("a", "b"), ("b", "a")] {
            let (db, start) = (&db, &start);
            scope.spawn(move || {
                start.wait();
                for _ in 0..100 {
                    write_blocking(db, Durability::Buffered, &mut |tx| {
                        for key in [first, second] {
                            let value = COUNTERS.lock(tx, "n", key)?.map_or(0, |c| c.value) + 1;
                            COUNTERS.put(tx, "n", key, &Counter { value })?;
                        }
                        Ok(())
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(COUNTERS.get(&db, "n", "a").unwrap().unwrap().value, 200);
    assert_eq!(COUNTERS.get(&db, "n", "b").unwrap().unwrap().value, 200);
    // A hundred lock timeouts would take minutes.
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn a_missing_row_can_be_locked() {
    let (_dir, db) = open();
    let created = std::sync::atomic::AtomicU32::new(0);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                let won = write_blocking(&db, Durability::Sync, &mut |tx| {
                    if tx.get("t", "n", "k")?.is_some() {
                        return Ok(false);
                    }
                    tx.put("t", "n", "k", b"").map(|()| true)
                });
                created.fetch_add(u32::from(won.unwrap()), std::sync::atomic::Ordering::SeqCst);
            });
        }
    });
    assert_eq!(created.into_inner(), 1);
}

#[test]
fn a_second_daemon_is_told_who_holds_the_store() {
    let (dir, db) = open();
    let path = dir.path().join("a/b/metadata");
    let err = RocksDatabase::open(&path).err().unwrap();
    assert_eq!(err.kind(), Kind::Unavailable);
    assert!(err.to_string().contains(&std::process::id().to_string()), "{err}");
    drop(db);
    RocksDatabase::open(&path).unwrap();
}

#[test]
fn other_schemas_are_refused() {
    let (dir, db) = open();
    let path = dir.path().join("a/b/metadata");
    put(&db, "t", "n", "k");
    db.db.put(keys::SCHEMA, "2").unwrap();
    drop(db);
    let err = RocksDatabase::open(&path).err().unwrap();
    assert_eq!(err.kind(), Kind::FailedPrecondition);
    assert!(err.to_string().contains("schema version 2"), "{err}");

    let foreign = dir.path().join("foreign");
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    rocksdb::DB::open(&options, &foreign).unwrap().put("x", "y").unwrap();
    let err = RocksDatabase::open(&foreign).err().unwrap();
    assert_eq!(err.kind(), Kind::FailedPrecondition);
    assert!(err.to_string().contains("not Gantry's"), "{err}");
}

/// The log in use, by its number.
fn newest_log(path: &Path) -> PathBuf {
    let logs = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path());
    logs.filter(|p| p.extension().is_some_and(|e| e == "log")).max().unwrap()
}

/// Changes a log behind this many bytes.
type Damage = fn(&mut Vec<u8>, usize);

/// A power loss tears what was not synced: the end of the log is cut, or
/// holds garbage. The store opens, with all that was synced before.
#[test]
fn a_torn_log_opens_with_all_that_was_acknowledged() {
    let garbage: [Damage; 4] = [
        |log, synced| log.truncate(synced + (log.len() - synced) / 2),
        |log, synced| log[synced + 3..].fill(0),
        |log, synced| log[synced + 40..].fill(0xa5),
        // The first of the unsynced blocks is missing, later ones are there.
        |log, synced| log[synced..synced + 100].fill(0),
    ];
    for damage in garbage {
        let (dir, db) = open();
        let path = dir.path().join("a/b/metadata");
        for i in 0..50 {
            db.transact(Durability::Sync, &mut |tx| tx.put("t", "n", &format!("s{i}"), b"x"))
                .unwrap();
        }
        let synced = std::fs::metadata(newest_log(&path)).unwrap().len() as usize;
        for i in 0..50 {
            put(&db, "t", "n", &format!("u{i:02}"));
        }
        // What the disk would hold: a copy, taken while the store is in use.
        let copy = dir.path().join("copy");
        std::fs::create_dir(&copy).unwrap();
        for entry in std::fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        let log = newest_log(&copy);
        let mut bytes = std::fs::read(&log).unwrap();
        assert!(bytes.len() > synced + 200, "{} {synced}", bytes.len());
        damage(&mut bytes, synced);
        std::fs::write(&log, bytes).unwrap();

        let db = RocksDatabase::open(&copy).unwrap();
        for i in 0..50 {
            assert!(db.get("t", "n", &format!("s{i}")).unwrap().is_some(), "s{i}");
        }
        // Of the rest a beginning without holes.
        let kept = keys_of(&db, "t", "n", "u");
        let expected: Vec<_> = (0..kept.len()).map(|i| format!("u{i:02}")).collect();
        assert_eq!(kept, expected);
        assert!(kept.len() < 50);
        put(&db, "t", "n", "more");
    }
}

#[test]
fn reopening_after_many_flushes_keeps_the_last_state() {
    let (dir, db) = open();
    let path = dir.path().join("a/b/metadata");
    let big = vec![b'x'; 64 << 10];
    for round in 0..400 {
        db.transact(Durability::Buffered, &mut |tx| {
            tx.put("t", "n", &format!("k{}", round % 7), &big)?;
            tx.put("t", "n", "round", format!("{round}").as_bytes())
        })
        .unwrap();
    }
    drop(db);
    for _ in 0..3 {
        let db = RocksDatabase::open(&path).unwrap();
        assert_eq!(db.get("t", "n", "round").unwrap().unwrap(), b"399");
    }
}

const CHILD: &str = "GANTRY_TEST_STORE";

/// Not a test of its own: writes rows and tells each on stdout when it is
/// durable, until it is killed.
#[test]
#[ignore = "runs in a process of its own, started by the test below"]
fn writer_process() {
    use std::io::Write as _;
    let Some(path) = std::env::var_os(CHILD) else { return };
    let db = RocksDatabase::open(path).unwrap();
    let db = Arc::new(db);
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let db = Arc::clone(&db);
            std::thread::spawn(move || {
                for i in 0u64.. {
                    let key = format!("{thread}-{i}");
                    db.transact(Durability::Sync, &mut |tx| tx.put("t", "n", &key, b"")).unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "\nacknowledged {key}").unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn kill_keeps_every_acknowledged_row() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metadata");
    let mut acknowledged = Vec::new();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "database::tests::writer_process", "--ignored", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = |line: std::io::Result<String>| {
            line.unwrap().strip_prefix("acknowledged ").map(str::to_owned)
        };
        let before = acknowledged.len();
        while acknowledged.len() < before + 100 {
            acknowledged.extend(told(lines.next().unwrap()));
        }
        child.kill().unwrap();
        acknowledged.extend(lines.filter_map(told));
        assert!(!child.wait().unwrap().success());

        let db = RocksDatabase::open(&path).unwrap();
        for key in &acknowledged {
            assert!(db.get("t", "n", key).unwrap().is_some(), "round {round}: {key}");
        }
    }
}

/// Says what a synced commit costs on this disk:
/// `cargo test … -- --ignored --nocapture cost_of_a_synced_commit`.
#[test]
#[ignore = "a measurement"]
fn cost_of_a_synced_commit() {
    use std::io::Write as _;
    let (_dir, db) = open();
    for rows in ["few", "many"] {
        if rows == "many" {
            for i in 0..20_000 {
                put(&db, "f", "n", &format!("{i}{}", "x".repeat(500)));
            }
        }
        let mut times = Vec::new();
        for i in 0..300 {
            let begun = std::time::Instant::now();
            let value = [0u8; 600];
            db.transact(Durability::Sync, &mut |tx| {
                tx.get("t", "n", "k")?;
                tx.put("t", "n", &format!("k{i}"), &value)
            })
            .unwrap();
            times.push(begun.elapsed());
        }
        times.sort();
        let (median, worst) = (times[150], times[297]);
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let rss = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        writeln!(std::io::stdout(), "{rows} rows: median {median:?}, 99 % {worst:?}, {rss}")
            .unwrap();
    }
}
