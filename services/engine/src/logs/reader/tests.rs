use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use gantry_core::local_log::{self, Kind};

use super::super::files::numbered;
use super::*;

/// A log as the shim writes it, one file a line of the test.
struct Log {
    path: PathBuf,
    form: Form,
    files: u32,
    file: File,
    /// Time of the last record.
    nanos: u64,
}

impl Log {
    fn new(dir: &Path, files: u32) -> Self {
        Self::of(dir, Form::Json, files)
    }

    fn of(dir: &Path, form: Form, files: u32) -> Self {
        let path = dir.join("c-json.log");
        let file = File::create(&path).unwrap();
        Self { path, form, files, file, nanos: 1_767_323_045_000_000_000 }
    }

    fn write(&mut self, text: &str) {
        self.nanos += 1;
        let mut bytes = Vec::new();
        if self.form == Form::Json {
            let log = serde_json::to_string(text).unwrap();
            let nanos = self.nanos as i64;
            let time =
                Timestamp { seconds: nanos / 1_000_000_000, nanos: (nanos % 1_000_000_000) as i32 };
            let line = format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
            bytes.extend_from_slice(line.as_bytes());
        } else {
            let data = text.as_bytes();
            let record = local_log::Record { kind: Kind::Stdout, nanos: self.nanos, data };
            local_log::encode(record, &mut bytes);
        }
        self.file.write_all(&bytes).unwrap();
    }

    fn packed(&self, n: u32) -> PathBuf {
        PathBuf::from(format!("{}.gz", numbered(&self.path, n).display()))
    }

    fn rotate(&mut self) {
        for n in (1..self.files).rev() {
            let _ = fs::rename(self.packed(n - 1), self.packed(n));
            if fs::rename(numbered(&self.path, n - 1), numbered(&self.path, n)).is_ok() {
                let _ = fs::remove_file(self.packed(n));
            }
        }
        let fresh = self.path.with_extension("new");
        self.file = File::create(&fresh).unwrap();
        fs::rename(fresh, &self.path).unwrap();
    }

    fn pack(&self, n: u32) {
        let plain = numbered(&self.path, n);
        let Ok(bytes) = fs::read(&plain) else { return };
        let new = self.path.with_extension("gz.new");
        let mut encoder = GzEncoder::new(File::create(&new).unwrap(), Compression::fast());
        encoder.write_all(&bytes).unwrap();
        encoder.finish().unwrap();
        fs::rename(new, self.packed(n)).unwrap();
        fs::remove_file(plain).unwrap();
    }

    fn open(&self, begin: Begin) -> Reader {
        Reader::open(self.path.clone(), self.form, begin, None).unwrap()
    }

    fn follow(&self, begin: Begin) -> Reader {
        let changes = Changes::of(&self.path).unwrap();
        Reader::open(self.path.clone(), self.form, begin, Some(changes)).unwrap()
    }

    fn read(&self, begin: Begin) -> String {
        all(&mut self.open(begin))
    }
}

fn entries(reader: &mut Reader) -> Vec<LogEntry> {
    let mut all = Vec::new();
    loop {
        let entries = reader.batch().unwrap();
        if entries.is_empty() {
            return all;
        }
        all.extend(entries);
    }
}

fn text(entries: &[LogEntry]) -> String {
    let text = |entry: &LogEntry| match entry.gap {
        true => "gap\n".to_owned(),
        false => String::from_utf8(entry.data.to_vec()).unwrap(),
    };
    entries.iter().map(text).collect()
}

fn all(reader: &mut Reader) -> String {
    text(&entries(reader))
}

fn lines(numbers: std::ops::Range<usize>) -> String {
    numbers.map(|n| format!("{n}\n")).collect()
}

#[test]
fn across_rotated_files() {
    for form in [Form::Json, Form::Binary] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::of(dir.path(), form, 3);
        for n in 0..9 {
            log.write(&format!("{n}\n"));
            if n % 3 == 2 && n < 8 {
                log.rotate();
            }
        }
        for packed in [None, Some(2), Some(1)] {
            if let Some(n) = packed {
                log.pack(n);
            }
            assert_eq!(log.read(Begin::Oldest(None)), lines(0..9));
            assert_eq!(log.read(Begin::Last(2)), lines(7..9));
            assert_eq!(log.read(Begin::Last(5)), lines(4..9));
            assert_eq!(log.read(Begin::Last(99)), lines(0..9));
            assert_eq!(log.read(Begin::Last(0)), "");
        }
    }
}

#[test]
fn files_that_are_too_old_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), 3);
    for n in 0..3 {
        log.write(&format!("{n}\n"));
        if n < 2 {
            log.rotate();
        }
    }
    let written =
        |n: u32| Timestamp::from(numbered(&log.path, n).metadata().unwrap().modified().unwrap());
    assert_eq!(log.read(Begin::Oldest(Some(written(2)))), lines(0..3));
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5);
    for n in [1, 2] {
        File::options()
            .write(true)
            .open(numbered(&log.path, n))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    assert_eq!(log.read(Begin::Oldest(Some(Timestamp { seconds: 5, nanos: 0 }))), lines(0..3));
    assert_eq!(log.read(Begin::Oldest(Some(Timestamp { seconds: 6, nanos: 0 }))), lines(2..3));
    // The one that is written is read in any case.
    assert_eq!(
        log.read(Begin::Oldest(Some(Timestamp { seconds: i64::MAX, nanos: 0 }))),
        lines(2..3)
    );
}

