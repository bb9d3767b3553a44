//! The order in which people count: `web-2` before `web-10`.

use std::cmp::Ordering;

/// Compares texts: numbers in them by what they count, all else byte by byte.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    loop {
        let (left_number, left_rest) = number(left);
        let (right_number, right_rest) = number(right);
        if !left_number.is_empty() && !right_number.is_empty() {
            match by_value(left_number, right_number) {
                Ordering::Equal => (left, right) = (left_rest, right_rest),
                unlike => return unlike,
            }
            continue;
        }
        match (left.split_first(), right.split_first()) {
            (Some((a, left_rest)), Some((b, right_rest))) if a == b => {
                (left, right) = (left_rest, right_rest);
            }
            (Some((a, _)), Some((b, _))) => return a.cmp(b),
            (a, b) => return a.is_some().cmp(&b.is_some()),
        }
    }
}

/// The digits that a text begins with, and the rest.
fn number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit());
    text.split_at(end.unwrap_or(text.len()))
}

/// Of two that count the same the shorter one, without zeros before it, comes first.
fn by_value(left: &[u8], right: &[u8]) -> Ordering {
    let significant = |digits: &[u8]| {
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits[zeros..].to_vec()
    };
    let (a, b) = (significant(left), significant(right));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b)).then(left.len().cmp(&right.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count() {
        let sorted = ["", "a", "a1", "a01", "a2", "a2b", "a10", "a10b2", "b", "é"];
        for (at, one) in sorted.iter().enumerate() {
            for (other_at, other) in sorted.iter().enumerate() {
                assert_eq!(compare(one, other), at.cmp(&other_at), "{one} {other}");
            }
        }
        let ports = ["53/udp -> 0.0.0.0:53", "80/tcp -> 0.0.0.0:8080", "443/tcp -> [::]:443"];
        assert!(ports.is_sorted_by(|a, b| compare(a, b) == Ordering::Less));
        assert_eq!(compare("18446744073709551617", "9"), Ordering::Greater);
    }
}
