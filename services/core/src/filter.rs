//! containerd's filter language: `name==x`, `id~=^a`, `labels."a.b/c"`,
//! selectors joined by commas must all hold, and of several filters one.

use std::str::Chars;

use regex::Regex;

use crate::{Error, Result};

/// Something with fields that a filter can ask for.
pub trait Filterable {
    /// The field at this path (`["labels", "a.b/c"]`), `None` when absent.
    fn field(&self, path: &[&str]) -> Option<String>;
}

/// Several filters; one that matches is enough, and none at all match everything.
#[derive(Clone, Debug, Default)]
pub struct Filters(Vec<Vec<Selector>>);

#[derive(Clone, Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
    Never,
}

impl Filters {
    /// Everything matches.
    pub fn all() -> Self {
        Self::default()
    }

    /// Parses each text as one filter.
    ///
    /// # Errors
    /// `InvalidArgument`, with the text and where it went wrong.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Self> {
        texts.iter().map(|t| Parser::new(t.as_ref()).filter()).collect::<Result<_>>().map(Self)
    }

    /// Whether the object is wanted.
    pub fn matches(&self, object: &dyn Filterable) -> bool {
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(|s| s.holds(object)))
    }
}

impl Selector {
    fn holds(&self, object: &dyn Filterable) -> bool {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let value = object.field(&path);
        match (&self.test, value) {
            (Test::Present, v) => v.is_some(),
            (Test::Equal(want), v) => v.as_deref() == Some(want),
            (Test::NotEqual(want), v) => v.as_deref() != Some(want),
            (Test::Matches(re), Some(v)) => re.is_match(&v),
            (Test::Matches(_), None) | (Test::Never, _) => false,
        }
    }
}

/// Reads the language token by token, as containerd's scanner does: white space counts
/// for nothing before a token, and ends a value.
struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// What comes next, white space included.
    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes the characters that belong to it.
    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn error(&self, why: &str) -> Error {
        let (before, rest) = self.text.split_at(self.at);
        let mut after = rest.chars();
        let place = match after.next() {
            Some(here) => format!("[{before} >|{here}|< {}]", after.as_str()),
            None => format!("[{before}]"),
        };
        Error::invalid_argument(format!("filters: parse error: {place}: {why}: invalid argument"))
    }

    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut all = Vec::new();
        if self.text.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.selector()?);
            match self.peek() {
                None => return Ok(all),
                Some(',') => self.at += 1,
                Some(other) => return Err(self.error(&format!("unexpected input: {other}"))),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let operator = self.operator()?;
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            // As in containerd, a bad expression is no mistake of the filter: it matches nothing.
            _ => Regex::new(&value).map_or(Test::Never, Test::Matches),
        };
        Ok(Selector { path, test })
    }

    fn operator(&mut self) -> Result<&'a str> {
        self.skip_space();
        let start = self.at;
        match self.take_while(|c| matches!(c, '=' | '!' | '~')) {
            operator @ ("==" | "!=" | "~=") => Ok(operator),
            other => {
                self.at = start;
                let why = match other {
                    "" => r#"expected an operator ("=="|"!="|"~=")"#.to_owned(),
                    other => format!("unsupported operator {other:?}"),
                };
                Err(self.error(&why))
            }
        }
    }

    fn field(&mut self) -> Result<String> {
        self.skip_space();
        if self.peek() == Some('"') {
            return self.quoted('"');
        }
        match self.take_while(|c| c.is_ascii_alphanumeric() || c == '_') {
            "" => Err(self.error("expected field or quoted")),
            name => Ok(name.to_owned()),
        }
    }

    fn value(&mut self, expression: bool) -> Result<String> {
        self.skip_space();
        match self.peek() {
            Some('"') => return self.quoted('"'),
            // A regular expression may stand between any of these.
            Some(c @ ('/' | '|')) if expression => return self.quoted(c),
            _ => {}
        }
        match self.take_while(|c| c != ',' && !c.is_whitespace() && !c.is_control()) {
            "" => Err(self.error("expected value or quoted")),
            value => Ok(value.to_owned()),
        }
    }

    /// A quoted text, with the escapes of Go's strings.
    fn quoted(&mut self, quote: char) -> Result<String> {
        let mut chars = self.rest()[1..].chars();
        let mut out = String::new();
        loop {
            match chars.next() {
                None | Some('\n') => return Err(self.error("quoted literal not terminated")),
                Some(c) if c == quote => break,
                Some('\\') => match escape(&mut chars, quote) {
                    Some(c) => out.push(c),
                    None => return Err(self.error("illegal escape sequence")),
                },
                Some(c) => out.push(c),
            }
        }
        self.at = self.text.len() - chars.as_str().len();
        Ok(out)
    }
}

