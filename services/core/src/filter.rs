//! containerd's filter language: `name==x`, `id~=^a`, `labels."a.b/c"`,
//! selectors joined by commas must all hold, and of several filters one.

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
            (Test::Matches(_), None) => false,
        }
    }
}

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

    fn error(&self, why: &str) -> Error {
        Error::invalid_argument(format!(
            "filters: parse error: [{} >|{}|< ]: {why}: invalid argument",
            &self.text[..self.at],
            self.rest()
        ))
    }

    fn filter(mut self) -> Result<Vec<Selector>> {
        let mut all = Vec::new();
        if self.text.is_empty() {
            return Ok(all);
        }
        loop {
            all.push(self.selector()?);
            match self.rest().chars().next() {
                None => return Ok(all),
                Some(',') => self.at += 1,
                Some(_) => return Err(self.error("expected a comma")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector> {
        let mut path = vec![self.field()?];
        while self.rest().starts_with('.') {
            self.at += 1;
            path.push(self.field()?);
        }
        let operator = ["==", "!=", "~="].into_iter().find(|op| self.rest().starts_with(op));
        let Some(operator) = operator else {
            return Ok(Selector { path, test: Test::Present });
        };
        self.at += 2;
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => Test::Matches(
                Regex::new(&value).map_err(|err| self.error("bad expression").with_source(err))?,
            ),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String> {
        if self.rest().starts_with('"') {
            return self.quoted('"');
        }
        let len = self
            .rest()
            .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .unwrap_or(self.rest().len());
        if len == 0 {
            return Err(self.error("expected a field name"));
        }
        let name = self.rest()[..len].to_owned();
        self.at += len;
        Ok(name)
    }

    fn value(&mut self, expression: bool) -> Result<String> {
        match self.rest().chars().next() {
            Some('"') => return self.quoted('"'),
            // A regular expression may stand between any of these.
            Some(c @ ('/' | '|')) if expression && self.rest()[1..].contains(c) => {
                return self.quoted(c);
            }
            _ => {}
        }
        let len = self.rest().find(',').unwrap_or(self.rest().len());
        let value = self.rest()[..len].to_owned();
        self.at += len;
        Ok(value)
    }

    fn quoted(&mut self, quote: char) -> Result<String> {
        let body = &self.rest()[1..];
        let mut out = String::new();
        let mut chars = body.char_indices();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.at += 1 + i + quote.len_utf8();
                return Ok(out);
            }
            if c != '\\' || quote != '"' {
                // Behind a backslash, only the delimiter of an expression is special.
                if c == '\\' && body[i + 1..].starts_with(quote) {
                    chars.next();
                    out.push(quote);
                } else {
                    out.push(c);
                }
                continue;
            }
            match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, e @ ('"' | '\\'))) => out.push(e),
                Some((_, other)) => {
                    out.push('\\');
                    out.push(other);
                }
                None => break,
            }
        }
        Err(self.error("unterminated quote"))
    }
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
    }

    #[test]
    fn mistakes_are_named() {
        for bad in ["==x", "name==\"x", "name~=(", "a b", "name.", ","] {
            assert!(Filters::parse(&[bad]).is_err(), "{bad}");
        }
    }
}
