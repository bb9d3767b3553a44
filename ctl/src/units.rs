//! Sizes, durations and parts of processors as Docker's users write them.

use prost_types::Duration;

/// Billionths in one.
const BILLION: u128 = 1_000_000_000;

/// Bytes: `512m`, `1.5GiB`, `4096`; units are powers of 1024, letters count in either case.
///
/// # Errors
/// When it is no size.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let invalid = || format!("invalid size: '{text}'");
    let number = |c: char| c.is_ascii_digit() || matches!(c, '.' | ' ');
    let end = text.rfind(number).ok_or_else(invalid)?;
    let (number, suffix) = text.split_at(end + 1);
    let (digits, scale) =
        decimal(number.strip_suffix(' ').unwrap_or(number)).ok_or_else(invalid)?;
    let suffix = suffix.to_ascii_lowercase();
    let unit = unit(&suffix).ok_or_else(|| format!("invalid suffix: '{suffix}'"))?;
    let whole = digits.checked_mul(unit).zip(10u128.checked_pow(scale));
    whole.and_then(|(size, parts)| i64::try_from(size / parts).ok()).ok_or_else(invalid)
}

/// As [`bytes()`]; -1 for no limit.
///
/// # Errors
/// As [`bytes()`].
pub(crate) fn bytes_or_all(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// As [`bytes()`], for what is never negative on the wire.
///
/// # Errors
/// As [`bytes()`].
pub(crate) fn size(text: &str) -> Result<u64, String> {
    // It is not negative.
    bytes(text).map(i64::unsigned_abs)
}

fn unit(suffix: &str) -> Option<u128> {
    let power = match suffix {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    Some(1 << (10 * power))
}

/// Processors, in billionths: `1.5` is 1,500,000,000. The daemon knows how many there may be,
/// and refuses what is negative.
///
/// # Errors
/// When it is no number, or has more than nine decimals.
pub(crate) fn processors(text: &str) -> Result<i64, String> {
    let invalid = || format!("failed to parse {text} as a rational number");
    let (sign, number) = text.strip_prefix('-').map_or((1, text), |number| (-1, number));
    let (digits, scale) = decimal(number).ok_or_else(invalid)?;
    let parts = 10u128.checked_pow(scale).filter(|parts| BILLION.is_multiple_of(*parts));
    let parts = parts.ok_or("value is too precise")?;
    let billionths = digits.checked_mul(BILLION / parts);
    let billionths = billionths.and_then(|billionths| i64::try_from(billionths).ok());
    billionths.map(|billionths| sign * billionths).ok_or_else(invalid)
}

/// A duration in Go's syntax, `1h30m`, `1.5s`, `300ms`, that is not negative.
///
/// # Errors
/// When it is none.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    if text.starts_with('-') {
        return Err("it cannot be negative".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: u128 = 0;
    if rest == "0" {
        return Ok(Duration::default());
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let of_number = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let (number, tail) = split(rest, |c| !of_number(c));
        let (digits, scale) = decimal(number).ok_or_else(invalid)?;
        let (unit, tail) = split(tail, of_number);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => BILLION,
            "m" => 60 * BILLION,
            "h" => 3600 * BILLION,
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        let part = digits.checked_mul(unit).zip(10u128.checked_pow(scale));
        let part = part.map(|(nanos, parts)| nanos / parts);
        nanos = part.and_then(|part| nanos.checked_add(part)).ok_or_else(invalid)?;
        rest = tail;
    }
    let nanos = i64::try_from(nanos).map_err(|_| invalid())?;
    let (seconds, nanos) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    // Less than a billion.
    Ok(Duration { seconds, nanos: i32::try_from(nanos).unwrap_or_default() })
}

/// What comes before the first such character, and the rest.
fn split(text: &str, at: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(at).unwrap_or(text.len()))
}

/// A number as digits and how many of them are decimals: `1.50` is 15 and 1.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digit = |byte: u8| byte.is_ascii_digit();
    if whole.is_empty() && decimals.is_empty() || !whole.bytes().chain(decimals.bytes()).all(digit)
    {
        return None;
    }
    let decimals = decimals.trim_end_matches('0');
    let digits = format!("0{whole}{decimals}").parse::<u128>().ok()?;
    Some((digits, u32::try_from(decimals.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, size) in [
            ("0", 0),
            ("4096", 4096),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("32kiB", 32 << 10),
            ("32 MB", 32 << 20),
            ("1.5g", 3 << 29),
            (".5g", 1 << 29),
            ("1.", 1),
            ("2T", 2 << 40),
            ("1p", 1 << 50),
            ("0.3k", 307),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "m", ".", "-5", "1.2.3m", "hello", "9999999999999p", " ", "1 2"] {
            assert_eq!(bytes(text), Err(format!("invalid size: '{text}'")));
        }
        for (text, suffix) in [("5x", "x"), ("5mm", "mm"), ("5bi", "bi"), ("5 kbs", "kbs")] {
            assert_eq!(bytes(text), Err(format!("invalid suffix: '{suffix}'")));
        }
        assert_eq!(bytes_or_all("-1"), Ok(-1));
        assert_eq!(bytes_or_all("1k"), Ok(1024));
        assert!(bytes_or_all("-2").is_err());
        assert_eq!(size("64m"), Ok(64 << 20));
    }

    #[test]
    fn processors_are_exact() {
        for (text, billionths) in [
            ("1", 1_000_000_000),
            ("0.1", 100_000_000),
            ("1.5", 1_500_000_000),
            ("0.000000001", 1),
            ("2.10000000000", 2_100_000_000),
            (".5", 500_000_000),
            ("-1", -1_000_000_000),
            ("-.5", -500_000_000),
        ] {
            assert_eq!(processors(text), Ok(billionths), "{text}");
        }
        assert_eq!(processors("0.0000000001"), Err("value is too precise".to_owned()));
        for text in ["", "x", "-", "--1", "1.x", "99999999999999999999"] {
            let wanted = format!("failed to parse {text} as a rational number");
            assert_eq!(processors(text), Err(wanted));
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, seconds, nanos) in [
            ("0", 0, 0),
            ("30s", 30, 0),
            ("1h30m", 5400, 0),
            ("1.5s", 1, 500_000_000),
            ("300ms", 0, 300_000_000),
            ("5us", 0, 5_000),
            ("5µs7ns", 0, 5_007),
            ("+2m", 120, 0),
            (".5h", 1800, 0),
        ] {
            assert_eq!(duration(text), Ok(Duration { seconds, nanos }), "{text}");
        }
        let refused = |text| duration(text).unwrap_err();
        assert_eq!(refused("10"), "time: missing unit in duration \"10\"");
        assert_eq!(refused("1d"), "time: unknown unit \"d\" in duration \"1d\"");
        for text in ["", "+", "s", "1..2s", "99999999999h"] {
            assert_eq!(refused(text), format!("time: invalid duration {text:?}"));
        }
        assert_eq!(refused("-1s"), "it cannot be negative");
    }
}
