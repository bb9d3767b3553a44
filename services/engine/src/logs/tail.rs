//! Where the last lines begin.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entry::Record;
use super::place::{BLOCK, Form, Place};

/// Counts lines from the end, over several files.
#[derive(Debug)]
pub(crate) struct Counter {
    /// Lines that are still wanted.
    wanted: u64,
    /// Nothing was seen yet: what comes first counts, finished or not.
    first: bool,
}

impl Counter {
    /// Looks for the last `wanted` lines.
    pub(crate) fn new(wanted: u64) -> Self {
        Self { wanted, first: true }
    }

    /// Looks through a file. Returns where the lines begin, or `None` when
    /// all of the file belongs to them and more may lie in older files.
    ///
    /// A line that was recorded in several parts is one line.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn scan(&mut self, place: &Place) -> io::Result<Option<u64>> {
        if place.form() == Form::Json && !place.is_packed() {
            self.scan_backwards(place.file())
        } else {
            self.scan_forwards(place)
        }
    }

    /// Reads all of a file, at most twice.
    fn scan_forwards(&mut self, place: &Place) -> io::Result<Option<u64>> {
        let (mut lines, mut end, mut partial) = (0, None, false);
        let mut all = place.again();
        while let Some(entries) = all.read(BLOCK)? {
            for entry in entries.iter().filter(|entry| !entry.gap) {
                lines += u64::from(!entry.partial);
                (end, partial) = (Some(entry.cursor.at), entry.partial);
            }
        }
        let Some(end) = end else { return Ok(None) };
        if self.first && self.wanted == 0 {
            return Ok(Some(end));
        }
        lines += u64::from(self.first && partial);
        self.first = false;
        if lines <= self.wanted {
            self.wanted -= lines;
            return Ok(None);
        }
        // The lines begin behind so many others.
        let mut before = lines - self.wanted;
        let mut all = place.again();
        while let Some(entries) = all.read(BLOCK)? {
            for entry in entries.iter().filter(|entry| !entry.gap && !entry.partial) {
                before -= 1;
                if before == 0 {
                    return Ok(Some(entry.cursor.at));
                }
            }
        }
        Ok(Some(end))
    }

    /// Reads a json-file from its end.
    fn scan_backwards(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut end = file.metadata()?.len();
        if self.wanted == 0 && self.first {
            return last_end(file, end);
        }
        // The beginning of a record whose end lies in the block behind.
        let mut rest: Vec<u8> = Vec::new();
        while end > 0 {
            let begin = end.saturating_sub(BLOCK as u64);
            let mut block = vec![0; (end - begin) as usize];
            file.read_exact_at(&mut block, begin)?;
            block.append(&mut rest);
            let mut until = block.len();
            // `until` is the end of a record; look for the end of the one before.
            while let Some(at) = block[..until].iter().rposition(|b| *b == b'\n') {
                let is_end = at + 1 == until;
                if is_end {
                    match block[..at].iter().rposition(|b| *b == b'\n') {
                        Some(before) => {
                            if self.count(&block[before + 1..at]) {
                                return Ok(Some(begin + until as u64));
                            }
                            until = before + 1;
                        }
                        None => break,
                    }
                } else {
                    // Behind the last newline is what is being written now.
                    until = at + 1;
                }
            }
            if begin == 0 {
                let record = block[..until].strip_suffix(b"\n").unwrap_or(&block[..until]);
                if !record.is_empty() && self.count(record) {
                    return Ok(Some(until as u64));
                }
                return Ok(None);
            }
            block.truncate(until);
            rest = block;
            end = begin;
        }
        Ok(None)
    }

    /// Whether this record is the end of a line too many.
    fn count(&mut self, record: &[u8]) -> bool {
        let Some(record) = Record::parse(record) else { return false };
        if !record.is_partial() || self.first {
            if self.wanted == 0 {
                return true;
            }
            self.wanted -= 1;
        }
        self.first = false;
        false
    }
}

