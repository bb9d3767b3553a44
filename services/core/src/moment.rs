//! Times as Docker's users write them.

use crate::Timestamp;

/// Digits of a number in a duration that count.
const DIGITS: usize = 18;
/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;

impl Timestamp {
    /// A time as it is written on command lines and in filters: seconds since 1970
    /// (`1136073600.5`), a day or a time of it (`2006-01-02T15:04`, in UTC unless a zone stands
    /// behind it), or how long before `now` (`1h30m`). `None` for anything else.
    pub fn parse_moment(text: &str, now: Self) -> Option<Self> {
        seconds(text).or_else(|| before(text, now)).or_else(|| day(text))
    }
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn seconds(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if whole.is_empty() || fraction.is_empty() || !is_number(whole) || !is_number(fraction) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    Some(Timestamp { seconds: whole.parse().ok()?, nanos })
}

fn before(text: &str, now: Timestamp) -> Option<Timestamp> {
    let nanos = match text.strip_prefix('-') {
        Some(text) => -duration(text)?,
        None => duration(text.strip_prefix('+').unwrap_or(text))?,
    };
    let at = now.unix_nanos().checked_sub(nanos)?;
    let nanos = i32::try_from(at.rem_euclid(SECOND)).ok()?;
    Some(Timestamp { seconds: i64::try_from(at.div_euclid(SECOND)).ok()?, nanos })
}

/// Nanoseconds of a duration in Go's syntax: `1h30m`, `1.5s`, `300ms`.
fn duration(text: &str) -> Option<i128> {
    let of_number = |c: char| c.is_ascii_digit() || c == '.';
    let mut nanos: i128 = 0;
    let mut rest = text;
    loop {
        let (number, tail) = rest.split_at(rest.find(|c: char| !of_number(c))?);
        let (unit, tail) = tail.split_at(tail.find(of_number).unwrap_or(tail.len()));
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction = fraction.get(..DIGITS).unwrap_or(fraction);
        let is_empty = whole.is_empty() && fraction.is_empty();
        if is_empty || whole.len() > DIGITS || !is_number(fraction) {
            return None;
        }
        let value = |digits: &str| format!("0{digits}").parse::<i128>().ok();
        let parts = 10i128.pow(u32::try_from(fraction.len()).ok()?);
        nanos += value(whole)? * unit + value(fraction)? * unit / parts;
        rest = tail;
        if rest.is_empty() {
            return Some(nanos);
        }
    }
}

fn day(text: &str) -> Option<Timestamp> {
    let (text, zone) = zone(text);
    let (date, time) = text.split_once('T').unwrap_or((text, "00"));
    let missing = match time.len() {
        2 => ":00:00",
        5 => ":00",
        _ => "",
    };
    Timestamp::parse_rfc3339(&format!("{date}T{time}{missing}{zone}"))
}

/// What stands before a zone, and the zone.
fn zone(text: &str) -> (&str, &str) {
    const OFFSET: usize = "+00:00".len();
    if let Some(text) = text.strip_suffix(['Z', 'z']) {
        return (text, "Z");
    }
    let at = text.len().saturating_sub(OFFSET);
    match text.as_bytes().get(at..) {
        Some([b'+' | b'-', _, _, b':', _, _]) if text.is_char_boundary(at) => text.split_at(at),
        _ => (text, "Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Option<String> {
        let now = Timestamp { seconds: 1_700_000_000, nanos: 500_000_000 };
        Timestamp::parse_moment(text, now).map(|at| at.to_string())
    }

    #[test]
    fn all_ways_to_write_a_time() {
        for (text, at) in [
            ("1700000000", "2023-11-14T22:13:20Z"),
            ("1700000000.25", "2023-11-14T22:13:20.25Z"),
            ("1700000000.0000000011", "2023-11-14T22:13:20.000000001Z"),
            ("10s", "2023-11-14T22:13:10.5Z"),
            ("1h30m", "2023-11-14T20:43:20.5Z"),
            ("1.5s", "2023-11-14T22:13:19Z"),
            ("500ms", "2023-11-14T22:13:20Z"),
            ("-10s", "2023-11-14T22:13:30.5Z"),
            ("2023-11-14T22:13:20.25Z", "2023-11-14T22:13:20.25Z"),
            ("2023-11-14T22:13:20+01:00", "2023-11-14T21:13:20Z"),
            ("2023-11-14T22:13:20", "2023-11-14T22:13:20Z"),
            ("2023-11-14T22:13", "2023-11-14T22:13:00Z"),
            ("2023-11-14T22", "2023-11-14T22:00:00Z"),
            ("2023-11-14", "2023-11-14T00:00:00Z"),
            ("2023-11-14-02:00", "2023-11-14T02:00:00Z"),
            ("2023-11-14Z", "2023-11-14T00:00:00Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Some(at), "{text}");
        }
    }

    #[test]
    fn what_is_no_time() {
        for text in [
            "",
            "soon",
            "10",
            "s",
            "10d",
            "1.2.3s",
            ".",
            "1.",
            "-",
            "2023-13-01",
            "2023-11-14T",
            "1e3",
            "99999999999999999999",
            "9999999999999999999h",
            "2023-11-14T22:13:20 ",
            "é",
        ] {
            // A number alone is seconds since 1970.
            let expected = (text == "10").then(|| "1970-01-01T00:00:10Z".to_owned());
            assert_eq!(moment(text), expected, "{text}");
        }
    }
}
