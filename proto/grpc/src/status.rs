//! Errors on the wire: [`gantry_core::Error`] to [`tonic::Status`] and back.
//!
//! The numbers are in one table, in `gantry-ttrpc`. Neither type belongs to
//! this crate, so the mapping is two functions: `map_err(status::to_wire)` in
//! servers, `map_err(status::from_wire)` in clients.

use gantry_core::{Error, Kind};
use gantry_ttrpc::Code;

/// The status that a client sees for an error: its message, with its sources,
/// as clients print it.
pub fn to_wire(error: Error) -> tonic::Status {
    tonic::Status::new(code_of(error.kind()), error.to_string())
}

/// The error behind a status.
pub fn from_wire(status: tonic::Status) -> Error {
    let error = Error::new(kind_of(status.code()), status.message());
    // A transport that failed says why in its source only.
    let Some(source) = std::error::Error::source(&status) else { return error };
    if expired(source) {
        // tonic's client calls its own timer's end a cancellation.
        return error.with_kind(Kind::DeadlineExceeded);
    }
    error.with_source(source.to_string())
}

fn expired(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |e| e.source()).any(|e| e.is::<tonic::TimeoutExpired>())
}

/// The status of a failed ttrpc call, handed on to a gRPC client.
pub fn from_ttrpc(status: gantry_ttrpc::Status) -> tonic::Status {
    tonic::Status::new(tonic::Code::from_i32(status.code.0), status.message)
}

/// The code of a kind of error.
pub fn code_of(kind: Kind) -> tonic::Code {
    tonic::Code::from_i32(Code::from(kind).0)
}

/// The kind of error behind a code; `Internal` for `Unknown` and `Ok`.
pub fn kind_of(code: tonic::Code) -> Kind {
    Code(code as i32).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients branch on, spelled out against the one table.
    const EXPECTED: [(Kind, tonic::Code); 15] = [
        (Kind::NotFound, tonic::Code::NotFound),
        (Kind::AlreadyExists, tonic::Code::AlreadyExists),
        (Kind::InvalidArgument, tonic::Code::InvalidArgument),
        (Kind::FailedPrecondition, tonic::Code::FailedPrecondition),
        (Kind::OutOfRange, tonic::Code::OutOfRange),
        (Kind::Unavailable, tonic::Code::Unavailable),
        (Kind::DeadlineExceeded, tonic::Code::DeadlineExceeded),
        (Kind::Aborted, tonic::Code::Aborted),
        (Kind::Cancelled, tonic::Code::Cancelled),
        (Kind::PermissionDenied, tonic::Code::PermissionDenied),
        (Kind::Unauthenticated, tonic::Code::Unauthenticated),
        (Kind::ResourceExhausted, tonic::Code::ResourceExhausted),
        (Kind::Unimplemented, tonic::Code::Unimplemented),
        (Kind::DataLoss, tonic::Code::DataLoss),
        (Kind::Internal, tonic::Code::Internal),
    ];

    #[test]
    fn every_kind_both_ways() {
        for kind in Kind::ALL {
            assert!(EXPECTED.iter().any(|(k, _)| *k == kind), "{kind} is not in the table");
        }
        for (kind, code) in EXPECTED {
            let status = to_wire(Error::new(kind, "image \"x\"").with_source("disk"));
            assert_eq!(status.code(), code);
            assert_eq!(status.message(), "image \"x\": disk");
            let ttrpc = gantry_ttrpc::Status::from(Error::new(kind, "m"));
            assert_eq!(from_ttrpc(ttrpc).code(), code);
            let back = from_wire(status);
            assert_eq!(back.kind(), kind);
            assert_eq!(back.to_string(), "image \"x\": disk");
        }
    }

    #[test]
    fn unknown_is_internal() {
        assert_eq!(kind_of(tonic::Code::Unknown), Kind::Internal);
    }
}
