//! Wall-clock time in the two forms the shim writes.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970, zero for a clock before that.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Now as a protobuf timestamp.
pub fn timestamp(t: Duration) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: t.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: t.subsec_nanos() as i32,
    }
}

/// Appends `t` as RFC 3339 in UTC with nine digits of a second.
pub fn rfc3339(t: Duration, out: &mut Vec<u8>) {
    let (days, second) = (t.as_secs() / 86_400, t.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    // Writing into memory cannot fail.
    let _ =
        write!(out, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:09}Z", t.subsec_nanos());
}

/// The Gregorian date of a day counted from 1970-01-01. Years are counted from
/// March here, so that the leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000000007Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000000007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000007Z"),
        ];
        for (seconds, want) in cases {
            let mut out = Vec::new();
            rfc3339(Duration::new(seconds, 7), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), want);
        }
    }
}
