//! Values as Go's `Print` writes them, into a buffer with a bound.

use serde_json::Value;

use crate::float;
use crate::value::{Num, Val, sorted};

/// What is said of a value that there is none of.
pub(crate) const NO_VALUE: &str = "<no value>";
/// What is said of nil.
pub(crate) const NIL: &str = "<nil>";
/// What is said of a result that would be too long.
pub(crate) const TOO_LONG: &str = "more output than the limit";

/// A text that grows up to a limit. What goes beyond it is dropped, and
/// [`Buf::finish`] fails.
pub(crate) struct Buf {
    text: String,
    limit: usize,
    full: bool,
}

impl Buf {
    pub(crate) fn new(limit: usize) -> Self {
        Self { text: String::new(), limit, full: false }
    }

    pub(crate) fn push_str(&mut self, text: &str) {
        if self.fits(text.len()) {
            self.text.push_str(text);
        }
    }

    pub(crate) fn push(&mut self, c: char) {
        if self.fits(c.len_utf8()) {
            self.text.push(c);
        }
    }

    /// Adds a character of ASCII so many times.
    pub(crate) fn fill(&mut self, c: char, count: usize) {
        if self.fits(count) {
            self.text.extend(std::iter::repeat_n(c, count));
        }
    }

    /// How many bytes still fit.
    pub(crate) fn room(&self) -> usize {
        self.limit - self.text.len()
    }

    /// Tells that something did not fit.
    pub(crate) fn overflow(&mut self) {
        self.full = true;
    }

    pub(crate) fn finish(self) -> Result<String, String> {
        if self.full { Err(TOO_LONG.to_owned()) } else { Ok(self.text) }
    }

    fn fits(&mut self, more: usize) -> bool {
        self.full |= more > self.room();
        !self.full
    }
}

/// Writes a value as `%v`.
pub(crate) fn display(buf: &mut Buf, value: &Value) {
    match value {
        Value::Null => buf.push_str(NIL),
        Value::Bool(value) => buf.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match Num::of(number) {
            Num::Int(value) => buf.push_str(&value.to_string()),
            Num::Uint(value) => buf.push_str(&value.to_string()),
            Num::Float(value) => buf.push_str(&float::general(value, None)),
        },
        Value::String(text) => buf.push_str(text),
        Value::Array(list) => {
            buf.push('[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    buf.push(' ');
                }
                display(buf, value);
            }
            buf.push(']');
        }
        Value::Object(map) => {
            buf.push_str("map[");
            for (index, (key, value)) in sorted(map).into_iter().enumerate() {
                if index > 0 {
                    buf.push(' ');
                }
                buf.push_str(key);
                buf.push(':');
                display(buf, value);
            }
            buf.push(']');
        }
    }
}

/// Writes arguments with a space between two of which neither is a string.
pub(crate) fn print(buf: &mut Buf, args: &[Val<'_>]) {
    let mut previous_is_text = true;
    for (index, arg) in args.iter().enumerate() {
        let is_text = arg.get().is_string();
        if index > 0 && !is_text && !previous_is_text {
            buf.push(' ');
        }
        display(buf, arg.get());
        previous_is_text = is_text;
    }
}

/// Writes arguments with a space between any two, and a line feed.
pub(crate) fn println(buf: &mut Buf, args: &[Val<'_>]) {
    for (index, arg) in args.iter().enumerate() {
        if index > 0 {
            buf.push(' ');
        }
        display(buf, arg.get());
    }
    buf.push('\n');
}

/// The text that `html`, `js` and `urlquery` escape.
pub(crate) fn printed(args: &[Val<'_>], limit: usize) -> Result<String, String> {
    let named = args.iter().map(|arg| match arg {
        Val::Missing => Val::own(NO_VALUE),
        other => other.clone(),
    });
    let named: Vec<Val<'_>> = named.collect();
    let mut buf = Buf::new(limit);
    print(&mut buf, &named);
    buf.finish()
}