/// What stands behind a backslash.
fn escape(chars: &mut Chars<'_>, quote: char) -> Option<char> {
    let text = chars.as_str();
    let mut number = |digits: usize, skip: usize, radix: u32| {
        let code = u32::from_str_radix(text.get(skip..skip + digits)?, radix).ok()?;
        *chars = text.get(skip + digits..)?.chars();
        char::from_u32(code)
    };
    match text.chars().next()? {
        '0'..='7' => return number(3, 0, 8),
        'x' => return number(2, 1, 16),
        'u' => return number(4, 1, 16),
        'U' => return number(8, 1, 16),
        _ => {}
    }
    Some(match chars.next()? {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        c if c == quote || c == '\\' => c,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Thing;
    impl Filterable for Thing {
        fn field(&self, path: &[&str]) -> Option<String> {
            match path {
                ["name"] => Some("web".into()),
                ["topic"] => Some("/tasks/exit".into()),
                ["labels", "a.b/c"] => Some("x".into()),
                _ => None,
            }
        }
    }

    fn matches(filters: &[&str]) -> bool {
        Filters::parse(filters).unwrap().matches(&Thing)
    }

    #[test]
    fn the_language_as_clients_use_it() {
        assert!(matches(&[]));
        assert!(matches(&[""]));
        assert!(matches(&["name==web"]));
        assert!(!matches(&["name==we"]));
        assert!(matches(&["name!=we"]));
        assert!(matches(&["name~=^w"]));
        assert!(matches(&["labels.\"a.b/c\""]));
        assert!(!matches(&["labels.\"nope\""]));
        assert!(matches(&["labels.\"a.b/c\"~=x"]));
        assert!(matches(&["name==web,topic~=|^/tasks/|"]));
        assert!(matches(&["topic~=/tasks/"]));
        assert!(!matches(&["name==web,name==x"]));
        assert!(matches(&["name==x", "name==web"]));
        assert!(matches(&["name==\"web\""]));
        assert!(matches(&["topic==/tasks/exit"]));
        assert!(matches(&["topic~=/exit$/,name"]));
    }

    #[test]
    fn white_space_stands_before_tokens() {
        for same in ["name == web", "name ==web", " name==web", "name== web", "name~= ^w"] {
            assert!(matches(&[same]), "{same}");
        }
        assert!(matches(&["labels.\"a.b/c\" ~= \"^x\", name==web"]));
        for bad in ["name~=(", "name~=[web[", "name~=/(/"] {
            assert!(!matches(&[bad]), "{bad}");
        }
    }

    #[test]
    fn quoted_texts_have_the_escapes_of_go() {
        for same in [r#"name=="w\x65b""#, r#"name=="w\u0065\142""#, r#"name~=/^\u0077/"#] {
            assert!(matches(&[same]), "{same}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (bad, why) in [
            ("==x", "[ >|=|< =x]: expected field or quoted"),
            ("name==\"x", "quoted literal not terminated"),
            ("a b", "[a  >|b|< ]: expected an operator (\"==\"|\"!=\"|\"~=\")"),
            ("name.", "[name.]: expected field or quoted"),
            (",", "expected field or quoted"),
            ("name==", "[name==]: expected value or quoted"),
            ("name===", "unsupported operator \"===\""),
            ("name==web ", "unexpected input:  "),
            ("name=web", "unsupported operator \"=\""),
            (r#"name~="w\d""#, "illegal escape sequence"),
            ("na\u{e9}me==x", "expected an operator"),
        ] {
            let err = Filters::parse(&[bad]).unwrap_err();
            assert!(err.to_string().contains(why), "{bad}: {err}");
        }
    }
}
