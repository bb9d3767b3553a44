//! How rows are named in the one ordered key space.

use gantry_core::{Error, Result};

/// Where the schema version lies: no table has an empty name, so no row is
/// here.
pub(super) const SCHEMA: &[u8] = b"\0schema";

/// What the keys of a table start with.
pub(super) fn table(table: &str) -> Result<Vec<u8>> {
    if table.is_empty() {
        return Err(Error::invalid_argument("a table needs a name"));
    }
    let mut bytes = Vec::with_capacity(table.len() + 1);
    push(&mut bytes, "table", table)?;
    bytes.push(0);
    Ok(bytes)
}

/// The key of a row, or what keys start with when `key` is a prefix.
pub(super) fn row(table: &str, namespace: &str, key: &str) -> Result<Vec<u8>> {
    if table.is_empty() {
        return Err(Error::invalid_argument("a table needs a name"));
    }
    let mut bytes = Vec::with_capacity(table.len() + namespace.len() + key.len() + 2);
    push(&mut bytes, "table", table)?;
    bytes.push(0);
    push(&mut bytes, "namespace", namespace)?;
    bytes.push(0);
    push(&mut bytes, "key", key)?;
    Ok(bytes)
}

fn push(bytes: &mut Vec<u8>, what: &str, name: &str) -> Result<()> {
    if name.as_bytes().contains(&0) {
        return Err(Error::invalid_argument(format!(
            "{what} {name:?} must not hold a NUL: invalid argument"
        )));
    }
    bytes.extend_from_slice(name.as_bytes());
    Ok(())
}

/// The first key behind all that start with this prefix. No prefix ends in
/// 0xff, which UTF-8 never has.
pub(super) fn after(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_sort_by_their_parts() {
        let rows = [("a", "n", "z"), ("a", "n1", "a"), ("a.b", "", ""), ("b", "", "x")];
        let keys: Vec<_> = rows.iter().map(|(t, n, k)| row(t, n, k).unwrap()).collect();
        assert!(keys.is_sorted());
        assert!(table("a").unwrap() < keys[0]);
        assert!(SCHEMA < keys[0].as_slice());
        assert!(after(&row("a", "n", "").unwrap()) <= keys[1]);
    }

    #[test]
    fn a_nul_is_refused_wherever_it_is() {
        for (t, n, k) in [("a\0", "n", "k"), ("a", "\0", "k"), ("a", "n", "k\0x"), ("", "n", "k")] {
            let err = row(t, n, k).unwrap_err();
            assert_eq!(err.kind(), gantry_core::Kind::InvalidArgument);
        }
    }
}
