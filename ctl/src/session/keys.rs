//! The keys that leave a session and let the container go on.

use std::str::FromStr;

/// A sequence of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys(Vec<u8>);

/// What users know from Docker.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

impl FromStr for Keys {
    type Err = String;

    /// Reads keys between commas: a character, or `ctrl-` and a letter or one
    /// of `@[\]^_`. An empty text means no keys.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(text: &str) -> Result<u8, String> {
    let control = |c: &u8| matches!(c, b'a'..=b'z' | b'@' | b'['..=b'_');
    match (text.strip_prefix("ctrl-").map(str::as_bytes), text.as_bytes()) {
        (Some([c]), _) if control(c) => Ok(c.to_ascii_uppercase() - b'@'),
        (None, [c]) if c.is_ascii_graphic() => Ok(*c),
        _ => Err(format!("unknown key {text:?}: write a character or ctrl-LETTER")),
    }
}

/// Finds the keys in what is typed.
#[derive(Debug)]
pub(crate) struct Matcher {
    keys: Keys,
    /// What was typed of the keys, and is not handed on yet.
    held: Vec<u8>,
}

/// What to do with typed bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// Bytes for the container.
    pub(crate) forward: Vec<u8>,
    /// Whether the user leaves.
    pub(crate) leaves: bool,
}

impl Matcher {
    /// Looks for these keys.
    pub(crate) fn new(keys: Keys) -> Self {
        Self { keys, held: Vec::new() }
    }

    /// Takes typed bytes. What may be the beginning of the keys is held back
    /// until the next key tells.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Typed {
        let keys = &self.keys.0;
        if keys.is_empty() {
            return Typed { forward: bytes.to_vec(), leaves: false };
        }
        let mut forward = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push(*byte);
            while !keys.starts_with(&self.held) {
                forward.push(self.held.remove(0));
            }
            if self.held.len() == keys.len() {
                self.held.clear();
                return Typed { forward, leaves: true };
            }
        }
        Typed { forward, leaves: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: u8 = 16;
    const Q: u8 = 17;

    fn matcher(keys: &str) -> Matcher {
        Matcher::new(keys.parse().unwrap())
    }

    fn stays(forward: &[u8]) -> Typed {
        Typed { forward: forward.to_vec(), leaves: false }
    }

    #[test]
    fn keys_are_written_as_dockers() {
        assert_eq!(DEFAULT.parse(), Ok(Keys(vec![P, Q])));
        assert_eq!("ctrl-@,ctrl-[,a,~".parse(), Ok(Keys(vec![0, 27, b'a', b'~'])));
        assert_eq!("".parse(), Ok(Keys(Vec::new())));
        for bad in ["ctrl-", "ctrl-ab", "ctrl-P", "ab", "a,", "ctrl-1", "é", " "] {
            assert!(bad.parse::<Keys>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_are_found_in_one_piece_and_in_two() {
        let whole = matcher(DEFAULT).take(&[b'a', P, Q, b'b']);
        assert_eq!(whole, Typed { forward: vec![b'a'], leaves: true });
        let mut matcher = matcher(DEFAULT);
        assert_eq!(matcher.take(&[P]), stays(&[]));
        assert_eq!(matcher.take(&[Q]), Typed { forward: vec![], leaves: true });
    }

    #[test]
    fn what_was_held_back_for_nothing_is_handed_on() {
        let mut matcher = matcher(DEFAULT);
        assert_eq!(matcher.take(&[P]), stays(&[]));
        assert_eq!(matcher.take(b"x"), stays(&[P, b'x']));
        // The second of two first keys may begin the keys.
        assert_eq!(matcher.take(&[P, P]), stays(&[P]));
        assert_eq!(matcher.take(&[Q]), Typed { forward: vec![], leaves: true });
    }

    #[test]
    fn overlapping_beginnings_are_found() {
        let mut matcher = matcher("a,a,b");
        assert_eq!(matcher.take(b"aaab"), Typed { forward: vec![b'a'], leaves: true });
    }

    #[test]
    fn without_keys_nothing_is_held_back() {
        assert_eq!(matcher("").take(&[P, Q]), stays(&[P, Q]));
    }
}
