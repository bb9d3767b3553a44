//! Numbers as tar writes them.

use gantry_core::Result;

use crate::bad;

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Since 1970; before when negative.
    pub seconds: i64,
    /// 0 to 999,999,999, forward from `seconds`.
    pub nanos: u32,
}

/// A field of a header: octal digits, or GNU's binary form, which is marked
/// by its first bit and may be negative.
pub(crate) fn field(bytes: &[u8]) -> Result<i64> {
    let malformed = || bad::archive(format_args!("malformed number {}", bad::show(bytes)));
    let first = *bytes.first().ok_or_else(malformed)?;
    if first & 0x80 == 0 {
        let text = bytes.split(|b| *b == 0).next().unwrap_or(b"").trim_ascii();
        if text.is_empty() {
            return Ok(0);
        }
        return std::str::from_utf8(text)
            .ok()
            .filter(|text| text.bytes().all(|b| (b'0'..=b'7').contains(&b)))
            .and_then(|text| i64::from_str_radix(text, 8).ok())
            .ok_or_else(malformed);
    }
    // Two's complement over all bytes but the first bit.
    let negative = first & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in bytes.iter().enumerate() {
        let byte = match i {
            0 if negative => byte | 0x80,
            0 => byte & 0x7f,
            _ => *byte,
        };
        value = (value << 8) | i128::from(byte);
        if i64::try_from(value).is_err() {
            return Err(malformed());
        }
    }
    i64::try_from(value).map_err(|_| malformed())
}

/// A decimal number of a PAX record.
pub(crate) fn decimal(key: &str, value: &[u8]) -> Result<i64> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
        bad::archive(format_args!("PAX record {key} is no number: {}", bad::show(value)))
    })
}

/// A PAX time: decimal seconds, with a fraction or without.
pub(crate) fn pax_time(key: &str, value: &[u8]) -> Result<Time> {
    let malformed =
        || bad::archive(format_args!("PAX record {key} is no time: {}", bad::show(value)));
    let text = std::str::from_utf8(value).map_err(|_| malformed())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed());
    }
    let seconds: i64 = whole.parse().map_err(|_| malformed())?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().map_err(|_| malformed())?;
    if whole.starts_with('-') && nanos > 0 {
        let seconds = seconds.checked_sub(1).ok_or_else(malformed)?;
        return Ok(Time { seconds, nanos: 1_000_000_000 - nanos });
    }
    Ok(Time { seconds, nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        assert_eq!(field(b"0000644\0").unwrap(), 0o644);
        assert_eq!(field(b"   644 \0").unwrap(), 0o644);
        assert_eq!(field(b"\0\0\0\0").unwrap(), 0);
        assert_eq!(field(b"\x80\0\0\0\0\0\x01\0").unwrap(), 256);
        assert_eq!(field(&[0xff; 12]).unwrap(), -1);
        assert_eq!(field(b"\xff\xff\xff\xff\xff\xff\xff\xfe").unwrap(), -2);
        assert!(field(b"0000648\0").is_err());
        assert!(field(b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").is_err());
        assert!(field(b"-1\0").is_err());
    }

    #[test]
    fn times() {
        let time = |text: &str| pax_time("mtime", text.as_bytes()).map(|t| (t.seconds, t.nanos));
        assert_eq!(time("12").unwrap(), (12, 0));
        assert_eq!(time("12.5").unwrap(), (12, 500_000_000));
        assert_eq!(time("12.1234567899").unwrap(), (12, 123_456_789));
        assert_eq!(time("-1.25").unwrap(), (-2, 750_000_000));
        for bad in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
