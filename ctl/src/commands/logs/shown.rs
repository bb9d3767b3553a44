//! What of a log is printed.

use std::collections::BTreeMap;

use gantry_grpc::gantry::engine::v1 as api;

use crate::human;
use crate::printer::Printer;

/// Bytes that are printed at once, when there are so many.
const FULL: usize = 64 * 1024;
/// Bytes that are held while a line of the other stream has not ended.
const MOST: usize = 1 << 20;
/// What is told of output that is gone.
const GAP: &[u8] = b"gantry: output was rotated away before it could be read\n";

/// What is to be printed of a log. Lines of one stream stay whole where they meet those of
/// the other, for they may go to the same place.
#[derive(Debug)]
pub(super) struct Shown {
    timestamps: bool,
    details: bool,
    /// Whether standard output and standard error are within a line.
    within: [bool; 2],
    /// Within a line of which of them that which is printed ends: standard error or not.
    open: Option<bool>,
    /// What is to be printed, to standard error or not.
    waiting: Vec<(bool, Vec<u8>)>,
    /// Bytes of it.
    bytes: usize,
    /// What comes behind the line that is open, of the other stream.
    held: Vec<u8>,
    held_stderr: bool,
    /// Nothing was added yet.
    nothing: bool,
}

impl Shown {
    /// Nothing yet; with times before lines, and with what is stored with them.
    pub(super) fn new(timestamps: bool, details: bool) -> Self {
        Self {
            timestamps,
            details,
            within: [false; 2],
            open: None,
            waiting: Vec::new(),
            bytes: 0,
            held: Vec::new(),
            held_stderr: false,
            nothing: true,
        }
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, entry: &api::LogEntry) {
        if entry.gap {
            self.release();
            (self.within, self.open) = ([false; 2], None);
            return self.append(true, GAP);
        }
        // The place where reading begins.
        if entry.data.is_empty() {
            return;
        }
        self.nothing = false;
        let data = self.prefixed(entry);
        if self.open == Some(!entry.stderr) && self.held.len() < MOST {
            self.held.extend_from_slice(&data);
            self.held_stderr = entry.stderr;
            return;
        }
        if self.open != Some(entry.stderr) {
            self.release();
        }
        self.append(entry.stderr, &data);
        self.open = entry.partial.then_some(entry.stderr);
        if !entry.partial {
            self.release();
        }
    }

    /// Whether nothing was added.
    pub(super) fn is_new(&self) -> bool {
        self.nothing
    }

    /// Whether it is time to print.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= FULL
    }

    /// Whether something is held until a line has ended.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Holds nothing any longer, be the line at its end or not.
    pub(super) fn release(&mut self) {
        if self.holds() {
            let (stderr, held) = (self.held_stderr, std::mem::take(&mut self.held));
            self.append(stderr, &held);
            self.open = self.within[usize::from(stderr)].then_some(stderr);
        }
    }

    /// Prints what is to be printed.
    ///
    /// # Errors
    /// As the printer's.
    pub(super) fn flush(&mut self, printer: &Printer) -> anyhow::Result<()> {
        self.bytes = 0;
        for (stderr, data) in self.waiting.drain(..) {
            match stderr {
                true => printer.error_data(&data)?,
                false => printer.data(&data)?,
            }
        }
        Ok(())
    }

    /// An entry with what stands before lines, and not before parts of a long one.
    fn prefixed(&mut self, entry: &api::LogEntry) -> Vec<u8> {
        let mut data = Vec::new();
        let within = &mut self.within[usize::from(entry.stderr)];
        if !*within {
            if self.timestamps {
                let time = human::time(entry.time).unwrap_or_default();
                data.extend_from_slice(human::rfc3339(time).as_bytes());
                data.push(b' ');
            }
            if self.details {
                data.extend_from_slice(joined(&entry.attributes).as_bytes());
                data.push(b' ');
            }
        }
        *within = entry.partial;
        data.extend_from_slice(&entry.data);
        data
    }

    fn append(&mut self, stderr: bool, data: &[u8]) {
        self.bytes += data.len();
        match self.waiting.last_mut() {
            Some((last, waiting)) if *last == stderr => waiting.extend_from_slice(data),
            _ => self.waiting.push((stderr, data.to_vec())),
        }
    }
}

