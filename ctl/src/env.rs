//! What users write as NAME=VALUE, on the command line and in files.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};

/// Reads `-e`: `NAME=VALUE` as it is, `NAME` with the caller's value. A name that the caller
/// has not stays alone, which takes the image's variable away.
///
/// # Errors
/// Without a name, or when the caller's value is not UTF-8.
pub(crate) fn variable(
    text: &str,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<String> {
    match text.split_once('=') {
        None if text.is_empty() => bail!("invalid environment variable: the name is empty"),
        Some(("", _)) => bail!("invalid environment variable: {text}"),
        Some(_) => Ok(text.to_owned()),
        None => Ok(own(text, lookup)?.unwrap_or_else(|| text.to_owned())),
    }
}

/// `NAME=VALUE` of a variable of the caller.
fn own(name: &str, lookup: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Option<String>> {
    match lookup(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some(format!("{name}={value}"))),
        Some(Err(_)) => bail!("your value of environment variable {name:?} is not UTF-8"),
    }
}

/// A line of a file that says something.
#[derive(Debug)]
struct Line<'a> {
    text: &'a str,
    key: &'a str,
    /// Whether it has a value.
    complete: bool,
}

/// Reads lines as Docker does: white space before them does not count, nor do empty ones, those
/// that begin with `#`, and a mark of UTF-8 at the beginning of the file.
///
/// # Errors
/// When a line has no name, or one with spaces; says which.
fn lines(bytes: &[u8]) -> anyhow::Result<Vec<Line<'_>>> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = Vec::new();
    for (index, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let Ok(text) = std::str::from_utf8(bytes) else {
            bail!("invalid utf8 bytes at line {number}")
        };
        let text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let key = text.split('=').next().unwrap_or(text);
        if key.is_empty() {
            bail!("line {number}: no variable name on line '{text}'");
        }
        if key.contains([' ', '\t']) {
            bail!("line {number}: variable '{key}' contains whitespaces");
        }
        if text.contains('\0') {
            bail!("line {number}: variable '{}' contains a NUL byte", key.replace('\0', "\\0"));
        }
        lines.push(Line { text, key, complete: key.len() < text.len() });
    }
    Ok(lines)
}

/// Reads a file of variables: a line each, as for `-e`, but that a name which the caller has
/// not is left out.
///
/// # Errors
/// As [`lines`], and when the caller's value is not UTF-8.
fn file(bytes: &[u8], lookup: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Vec<String>> {
    let mut variables = Vec::new();
    for line in lines(bytes)? {
        match line.complete {
            true => variables.push(line.text.to_owned()),
            false => variables.extend(own(line.key, &lookup)?),
        }
    }
    Ok(variables)
}

/// All variables of `--env-file` and `-e`, in this order, so that the latter win.
///
/// # Errors
/// When a file can't be read, or a variable is malformed.
pub(crate) fn variables(
    files: &[impl AsRef<Path>],
    flags: &[String],
) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for path in files.iter().map(AsRef::as_ref) {
        let read = file(&contents(path)?, caller);
        all.extend(read.with_context(|| format!("invalid env file ({})", path.display()))?);
    }
    for flag in flags {
        all.push(variable(flag, caller)?);
    }
    Ok(all)
}

/// All labels of `--label-file` and `--label`; of two with one key the last counts.
///
/// # Errors
/// When a file can't be read, or a label is malformed.
pub(crate) fn labels(
    files: &[impl AsRef<Path>],
    flags: &[String],
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for path in files.iter().map(AsRef::as_ref) {
        let contents = contents(path)?;
        let read = lines(&contents);
        let read = read.with_context(|| format!("invalid label file ({})", path.display()))?;
        all.extend(read.iter().map(|line| pair(line.text)));
    }
    for flag in flags {
        let (key, value) = pair(flag);
        let name = key.trim_start_matches([' ', '\t']);
        if name.is_empty() {
            bail!("invalid label '{flag}': empty name");
        }
        if name.contains([' ', '\t']) {
            bail!("label '{name}' contains whitespaces");
        }
        all.insert(key, value);
    }
    Ok(all)
}

