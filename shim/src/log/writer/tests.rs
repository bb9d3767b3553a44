use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use gantry_core::local_log::{self, Decoded, Kind};

use super::super::{JSON_FILE, LOCAL};
use super::*;

thread_local! {
    static NOW: Cell<Duration> = const { Cell::new(Duration::from_secs(1_000_000)) };
}

fn clock() -> Duration {
    NOW.get()
}

fn later(seconds: u64) {
    NOW.set(NOW.get() + Duration::from_secs(seconds));
}

fn options(driver: &str, path: &Path, max_size: u64, max_file: u32) -> Options {
    let (driver, path) = (driver.to_owned(), path.to_owned());
    Options { driver, path, max_size, max_file, ..Options::default() }
}

fn open(options: &Options) -> Driver {
    Driver::with_clock(options, clock).unwrap()
}

#[derive(serde::Deserialize)]
struct Json {
    log: String,
    stream: String,
    time: String,
}

/// A record: its stream, its text and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said(String, Vec<u8>, String);

fn decode(driver: &str, mut bytes: &[u8]) -> Vec<Said> {
    if driver == JSON_FILE {
        let lines = bytes.split_inclusive(|b| *b == b'\n');
        let records = lines.map(|line| serde_json::from_slice::<Json>(line).unwrap());
        return records.map(|r| Said(r.stream, r.log.into_bytes(), r.time)).collect();
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let Decoded::Record(record, length) = local_log::decode(bytes) else { panic!("no record") };
        let stream = match record.kind {
            Kind::Stdout => "stdout",
            Kind::Stderr => "stderr",
            Kind::Attributes => "attributes",
        };
        all.push(Said(stream.to_owned(), record.data.to_vec(), record.nanos.to_string()));
        bytes = &bytes[length..];
    }
    all
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    match n {
        0 => path.to_owned(),
        n => PathBuf::from(format!("{}.{n}", path.display())),
    }
}

/// The n-th file, in whichever form it is.
fn content(path: &Path, n: u32) -> Vec<u8> {
    let plain = numbered(path, n);
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(&plain) {
        file.read_to_end(&mut bytes).unwrap();
    } else if let Ok(file) = File::open(format!("{}.gz", plain.display())) {
        GzDecoder::new(file).read_to_end(&mut bytes).unwrap();
    }
    bytes
}

/// All records, oldest first.
fn all(options: &Options) -> Vec<Said> {
    let files = (0..options.max_file).rev();
    files.flat_map(|n| decode(&options.driver, &content(&options.path, n))).collect()
}

fn joined(options: &Options) -> String {
    let said = all(options).into_iter().filter(|said| said.0 != "attributes");
    said.map(|said| String::from_utf8(said.1).unwrap()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn records_carry_stream_and_time() {
    for (driver, odd) in [(JSON_FILE, "\u{fffd}".as_bytes()), (LOCAL, &b"\xff"[..])] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(driver, &dir.path().join("sub/c.log"), 0, 1);
        let mut log = open(&options);
        log.push(Stream::Stdout, b"one\ntw");
        log.push(Stream::Stderr, b"\"err\"\n");
        log.push(Stream::Stdout, b"o\n\xff");
        log.end(Stream::Stdout);
        log.flush().unwrap();
        let records = all(&options);
        let got: Vec<_> = records.iter().map(|r| (r.0.as_str(), r.1.as_slice())).collect();
        let want: [(&str, &[u8]); 4] =
            [("stdout", b"one\n"), ("stderr", b"\"err\"\n"), ("stdout", b"two\n"), ("stdout", odd)];
        assert_eq!(got, want);
        // The clock stands still, and no two are the same.
        let times: std::collections::BTreeSet<_> = records.iter().map(|r| &r.2).collect();
        assert_eq!(times.len(), 4);
    }
}

#[test]
fn rotation_loses_and_doubles_nothing() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(driver, &dir.path().join("c.log"), 2000, 50);
        let mut log = open(&options);
        let mut want = String::new();
        for n in 0..500 {
            let line = format!("line {n} {}\n", "x".repeat(n % 40));
            log.push(Stream::Stdout, line.as_bytes());
            want += &line;
            if n % 7 == 0 {
                log.flush().unwrap();
            }
            // The next shim goes on where this one was.
            if n % 100 == 99 {
                log.flush().unwrap();
                drop(log);
                log = open(&options);
            }
        }
        log.flush().unwrap();
        assert_eq!(joined(&options), want);
        let sizes: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .collect();
        assert!(sizes.len() > 10 && sizes.iter().all(|s| *s <= 2000), "{sizes:?}");
    }
}

