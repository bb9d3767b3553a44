//! Points in time as Docker's users write them: for `--since` and `--until`.

use chrono::{DateTime, Local, TimeZone};
use gantry_core::Timestamp;

/// A time, `2026-01-31T08:00:00Z` or a part of it, in the local zone unless one is named; or
/// seconds since 1970, `1769846400.5`; or how long ago, `10m`, `1h30m`.
///
/// # Errors
/// When it is none of them.
pub(crate) fn moment(text: &str) -> Result<Timestamp, String> {
    parse(text, Timestamp::now(), east_of_greenwich)
}

/// The same at a time, where clocks show so many seconds more than Greenwich's when they show
/// some.
fn parse(text: &str, now: Timestamp, offset: impl Fn(i64) -> i64) -> Result<Timestamp, String> {
    let Some(time) = Timestamp::parse_moment(text, now) else {
        return Err(format!("failed to parse value as time or duration: {text:?}"));
    };
    // Only where a zone can stand, and none does.
    let is_local = Timestamp::parse_moment(&format!("{text}Z"), now).is_some();
    let east = if is_local { offset(time.seconds) } else { 0 };
    Ok(Timestamp { seconds: time.seconds.saturating_sub(east), ..time })
}

/// So many seconds the clocks here are before Greenwich's, when they show what Greenwich's show
/// at `seconds` after 1970 began.
fn east_of_greenwich(seconds: i64) -> i64 {
    let Some(shown) = DateTime::from_timestamp(seconds, 0) else { return 0 };
    let shown = shown.naive_utc();
    // In an hour that summer time leaves out, as before it.
    let offset = Local.offset_from_local_datetime(&shown).earliest();
    let offset = offset.unwrap_or_else(|| Local.offset_from_utc_datetime(&shown));
    offset.local_minus_utc().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One hour before Greenwich's.
    fn at(text: &str) -> Result<String, String> {
        let now = Timestamp { seconds: 1_700_000_000, nanos: 0 };
        parse(text, now, |_| 3600).map(|time| time.to_string())
    }

    #[test]
    fn dates_are_local_unless_they_name_a_zone() {
        for (text, utc) in [
            ("10m", "2023-11-14T22:03:20Z"),
            ("-2s", "2023-11-14T22:13:22Z"),
            ("0", "1970-01-01T00:00:00Z"),
            ("1136073845.000000001", "2006-01-01T00:04:05.000000001Z"),
            ("2006-01-02T15:04:05Z", "2006-01-02T15:04:05Z"),
            ("2006-01-02T15:04:05+07:00", "2006-01-02T08:04:05Z"),
            ("2006-01-02T15:04-07:00", "2006-01-02T22:04:00Z"),
            ("2006-01-02Z", "2006-01-02T00:00:00Z"),
            ("2006-01-02-01:00", "2006-01-02T01:00:00Z"),
            ("2006-01-02T15:04:05.000000001", "2006-01-02T14:04:05.000000001Z"),
            ("2006-01-02T15:04", "2006-01-02T14:04:00Z"),
            ("2006-01-02T15", "2006-01-02T14:00:00Z"),
            ("2006-01-02", "2006-01-01T23:00:00Z"),
        ] {
            assert_eq!(at(text), Ok(utc.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "x", "1.2.3", "10d", "2006-01-32", "2006-01-02 15:04:05", "2006-1-2"] {
            let words = format!("failed to parse value as time or duration: {text:?}");
            assert_eq!(at(text), Err(words));
        }
    }

    #[test]
    fn clocks_here_are_less_than_a_day_off() {
        assert!(east_of_greenwich(1_700_000_000).abs() < 24 * 3600);
        assert_eq!(east_of_greenwich(i64::MAX), 0);
    }
}
