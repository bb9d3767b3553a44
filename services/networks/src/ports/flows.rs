//! What the kernel remembers of datagrams, and must forget when addresses and ports change hands:
//! who keeps sending would else be led to where a port used to lead.
//!
//! Kernels before 6.12 delete flows one by one only, so that is how it is done: those that may be
//! meant are listed, which kernels before 5.8 do not narrow down, and looked at.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gantry_core::Result;

use crate::netlink::Netlink;
use crate::netlink::message::{Answer, Message, attributes};
use crate::netlink::socket::{Family, Socket};

/// Conntrack's subsystem, and its messages that list and delete.
const LIST: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// Bytes of the fixed part of each message.
const FIXED: usize = 4;
/// Flows that are deleted by one batch.
const AT_ONCE: usize = 256;

const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;

const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V4_DST: u16 = 2;
const IP_V6_SRC: u16 = 3;
const IP_V6_DST: u16 = 4;
const PROTO_NUM: u16 = 1;
const PROTO_DST_PORT: u16 = 3;

const FILTER_ORIG_FLAGS: u16 = 1;
/// Flags of a filter: which parts of a tuple count.
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

const UDP: u8 = libc::IPPROTO_UDP as u8;

/// Forgets the flows of UDP that a container with this address answers.
///
/// # Errors
/// The kernel's.
pub(crate) fn forget_flows_from(container: IpAddr) -> Result<()> {
    let answered = |flow: &Answer| {
        way(flow, TUPLE_REPLY).is_some_and(|reply| reply.is_udp() && reply.source == container)
    };
    let done = forget(container.is_ipv6(), None, answered);
    done.map_err(|err| err.context(format!("forget flows of datagrams to {container}")))
}

/// Forgets the flows of UDP that were sent to this port of an address of the host's. Those to
/// the same port elsewhere stay, such as the questions of containers to name servers.
///
/// # Errors
/// The kernel's.
pub(crate) fn forget_flows_to(port: u16, v6: bool) -> Result<()> {
    let own = Netlink::open()?.addresses()?;
    let own: BTreeSet<IpAddr> = own.into_iter().map(|(_, address)| address.addr()).collect();
    let sent = |flow: &Answer| {
        way(flow, TUPLE_ORIG).is_some_and(|asked| {
            let host = asked.destination.is_loopback() || own.contains(&asked.destination);
            asked.is_udp() && asked.port == Some(port) && host
        })
    };
    let done = forget(v6, Some(port), sent);
    done.map_err(|err| err.context(format!("forget flows of datagrams to port {port}")))
}

/// One direction of a flow.
#[derive(Debug)]
struct Way {
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
    /// Port of the destination.
    port: Option<u16>,
}

impl Way {
    fn is_udp(&self) -> bool {
        self.protocol == UDP
    }
}

