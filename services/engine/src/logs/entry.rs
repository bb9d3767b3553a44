use std::borrow::Cow;

use bytes::Bytes;
use gantry_core::Timestamp;
use serde::Deserialize;

/// A piece of recorded output: a line with its end, or a part of a long one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// From standard error.
    pub stderr: bool,
    /// The bytes.
    pub data: Bytes,
    /// When it was written.
    pub time: Timestamp,
    /// The line goes on in the next entry of the same stream.
    pub partial: bool,
    /// No output: what came here was rotated away before it could be read.
    pub gap: bool,
}

/// As it is stored, a line of the file each.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
}

impl LogEntry {
    /// Reads one line of the file; `None` for one that a crash left behind
    /// half-written.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let record: Record<'_> = serde_json::from_slice(line).ok()?;
        Some(Self {
            stderr: record.stream == "stderr",
            partial: !record.log.ends_with('\n'),
            data: Bytes::copy_from_slice(record.log.as_bytes()),
            time: Timestamp::parse_rfc3339(&record.time).unwrap_or_default(),
            gap: false,
        })
    }

    /// The mark of output that is gone.
    pub(crate) fn missing() -> Self {
        Self {
            stderr: false,
            data: Bytes::new(),
            time: Timestamp::default(),
            partial: false,
            gap: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries() {
        let line = br#"{"log":"a\"b\u00e9\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z"}"#;
        let entry = LogEntry::parse(line).unwrap();
        assert_eq!(entry.data, "a\"b\u{e9}\n");
        assert!(entry.stderr && !entry.partial);
        assert_eq!(entry.time.to_string(), "2026-01-02T03:04:05.5Z");
        let line = br#"{"log":"a","stream":"stdout","time":"2026-01-02T03:04:05Z"}"#;
        assert!(LogEntry::parse(line).unwrap().partial);
        assert_eq!(LogEntry::parse(b"{\"log\":\"a"), None);
    }
}
