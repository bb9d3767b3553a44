//! The binary form of a container's log, of the log driver `local`.
//!
//! A file is a sequence of records and nothing else. A record is the length of its body (four
//! bytes), the body, and the length once more, so that a file can be read from either end. The
//! body is one byte [`Kind`], eight bytes of nanoseconds since 1970, then the data. All numbers
//! are little-endian.
//!
//! A line with its end, or a part of a long line, is a record. The first record of a file may be
//! the attributes of all that follow, a JSON object.

/// Bytes in front of the data.
pub const HEAD: usize = 4 + FIXED;
/// Bytes behind the data.
pub const TAIL: usize = 4;
/// Longest data; what claims to be longer is damage.
pub const LONGEST: usize = 1 << 20;

/// Kind and time.
const FIXED: usize = 1 + 8;

/// What a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Attributes of the records behind it.
    Attributes,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdout),
            1 => Some(Self::Stderr),
            2 => Some(Self::Attributes),
            _ => None,
        }
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it holds.
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub nanos: u64,
    /// The bytes.
    pub data: &'a [u8],
}

/// What bytes begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// This record, of so many bytes.
    Record(Record<'a>, usize),
    /// A record whose end is not there.
    More,
    /// Nothing that makes sense.
    Damaged,
}

/// Appends a record; its data must not be longer than [`LONGEST`].
pub fn encode(record: Record<'_>, out: &mut Vec<u8>) {
    let length = ((FIXED + record.data.len()) as u32).to_le_bytes();
    out.extend_from_slice(&length);
    out.push(record.kind as u8);
    out.extend_from_slice(&record.nanos.to_le_bytes());
    out.extend_from_slice(record.data);
    out.extend_from_slice(&length);
}

/// Reads the record at the beginning of `bytes`.
pub fn decode(bytes: &[u8]) -> Decoded<'_> {
    let Some(head) = bytes.first_chunk::<4>() else { return Decoded::More };
    let Some(total) = total(*head) else { return Decoded::Damaged };
    let Some(record) = bytes.get(..total) else { return Decoded::More };
    let (body, tail) = record[4..].split_at(total - 4 - TAIL);
    let (fixed, data) = body.split_at(FIXED);
    let nanos = fixed[1..].try_into().map(u64::from_le_bytes);
    match (Kind::of(fixed[0]), nanos) {
        (Some(kind), Ok(nanos)) if tail == head => {
            Decoded::Record(Record { kind, nanos, data }, total)
        }
        _ => Decoded::Damaged,
    }
}

/// Bytes of the record whose first (or last) four bytes these are; `None` for no record.
pub fn total(length: [u8; 4]) -> Option<usize> {
    let length = u32::from_le_bytes(length) as usize;
    (FIXED..=FIXED + LONGEST).contains(&length).then_some(4 + length + TAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_one_by_one() {
        let records = [
            Record { kind: Kind::Attributes, nanos: 1, data: b"{}" },
            Record { kind: Kind::Stdout, nanos: u64::MAX, data: b"a\0\xff\n" },
            Record { kind: Kind::Stderr, nanos: 3, data: b"" },
        ];
        let mut bytes = Vec::new();
        for record in records {
            encode(record, &mut bytes);
        }
        let mut rest = bytes.as_slice();
        for record in records {
            let Decoded::Record(got, length) = decode(rest) else { panic!("no record") };
            assert_eq!((got, length), (record, HEAD + record.data.len() + TAIL));
            rest = &rest[length..];
        }
        assert_eq!(decode(rest), Decoded::More);
    }

    #[test]
    fn what_is_cut_waits_and_what_is_wrong_is_seen() {
        let mut bytes = Vec::new();
        encode(Record { kind: Kind::Stdout, nanos: 7, data: b"data" }, &mut bytes);
        for end in 0..bytes.len() {
            assert_eq!(decode(&bytes[..end]), Decoded::More, "{end} bytes");
        }
        for at in [0, 3, 4, bytes.len() - 1] {
            let mut wrong = bytes.clone();
            wrong[at] = 0x7f;
            // A longer length may have its end still to come.
            assert!(!matches!(decode(&wrong), Decoded::Record(..)), "byte {at}");
        }
        assert_eq!(decode(&[0; 64]), Decoded::Damaged);
    }
}
