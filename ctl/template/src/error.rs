//! The one error of templates.

use std::fmt;

use crate::ast::Span;

/// Longest piece of a template that an error quotes, in characters.
const PIECE: usize = 80;

/// Why a template can't be parsed or rendered: what, where in the template,
/// and the piece of it.
///
/// Reads as Go's: `template: :1:2: executing "" at <.Foo>: can't evaluate
/// field Foo`. What is found when a template is parsed says where as well,
/// other than in Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    message: String,
    place: Option<Box<Place>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    piece: String,
    /// The template that was executed.
    executing: Option<String>,
}

impl Error {
    /// The failure of a method; where it was called is added to it.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), place: None }
    }

    /// What went wrong, without the place.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The line, counted from 1, and the column, in bytes from 0 as Go counts
    /// them.
    pub fn position(&self) -> Option<(usize, usize)> {
        self.place.as_ref().map(|place| (place.line, place.column))
    }

    pub(crate) fn parsing(source: &str, at: Span, message: String) -> Self {
        Self { message, place: Some(Box::new(Place::new(source, at, None))) }
    }

    pub(crate) fn executing(source: &str, at: Span, name: &str, message: String) -> Self {
        let place = Place::new(source, at, Some(name.to_owned()));
        Self { message, place: Some(Box::new(place)) }
    }
}

impl Place {
    fn new(source: &str, at: Span, executing: Option<String>) -> Self {
        let before = source.get(..at.pos).unwrap_or(source);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let piece = source.get(at.start..at.end).unwrap_or_default();
        let mut quoted: String = piece.chars().take(PIECE).collect();
        if quoted.len() < piece.len() {
            quoted.push_str("...");
        }
        // An error is one line.
        let quoted = quoted.replace(char::is_control, " ");
        Self {
            line: 1 + before.matches('\n').count(),
            column: before.len() - line_start,
            piece: quoted,
            executing,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else { return write!(f, "template: {}", self.message) };
        write!(f, "template: :{}:{}: ", place.line, place.column)?;
        if let Some(name) = &place.executing {
            write!(f, "executing {name:?} ")?;
        }
        if !place.piece.is_empty() {
            write!(f, "at <{}>: ", place.piece)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