#[test]
fn reading_goes_on_behind_every_cursor() {
    for form in [Form::Json, Form::Binary] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::of(dir.path(), form, 9);
        let empty = log.open(Begin::Last(0)).cursor().unwrap();
        assert_eq!(empty, LogCursor::default());
        for n in 0..12 {
            log.write(&format!("{n}\n"));
            if n % 3 == 2 {
                log.rotate();
            }
        }
        assert_eq!(log.read(Begin::Behind(empty)), lines(0..12));
        // The youngest file is empty: its end is that of the one before.
        let end = log.open(Begin::Last(0)).cursor().unwrap();
        let known = entries(&mut log.open(Begin::Oldest(None)));
        assert_eq!(known.len(), 12);
        assert_eq!(end, known[11].cursor);
        for step in 0..3 {
            for (n, entry) in known.iter().enumerate() {
                assert_eq!(log.read(Begin::Behind(entry.cursor)), lines(n + 1..12 + step));
            }
            assert_eq!(log.read(Begin::Behind(end)), lines(12..12 + step));
            log.pack(2);
            log.write(&format!("{}\n", 12 + step));
            log.rotate();
            log.pack(1);
        }
    }
}

#[test]
fn a_cursor_whose_file_is_gone_or_shorter_tells_of_a_gap() {
    for form in [Form::Json, Form::Binary] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::of(dir.path(), form, 2);
        log.write("0\n");
        log.write("1\n");
        let known = entries(&mut log.open(Begin::Oldest(None)));
        log.file.set_len(known[1].cursor.at - 1).unwrap();
        assert!(log.read(Begin::Behind(known[1].cursor)).starts_with("gap\n0\n"));
        log.file.set_len(known[0].cursor.at).unwrap();
        assert_eq!(log.read(Begin::Behind(known[0].cursor)), "");
        for n in 2..4 {
            log.rotate();
            log.write(&format!("{n}\n"));
        }
        let mut reader = log.open(Begin::Behind(known[0].cursor));
        let read = entries(&mut reader);
        assert_eq!(text(&read), format!("gap\n{}", lines(2..4)));
        // Who has heard of it does not hear of it again.
        assert_eq!(log.read(Begin::Behind(read[0].cursor)), lines(2..4));
    }
}

#[test]
fn rotation_while_following() {
    for form in [Form::Json, Form::Binary] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::of(dir.path(), form, 4);
        let mut reader = log.open(Begin::Last(0));
        let (mut want, mut got) = (String::new(), Vec::new());
        for n in 0..200 {
            let line = format!("line {n}\n");
            log.write(&line);
            want += &line;
            if n % 5 == 0 {
                log.rotate();
            }
            if n % 7 == 0 {
                log.pack(1);
            }
            // Up to two rotations between two looks.
            if n % 9 == 0 {
                got.extend(entries(&mut reader));
            }
            // A client that comes back with its last cursor.
            if n % 31 == 0 {
                reader = log.open(Begin::Behind(got.last().unwrap().cursor));
            }
        }
        got.extend(entries(&mut reader));
        assert_eq!(text(&got), want);
    }
}

#[tokio::test]
async fn what_was_rotated_away_is_told() {
    for files in [1, 2, 3] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), files);
        log.write("0\n");
        let mut reader = log.follow(Begin::Oldest(None));
        assert_eq!(all(&mut reader), "0\n");
        let mut next = 1;
        let mut rotate = |times: usize| {
            for _ in 0..times {
                log.rotate();
                log.write(&format!("{next}\n"));
                next += 1;
            }
            next
        };
        let files = files as usize;
        // The whole rotation, and nothing is lost.
        let end = rotate(files);
        assert_eq!(all(&mut reader), lines(1..end), "{files} files");
        let end = rotate(files + 1);
        assert_eq!(all(&mut reader), format!("gap\n{}", lines(end - files..end)), "{files} files");
        let end = rotate(1);
        assert_eq!(all(&mut reader), format!("{}\n", end - 1));
    }
}

#[tokio::test]
async fn what_is_seen_in_time_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = Log::new(dir.path(), 2);
    let mut reader = log.follow(Begin::Oldest(None));
    let mut rotate = |from: usize, to: usize, reader: &mut Reader| {
        for n in from..to {
            log.write(&format!("{n}\n"));
            log.rotate();
            reader.keep_up().unwrap();
        }
    };
    rotate(0, HELD, &mut reader);
    assert_eq!(all(&mut reader), lines(0..HELD));
    // Not without end.
    rotate(0, HELD + 5, &mut reader);
    let kept = all(&mut reader);
    assert!(kept.contains("gap\n") && kept.ends_with(&lines(HELD..HELD + 5)), "{kept}");
}

#[tokio::test]
async fn who_is_slow_misses_nothing_that_is_still_there() {
    for packing in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path(), 40);
        let mut reader = log.follow(Begin::Oldest(None));
        for n in 0..30 {
            log.write(&format!("{n}\n"));
            log.rotate();
            reader.keep_up().unwrap();
            if packing {
                log.pack(1);
            }
        }
        assert_eq!(all(&mut reader), lines(0..30), "packing: {packing}");
    }
}

#[test]
fn a_log_that_does_not_exist_yet_and_a_torn_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut reader = Reader::open(path, Form::Json, Begin::Last(5), None).unwrap();
    assert_eq!(all(&mut reader), "");
    let mut log = Log::new(dir.path(), 1);
    log.write("a\n");
    write!(log.file, "{{\"log\":\"b").unwrap();
    assert_eq!(all(&mut reader), "a\n");
    writeln!(log.file, "\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05Z\"}}").unwrap();
    assert_eq!(all(&mut reader), "b\n");
}
