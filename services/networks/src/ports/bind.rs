//! Sockets of the host's at published ports.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use gantry_core::networks::Protocol;
use rustix::net::sockopt::{set_ipv6_v6only, set_socket_reuseaddr};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with,
};

/// Connections that wait until the container's shim takes them.
const BACKLOG: i32 = 4096;

/// A socket bound to that port, or to a free one for port 0, and the port. It does not block.
pub(super) fn bound(protocol: Protocol, address: SocketAddr) -> io::Result<(OwnedFd, u16)> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, kind, flags, Some(number))?;
    if address.is_ipv6() {
        set_ipv6_v6only(&socket, true)?;
    }
    if protocol != Protocol::Udp {
        // Connections that ended a moment ago do not keep the port.
        set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    if protocol != Protocol::Udp {
        listen(&socket, BACKLOG)?;
    }
    let own = SocketAddr::try_from(getsockname(&socket)?).map_err(io::Error::from)?;
    Ok((socket, own.port()))
}

/// Whether this kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None).is_ok()
    })
}

/// Whether this is the address for every address of its kind.
pub(super) fn is_any(address: IpAddr) -> bool {
    address.is_unspecified()
}
