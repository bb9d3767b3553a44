//! Signals as users write them.

use std::str::FromStr;

use gantry_core::{Error, Result};
use nix::sys::signal::Signal;

/// SIGKILL.
pub(crate) const KILL: u32 = 9;
/// First and last of the signals without names of their own.
const REAL_TIME: (u32, u32) = (34, 64);

/// A number, `TERM`, `SIGTERM` or `RTMIN+3`, in any case.
///
/// # Errors
/// `InvalidArgument` for what is no signal.
pub(crate) fn parse(text: &str) -> Result<u32> {
    let invalid = || Error::invalid_argument(format!("invalid signal: {text:?}"));
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=REAL_TIME.1).contains(&number) { Ok(number) } else { Err(invalid()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let real_time = |base: u32, offset: &str, sign: i64| {
        let offset = if offset.is_empty() { 0 } else { offset[1..].parse::<i64>().ok()? };
        let number = u32::try_from(i64::from(base) + sign * offset).ok()?;
        (REAL_TIME.0..=REAL_TIME.1).contains(&number).then_some(number)
    };
    if let Some(rest) = name.strip_prefix("RTMIN").filter(|r| r.is_empty() || r.starts_with('+')) {
        return real_time(REAL_TIME.0, rest, 1).ok_or_else(invalid);
    }
    if let Some(rest) = name.strip_prefix("RTMAX").filter(|r| r.is_empty() || r.starts_with('-')) {
        return real_time(REAL_TIME.1, rest, -1).ok_or_else(invalid);
    }
    let signal = Signal::from_str(&format!("SIG{name}")).map_err(|_| invalid())?;
    Ok(signal as i32 as u32)
}

/// `SIGTERM` for 15; the number for one without a name.
pub(crate) fn name(number: u32) -> String {
    let signal = i32::try_from(number).ok().and_then(|n| Signal::try_from(n).ok());
    signal.map_or_else(|| number.to_string(), |signal| signal.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals() {
        for (text, number) in [
            ("9", 9),
            ("TERM", 15),
            ("sigint", 2),
            ("SIGWINCH", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for bad in ["", "0", "65", "NOPE", "RTMIN+99", "RTMIN3", "-9", "RTMAX-"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(name(15), "SIGTERM");
        assert_eq!(name(40), "40");
    }
}
