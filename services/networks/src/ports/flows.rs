//! What the kernel remembers of datagrams, and must forget when addresses and ports change hands:
//! who keeps sending would else be led to where a port used to lead.

use std::net::IpAddr;

use gantry_core::Result;

use crate::netlink::message::Message;
use crate::netlink::socket::{Family, Socket};

/// Conntrack's subsystem, and the message that deletes.
const DELETE: u16 = (1 << 8) | 2;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V6_SRC: u16 = 3;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

const FILTER_ORIG_FLAGS: u16 = 1;
const FILTER_REPLY_FLAGS: u16 = 2;
/// Flags of a filter: which parts of a tuple count.
const BY_SOURCE: u32 = 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

/// Forgets the flows of UDP that a container with this address answers.
///
/// # Errors
/// The kernel's; it needs Linux 6.5 or later.
pub(crate) fn forget_flows_from(container: IpAddr) -> Result<()> {
    let mut message = message(container.is_ipv6());
    message.nest(TUPLE_REPLY, |tuple| {
        tuple.nest(TUPLE_IP, |ip| {
            match container {
                IpAddr::V4(address) => ip.put(IP_V4_SRC, &address.octets()),
                IpAddr::V6(address) => ip.put(IP_V6_SRC, &address.octets()),
            };
        });
        tuple.nest(TUPLE_PROTO, |proto| {
            proto.put_u8(PROTO_NUM, libc::IPPROTO_UDP as u8);
        });
    });
    message.nest(FILTER, |filter| {
        filter.put_u32(FILTER_REPLY_FLAGS, BY_SOURCE | BY_PROTOCOL);
    });
    delete(message, &format!("forget flows of datagrams to {container}"))
}

/// Forgets the flows of UDP that were sent to this port of the host.
///
/// # Errors
/// As [`forget_flows_from`].
pub(crate) fn forget_flows_to(port: u16, v6: bool) -> Result<()> {
    let mut message = message(v6);
    message.nest(TUPLE_ORIG, |tuple| {
        tuple.nest(TUPLE_PROTO, |proto| {
            proto.put_u8(PROTO_NUM, libc::IPPROTO_UDP as u8);
            proto.put(PROTO_DST_PORT, &port.to_be_bytes());
        });
    });
    message.nest(FILTER, |filter| {
        filter.put_u32(FILTER_ORIG_FLAGS, BY_PROTOCOL | BY_DESTINATION_PORT);
    });
    delete(message, &format!("forget flows of datagrams to port {port}"))
}

fn message(v6: bool) -> Message {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut message = Message::new(DELETE, libc::NLM_F_ACK as u16);
    // Family, version, nothing.
    message.fixed(&[family as u8, 0, 0, 0]);
    message
}

fn delete(message: Message, what: &str) -> Result<()> {
    let replies = Socket::open(Family::Netfilter)?.batch(&mut [message])?;
    match replies.refused.first() {
        // There are none, or the kernel remembers nothing at all.
        Some(refusal) if refusal.errno != libc::ENOENT => Err(refusal.error(what)),
        _ => Ok(()),
    }
}
