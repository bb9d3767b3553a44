use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A point in time in UTC: seconds since 1970 and nanoseconds, as protobuf's
/// `Timestamp`. Go's zero time (year 1) fits.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    #[serde(rename = "s")]
    pub seconds: i64,
    /// 0 to 999,999,999.
    #[serde(rename = "n")]
    pub nanos: i32,
}

/// Go's `time.Time{}`, which clients send for "not set".
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

impl Timestamp {
    /// The present time.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Whether this is what clients send for "not set": 1970 or Go's zero time.
    pub fn is_unset(self) -> bool {
        self.nanos == 0 && (self.seconds == 0 || self.seconds == GO_ZERO_SECONDS)
    }

    /// Nanoseconds since 1970.
    pub fn unix_nanos(self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }

    /// Parses an RFC 3339 time.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let t = OffsetDateTime::parse(text, &Rfc3339).ok()?;
        Some(Self { seconds: t.unix_timestamp(), nanos: t.nanosecond() as i32 })
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Self { seconds: d.as_secs() as i64, nanos: d.subsec_nanos() as i32 },
            Err(before) => {
                let d = before.duration();
                let nanos = d.subsec_nanos() as i32;
                let borrow = i64::from(nanos != 0);
                Self {
                    seconds: -(d.as_secs() as i64) - borrow,
                    nanos: if nanos == 0 { 0 } else { 1_000_000_000 - nanos },
                }
            }
        }
    }
}

/// RFC 3339 with as many fractional digits as there are, in UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(self.unix_nanos())
            .ok()
            .and_then(|t| t.format(&Rfc3339).ok())
            .ok_or(fmt::Error)?;
        f.write_str(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let t = Timestamp { seconds: 1_700_000_000, nanos: 123_456_789 };
        assert_eq!(t.to_string(), "2023-11-14T22:13:20.123456789Z");
        assert_eq!(Timestamp::parse_rfc3339(&t.to_string()), Some(t));
        assert!(Timestamp { seconds: GO_ZERO_SECONDS, nanos: 0 }.is_unset());
    }
}