/// `k=v,l=w`, each as in a URL's query.
fn joined(attributes: &BTreeMap<String, String>) -> String {
    let pair = |(key, value): (&String, &String)| format!("{}={}", escaped(key), escaped(value));
    attributes.iter().map(pair).collect::<Vec<_>>().join(",")
}

/// A text as in a URL's query.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "1970-01-01T00:00:00.000000005Z";

    fn entry(stderr: bool, data: &str, partial: bool) -> api::LogEntry {
        api::LogEntry {
            stderr,
            data: data.to_owned().into(),
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 5 }),
            partial,
            ..Default::default()
        }
    }

    /// What entries are printed as, and to which stream.
    fn printed(shown: &mut Shown, entries: &[api::LogEntry]) -> Vec<(bool, String)> {
        for entry in entries {
            shown.add(entry);
        }
        let text = |(stderr, data)| (stderr, String::from_utf8(data).unwrap());
        shown.waiting.drain(..).map(text).collect()
    }

    #[test]
    fn each_line_has_one_time_and_stays_whole() {
        let mut shown = Shown::new(true, false);
        let entries = [
            entry(false, "long", true),
            entry(true, "other\n", false),
            entry(false, " line\n", false),
            entry(false, "next\n", false),
        ];
        let wanted = [
            (false, format!("{TIME} long line\n")),
            (true, format!("{TIME} other\n")),
            (false, format!("{TIME} next\n")),
        ];
        assert_eq!(printed(&mut shown, &entries), wanted);
        assert!(!shown.is_new() && !shown.is_full());
    }

    #[test]
    fn nothing_is_held_for_long() {
        let mut shown = Shown::new(false, false);
        let part = entry(false, "part", true);
        let wanted = [(false, "part".to_owned())];
        assert_eq!(printed(&mut shown, std::slice::from_ref(&part)), wanted);
        let other = entry(true, &("x".repeat(1000) + "\n"), false);
        for _ in 0..=MOST / 1001 {
            assert!(printed(&mut shown, std::slice::from_ref(&other)).is_empty());
            assert!(shown.holds());
        }
        let all = printed(&mut shown, &[other]);
        let [(true, text)] = &all[..] else { panic!("{} pieces", all.len()) };
        assert_eq!(text.len(), 1001 * (MOST / 1001 + 2));
        assert!(shown.is_full());
        let wanted = [(false, "part".to_owned()), (true, "more\n".to_owned())];
        shown.add(&part);
        shown.add(&entry(true, "more\n", false));
        shown.release();
        assert!(!shown.holds());
        assert_eq!(printed(&mut shown, &[]), wanted);
    }

    #[test]
    fn a_gap_ends_all_lines_and_is_told() {
        let mut shown = Shown::new(true, false);
        let gap = api::LogEntry { gap: true, ..Default::default() };
        let entries = [entry(false, "part", true), entry(true, "held\n", false), gap];
        let told = std::str::from_utf8(GAP).unwrap();
        let wanted = [(false, format!("{TIME} part")), (true, format!("{TIME} held\n{told}"))];
        assert_eq!(printed(&mut shown, &entries), wanted);
        let next = printed(&mut shown, &[entry(false, "next\n", false)]);
        assert_eq!(next, [(false, format!("{TIME} next\n"))]);
    }

    #[test]
    fn details_stand_before_lines_as_docker_writes_them() {
        let mut shown = Shown::new(false, true);
        let pairs = [("team", "a b"), ("x/y", "\u{e9}=1"), ("A.b-c_~", "")];
        let pairs = pairs.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let attributes = BTreeMap::from(pairs);
        let one = api::LogEntry { attributes, ..entry(false, "one\n", false) };
        let wanted = "A.b-c_~=,team=a+b,x%2Fy=%C3%A9%3D1 one\n two\n".to_owned();
        assert_eq!(printed(&mut shown, &[one, entry(false, "two\n", false)]), [(false, wanted)]);
    }

    #[test]
    fn the_place_where_reading_begins_is_not_shown() {
        let mut shown = Shown::new(true, true);
        assert!(printed(&mut shown, &[entry(false, "", false)]).is_empty());
        assert!(shown.is_new());
    }
}
