//! Maps of sparse files, in the five forms that GNU tar has given them.

use gantry_core::Result;
use tar::Header;

use crate::bad;
use crate::input::{BLOCK, Input};
use crate::numbers::field;
use crate::pax::PaxSparse;

/// Parts of a file, more than which no archive has for a good reason.
const MAX_PARTS: usize = 1 << 20;

/// Where data lies in a file with holes.
#[derive(Debug, PartialEq, Eq)]
pub struct Sparse {
    /// Length of the file with its holes.
    pub real_size: u64,
    /// Offset and length of what is stored, in order.
    pub parts: Vec<(u64, u64)>,
}

impl Sparse {
    /// Checks a map: ascending, not overlapping, within the file, and as
    /// long as what is stored.
    fn checked(real_size: i64, numbers: &[i64], stored: u64) -> Result<Self> {
        let malformed = || bad::archive("malformed map of a sparse file");
        let real_size = u64::try_from(real_size).map_err(|_| malformed())?;
        if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_PARTS {
            return Err(malformed());
        }
        let (mut parts, mut end, mut total) = (Vec::new(), 0_u64, 0_u64);
        for pair in numbers.chunks_exact(2) {
            let at = u64::try_from(pair[0]).map_err(|_| malformed())?;
            let len = u64::try_from(pair[1]).map_err(|_| malformed())?;
            if at < end {
                return Err(malformed());
            }
            end = at.checked_add(len).filter(|end| *end <= real_size).ok_or_else(malformed)?;
            total += len;
            if len > 0 {
                parts.push((at, len));
            }
        }
        if total != stored || i64::try_from(real_size).is_err() {
            return Err(malformed());
        }
        Ok(Self { real_size, parts })
    }

    /// The old GNU form: in the header and blocks behind it.
    pub(crate) fn old_gnu(header: &Header, input: &mut Input, stored: u64) -> Result<Self> {
        let gnu = header.as_gnu().ok_or_else(|| bad::archive("sparse file without GNU header"))?;
        let mut numbers = Vec::new();
        pairs(&header.as_bytes()[386..482], &mut numbers)?;
        let mut more = gnu.is_extended();
        for _ in 0..MAX_PARTS / 21 {
            if !more {
                return Self::checked(field(&gnu.realsize)?, &numbers, stored);
            }
            let block = input.block()?.ok_or_else(|| bad::archive("it ends in a sparse map"))?;
            pairs(&block[..504], &mut numbers)?;
            more = block[504] != 0;
        }
        Err(bad::archive("map of a sparse file is too long"))
    }

    /// The PAX forms 0.0, 0.1 and 1.0; the map of the last one precedes the
    /// data. Returns the map and how many stored bytes are left.
    pub(crate) fn pax(pax: &PaxSparse, input: &mut Input, stored: u64) -> Result<(Self, u64)> {
        let real_size =
            pax.real_size.ok_or_else(|| bad::archive("sparse file without its size"))?;
        if (pax.major, pax.minor) == (Some(1), Some(0)) {
            let (numbers, used) = map_in_data(input, stored)?;
            let left = stored - used;
            return Ok((Self::checked(real_size, &numbers, left)?, left));
        }
        Ok((Self::checked(real_size, &pax.map, stored)?, stored))
    }
}

/// Pairs of header fields, up to the first that is not used.
fn pairs(fields: &[u8], numbers: &mut Vec<i64>) -> Result<()> {
    for pair in fields.chunks_exact(24).take_while(|pair| pair[0] != 0) {
        numbers.push(field(&pair[..12])?);
        numbers.push(field(&pair[12..])?);
    }
    Ok(())
}

/// Decimal numbers, a line each: how many pairs, then the pairs.
fn map_in_data(input: &mut Input, stored: u64) -> Result<(Vec<i64>, u64)> {
    let malformed = || bad::archive("malformed map of a sparse file");
    let (mut numbers, mut wanted, mut used) = (Vec::new(), None, 0);
    let mut digits = String::new();
    while wanted != Some(numbers.len()) {
        used += BLOCK as u64;
        if used > stored {
            return Err(malformed());
        }
        let block = input.block()?.ok_or_else(malformed)?;
        for byte in block.iter() {
            match byte {
                b'0'..=b'9' if digits.len() < 19 => digits.push(char::from(*byte)),
                b'\n' => {
                    let number: i64 = digits.parse().map_err(|_| malformed())?;
                    digits.clear();
                    if wanted.is_none() {
                        let pairs = usize::try_from(number).map_err(|_| malformed())?;
                        wanted = Some(pairs.min(MAX_PARTS + 1) * 2);
                    } else {
                        numbers.push(number);
                    }
                    if wanted == Some(numbers.len()) {
                        break;
                    }
                }
                _ => return Err(malformed()),
            }
        }
        if numbers.len() > MAX_PARTS * 2 {
            return Err(malformed());
        }
    }
    Ok((numbers, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let good = Sparse::checked(100, &[0, 10, 50, 20, 100, 0], 30).unwrap();
        assert_eq!(good.parts, [(0, 10), (50, 20)]);
        for (size, map, stored) in [
            (100, &[0, 10, 5, 10][..], 20),
            (100, &[50, 10, 0, 10], 20),
            (100, &[0, 10, 95, 10], 20),
            (100, &[0, 10], 11),
            (100, &[0], 0),
            (-1, &[], 0),
            (100, &[-1, 1], 1),
            (i64::MAX, &[i64::MAX, i64::MAX], 1),
        ] {
            assert!(Sparse::checked(size, map, stored).is_err(), "{size} {map:?} {stored}");
        }
    }
}