fn contents(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("open {}", path.display()))
}

fn caller(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Key and value; `KEY` alone has an empty value.
fn pair(text: &str) -> (String, String) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (key.to_owned(), value.to_owned())
}

/// Reads `KEY=VALUE` pairs; `KEY` alone has an empty value. Of two with one
/// key the last counts.
///
/// # Errors
/// Without a key.
pub(crate) fn pairs(what: &str, texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in texts {
        let (key, value) = pair(text);
        if key.is_empty() {
            bail!("invalid {what} {text:?}: write KEY=VALUE");
        }
        map.insert(key, value);
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn home(name: &str) -> Option<OsString> {
        match name {
            "HOME" => Some("/root".into()),
            "BYTES" => Some(OsString::from_vec(b"a\xffb".to_vec())),
            _ => None,
        }
    }

    #[test]
    fn variables_with_and_without_a_value() {
        let read = |text| variable(text, home).unwrap();
        for text in ["A=b", "A=", "A=b=c d", "UNSET"] {
            assert_eq!(read(text), text);
        }
        assert_eq!(read("HOME"), "HOME=/root");
        let error = variable("=b", home).unwrap_err();
        assert_eq!(error.to_string(), "invalid environment variable: =b");
        assert!(variable("", home).is_err());
    }

    #[test]
    fn what_is_not_text_is_told() {
        let said = "your value of environment variable \"BYTES\" is not UTF-8";
        assert_eq!(variable("BYTES", home).unwrap_err().to_string(), said);
        assert_eq!(file(b"A=1\nBYTES", home).unwrap_err().to_string(), said);
        assert_eq!(variable("BYTES=x", home).unwrap(), "BYTES=x");
        let error = file(b"A=1\nB=\xff", home).unwrap_err();
        assert_eq!(error.to_string(), "invalid utf8 bytes at line 2");
    }

    #[test]
    fn files_of_variables() {
        let text = b"\xef\xbb\xbf# a comment\nA=1\n\n  B=two words # kept \r\n\tHOME\nUNSET\nE=\n";
        let read = file(text, home).unwrap();
        assert_eq!(read, ["A=1", "B=two words # kept ", "HOME=/root", "E="]);
        for (text, said) in [
            ("A=1\nB C=2", "line 2: variable 'B C' contains whitespaces"),
            ("A =1", "line 1: variable 'A ' contains whitespaces"),
            ("#\n=1", "line 2: no variable name on line '=1'"),
            ("A=x\0y", "line 1: variable 'A' contains a NUL byte"),
        ] {
            assert_eq!(file(text.as_bytes(), home).unwrap_err().to_string(), said);
        }
    }

    #[test]
    fn files_come_before_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "a=1\nb=x y\nc\n").unwrap();
        let flags = ["a=2", "d"].map(str::to_owned);
        assert_eq!(variables(&[&path], &flags[..1]).unwrap(), ["a=1", "b=x y", "a=2"]);
        let read = labels(&[&path], &flags).unwrap();
        let wanted = [("a", "2"), ("b", "x y"), ("c", ""), ("d", "")];
        assert_eq!(read, wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        std::fs::write(&path, "a b=1").unwrap();
        let error = variables(&[&path], &[]).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid env file ({})", path.display()));
        let error = variables(&[dir.path().join("none")], &[]).unwrap_err();
        assert!(error.to_string().starts_with("open /"), "{error}");
    }

    #[test]
    fn labels_have_names() {
        let refused = |text: &str| labels(&[""; 0], &[text.to_owned()]).unwrap_err().to_string();
        assert_eq!(refused("=x"), "invalid label '=x': empty name");
        assert_eq!(refused("a b=x"), "label 'a b' contains whitespaces");
        let texts = ["a=1", "b", "a=2=3"].map(str::to_owned);
        let map = pairs("label", &texts).unwrap();
        assert_eq!(map.get("a").map(String::as_str), Some("2=3"));
        assert_eq!(map.get("b").map(String::as_str), Some(""));
        assert!(pairs("label", &["=x".to_owned()]).is_err());
    }
}