#[test]
fn old_files_go() {
    let dir = tempfile::tempdir().unwrap();
    for max_file in [1, 3] {
        let options =
            options(JSON_FILE, &dir.path().join(format!("{max_file}/c.log")), 500, max_file);
        let mut log = open(&options);
        for n in 0..100 {
            log.push(Stream::Stdout, format!("{n}\n").as_bytes());
        }
        log.flush().unwrap();
        assert_eq!(names(options.path.parent().unwrap()).len(), max_file as usize);
        let text = joined(&options);
        assert!(text.ends_with("\n98\n99\n") && !text.contains("\n9\n"), "{text}");
    }
}

#[test]
fn files_are_rotated_by_age_when_something_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(JSON_FILE, &dir.path().join("c.log"), 0, 3);
    options.max_age = Duration::from_secs(60);
    let mut log = open(&options);
    let say = |log: &mut Driver, text: &str| {
        log.push(Stream::Stdout, text.as_bytes());
        log.flush().unwrap();
    };
    // A file without records does not age.
    later(1000);
    say(&mut log, "a\n");
    later(59);
    say(&mut log, "b\n");
    assert_eq!(names(dir.path()), ["c.log"]);
    later(1);
    assert_eq!(names(dir.path()), ["c.log"]);
    say(&mut log, "c\n");
    later(30);
    say(&mut log, "d\n");
    assert_eq!(names(dir.path()), ["c.log", "c.log.1"]);
    assert_eq!(decode(JSON_FILE, &content(&options.path, 1)).len(), 2);
    assert_eq!(joined(&options), "a\nb\nc\nd\n");
    // What another shim began is as old as its file, which was made in this century.
    log = open(&options);
    later(4_100_000_000);
    say(&mut log, "e\n");
    assert_eq!(names(dir.path()), ["c.log", "c.log.1", "c.log.2"]);
    assert_eq!(joined(&options), "a\nb\nc\nd\ne\n");
    options.max_age = Duration::ZERO;
    log = open(&options);
    later(4_100_000_000);
    say(&mut log, "f\n");
    assert_eq!(joined(&options), "a\nb\nc\nd\ne\nf\n");
}

#[test]
fn rotated_files_are_compressed_on_the_way() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(driver, &dir.path().join("c.log"), 200_000, 4);
        options.compress = true;
        let mut log = open(&options);
        let mut want = String::new();
        for n in 0..20_000 {
            let line = format!("line {n} {}\n", "x".repeat(n % 40));
            log.push(Stream::Stdout, line.as_bytes());
            want += &line;
            if n % 100 == 0 {
                log.flush().unwrap();
            }
            // In the middle of a compression, now and then.
            if n % 3000 == 0 {
                log.flush().unwrap();
                drop(log);
                log = open(&options);
            }
        }
        for _ in 0..10 {
            log.flush().unwrap();
        }
        assert_eq!(names(dir.path()), ["c.log", "c.log.1.gz", "c.log.2.gz", "c.log.3.gz"]);
        let got = joined(&options);
        assert!(want.ends_with(&got) && got.len() > 150_000, "{} bytes", got.len());
    }
}

#[test]
fn a_place_holds_one_file_in_one_form() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(JSON_FILE, &dir.path().join("c.log"), 150, 3);
    options.compress = true;
    let mut log = open(&options);
    for n in 0..50 {
        log.push(Stream::Stdout, format!("line {n}\n").as_bytes());
        // Two rotations between two chances to compress.
        if n % 4 == 3 {
            log.flush().unwrap();
        }
    }
    log.flush().unwrap();
    let names = names(dir.path());
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(joined(&options).ends_with("line 48\nline 49\n"));
}

#[test]
fn each_file_begins_with_the_attributes() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(LOCAL, &dir.path().join("c.log"), 200, 5);
    options.attrs = r#"{"k":"v"}"#.to_owned();
    let mut log = open(&options);
    for n in 0..20 {
        log.push(Stream::Stdout, format!("line {n}\n").as_bytes());
    }
    log.flush().unwrap();
    drop(log);
    drop(open(&options));
    for n in 0..3 {
        let records = decode(LOCAL, &content(&options.path, n));
        let attributes = records.iter().filter(|r| r.0 == "attributes").count();
        assert_eq!((records[0].0.as_str(), attributes), ("attributes", 1), "file {n}");
        assert_eq!(records[0].1, options.attrs.as_bytes());
        assert!(records.len() > 1);
    }
    options.driver = JSON_FILE.to_owned();
    options.path = dir.path().join("d.log");
    let mut log = open(&options);
    log.push(Stream::Stdout, b"x\n");
    log.flush().unwrap();
    let text = fs::read_to_string(&options.path).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["attrs"]["k"], "v");
}

