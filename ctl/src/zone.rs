//! Times in the caller's time zone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use chrono::{DateTime, FixedOffset, Local, SecondsFormat, TimeZone};
use gantry_core::Timestamp;

/// The zone of a user who names none.
const LOCAL: &str = "/etc/localtime";
/// Where zones lie by name.
const ZONES: &str = "/usr/share/zoneinfo";
/// Bytes of a zone file's header, and where its six counts begin.
const HEADER: usize = 44;
const COUNTS: usize = 20;
/// Bytes of a kind of time in it: an offset, whether it is that of summer, a place among names.
const KIND: usize = 6;

/// The zone's file; empty where there is none.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = match std::env::var("TZ") {
        // Absolute paths stay as they are.
        Ok(zone) => Path::new(ZONES).join(zone.trim_start_matches(':')),
        Err(_) => PathBuf::from(LOCAL),
    };
    fs::read(path).unwrap_or_default()
});

/// A time as Go prints it: `2026-01-02 15:04:05 +0100 CET`.
pub(crate) fn stamp(time: Timestamp) -> String {
    match local(time) {
        Some(local) => shown(local, &FILE),
        None => time.to_string(),
    }
}

/// RFC 3339 with all nine digits of the fraction, so that columns stay straight.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    match local(time) {
        Some(local) => local.to_rfc3339_opts(SecondsFormat::Nanos, true),
        None => crate::human::rfc3339(time),
    }
}

/// A volume as the daemon tells of it in JSON, with the time at which it was made, which comes
/// first, in the caller's zone: RFC 3339 in whole seconds, as Docker has it.
pub(crate) fn localized(volume: String) -> String {
    const FIRST: &str = "{\"CreatedAt\":\"";
    let rest = volume.strip_prefix(FIRST).and_then(|rest| rest.split_once('"'));
    let Some((made, rest)) = rest else { return volume };
    let made = Timestamp::parse_rfc3339(made).and_then(local);
    let made = made.map(|made| made.to_rfc3339_opts(SecondsFormat::Secs, true));
    made.map_or_else(|| volume.clone(), |made| format!("{FIRST}{made}\"{rest}"))
}

fn local(time: Timestamp) -> Option<DateTime<FixedOffset>> {
    let nanos = u32::try_from(time.nanos).ok()?;
    Local.timestamp_opt(time.seconds, nanos).single().map(|local| local.fixed_offset())
}

fn shown(local: DateTime<FixedOffset>, file: &[u8]) -> String {
    let offset = local.offset().local_minus_utc();
    let clock = local.format("%Y-%m-%d %H:%M:%S %z");
    match name(file, local.timestamp(), offset) {
        Some(name) => format!("{clock} {name}"),
        None if offset == 0 => format!("{clock} UTC"),
        // As Go does with what has no name.
        None => format!("{clock} {}", local.format("%z")),
    }
}

/// What a zone's file (RFC 9636) calls an offset, in seconds east of Greenwich, at a time.
fn name(file: &[u8], at: i64, offset: i32) -> Option<String> {
    let (short, rest) = Block::read(file, 4)?;
    // Files of the first version have no block with times of 64 bits.
    let block = Block::read(rest, 8).map_or(short, |(long, _)| long);
    block.name(at, offset)
}

