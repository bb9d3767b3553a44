//! Where the last lines begin, found from the end.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::entry::LogEntry;

/// Bytes read at a time.
const BLOCK: u64 = 64 * 1024;

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

    /// Reads a file backwards. Returns where the lines begin, or `None` when
    /// all of the file belongs to them and more may lie in older files.
    ///
    /// A line that was recorded in several parts is one line.
    pub(crate) fn scan(&mut self, file: &File) -> io::Result<Option<u64>> {
        let mut end = file.metadata()?.len();
        if self.wanted == 0 && self.first {
            return Ok(Some(end));
        }
        // The beginning of a record whose end lies in the block behind.
        let mut rest: Vec<u8> = Vec::new();
        while end > 0 {
            let begin = end.saturating_sub(BLOCK);
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
        let Some(entry) = LogEntry::parse(record) else { return false };
        if !entry.partial || self.first {
            if self.wanted == 0 {
                return true;
            }
            self.wanted -= 1;
        }
        self.first = false;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn record(text: &str) -> String {
        let log = serde_json::to_string(text).unwrap();
        format!("{{\"log\":{log},\"stream\":\"stdout\",\"time\":\"2026-01-02T03:04:05Z\"}}\n")
    }

    fn last(texts: &[&str], torn: &str, wanted: u64) -> String {
        let mut file = tempfile::tempfile().unwrap();
        let all: String = texts.iter().map(|t| record(t)).collect::<String>() + torn;
        file.write_all(all.as_bytes()).unwrap();
        let at = Counter::new(wanted).scan(&file).unwrap().unwrap_or(0);
        let lines = all[usize::try_from(at).unwrap()..].lines();
        let entries = lines.filter_map(|l| LogEntry::parse(l.as_bytes()));
        entries.map(|e| String::from_utf8(e.data.to_vec()).unwrap()).collect()
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
}
