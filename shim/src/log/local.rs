//! The binary form: see [`gantry_core::local_log`].

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use gantry_core::local_log::{self, Kind, Record};

use super::Stream;

/// The binary form.
#[derive(Debug)]
pub(super) struct Local {
    /// Attributes that each file begins with; empty for none.
    attrs: Vec<u8>,
}

impl Local {
    /// Files with these attributes, a JSON object or nothing.
    pub(super) fn new(attrs: &str) -> Self {
        Self { attrs: attrs.into() }
    }

    /// See [`super::Form::encode`].
    pub(super) fn encode(&self, stream: Stream, line: &[u8], at: Duration, out: &mut Vec<u8>) {
        let kind = match stream {
            Stream::Stdout => Kind::Stdout,
            Stream::Stderr => Kind::Stderr,
        };
        local_log::encode(Record { kind, nanos: nanos(at), data: line }, out);
    }

    /// See [`super::Form::header`].
    pub(super) fn header(&self, at: Duration) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.attrs.is_empty() && self.attrs.len() <= local_log::LONGEST {
            let record = Record { kind: Kind::Attributes, nanos: nanos(at), data: &self.attrs };
            local_log::encode(record, &mut out);
        }
        out
    }

    /// See [`super::Form::first`].
    pub(super) fn first(&self, records: &[u8]) -> usize {
        let length = records.first_chunk().and_then(|length| local_log::total(*length));
        length.map_or(records.len(), |length| length.min(records.len()))
    }

    /// See [`super::Form::fitting`].
    pub(super) fn fitting(&self, records: &[u8], room: usize) -> usize {
        let mut end = 0;
        while end < records.len() {
            let next = end + self.first(&records[end..]);
            if next > room {
                break;
            }
            end = next;
        }
        end
    }

    /// See [`super::Form::mend`]: a record that was cut goes.
    pub(super) fn mend(&self, file: &mut File) -> io::Result<u64> {
        let size = file.metadata()?.len();
        if size == 0 || ends_whole(file, size)? {
            return Ok(size);
        }
        let mut whole = 0;
        while let Some(length) = record_at(file, whole, size)? {
            whole += length;
        }
        file.set_len(whole)?;
        Ok(whole)
    }
}

/// Whether the last bytes of a file are the end of a record that begins in it.
fn ends_whole(file: &File, size: u64) -> io::Result<bool> {
    let mut tail = [0; local_log::TAIL];
    let Some(at) = size.checked_sub(tail.len() as u64) else { return Ok(false) };
    file.read_exact_at(&mut tail, at)?;
    let Some(length) = local_log::total(tail) else { return Ok(false) };
    let Some(begin) = size.checked_sub(length as u64) else { return Ok(false) };
    Ok(record_at(file, begin, size)? == Some(length as u64))
}

/// Bytes of the whole record at a place, if there is one.
fn record_at(file: &File, begin: u64, size: u64) -> io::Result<Option<u64>> {
    let mut head = [0; 4];
    if size.saturating_sub(begin) < head.len() as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, begin)?;
    let Some(length) = local_log::total(head) else { return Ok(None) };
    let end = begin + length as u64;
    if end > size {
        return Ok(None);
    }
    let mut tail = [0; local_log::TAIL];
    let from = end - tail.len() as u64;
    file.read_exact_at(&mut tail, from)?;
    Ok((tail == head).then_some(length as u64))
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn records(form: &Local) -> Vec<u8> {
        let mut out = form.header(Duration::from_nanos(1));
        form.encode(Stream::Stdout, b"one\n", Duration::from_nanos(2), &mut out);
        form.encode(Stream::Stderr, b"\xfftwo", Duration::from_nanos(3), &mut out);
        out
    }

    #[test]
    fn records_are_counted_whole() {
        let form = Local::new("{}");
        let all = records(&form);
        let header = form.header(Duration::from_nanos(1)).len();
        assert_eq!(form.first(&all), header);
        let two = header + form.first(&all[header..]);
        assert_eq!(form.fitting(&all, two), two);
        assert_eq!(form.fitting(&all, two - 1), header);
        assert_eq!(form.fitting(&all, usize::MAX), all.len());
        assert_eq!(form.fitting(&all, 3), 0);
        assert!(Local::new("").header(Duration::ZERO).is_empty());
    }

    #[test]
    fn a_record_that_was_cut_goes() {
        let form = Local::new("");
        let all = records(&form);
        let first = form.first(&all);
        let zeros = [0; 4096];
        for (end, behind) in [
            (all.len() - 1, &zeros[..0]),
            (first + 5, &zeros[..0]),
            (first + 1, &zeros[..0]),
            // What a power loss leaves.
            (first + 5, &zeros[..]),
            (first + 1, &zeros[..]),
        ] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&[&all[..end], behind].concat()).unwrap();
            assert_eq!(form.mend(&mut file).unwrap(), first as u64, "{end}");
            assert_eq!(file.metadata().unwrap().len(), first as u64);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&all).unwrap();
        assert_eq!(form.mend(&mut file).unwrap(), all.len() as u64);
    }
}
