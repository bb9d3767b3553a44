use std::fmt;
use std::str::FromStr;

use gantry_core::{Error, Result, Timestamp};

use super::window::Within;

/// A place in a container's log, behind an entry. As text it is handed to clients, who hand it
/// back to go on there, also after the files were rotated or compressed, or the daemon restarted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCursor {
    /// Tells containers from each other.
    pub(crate) container: u64,
    /// Tells files from each other: nanoseconds since 1970 of the file's first record; 0 when
    /// there was none in the whole log.
    pub(crate) file: u64,
    /// Bytes of the file, as it was before it was compressed, up to here.
    pub(crate) at: u64,
    /// Lines that have begun and not ended.
    pub(crate) within: Within,
}

impl LogCursor {
    /// What a cursor knows a container by.
    pub(crate) fn container(id: &str) -> u64 {
        let digits = id.get(..id.len().min(16)).unwrap_or_default();
        u64::from_str_radix(digits, 16).unwrap_or_default()
    }

    /// What a cursor knows a file by whose first record has this time.
    pub(crate) fn file(first: Timestamp) -> u64 {
        u64::try_from(first.unix_nanos()).unwrap_or_default()
    }
}

impl fmt::Display for LogCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { container, file, at, within } = self;
        write!(f, "{container:x}-{file:x}-{at:x}-{within}")
    }
}

impl FromStr for LogCursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::invalid_argument(format!(
                "{text:?} is no cursor of a log: hand it back as it came"
            ))
        };
        let mut parts = text.split('-');
        let mut number = || {
            let part = parts.next().filter(|part| !part.starts_with('+'))?;
            u64::from_str_radix(part, 16).ok()
        };
        let (Some(container), Some(file), Some(at)) = (number(), number(), number()) else {
            return Err(bad());
        };
        let within = parts.next().and_then(Within::parse).ok_or_else(bad)?;
        if parts.next().is_some() {
            return Err(bad());
        }
        Ok(Self { container, file, at, within })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let mut within = Within::default();
        within.set(true, true, true);
        let first = Timestamp { seconds: 1_700_000_000, nanos: 9 };
        let cursor = LogCursor {
            container: LogCursor::container(&"0123456789abcdef".repeat(4)),
            file: LogCursor::file(first),
            at: 4711,
            within,
        };
        let text = cursor.to_string();
        assert_eq!(text, "123456789abcdef-17979cfe362a0009-1267-3");
        assert_eq!(text.parse::<LogCursor>().unwrap(), cursor);
        let none = LogCursor::default();
        assert_eq!(none.to_string().parse::<LogCursor>().unwrap(), none);
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for bad in ["", "1-2-3", "1-2-3-9", "1-2-3-0-0", "x-2-3-0", "+1-2-3-0", "1--3-0"] {
            let err = bad.parse::<LogCursor>().unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument, "{bad}");
        }
        assert_eq!(LogCursor::container("short"), 0);
        assert_eq!(LogCursor::file(Timestamp { seconds: -5, nanos: 0 }), 0);
    }
}