/// Where the last whole line of a file ends; `None` when there is none.
fn last_end(file: &File, mut end: u64) -> io::Result<Option<u64>> {
    while end > 0 {
        let begin = end.saturating_sub(BLOCK as u64);
        let mut block = vec![0; (end - begin) as usize];
        file.read_exact_at(&mut block, begin)?;
        if let Some(at) = block.iter().rposition(|b| *b == b'\n') {
            return Ok(Some(begin + at as u64 + 1));
        }
        end = begin;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use gantry_core::local_log::{self, Kind};

    use super::super::files::Found;
    use super::*;

    /// What a log of these records, in each form, has behind the place that is found.
    fn last(texts: &[&str], torn: &str, wanted: u64) -> String {
        let mut json = Vec::new();
        let mut binary = Vec::new();
        for (n, text) in (1..).zip(texts) {
            let log = serde_json::to_string(text).unwrap();
            let time = format!("2026-01-02T03:04:05.{n:09}Z");
            let line = format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"{time}\"}}\n");
            json.extend_from_slice(line.as_bytes());
            let record = local_log::Record { kind: Kind::Stdout, nanos: n, data: text.as_bytes() };
            local_log::encode(record, &mut binary);
        }
        binary.extend_from_slice(&torn.as_bytes()[..torn.len().min(3)]);
        let packed = json.clone();
        json.extend_from_slice(torn.as_bytes());
        let found = [
            found(Form::Json, &json, false, wanted),
            found(Form::Json, &packed, true, wanted),
            found(Form::Binary, &binary, false, wanted),
            found(Form::Binary, &binary, true, wanted),
        ];
        assert!(found.iter().all(|text| *text == found[0]), "{found:?}");
        found.into_iter().next().unwrap()
    }

    fn found(form: Form, bytes: &[u8], packed: bool, wanted: u64) -> String {
        let mut file = tempfile::tempfile().unwrap();
        if packed {
            let mut encoder = GzEncoder::new(file.try_clone().unwrap(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(bytes).unwrap();
        }
        let mut place = Place::new(Found { file, packed }, form).unwrap();
        let at = Counter::new(wanted).scan(&place).unwrap().unwrap_or(0);
        place.skip_to(at).unwrap();
        let mut text = String::new();
        while let Some(entries) = place.read(BLOCK).unwrap() {
            for entry in entries {
                text += std::str::from_utf8(&entry.data).unwrap();
            }
        }
        text
    }

    #[test]
    fn last_lines() {
        let texts = ["a\n", "b\n", "c\n"];
        assert_eq!(last(&texts, "", 0), "");
        assert_eq!(last(&texts, "", 1), "c\n");
        assert_eq!(last(&texts, "", 2), "b\nc\n");
        assert_eq!(last(&texts, "", 3), "a\nb\nc\n");
        assert_eq!(last(&texts, "", 9), "a\nb\nc\n");
        assert_eq!(last(&texts, "{\"log\":\"half", 1), "c\n");
        assert_eq!(last(&texts, "{\"log\":\"half", 0), "");
        assert_eq!(last(&[], "", 3), "");
    }

    #[test]
    fn parts_are_one_line() {
        assert_eq!(last(&["a\n", "b1", "b2", "b3\n", "c"], "", 1), "c");
        assert_eq!(last(&["a\n", "b1", "b2", "b3\n", "c"], "", 2), "b1b2b3\nc");
        assert_eq!(last(&["a\n", "b1", "b2\n"], "", 1), "b1b2\n");
    }

    #[test]
    fn more_than_a_block() {
        let long = "x".repeat(16_000);
        let texts: Vec<String> = (0..40).map(|n| format!("{n} {long}\n")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        for wanted in [1, 4, 5, 17, 39, 40] {
            let found = last(&texts, "", wanted);
            assert_eq!(found, texts[texts.len() - usize::try_from(wanted).unwrap()..].concat());
        }
    }

    #[test]
    fn lines_are_counted_over_files() {
        let files = ["5\n6\n", "4", "1\n2\n3"];
        let place = |text: &str, form: Form| {
            let mut bytes = Vec::new();
            for (n, text) in (1..).zip(text.split_inclusive('\n')) {
                if form == Form::Binary {
                    let data = text.as_bytes();
                    let record = local_log::Record { kind: Kind::Stdout, nanos: n, data };
                    local_log::encode(record, &mut bytes);
                } else {
                    let log = serde_json::to_string(text).unwrap();
                    bytes.extend_from_slice(
                        format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"\"}}\n")
                            .as_bytes(),
                    );
                }
            }
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            Place::new(Found { file, packed: false }, form).unwrap()
        };
        for form in [Form::Json, Form::Binary] {
            // The lines are 1, 2, 345 and 6.
            for (wanted, file, whole) in
                [(0, 0, false), (1, 0, false), (2, 2, false), (3, 2, false), (4, 3, true)]
            {
                let mut counter = Counter::new(wanted);
                let mut found = None;
                for (n, text) in files.iter().enumerate() {
                    if let Some(at) = counter.scan(&place(text, form)).unwrap() {
                        found = Some((n, at));
                        break;
                    }
                }
                assert_eq!(found.map_or(files.len(), |(n, _)| n), file, "{form:?} {wanted}");
                assert_eq!(found.is_none(), whole);
            }
        }
    }
}
