//! Patterns of names as Go's `path.Match` has them: `*` and `?` stop at slashes.

/// A pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// This character.
    One(char),
    /// Any character but a slash.
    Any,
    /// Any number of these.
    Many,
    /// A character in one of these ranges, or in none of them.
    Class { ranges: Vec<(char, char)>, not: bool },
}

impl Glob {
    /// Reads a pattern; `None` for what is none.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            parts.push(match c {
                '*' => Part::Many,
                '?' => Part::Any,
                '\\' => Part::One(chars.next()?),
                '[' => {
                    let not = chars.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    // The first character may be a bracket only behind a backslash.
                    while ranges.is_empty() || chars.peek() != Some(&']') {
                        let low = member(&mut chars)?;
                        let high = match chars.next_if_eq(&'-') {
                            Some(_) => member(&mut chars)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    chars.next();
                    Part::Class { ranges, not }
                }
                other => Part::One(other),
            });
        }
        Some(Self(parts))
    }

    /// Whether all of a text matches.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut part, mut at) = (0, 0);
        // Where the last star stands, and what it was to begin with next.
        let mut star: Option<(usize, usize)> = None;
        loop {
            let here = self.0.get(part);
            if here == Some(&Part::Many) {
                star = Some((part, at));
                part += 1;
                continue;
            }
            match (here, text.get(at)) {
                (None, None) => return true,
                (Some(wanted), Some(c)) if wanted.takes(*c) => {
                    part += 1;
                    at += 1;
                    continue;
                }
                _ => {}
            }
            // The last star takes one more.
            let Some((behind, began)) = star else { return false };
            match text.get(began) {
                Some(c) if *c != '/' => {}
                _ => return false,
            }
            star = Some((behind, began + 1));
            part = behind + 1;
            at = began + 1;
        }
    }
}

impl Part {
    fn takes(&self, c: char) -> bool {
        match self {
            Part::One(wanted) => *wanted == c,
            Part::Any => c != '/',
            Part::Many => false,
            Part::Class { ranges, not } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *not
            }
        }
    }
}

/// A character of a class.
fn member(chars: &mut impl Iterator<Item = char>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_gos() {
        for (pattern, text, wanted) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            let glob = Glob::new(pattern).unwrap();
            assert_eq!(glob.matches(text), wanted, "{pattern} {text}");
        }
        for bad in ["[]a]", "[-]", "[x-]", "[-x]", "[a-b-c]", "[", "[^", "[^bc", "a[", "\\"] {
            assert_eq!(Glob::new(bad), None, "{bad}");
        }
    }
}
