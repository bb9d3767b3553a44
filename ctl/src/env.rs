//! What users write as NAME=VALUE.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, bail};

/// Reads `-e`: `NAME=VALUE` as it is, `NAME` with the caller's value. A
/// variable that the caller has not is left out.
///
/// # Errors
/// Without a name, or when the caller's value is not UTF-8.
pub(crate) fn variable(
    text: &str,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Option<String>> {
    match text.split_once('=') {
        Some(("", _)) => bail!("invalid environment variable {text:?}: write NAME=VALUE or NAME"),
        None if text.is_empty() => bail!("invalid environment variable: the name is empty"),
        Some(_) => Ok(Some(text.to_owned())),
        None => match lookup(text).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(format!("{text}={value}"))),
            Some(Err(_)) => bail!("your value of environment variable {text:?} is not UTF-8"),
        },
    }
}

/// Reads a file of variables: a line each, as for `-e`; empty lines and lines
/// that begin with `#` count for nothing.
///
/// # Errors
/// When a line names no variable; says which.
pub(crate) fn file(
    text: &str,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> anyhow::Result<Vec<String>> {
    let mut variables = Vec::new();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split('=').next().unwrap_or(line);
        if name.contains(char::is_whitespace) {
            bail!("line {}: variable {name:?} has a space in its name", index + 1);
        }
        let variable = variable(line, &lookup).with_context(|| format!("line {}", index + 1))?;
        variables.extend(variable);
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
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("read environment file {}", path.display()))?;
        let read = file(&text, caller)
            .with_context(|| format!("read environment file {}", path.display()))?;
        all.extend(read);
    }
    for flag in flags {
        all.extend(variable(flag, caller)?);
    }
    Ok(all)
}

fn caller(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Reads `KEY=VALUE` pairs; `KEY` alone has an empty value. Of two with one
/// key the last counts.
///
/// # Errors
/// Without a key.
pub(crate) fn pairs(what: &str, texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut map = BTreeMap::new();
    for text in texts {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        if key.is_empty() {
            bail!("invalid {what} {text:?}: write KEY=VALUE");
        }
        map.insert(key.to_owned(), value.to_owned());
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
        assert_eq!(read("A=b"), Some("A=b".to_owned()));
        assert_eq!(read("A="), Some("A=".to_owned()));
        assert_eq!(read("A=b=c d"), Some("A=b=c d".to_owned()));
        assert_eq!(read("HOME"), Some("HOME=/root".to_owned()));
        assert_eq!(read("UNSET"), None);
        assert!(variable("=b", home).is_err());
        assert!(variable("", home).is_err());
    }

    #[test]
    fn what_is_not_text_is_told() {
        let error = variable("BYTES", home).unwrap_err();
        assert_eq!(error.to_string(), "your value of environment variable \"BYTES\" is not UTF-8");
        let error = file("A=1\nBYTES", home).unwrap_err();
        assert_eq!(error.to_string(), "line 2");
        assert_eq!(variable("BYTES=x", home).unwrap(), Some("BYTES=x".to_owned()));
    }

    #[test]
    fn files_of_variables() {
        let text = "# a comment\nA=1\n\n  B=two words # kept\r\nHOME\nUNSET\n";
        assert_eq!(file(text, home).unwrap(), ["A=1", "B=two words # kept", "HOME=/root"]);
        let error = file("A=1\nB C=2", home).unwrap_err();
        assert_eq!(error.to_string(), "line 2: variable \"B C\" has a space in its name");
    }

    #[test]
    fn labels() {
        let texts = ["a=1", "b", "a=2=3"].map(str::to_owned);
        let map = pairs("label", &texts).unwrap();
        assert_eq!(map.get("a").map(String::as_str), Some("2=3"));
        assert_eq!(map.get("b").map(String::as_str), Some(""));
        assert!(pairs("label", &["=x".to_owned()]).is_err());
    }
}