#[test]
fn long_lines_are_split_at_characters() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(driver, &dir.path().join("c.log"), 0, 1);
        let mut log = open(&options);
        let line = "é".repeat(MAX_PART + 1) + "\n";
        for piece in format!("a{line}").as_bytes().chunks(1000) {
            log.push(Stream::Stdout, piece);
        }
        log.flush().unwrap();
        let records = all(&options);
        assert_eq!(records.len(), 3);
        assert!(records.iter().all(|r| r.1.len() <= MAX_PART));
        assert!(records[..2].iter().all(|r| !r.1.ends_with(b"\n")));
        assert_eq!(joined(&options), format!("a{line}"));
    }
}

#[test]
fn a_line_of_exactly_one_part_is_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(JSON_FILE, &dir.path().join("c.log"), 0, 1);
    let mut log = open(&options);
    log.push(Stream::Stdout, &[b"x".repeat(MAX_PART - 1), b"\n".to_vec()].concat());
    log.flush().unwrap();
    assert_eq!(all(&options).len(), 1);
}

#[test]
fn a_full_disk_delays_and_does_not_lose() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(driver, &dir.path().join("c.log"), 0, 1);
        let mut log = open(&options);
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let good = std::mem::replace(&mut log.files.file, full);
        log.push(Stream::Stdout, b"kept\n");
        assert!(log.flush().is_err());
        log.files.file = good;
        log.push(Stream::Stdout, b"and more\n");
        log.flush().unwrap();
        assert_eq!(joined(&options), "kept\nand more\n");
    }
}

#[test]
fn what_was_written_in_part_goes_on_there() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(&options(driver, &dir.path().join("c.log"), 0, 1));
        let (mut reader, writer) = std::io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
            .unwrap();
        log.files.file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut want = String::new();
        for n in 0..10_000 {
            let line = format!("line {n}\n");
            log.push(Stream::Stdout, line.as_bytes());
            want += &line;
        }
        let (waiting, mut bytes, mut buffer) = (log.backlog(), Vec::new(), vec![0; 5000]);
        while log.flush().is_err() {
            assert_eq!(log.pending.len(), log.backlog(), "what is written takes room");
            let n = reader.read(&mut buffer).unwrap();
            bytes.extend_from_slice(&buffer[..n]);
        }
        assert_eq!(log.open, 0);
        drop(log);
        reader.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), waiting);
        let got = decode(driver, &bytes).into_iter().map(|r| String::from_utf8(r.1).unwrap());
        assert!(got.collect::<String>() == want);
    }
}

#[test]
fn rotation_waits_for_the_end_of_a_record_that_is_written_in_part() {
    for driver in [JSON_FILE, LOCAL] {
        let dir = tempfile::tempdir().unwrap();
        let options = options(driver, &dir.path().join("c.log"), 330, 9);
        let mut log = open(&options);
        log.push(Stream::Stdout, &[b"x".repeat(300), b"\n".to_vec()].concat());
        log.push(Stream::Stdout, b"next\n");
        // As if the disk had been full in the middle of the first one.
        let first = log.form.first(&log.pending);
        log.files.write(&log.pending[..100], log.last).unwrap();
        log.advance(100, log.pending.len());
        assert_eq!(log.open, first - 100);
        log.flush().unwrap();
        log.push(Stream::Stdout, b"last\n");
        log.flush().unwrap();
        assert_eq!(decode(driver, &content(&options.path, 1))[0].1.len(), 301);
        assert!(joined(&options).ends_with("x\nnext\nlast\n"));
    }
}

#[test]
fn a_torn_record_is_closed_off() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.log");
    fs::write(&path, b"{\"log\":\"a").unwrap();
    let mut log = open(&options(JSON_FILE, &path, 0, 1));
    log.push(Stream::Stdout, b"b\n");
    log.flush().unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"log\":\"a\n{\"log\":\"b\\n\""), "{text}");
}

#[test]
fn a_torn_binary_record_goes() {
    let dir = tempfile::tempdir().unwrap();
    let options = options(LOCAL, &dir.path().join("c.log"), 0, 1);
    let mut log = open(&options);
    log.push(Stream::Stdout, b"whole\ntorn\n");
    log.flush().unwrap();
    drop(log);
    let file = OpenOptions::new().write(true).open(&options.path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 3).unwrap();
    let mut log = open(&options);
    log.push(Stream::Stdout, b"next\n");
    log.flush().unwrap();
    assert_eq!(joined(&options), "whole\nnext\n");
}

#[test]
fn unknown_drivers_are_refused() {
    let refused = Driver::open(&options("syslog", Path::new("/nowhere/c.log"), 0, 1)).unwrap_err();
    assert_eq!(refused.kind(), crate::error::Kind::InvalidArgument);
}

#[test]
fn a_clock_that_is_set_back_far_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(&options(JSON_FILE, &dir.path().join("c.log"), 0, 1));
    let first = log.tick();
    assert_eq!(log.tick(), first + Duration::from_nanos(1));
    NOW.set(first - Duration::from_secs(5));
    assert_eq!(log.tick(), first - Duration::from_secs(5));
}
