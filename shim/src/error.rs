//! The service half's errors: [`gantry_core::Error`], made with the words that
//! containerd's clients see behind a message.

use std::fmt::Display;

pub use gantry_core::{Error, Kind};

use crate::runtime;

/// `what: not found`.
pub fn not_found(what: impl Display) -> Error {
    worded(Kind::NotFound, what)
}

/// `what: already exists`.
pub fn exists(what: impl Display) -> Error {
    worded(Kind::AlreadyExists, what)
}

/// `what: failed precondition`.
pub fn precondition(what: impl Display) -> Error {
    worded(Kind::FailedPrecondition, what)
}

/// `what: not implemented`.
pub fn unimplemented(what: impl Display) -> Error {
    worded(Kind::Unimplemented, what)
}

/// A bad request; the text says what is wrong with which field.
pub fn invalid(what: impl Into<String>) -> Error {
    Error::invalid_argument(what)
}

/// A failed system call while `what` was tried.
pub fn io(what: impl Into<String>, source: impl Into<std::io::Error>) -> Error {
    Error::io(what, source.into())
}

fn worded(kind: Kind, what: impl Display) -> Error {
    Error::new(kind, format!("{what}: {kind}"))
}

impl From<runtime::Error> for Error {
    fn from(e: runtime::Error) -> Self {
        let kind = match &e {
            runtime::Error::Invalid(_) => Kind::InvalidArgument,
            runtime::Error::Unsupported(_) => Kind::Unimplemented,
            runtime::Error::State(_) => Kind::FailedPrecondition,
            runtime::Error::NotFound(_) => Kind::NotFound,
            runtime::Error::Timeout(_) => Kind::DeadlineExceeded,
            // A command that cannot be executed has no kind of its own with
            // containerd either: its clients know it by the text.
            _ => Kind::Internal,
        };
        Error::new(kind, e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtimes_errors_keep_their_kind() {
        let cases = [
            (runtime::Error::Invalid("x".into()), Kind::InvalidArgument),
            (runtime::Error::Unsupported("x".into()), Kind::Unimplemented),
            (runtime::Error::State("x".into()), Kind::FailedPrecondition),
            (runtime::Error::NotFound("x".into()), Kind::NotFound),
            (runtime::Error::Timeout("x".into()), Kind::DeadlineExceeded),
            (runtime::Error::Failed("x".into()), Kind::Internal),
            (runtime::Error::Exec { errno: libc::ENOENT, message: "x".into() }, Kind::Internal),
        ];
        for (from, kind) in cases {
            let e = Error::from(from);
            assert_eq!((e.kind(), e.to_string().as_str()), (kind, "x"));
        }
    }
}
