//! The way to a container's resolver, in its own network namespace.
//!
//! The resolver's sockets have free ports of 127.0.0.11, so that a process of the container may
//! listen on port 53 of every address. Packets to 127.0.0.11:53 get the resolver's port written
//! into them, and its answers get 53, without connection tracking.

use std::net::Ipv4Addr;

use gantry_core::networks::Protocol;
use gantry_core::sockets::RESOLVER;
use gantry_core::{Error, Result};

use super::batch::Batch;
use super::elements::protocol_number;
use super::expression::{Expression, META_L4PROTO, NETWORK, TRANSPORT, Verdict};
use super::layout::{equal, name_of, oifname, payload, unequal, verdict};
use super::wire::{self, Base, Layer, Position};
use crate::netlink::socket::{Family, Socket};

/// The table and its chain.
const PLACE: (&str, &str) = ("gantry", "resolver");
/// Before connections are tracked.
const BASE: Base = Base { kind: "filter", hook: libc::NF_INET_LOCAL_OUT as u32, priority: -300 };
/// Where packets with names go.
const DNS: u16 = 53;
/// Offsets in the headers of IPv4, TCP and UDP.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// Leads what is sent to port 53 of 127.0.0.11 to these ports there, in this thread's network
/// namespace. A second call replaces the ports.
///
/// # Errors
/// `Unimplemented` when the kernel lacks nf_tables; the kernel's.
pub(crate) fn redirect_resolver(udp_port: u16, tcp_port: u16) -> Result<()> {
    let failed = |err: Error| err.context("lead to the container's resolver");
    let socket = Socket::open(Family::Netfilter).map_err(failed)?;
    let mut batch = Batch::new();
    let (table, chain) = PLACE;
    batch.push("make the table", wire::new_table(Layer::Ip, table));
    batch.push("make the chain", wire::new_chain(Layer::Ip, table, chain, Some(&BASE)));
    batch.push("empty the chain", wire::delete_rule(Layer::Ip, PLACE, None));
    for rule in rules(udp_port, tcp_port) {
        batch.push("add a rule", wire::new_rule(Layer::Ip, PLACE, Position::Last, &rule, ""));
    }
    match batch.send(&socket).map_err(failed)? {
        None => Ok(()),
        Some(refused) => Err(failed(refused.error())),
    }
}

fn rules(udp_port: u16, tcp_port: u16) -> Vec<Vec<Expression>> {
    // What leaves the container is not looked at any further.
    let leaves = [vec![oifname(0), unequal(0, &name_of("lo"))], verdict(Verdict::Accept)];
    let mut rules = vec![leaves.concat()];
    for (protocol, port) in [(Protocol::Udp, udp_port), (Protocol::Tcp, tcp_port)] {
        rules.push(rewrite(protocol, (DESTINATION, DESTINATION_PORT), DNS, port));
        rules.push(rewrite(protocol, (SOURCE, SOURCE_PORT), port, DNS));
    }
    rules
}

/// Writes another port into packets to the resolver, or from it.
fn rewrite(
    protocol: Protocol,
    (address, place): (u32, u32),
    from: u16,
    to: u16,
) -> Vec<Expression> {
    let resolver: Ipv4Addr = RESOLVER;
    let checksum = if protocol == Protocol::Tcp { 16 } else { 6 };
    vec![
        payload(NETWORK, address, 4, 0),
        equal(0, &resolver.octets()),
        Expression::Meta { key: META_L4PROTO, to: 0 },
        equal(0, &[protocol_number(protocol)]),
        payload(TRANSPORT, place, 2, 0),
        equal(0, &from.to_be_bytes()),
        Expression::NoTrack,
        Expression::Constant { to: 0, value: to.to_be_bytes().to_vec() },
        Expression::SetPayload { base: TRANSPORT, offset: place, length: 2, from: 0, checksum },
    ]
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::thread;

    use super::*;
    use crate::nft::testing;

    #[test]
    fn names_are_asked_for_at_port_53() {
        testing::in_a_namespace(|| {
            let udp = UdpSocket::bind((RESOLVER, 0)).unwrap();
            let tcp = TcpListener::bind((RESOLVER, 0)).unwrap();
            // A server of the container's own is not in the way.
            let own = UdpSocket::bind(("0.0.0.0", 53)).unwrap();
            let ports = (udp.local_addr().unwrap().port(), tcp.local_addr().unwrap().port());
            redirect_resolver(1, 2).unwrap();
            redirect_resolver(ports.0, ports.1).unwrap();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect((RESOLVER, 53)).unwrap();
            client.send(b"who").unwrap();
            let mut buffer = [0; 16];
            let (length, from) = udp.recv_from(&mut buffer).unwrap();
            udp.send_to(&buffer[..length], from).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 3);
            let served = thread::spawn(move || {
                let (mut stream, _) = tcp.accept().unwrap();
                let mut asked = Vec::new();
                stream.read_to_end(&mut asked).unwrap();
                stream.write_all(&asked).unwrap();
            });
            let mut stream = TcpStream::connect((RESOLVER, 53)).unwrap();
            stream.write_all(&[7; 100_000]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), 100_000);
            served.join().unwrap();
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            other.send_to(b"own", ("127.0.0.1", 53)).unwrap();
            assert_eq!(own.recv(&mut buffer).unwrap(), 3);
        });
    }
}