/// What a zone's file has twice: in times of 32, and of 64 bits.
struct Block<'a> {
    /// Bytes of a time.
    width: usize,
    /// When clocks were changed.
    changes: &'a [u8],
    /// To which kind of time: a byte each.
    to: &'a [u8],
    kinds: &'a [u8],
    /// Names of kinds, each with a NUL behind it.
    names: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block that a text begins with, and what is behind it.
    fn read(text: &'a [u8], width: usize) -> Option<(Self, &'a [u8])> {
        let (header, mut rest) = text.split_at_checked(HEADER)?;
        if !header.starts_with(b"TZif") {
            return None;
        }
        let counts = header[COUNTS..].chunks_exact(4).map(number);
        let counts: Option<Vec<usize>> = counts.map(|count| usize::try_from(count).ok()).collect();
        let counts = counts?;
        let &[universal, standard, leaps, changes, kinds, names] = &counts[..] else {
            return None;
        };
        let mut take = |length: usize| {
            let (part, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(part)
        };
        let block = Self {
            width,
            changes: take(changes * width)?,
            to: take(changes)?,
            kinds: take(kinds * KIND)?,
            names: take(names)?,
        };
        take(leaps * (width + 4) + standard + universal)?;
        Some((block, rest))
    }

    /// The name that an offset has at a time: that of the last change before it to such an
    /// offset. Changes that are still to come may be left out of the file.
    fn name(&self, at: i64, offset: i32) -> Option<String> {
        let changes = self.changes.chunks_exact(self.width);
        let past = changes.take_while(|change| number(change) <= at).count();
        let used = self.to.iter().take(past).rev().map(|kind| usize::from(*kind));
        let all = (0..self.kinds.len() / KIND).rev();
        used.chain(all).find_map(|kind| self.name_of(kind, offset))
    }

    /// The name of a kind of time, if it has this offset.
    fn name_of(&self, kind: usize, offset: i32) -> Option<String> {
        let kind = self.kinds.chunks_exact(KIND).nth(kind)?;
        if number(&kind[..4]) != i64::from(offset) {
            return None;
        }
        let name = self.names.get(usize::from(kind[5])..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let name = String::from_utf8(name.to_vec()).ok()?;
        (!name.is_empty()).then_some(name)
    }
}

/// A number with a sign, the highest byte first.
fn number(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|byte| *byte > 0x7f);
    let sign = if negative { -1 } else { 0 };
    bytes.iter().fold(sign, |number, byte| (number << 8) | i64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINTER: i64 = 1_733_000_000;
    const SUMMER: i64 = 1_720_000_000;

    /// A file of the second version, whose first block is empty: Berlin, in 2024.
    fn berlin() -> Vec<u8> {
        let header = |counts: [u32; 6]| {
            let mut header = b"TZif2".to_vec();
            header.resize(COUNTS, 0);
            counts.iter().for_each(|count| header.extend(count.to_be_bytes()));
            header
        };
        let mut file = header([0, 0, 0, 0, 1, 1]);
        file.extend([0; KIND + 1]);
        file.extend(header([0, 0, 0, 2, 3, 13]));
        for change in [1_711_846_800_i64, 1_729_990_800] {
            file.extend(change.to_be_bytes());
        }
        file.extend([2, 1]);
        for (offset, summer, name) in [(3208_i32, 0, 0), (3600, 0, 4), (7200, 1, 8)] {
            file.extend(offset.to_be_bytes());
            file.extend([summer, name]);
        }
        file.extend(b"LMT\0CET\0CEST\0");
        file.extend(b"\nCET-1CEST,M3.5.0,M10.5.0/3\n");
        file
    }

    #[test]
    fn offsets_have_names() {
        let file = berlin();
        let named = |at, offset| name(&file, at, offset);
        assert_eq!(named(SUMMER, 7200).as_deref(), Some("CEST"));
        assert_eq!(named(WINTER, 3600).as_deref(), Some("CET"));
        // Behind the last change, and before the first one.
        assert_eq!(named(i64::MAX, 7200).as_deref(), Some("CEST"));
        assert_eq!(named(-1, 3208).as_deref(), Some("LMT"));
        assert_eq!(named(SUMMER, 0), None);
        for cut in 0..file.len() - 30 {
            assert_eq!(name(&file[..cut], SUMMER, 7200), None, "{cut}");
        }
        assert_eq!(name(b"something else", SUMMER, 7200), None);
    }

    #[test]
    fn times_are_as_go_prints_them() {
        let at = |offset| {
            let zone = FixedOffset::east_opt(offset).unwrap();
            zone.timestamp_opt(SUMMER, 5).unwrap()
        };
        assert_eq!(shown(at(7200), &berlin()), "2024-07-03 11:46:40 +0200 CEST");
        assert_eq!(shown(at(7200), &[]), "2024-07-03 11:46:40 +0200 +0200");
        assert_eq!(shown(at(0), &[]), "2024-07-03 09:46:40 +0000 UTC");
    }

    #[test]
    fn exact_times_have_one_width() {
        let time = Timestamp { seconds: SUMMER, nanos: 120 };
        assert_eq!(rfc3339(Timestamp { nanos: 0, ..time }).len(), rfc3339(time).len());
        assert!(rfc3339(time).contains(":40.000000120"), "{}", rfc3339(time));
    }

    #[test]
    fn volumes_are_made_at_local_times() {
        let told = r#"{"CreatedAt":"2024-07-03T09:46:40Z","Labels":{"CreatedAt":"x"}}"#;
        let shown = localized(told.to_owned());
        let (made, rest) = shown[14..].split_once('"').unwrap();
        assert_eq!(rest, r#","Labels":{"CreatedAt":"x"}}"#);
        let made = DateTime::parse_from_rfc3339(made).unwrap();
        let here = local(Timestamp { seconds: SUMMER, nanos: 0 }).unwrap();
        assert_eq!((made, made.offset()), (here, here.offset()));
        for other in ["{}", r#"{"CreatedAt":"x"}"#, r#"{"CreatedAt":"#] {
            assert_eq!(localized(other.to_owned()), other);
        }
    }
}