/// The direction of a flow that this attribute says.
fn way(flow: &Answer, tuple: u16) -> Option<Way> {
    let tuple = find(flow, tuple)?;
    let (ip, protocol) = (within(tuple, TUPLE_IP)?, within(tuple, TUPLE_PROTO)?);
    let address = |v4, v6| address(within(ip, v4).or_else(|| within(ip, v6))?);
    let port = within(protocol, PROTO_DST_PORT);
    Some(Way {
        protocol: *within(protocol, PROTO_NUM)?.first()?,
        source: address(IP_V4_SRC, IP_V6_SRC)?,
        destination: address(IP_V4_DST, IP_V6_DST)?,
        port: port.and_then(|port| port.try_into().ok().map(u16::from_be_bytes)),
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn find(flow: &Answer, attribute: u16) -> Option<&[u8]> {
    flow.attributes(FIXED).find(|(kind, _)| *kind == attribute).map(|(_, value)| value)
}

fn within(nested: &[u8], attribute: u16) -> Option<&[u8]> {
    attributes(nested).find(|(kind, _)| *kind == attribute).map(|(_, value)| value)
}

/// Deletes flows of UDP that are meant, of those to this port if there is one.
fn forget(v6: bool, port: Option<u16>, meant: impl Fn(&Answer) -> bool) -> Result<()> {
    let socket = Socket::open(Family::Netfilter)?;
    let flows = socket.dump(&mut list(v6, port))?;
    let meant = flows.iter().filter(|flow| meant(flow));
    let mut messages: Vec<Message> = meant.filter_map(|flow| deletion(flow, v6)).collect();
    for messages in messages.chunks_mut(AT_ONCE) {
        let replies = socket.batch(messages)?;
        // One that has ended meanwhile is forgotten.
        let refused = replies.refused.iter().find(|refusal| refusal.errno != libc::ENOENT);
        if let Some(refusal) = refused {
            return Err(refusal.error("delete a flow"));
        }
    }
    Ok(())
}

/// Asks for flows of UDP, to this port if there is one. Addresses are not asked for: kernels
/// compare those of IPv6 the wrong way round.
fn list(v6: bool, port: Option<u16>) -> Message {
    let mut message = message(LIST, 0, v6);
    message.nest(TUPLE_ORIG, |tuple| {
        tuple.nest(TUPLE_PROTO, |proto| {
            proto.put_u8(PROTO_NUM, UDP);
            if let Some(port) = port {
                proto.put(PROTO_DST_PORT, &port.to_be_bytes());
            }
        });
    });
    let by_port = if port.is_some() { BY_DESTINATION_PORT } else { 0 };
    message.nest(FILTER, |filter| {
        filter.put_u32(FILTER_ORIG_FLAGS, BY_PROTOCOL | by_port);
    });
    message
}

fn message(kind: u16, flags: libc::c_int, v6: bool) -> Message {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut message = Message::new(kind, flags as u16);
    // Family, version, nothing.
    message.fixed(&[family as u8, 0, 0, 0]);
    message
}

/// The message that deletes this flow, and not one that came after it.
fn deletion(flow: &Answer, v6: bool) -> Option<Message> {
    let (tuple, id) = (find(flow, TUPLE_ORIG)?, find(flow, ID)?);
    let mut message = message(DELETE, libc::NLM_F_ACK, v6);
    message.nest(TUPLE_ORIG, |inner| {
        inner.fixed(tuple);
    });
    message.put(ID, id);
    if let Some(zone) = find(flow, ZONE) {
        message.put(ZONE, zone);
    }
    Some(message)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::fs::MetadataExt;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::nft::{Firewall, Rules};

    /// Destinations of the flows of datagrams to this port.
    fn destinations(port: u16) -> BTreeSet<IpAddr> {
        let mut flows = Vec::new();
        for v6 in [false, true] {
            let socket = Socket::open(Family::Netfilter).unwrap();
            flows.extend(socket.dump(&mut list(v6, None)).unwrap());
        }
        let ways = flows.iter().filter_map(|flow| way(flow, TUPLE_ORIG));
        let ways = ways.filter(|way| way.is_udp() && way.port == Some(port));
        ways.map(|way| way.destination).collect()
    }

    #[test]
    fn only_what_was_led_into_containers_is_forgotten() {
        if !std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
            return;
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let test = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let netlink = Netlink::open().unwrap();
            netlink.set_up(netlink.link("lo").unwrap().unwrap().index).unwrap();
            let bridge = netlink.add_bridge("br0", None, [2, 0, 0, 0, 0, 1]).unwrap();
            for address in ["10.9.0.1/24", "fd00:9::1/64"] {
                netlink.add_address(bridge, address.parse().unwrap()).unwrap();
            }
            // The kernel remembers what rules may ask for.
            let firewall = Firewall::open("gantry").unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(firewall.assert(&Rules::default())).unwrap();
            let send = |to: &str| {
                let own = if ip(to).is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(own).unwrap();
                // Nobody may be there.
                let _ = socket.send_to(b"?", (ip(to), 53));
            };
            let all = ["127.0.0.1", "10.9.0.1", "10.9.0.9", "::1", "fd00:9::1"].map(ip);
            let left = |some: &[&str]| some.iter().map(|text| ip(text)).collect::<BTreeSet<_>>();
            all.iter().for_each(|to| send(&to.to_string()));
            assert_eq!(destinations(53), BTreeSet::from(all));
            forget_flows_to(54, false).unwrap();
            assert_eq!(destinations(53), BTreeSet::from(all));
            forget_flows_to(53, false).unwrap();
            assert_eq!(destinations(53), left(&["10.9.0.9", "::1", "fd00:9::1"]));
            forget_flows_from(ip("fd00:9::1")).unwrap();
            assert_eq!(destinations(53), left(&["10.9.0.9", "::1"]));
            forget_flows_to(53, true).unwrap();
            assert_eq!(destinations(53), left(&["10.9.0.9"]));
            forget_flows_from(ip("10.9.0.8")).unwrap();
            assert_eq!(destinations(53), left(&["10.9.0.9"]));
            forget_flows_from(ip("10.9.0.9")).unwrap();
            assert!(destinations(53).is_empty());
        };
        if let Err(panic) = thread::spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    }
}
