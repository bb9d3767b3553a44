//! The way to a daemon for clients that tests bring.

use std::path::Path;

use tonic::transport::Endpoint;

/// The daemon, ours or another one, that listens at this socket.
pub fn endpoint(socket: &Path) -> Endpoint {
    Endpoint::from_shared(format!("unix:{}", socket.display())).expect("an address")
}
