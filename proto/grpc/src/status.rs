//! Errors on the wire: [`gantry_core::Error`] to [`tonic::Status`] and back.
//!
//! The numbers are in one table, in `gantry-ttrpc`. Neither type belongs to
//! this crate, so the mapping is two functions: `map_err(status::to_wire)` in
//! servers, `map_err(status::from_wire)` in clients.

use gantry_core::{Error, Kind};
use gantry_ttrpc::Code;
use tonic_types::{ErrorDetails, StatusExt};

/// Who gives the reasons in [`to_detailed`].
pub const DOMAIN: &str = "gantry.dev";

/// The status that a client sees for an error: its message, with its sources,
/// as clients print it.
pub fn to_wire(error: Error) -> tonic::Status {
    tonic::Status::new(code_of(error.kind()), error.to_string())
}

/// [`to_wire`] with details for programs, as the services of `gantry.engine.v1` answer: a
/// `google.rpc.ErrorInfo` whose reason is the kind, `NOT_FOUND`, and where the error is about
/// an object its kind and name, as `google.rpc.ResourceInfo` and in the metadata, with the name
/// that was probably meant. Clients of containerd's services never saw any, so those have none.
pub fn to_detailed(error: Error) -> tonic::Status {
    let mut details = ErrorDetails::new();
    let mut metadata = std::collections::HashMap::new();
    if let Some((object, name)) = error.subject() {
        metadata.insert("object".to_owned(), object.to_owned());
        metadata.insert("name".to_owned(), name.to_owned());
        details.set_resource_info(object, name, "", "");
    }
    if let Some(meant) = error.meant() {
        metadata.insert(MEANT.to_owned(), meant.to_owned());
    }
    details.set_error_info(reason(error.kind()), DOMAIN, metadata);
    tonic::Status::with_error_details(code_of(error.kind()), error.to_string(), details)
}

/// Key of the name that was probably meant, in the metadata.
const MEANT: &str = "meant";

/// What tonic says of a message beyond the limit, with `OutOfRange`.
pub(crate) const TOO_LARGE: &str = "decoded message length too large";

/// Whether a message was beyond the limit.
pub(crate) fn is_too_large(status: &tonic::Status) -> bool {
    status.code() == tonic::Code::OutOfRange && status.message().contains(TOO_LARGE)
}

/// The status of a caller's message that could not be read, in the middle of a stream: one
/// beyond the limit exhausts resources, where tonic says that it is out of range.
pub fn inbound(status: tonic::Status) -> tonic::Status {
    if is_too_large(&status) {
        return tonic::Status::resource_exhausted(status.message());
    }
    status
}

/// The same status with details.
pub fn with_details(status: tonic::Status) -> tonic::Status {
    to_detailed(from_wire(status))
}

/// A kind as the reason of `google.rpc.ErrorInfo`.
fn reason(kind: Kind) -> String {
    kind.as_str().to_uppercase().replace(' ', "_")
}

/// The error behind a status.
pub fn from_wire(status: tonic::Status) -> Error {
    let mut error = Error::new(kind_of(status.code()), status.message());
    if let Some(resource) = status.get_details_resource_info() {
        error = error.about(resource.resource_type, resource.resource_name);
    }
    let info = status.get_details_error_info();
    if let Some(meant) = info.and_then(|mut info| info.metadata.remove(MEANT)) {
        error = error.meaning(meant);
    }
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
    fn every_kind_has_a_reason() {
        for (kind, code) in EXPECTED {
            let error = Error::new(kind, "what").with_source("disk").about("container", "web");
            let status = to_detailed(error);
            assert_eq!((status.code(), status.message()), (code, "what: disk"));
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.domain, "gantry.dev");
            let word = format!("{code:?}");
            let letters: String = info.reason.chars().filter(|c| *c != '_').collect();
            match kind {
                // Its words are containerd's.
                Kind::Unimplemented => assert_eq!(info.reason, "NOT_IMPLEMENTED"),
                _ => assert_eq!(letters, word.to_uppercase()),
            }
            assert_eq!(
                (info.metadata["object"].as_str(), info.metadata["name"].as_str()),
                ("container", "web")
            );
            let back = from_wire(status);
            assert_eq!((back.kind(), back.subject()), (kind, Some(("container", "web"))));
            assert_eq!(back.to_string(), "what: disk");
        }
        let bare = to_detailed(Error::internal("x"));
        assert!(bare.get_details_resource_info().is_none());
        assert!(bare.get_details_error_info().unwrap().metadata.is_empty());
    }

    #[test]
    fn what_was_meant_goes_along() {
        let status = to_detailed(Error::not_found("x").about("container", "wbe").meaning("web"));
        assert_eq!(from_wire(status).meant(), Some("web"));
        assert_eq!(from_wire(to_detailed(Error::not_found("x"))).meant(), None);
    }

    #[test]
    fn containerds_clients_see_no_details() {
        let status = to_wire(Error::not_found("x").about("container", "web"));
        assert!(status.details().is_empty());
    }

    #[test]
    fn unknown_is_internal() {
        assert_eq!(kind_of(tonic::Code::Unknown), Kind::Internal);
    }
}
