//! Go's `text/template` over JSON values, as Docker's command line uses it for
//! `--format`.
//!
//! A [`Template`] is parsed once and rendered as often as there are rows:
//!
//! ```
//! use gantry_template::{Options, Template};
//! use serde_json::json;
//!
//! let template = Template::parse("{{.Names}}: {{upper .State}}").unwrap();
//! let row = json!({"Names": "web", "State": "running"});
//! assert_eq!(template.render(&row, &Options::default()).unwrap(), "web: RUNNING");
//! ```
//!
//! The language is that of Go 1.24: its actions, its built-in functions, and
//! Docker's `json`, `split`, `join`, `title`, `lower`, `upper`, `pad` and
//! `truncate`. JSON has fewer types than Go, which shows in these places:
//!
//! - Integers are `int`, all other numbers `float64`, arrays are lists of
//!   anything, objects are maps; which objects are structs, and which methods
//!   they have, the caller tells with [`Options`].
//! - `null` is a nil pointer: it prints as `<nil>`. Only what is missing is
//!   `<no value>`.
//! - Strings are UTF-8. Where Go would cut a character in two, its remains are
//!   U+FFFD.
//! - There are no functions among the data, thus nothing to `call`; and no
//!   complex numbers, no hexadecimal floats (neither as literals nor for `%x`
//!   and `%b`), no `#` flag for floats.
//!
//! A template may come from anywhere: nesting, steps and the bytes that a
//! render makes are bounded.
#![forbid(unsafe_code)]

mod ast;
mod collections;
mod compare;
mod error;
mod eval;
mod exec;
mod float;
mod functions;
mod json;
mod lex;
mod literal;
mod parse;
mod parse_pipe;
mod print;
mod printf;
mod text;
mod value;
mod verbs;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

pub use error::Error;

/// Longest template, in bytes.
const LONGEST: usize = 1 << 20;

/// Methods of the data: takes the receiver, the name and the arguments, and
/// gives nothing for a method that it does not know.
///
/// A method is looked for where a field has arguments, as in
/// `{{.Label "com.example"}}`, and where the receiver has no such field.
pub type Methods<'a> = dyn Fn(&Value, &str, &[Value]) -> Option<Result<Value, Error>> + 'a;

/// Tells which objects are maps, whatever [`Options::missing`] says, by the
/// value that their missing keys have: `""` for a map of strings.
pub type Maps<'a> = dyn Fn(&Map<String, Value>) -> Option<Value> + 'a;

/// What a field is that an object does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Objects are maps: no value, which prints as `<no value>` and is false.
    #[default]
    NoValue,
    /// Objects are structs: an error that names the field.
    Error,
}

/// How a template is rendered.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What a missing field is.
    pub missing: Missing,
    /// The methods of the data.
    pub methods: Option<&'a Methods<'a>>,
    /// Which objects are maps. Their missing fields have no value, and
    /// `index` gives the value that is returned here.
    pub maps: Option<&'a Maps<'a>>,
    /// Whether the data are the headers of a table: Docker's functions, other
    /// than `pad`, then leave them as they are.
    pub header: bool,
    /// Most bytes that one render makes, its output and what it computes on
    /// the way together.
    pub limit: usize,
}

impl Default for Options<'_> {
    fn default() -> Self {
        let missing = Missing::default();
        Self { missing, methods: None, maps: None, header: false, limit: 64 << 20 }
    }
}

/// The bodies of what a text defines, by name; that of the text itself has no
/// name.
type Templates = BTreeMap<String, Vec<ast::Node>>;

/// A parsed template.
pub struct Template {
    source: String,
    templates: Templates,
}

impl Template {
    /// Parses a template. Functions and variables must exist, as in Go; fields
    /// are looked up when it is rendered.
    pub fn parse(source: &str) -> Result<Self, Error> {
        if source.len() > LONGEST {
            return Err(Error::new(format!("longer than {LONGEST} bytes")));
        }
        let templates = parse::parse(source)?;
        Ok(Self { source: source.to_owned(), templates })
    }

    /// Renders the template over a value, which is `.` and `$` in it.
    pub fn render(&self, data: &Value, options: &Options<'_>) -> Result<String, Error> {
        exec::run(&self.source, &self.templates, data, options)
    }

    /// The text that was parsed.
    pub fn source(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.source).finish()
    }
}

/// The row of a format that asks for a table: what follows `table`, without
/// the spaces around it. It is empty for the table that a command has anyway.
///
/// Like Docker, takes `table{{.ID}}` for a table as well, and nothing that
/// begins with a space.
pub fn table(format: &str) -> Option<&str> {
    format.strip_prefix("table").map(|row| row.trim_matches(' '))
}

/// Replaces `\t` and `\n`, as they are typed in a shell, by a tab and a line
/// feed. Docker does so for lists and not for `inspect`.
pub fn unescape(format: &str) -> String {
    let mut text = String::with_capacity(format.len());
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        match (c, chars.as_str().chars().next()) {
            ('\\', Some('t')) => text.push('\t'),
            ('\\', Some('n')) => text.push('\n'),
            _ => {
                text.push(c);
                continue;
            }
        }
        chars.next();
    }
    text
}
