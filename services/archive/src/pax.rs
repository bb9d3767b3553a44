//! Extended headers of the PAX format (POSIX.1-2001, pax).

use gantry_core::Result;

use crate::bad;
use crate::numbers::{Time, decimal, pax_time};

/// What an extended header says of the entry behind it. What it does not
/// say stays `None`.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<i64>,
    pub(crate) uid: Option<i64>,
    pub(crate) gid: Option<i64>,
    pub(crate) mtime: Option<Time>,
    pub(crate) atime: Option<Time>,
    /// Name and value of extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// The records with which GNU tar describes sparse files.
#[derive(Debug, Default)]
pub(crate) struct PaxSparse {
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) real_size: Option<i64>,
    /// Formats 0.0 and 0.1: offset, length, offset, length …
    pub(crate) map: Vec<i64>,
}

impl Pax {
    /// Reads records of the form `LENGTH KEY=VALUE\n`, LENGTH counting the
    /// whole record.
    pub(crate) fn parse(mut data: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !data.is_empty() {
            let (key, value, rest) = record(data)?;
            pax.set(key, value)?;
            data = rest;
        }
        Ok(pax)
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let Ok(key) = std::str::from_utf8(key) else { return Ok(()) };
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            if name.is_empty() || name.contains('\0') {
                return Err(bad::archive("PAX record with a malformed attribute name"));
            }
            self.xattrs.push((name.into(), value.into()));
            return Ok(());
        }
        if value.is_empty() {
            // The header's own field counts.
            return Ok(());
        }
        match key {
            "path" => self.path = Some(name(key, value)?),
            "linkpath" => self.link = Some(name(key, value)?),
            "size" => self.size = Some(decimal(key, value)?),
            "uid" => self.uid = Some(decimal(key, value)?),
            "gid" => self.gid = Some(decimal(key, value)?),
            "mtime" => self.mtime = Some(pax_time(key, value)?),
            "atime" => self.atime = Some(pax_time(key, value)?),
            "GNU.sparse.major" => self.sparse.major = Some(decimal(key, value)?),
            "GNU.sparse.minor" => self.sparse.minor = Some(decimal(key, value)?),
            "GNU.sparse.name" => self.sparse.name = Some(name(key, value)?),
            "GNU.sparse.size" | "GNU.sparse.realsize" => {
                self.sparse.real_size = Some(decimal(key, value)?);
            }
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => {
                self.sparse.map.push(decimal(key, value)?);
            }
            "GNU.sparse.map" => {
                for number in value.split(|b| *b == b',') {
                    self.sparse.map.push(decimal(key, number)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn name(key: &str, value: &[u8]) -> Result<Vec<u8>> {
    if value.contains(&0) {
        return Err(bad::archive(format_args!(
            "PAX record {key} holds a NUL: {}",
            bad::show(value)
        )));
    }
    Ok(value.to_vec())
}

/// Key, value, and what is behind the first record.
fn record(data: &[u8]) -> Result<(&[u8], &[u8], &[u8])> {
    let malformed = || bad::archive("malformed PAX record");
    let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(malformed)?;
    let length: usize = std::str::from_utf8(&data[..space])
        .ok()
        .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(malformed)?;
    if length <= space + 1 || length > data.len() {
        return Err(malformed());
    }
    let (record, rest) = data.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
    let equals = body.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or_else(malformed)?;
    Ok((&body[..equals], &body[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let pax =
            Pax::parse(b"11 path=a\nb\n13 size=10000\n28 SCHILY.xattr.user.x=a=\0b\n").unwrap_err();
        assert!(pax.to_string().contains("malformed"), "{pax}");
        let pax = Pax::parse(b"12 path=a\nb\n14 size=10000\n26 SCHILY.xattr.user.x=\0b\n").unwrap();
        assert_eq!(pax.path.unwrap(), b"a\nb");
        assert_eq!(pax.size, Some(10_000));
        assert_eq!(pax.xattrs, [(b"user.x".to_vec(), b"\0b".to_vec())]);
    }

    #[test]
    fn bad_lengths_are_refused() {
        for bad in [
            &b"9999999999999999999999 path=a\n"[..],
            b"0 path=a\n",
            b"3 path=a\n",
            b"-9 path=a\n",
            b"11 path=a\n",
            b"10 path:a\n",
            b"9 =value\n",
            b"path=a\n",
            b"10",
            b"10 path=\0\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
