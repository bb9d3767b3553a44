//! The services as containerd's clients see them: requests are unpacked, the
//! service is called, errors are mapped and answers packed.

mod containers;
mod images;
mod leases;
mod namespaces;
mod sandboxes;

pub use containers::ContainersServer;
pub use images::ImagesServer;
pub use leases::LeasesServer;
pub use namespaces::NamespacesServer;
pub use sandboxes::SandboxStoreServer;

use gantry_core::Error;
use prost_types::FieldMask;
use tonic::Status;

/// The paths of a mask; none at all without one.
fn paths(mask: Option<FieldMask>) -> Vec<String> {
    mask.unwrap_or_default().paths
}

/// A part of a message that must be there.
fn required<T>(part: Option<T>, what: &str) -> Result<T, Status> {
    part.ok_or_else(|| missing(what))
}

fn missing(what: &str) -> Status {
    let error = Error::invalid_argument(format!("{what} is missing: invalid argument"));
    gantry_grpc::status::to_wire(error)
}
