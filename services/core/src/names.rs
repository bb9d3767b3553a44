use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Longest identifier that containerd accepts, in bytes.
const MAX_IDENTIFIER: usize = 76;

/// Checks a name of a namespace, container, task or process as containerd's
/// `identifiers` package does: runs of ASCII letters and digits joined by
/// single `.`, `_` or `-` (several `-` or `_` in a row are fine), at most 76 bytes.
///
/// # Errors
/// `InvalidArgument`, naming the value.
pub fn validate_identifier(name: &str) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid_argument("identifier must not be empty: invalid argument"));
    }
    if name.len() > MAX_IDENTIFIER {
        return Err(Error::invalid_argument(format!(
            "identifier {name:?} greater than maximum length ({MAX_IDENTIFIER} characters): invalid argument"
        )));
    }
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    let joined = bytes.windows(2).all(|w| {
        let separator = |b: u8| matches!(b, b'.' | b'_' | b'-');
        w[0].is_ascii_alphanumeric()
            || w[1].is_ascii_alphanumeric()
            || (separator(w[0]) && w[0] == w[1] && w[0] != b'.')
    });
    let chars = bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if edge(bytes.first()) && edge(bytes.last()) && joined && chars {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "identifier {name:?} must match ^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$: invalid argument"
    )))
}

/// A validated namespace name. Everything but blob bytes is isolated by it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Namespace(String);

impl Namespace {
    /// Validates a name.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not an identifier.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        validate_identifier(&name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Namespace {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Self::new(s)
    }
}

impl From<Namespace> for String {
    fn from(n: Namespace) -> String {
        n.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers() {
        for good in ["a", "a.b", "a_b-c.d", "0-9", "moby", "plugins.moby"] {
            assert!(validate_identifier(good).is_ok(), "{good}");
        }
        let long = "a".repeat(77);
        for bad in ["", ".a", "a.", "-a", "a/b", "a..b", "a b", "ä", "a\0", &long] {
            assert!(validate_identifier(bad).is_err(), "{bad:?}");
        }
    }
}
