use std::fmt;

use gantry_core::{Error, Kind};

/// Numbers of gRPC's status codes, which ttrpc shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(
    /// The number on the wire.
    pub i32,
);

#[allow(missing_docs)]
impl Code {
    pub const OK: Code = Code(0);
    pub const CANCELLED: Code = Code(1);
    pub const UNKNOWN: Code = Code(2);
    pub const INVALID_ARGUMENT: Code = Code(3);
    pub const DEADLINE_EXCEEDED: Code = Code(4);
    pub const NOT_FOUND: Code = Code(5);
    pub const ALREADY_EXISTS: Code = Code(6);
    pub const PERMISSION_DENIED: Code = Code(7);
    pub const RESOURCE_EXHAUSTED: Code = Code(8);
    pub const FAILED_PRECONDITION: Code = Code(9);
    pub const ABORTED: Code = Code(10);
    pub const OUT_OF_RANGE: Code = Code(11);
    pub const UNIMPLEMENTED: Code = Code(12);
    pub const INTERNAL: Code = Code(13);
    pub const UNAVAILABLE: Code = Code(14);
    pub const DATA_LOSS: Code = Code(15);
    pub const UNAUTHENTICATED: Code = Code(16);
}

/// The one table between kinds of errors and numbers of codes.
const KINDS: [(Kind, Code); 15] = [
    (Kind::Cancelled, Code::CANCELLED),
    (Kind::InvalidArgument, Code::INVALID_ARGUMENT),
    (Kind::DeadlineExceeded, Code::DEADLINE_EXCEEDED),
    (Kind::NotFound, Code::NOT_FOUND),
    (Kind::AlreadyExists, Code::ALREADY_EXISTS),
    (Kind::PermissionDenied, Code::PERMISSION_DENIED),
    (Kind::ResourceExhausted, Code::RESOURCE_EXHAUSTED),
    (Kind::FailedPrecondition, Code::FAILED_PRECONDITION),
    (Kind::Aborted, Code::ABORTED),
    (Kind::OutOfRange, Code::OUT_OF_RANGE),
    (Kind::Unimplemented, Code::UNIMPLEMENTED),
    (Kind::Internal, Code::INTERNAL),
    (Kind::Unavailable, Code::UNAVAILABLE),
    (Kind::DataLoss, Code::DATA_LOSS),
    (Kind::Unauthenticated, Code::UNAUTHENTICATED),
];

impl From<Kind> for Code {
    fn from(kind: Kind) -> Self {
        KINDS.iter().find(|(k, _)| *k == kind).map_or(Code::INTERNAL, |(_, code)| *code)
    }
}

/// Unknown numbers, and `UNKNOWN` itself, become [`Kind::Internal`].
impl From<Code> for Kind {
    fn from(code: Code) -> Self {
        KINDS.iter().find(|(_, c)| *c == code).map_or(Kind::Internal, |(kind, _)| *kind)
    }
}

/// Why a call failed, as it travels in a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The class of failure; never [`Code::OK`].
    pub code: Code,
    /// What was tried and why it failed.
    pub message: String,
}

impl Status {
    /// A failure of this class.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A failure of class [`Code::UNAVAILABLE`].
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::UNAVAILABLE, message)
    }

    /// A failure of class [`Code::INVALID_ARGUMENT`].
    pub fn invalid_argument(message: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, message)
    }

    /// The answer to a method that is not served.
    pub fn unimplemented_method(method: &str) -> Self {
        Self::new(Code::UNIMPLEMENTED, format!("method {method} is not served: not implemented"))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (code {})", self.message, self.code.0)
    }
}

impl std::error::Error for Status {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(error.kind().into(), error.to_string())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::new(status.code.into(), status.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_survives_the_wire() {
        let mut codes = std::collections::HashSet::new();
        for kind in Kind::ALL {
            let status = Status::from(Error::new(kind, format!("try {kind}")));
            assert!(codes.insert(status.code), "{kind} shares its code with another kind");
            assert_ne!(status.code, Code::OK);
            let back = Error::from(status);
            assert_eq!(back.kind(), kind);
            assert_eq!(back.to_string(), format!("try {kind}"));
        }
    }

    #[test]
    fn unknown_codes_are_internal() {
        for code in [Code::UNKNOWN, Code(17), Code(-1)] {
            assert_eq!(Kind::from(code), Kind::Internal);
        }
    }
}
