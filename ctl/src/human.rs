//! Times and sizes as people read them, in Docker's words.

use std::time::{Duration, SystemTime};

use gantry_core::Timestamp;

use crate::zone;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
const MONTH: u64 = 30 * DAY;
const YEAR: u64 = 365 * DAY;

/// About how long: `About a minute`, `2 hours`.
pub(crate) fn duration(length: Duration) -> String {
    let seconds = length.as_secs();
    // Hours are rounded, everything else is cut.
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        0 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..MINUTE => format!("{seconds} seconds"),
        MINUTE..120 => "About a minute".to_owned(),
        120..HOUR => format!("{} minutes", seconds / MINUTE),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if seconds < 2 * WEEK => format!("{} days", seconds / DAY),
        _ if seconds < 2 * MONTH => format!("{} weeks", seconds / WEEK),
        _ if seconds < 2 * YEAR => format!("{} months", seconds / MONTH),
        _ => format!("{} years", seconds / YEAR),
    }
}

/// How long before `now`; a time to come is now.
pub(crate) fn since(time: Timestamp, now: SystemTime) -> String {
    let nanos = Timestamp::from(now).unix_nanos().saturating_sub(time.unix_nanos());
    let seconds = u64::try_from(nanos / 1_000_000_000).unwrap_or(0);
    duration(Duration::from_secs(seconds))
}

/// A time in the caller's zone, as Go prints it. Empty for one that is not known.
pub(crate) fn stamp(time: Option<Timestamp>) -> String {
    time.map(zone::stamp).unwrap_or_default()
}

/// [`since`] with `ago`; `N/A` for a time that is not known.
pub(crate) fn ago(time: Option<Timestamp>, now: SystemTime) -> String {
    match time {
        Some(time) if !time.is_unset() => format!("{} ago", since(time, now)),
        _ => "N/A".to_owned(),
    }
}

/// A time of the wire.
pub(crate) fn time(wire: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    wire.map(|t| Timestamp { seconds: t.seconds, nanos: t.nanos })
}

/// RFC 3339 in UTC, with all nine digits of the fraction, so that columns stay straight.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    let whole = Timestamp { seconds: time.seconds, nanos: 0 }.to_string();
    let whole = whole.strip_suffix('Z').unwrap_or(&whole);
    format!("{whole}.{:09}Z", time.nanos)
}

/// Units of powers of 1000.
const DECIMAL: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
/// Units of powers of 1024.
const BINARY: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A size in powers of 1000 with three digits: `12.3MB`.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, 3, &DECIMAL)
}

/// Space on the disk, in powers of 1000 with four digits: `12.35MB`.
pub(crate) fn space(bytes: u64) -> String {
    scaled(bytes, 1000.0, 4, &DECIMAL)
}

/// Memory, in powers of 1024 with four digits: `7.655GiB`.
pub(crate) fn memory(bytes: u64) -> String {
    scaled(bytes, 1024.0, 4, &BINARY)
}

fn scaled(bytes: u64, base: f64, digits: usize, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would be rounded to one digit more belongs to the next unit.
    let full = if digits == 3 { 999.5 } else { base };
    while unit + 1 < units.len() && value >= full {
        value /= base;
        unit += 1;
    }
    let mut decimals = digits - 1;
    let (mut limit, mut half) = (10.0, 0.5 / 10f64.powi(digits as i32 - 1));
    while decimals > 0 && value >= limit - half {
        decimals -= 1;
        limit *= 10.0;
        half *= 10.0;
    }
    let mut text = format!("{value:.decimals$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text.push_str(units[unit]);
    text
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn durations_in_dockers_words() {
        let table = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (59 * MINUTE + 59, "59 minutes"),
            (HOUR, "About an hour"),
            (89 * MINUTE, "About an hour"),
            (90 * MINUTE, "2 hours"),
            (47 * HOUR, "47 hours"),
            (48 * HOUR, "2 days"),
            (13 * DAY, "13 days"),
            (14 * DAY, "2 weeks"),
            (59 * DAY, "8 weeks"),
            (60 * DAY, "2 months"),
            (729 * DAY, "24 months"),
            (730 * DAY, "2 years"),
        ];
        for (seconds, words) in table {
            assert_eq!(duration(Duration::from_secs(seconds)), words, "{seconds} s");
        }
    }

    #[test]
    fn times_that_are_not_known_or_to_come() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        assert_eq!(ago(at(995), now), "5 seconds ago");
        assert_eq!(ago(at(2000), now), "Less than a second ago");
        assert_eq!(ago(at(0), now), "N/A");
        assert_eq!(ago(None, now), "N/A");
    }

    #[test]
    fn sizes_have_three_digits() {
        let table = [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1234, "1.23kB"),
            (12_345_678, "12.3MB"),
            (120_000_000, "120MB"),
            (4_260_000, "4.26MB"),
            (999_999, "1MB"),
            (9_999, "10kB"),
            (1_500_000_000, "1.5GB"),
        ];
        for (bytes, text) in table {
            assert_eq!(size(bytes), text, "{bytes} bytes");
        }
    }

    #[test]
    fn space_and_memory_have_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (12_345_678, "12.35MB"),
            (1_500_000_000, "1.5GB"),
            (9_999_600, "10MB"),
            (123_456_789, "123.5MB"),
        ] {
            assert_eq!(space(bytes), text, "{bytes} bytes");
        }
        assert_eq!(memory(8_219_766_784), "7.655GiB");
        assert_eq!(memory(1023), "1023B");
        assert_eq!(memory(1 << 30), "1GiB");
    }

    #[test]
    fn stamps_have_one_width() {
        let time = Timestamp { seconds: 1_700_000_000, nanos: 120 };
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.000000120Z");
        assert_eq!(rfc3339(Timestamp { nanos: 0, ..time }).len(), rfc3339(time).len());
    }
}
