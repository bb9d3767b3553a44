//! Which ports of the host are whose.
//!
//! A published port is reserved by a socket of the host's that is bound to it, and listens where
//! its protocol knows that, so that nobody else gets it, and by an entry in [`Ports`], which
//! knows the container. The container's shim keeps the socket while the container runs.

mod bind;
mod flows;
mod holder;
mod table;
mod take;

pub(crate) use bind::has_ipv6;
pub(crate) use flows::{forget_flows_from, forget_flows_to};
pub(crate) use holder::{holder, listener};
pub(crate) use table::Ports;
pub(crate) use take::{Taken, rebind, take};

use std::net::IpAddr;

use gantry_core::networks::Published;

/// `0.0.0.0:8080`, `[::]:8080`.
pub(crate) fn shown(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// `0.0.0.0:8080`, `[::]:8080`.
pub(crate) fn shown_port(port: &Published) -> String {
    shown(port.host_ip, port.host_port)
}
