//! Docker's json-file format: one JSON object a line, with the text, the
//! stream, the container's attributes if it has any, and the time.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::Stream;
use crate::clock;

/// Docker's json-file format.
#[derive(Debug)]
pub(super) struct JsonFile {
    /// What stands between stream and time.
    attrs: Vec<u8>,
}

impl JsonFile {
    /// Records with these attributes, a JSON object or nothing.
    pub(super) fn new(attrs: &str) -> Self {
        let attrs =
            if attrs.is_empty() { Vec::new() } else { format!(",\"attrs\":{attrs}").into_bytes() };
        Self { attrs }
    }

    /// See [`super::Form::encode`].
    pub(super) fn encode(&self, stream: Stream, line: &[u8], at: Duration, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"log\":");
        // Writing JSON of a string into memory cannot fail.
        let _ = serde_json::to_writer(&mut *out, &String::from_utf8_lossy(line));
        out.extend_from_slice(b",\"stream\":\"");
        out.extend_from_slice(stream.name().as_bytes());
        out.push(b'"');
        out.extend_from_slice(&self.attrs);
        out.extend_from_slice(b",\"time\":\"");
        clock::rfc3339(at, out);
        out.extend_from_slice(b"\"}\n");
    }

    /// See [`super::Form::first`].
    pub(super) fn first(&self, records: &[u8]) -> usize {
        records.iter().position(|b| *b == b'\n').map_or(records.len(), |at| at + 1)
    }

    /// See [`super::Form::fitting`].
    pub(super) fn fitting(&self, records: &[u8], room: usize) -> usize {
        let room = room.min(records.len());
        records[..room].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1)
    }

    /// See [`super::Form::mend`]: the rest of a record that was cut becomes a line of its own,
    /// which nobody takes for a record.
    pub(super) fn mend(&self, file: &mut File) -> io::Result<u64> {
        let size = file.metadata()?.len();
        if size == 0 {
            return Ok(0);
        }
        let mut last = [0];
        file.read_exact_at(&mut last, size - 1)?;
        if last == *b"\n" {
            return Ok(size);
        }
        file.write_all(b"\n")?;
        Ok(size + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_dockers() {
        let at = Duration::new(1_709_251_200, 7);
        let mut out = Vec::new();
        JsonFile::new("").encode(Stream::Stdout, b"a \"b\"\n", at, &mut out);
        JsonFile::new(r#"{"k":"v"}"#).encode(Stream::Stderr, b"\xff", at, &mut out);
        let wanted = concat!(
            r#"{"log":"a \"b\"\n","stream":"stdout","time":"2024-03-01T00:00:00.000000007Z"}"#,
            "\n",
            "{\"log\":\"\u{fffd}\",",
            r#""stream":"stderr","attrs":{"k":"v"},"time":"2024-03-01T00:00:00.000000007Z"}"#,
            "\n",
        );
        assert_eq!(String::from_utf8(out.clone()).unwrap(), wanted);
        let form = JsonFile::new("");
        let first = form.first(&out);
        assert!(out[..first].ends_with(b"\n") && first < out.len());
        assert_eq!(form.first(&out[first..]), out.len() - first);
        assert_eq!(form.fitting(&out, out.len() - 1), first);
        assert_eq!(form.fitting(&out, usize::MAX), out.len());
        assert_eq!(form.fitting(&out, first - 1), 0);
    }
}
