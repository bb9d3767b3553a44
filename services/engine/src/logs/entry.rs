use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use gantry_core::{Labels, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::LogCursor;

/// A piece of recorded output: a line with its end, or a part of a long one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogEntry {
    /// From standard error.
    pub stderr: bool,
    /// The bytes.
    pub data: Bytes,
    /// When it was written.
    pub time: Timestamp,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    /// No output: what came here was rotated away before it could be read, or is damaged.
    pub gap: bool,
    /// What is stored beside it, when that was asked for.
    pub attributes: Option<Arc<Labels>>,
    /// The place behind it.
    pub cursor: LogCursor,
}

impl LogEntry {
    /// The mark of output that is gone.
    pub(crate) fn missing(cursor: LogCursor) -> Self {
        Self { gap: true, cursor, ..Self::default() }
    }
}

/// A line of a json-file.
#[derive(Deserialize)]
pub(crate) struct Record<'a> {
    #[serde(borrow)]
    pub(crate) log: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow, default)]
    attrs: Option<&'a RawValue>,
}

impl<'a> Record<'a> {
    /// Reads one line of the file; `None` for one that a crash left behind
    /// half-written.
    pub(crate) fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    /// When it was written.
    pub(crate) fn time(&self) -> Timestamp {
        Timestamp::parse_rfc3339(&self.time).unwrap_or_default()
    }

    /// Whether the line goes on in another record.
    pub(crate) fn is_partial(&self) -> bool {
        !self.log.ends_with('\n')
    }

    /// JSON of what is stored beside it.
    pub(crate) fn attributes(&self) -> &'a str {
        self.attrs.map(RawValue::get).unwrap_or_default()
    }
}

/// What is stored beside entries, most of which have the same.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    json: Vec<u8>,
    parsed: Option<Arc<Labels>>,
}

impl Attributes {
    /// Takes a JSON object, or nothing; what makes no sense counts as nothing.
    pub(crate) fn set(&mut self, json: &[u8]) {
        if self.json != json {
            self.parsed = serde_json::from_slice::<Labels>(json).ok().map(Arc::new);
            self.json = json.to_vec();
        }
    }

    /// The object that was taken last.
    pub(crate) fn get(&self) -> Option<Arc<Labels>> {
        self.parsed.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let line = br#"{"log":"a\"b\u00e9\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z"}"#;
        let record = Record::parse(line).unwrap();
        assert_eq!((&*record.log, &*record.stream), ("a\"b\u{e9}\n", "stderr"));
        assert!(!record.is_partial() && record.attributes().is_empty());
        assert_eq!(record.time().to_string(), "2026-01-02T03:04:05.5Z");
        // As Docker writes it.
        let line = br#"{"log":"a","stream":"stdout","attrs":{"k":"v"},"time":"x"}"#;
        let record = Record::parse(line).unwrap();
        assert!(record.is_partial());
        assert_eq!(record.attributes(), r#"{"k":"v"}"#);
        assert_eq!(record.time(), Timestamp::default());
        assert!(Record::parse(b"{\"log\":\"a").is_none());
    }

    #[test]
    fn attributes_are_read_when_they_change() {
        let mut attributes = Attributes::default();
        assert_eq!(attributes.get(), None);
        attributes.set(br#"{"k":"v"}"#);
        let first = attributes.get().unwrap();
        attributes.set(br#"{"k":"v"}"#);
        assert!(Arc::ptr_eq(&first, &attributes.get().unwrap()));
        assert_eq!(first["k"], "v");
        attributes.set(b"");
        assert_eq!(attributes.get(), None);
    }
}
