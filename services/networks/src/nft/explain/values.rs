//! Comparisons of values of which only some is known, and the registers that they are in.

use super::super::expression::{EQUAL, UNEQUAL};
use super::packet::Known;

/// Whether something holds for a packet of which not all is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nft) enum Holds {
    Yes,
    No,
    Perhaps,
}

impl Holds {
    pub(in crate::nft) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Perhaps,
        }
    }

    pub(in crate::nft) fn inverted(self, inverted: bool) -> Self {
        match self {
            Self::Yes if inverted => Self::No,
            Self::No if inverted => Self::Yes,
            other => other,
        }
    }

    pub(in crate::nft) fn of(known: Option<bool>) -> Self {
        match known {
            Some(true) => Self::Yes,
            Some(false) => Self::No,
            None => Self::Perhaps,
        }
    }

    /// Whether these bytes are those.
    pub(in crate::nft) fn equal(have: &[Option<u8>], want: &[u8]) -> Self {
        let mut all = Self::Yes;
        for (at, want) in want.iter().enumerate() {
            let one = have.get(at).copied().flatten().map(|byte| byte == *want);
            all = all.and(Self::of(one));
        }
        all
    }

    /// Whether these bytes, as a number, are in a range.
    pub(in crate::nft) fn between(have: &[Option<u8>], first: &[u8], last: &[u8]) -> Self {
        // What is known of the beginning may be enough.
        let start: Vec<u8> = have.iter().copied().map_while(|byte| byte).collect();
        let (low, high) = (first.get(..start.len()), last.get(..start.len()));
        let (Some(low), Some(high)) = (low, high) else { return Self::Perhaps };
        if &start[..] < low || &start[..] > high {
            return Self::No;
        }
        let sure = start.len() == first.len() || (&start[..] > low && &start[..] < high);
        if sure { Self::Yes } else { Self::Perhaps }
    }
}

/// Writes a register, and zeros up to the next one.
pub(super) fn store(registers: &mut [Option<u8>], to: usize, value: &[Option<u8>]) {
    let end = (to + value.len()).next_multiple_of(4).min(registers.len());
    for (at, register) in registers[to..end].iter_mut().enumerate() {
        *register = value.get(at).copied().unwrap_or(Some(0));
    }
}

/// Masks and flips bits of a register.
pub(super) fn bits(registers: &mut [Option<u8>], from: usize, to: usize, mask: &[u8], flip: &[u8]) {
    let masked: Known = mask
        .iter()
        .zip(flip)
        .enumerate()
        .map(|(at, (mask, flip))| match (registers.get(from + at).copied().flatten(), mask) {
            (_, 0) => Some(*flip),
            (Some(byte), mask) => Some((byte & mask) ^ flip),
            (None, _) => None,
        })
        .collect();
    store(registers, to, &masked);
}

/// Compares a register with a value.
pub(super) fn compare(have: &[Option<u8>], operator: u32, value: &[u8]) -> Holds {
    let equal = Holds::equal(have, value);
    match operator {
        EQUAL => equal,
        UNEQUAL => equal.inverted(true),
        _ => {
            let have: Option<Vec<u8>> = have.iter().take(value.len()).copied().collect();
            Holds::of(have.map(|have| match operator {
                2 => &have[..] < value,
                3 => &have[..] <= value,
                4 => &have[..] > value,
                _ => &have[..] >= value,
            }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::known;
    use super::*;

    #[test]
    fn one_byte_may_be_enough() {
        let have = [Some(10), None, None, None];
        assert_eq!(Holds::equal(&have, &[10, 0, 0, 1]), Holds::Perhaps);
        assert_eq!(Holds::equal(&have, &[11, 0, 0, 1]), Holds::No);
        assert_eq!(Holds::equal(&have, &[10]), Holds::Yes);
        assert_eq!(Holds::between(&have, &[9, 0, 0, 0], &[11, 0, 0, 0]), Holds::Yes);
        assert_eq!(Holds::between(&have, &[10, 0, 0, 0], &[11, 0, 0, 0]), Holds::Perhaps);
        assert_eq!(Holds::between(&have, &[11, 0, 0, 0], &[12, 0, 0, 0]), Holds::No);
        assert_eq!(compare(&have, UNEQUAL, &[11, 0, 0, 1]), Holds::Yes);
        assert_eq!(compare(&known(&[0, 80]), 2, &[4, 0]), Holds::Yes);
    }

    #[test]
    fn masks_hide_what_is_not_known() {
        let mut registers = [Some(0xff), None, Some(3), None];
        bits(&mut registers, 0, 0, &[0x0f, 0, 1, 1], &[0, 0, 0, 0]);
        assert_eq!(registers, [Some(0x0f), Some(0), Some(1), None]);
        store(&mut registers, 0, &known(&[7]));
        assert_eq!(registers.to_vec(), known(&[7, 0, 0, 0]));
    }
}
