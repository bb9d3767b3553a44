//! Addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_core::{Error, Result};
use ipnet::IpNet;

use super::Netlink;
use super::links::ACK;
use super::message::{Answer, Message, attributes, u16_at, u32_at};

/// Bytes of `struct ifaddrmsg`.
const ADDRESS: usize = 8;
/// Bytes of `struct rtmsg`.
const ROUTE: usize = 12;
/// Bytes of `struct rtnexthop`.
const NEXT_HOP: usize = 8;
/// Flags of a message that sets something, whether it is there or not.
pub(super) const SET: u16 = (libc::NLM_F_CREATE | libc::NLM_F_REPLACE | libc::NLM_F_ACK) as u16;

/// `RTPROT_RA`: who made a route that a router announced; older kernels say they did.
const LEARNED: u8 = 9;

const V4: u8 = libc::AF_INET as u8;
const V6: u8 = libc::AF_INET6 as u8;

/// A route of the main table, as it is. One with several ways is several of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Destination {
    /// Where it leads; all of a kind (`0.0.0.0/0`, `::/0`) for the default route.
    pub(crate) net: IpNet,
    /// By way of this router; straight when `None`.
    pub(crate) gateway: Option<IpAddr>,
    /// By this link; 0 for one that leads nowhere (`unreachable`, `blackhole`).
    pub(crate) index: u32,
    /// Of several to the same place the lowest is taken.
    pub(crate) metric: u32,
}

/// A route to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Where it leads; the default route when `None`.
    pub(crate) net: Option<IpNet>,
    /// By way of this router; straight when `None`.
    pub(crate) gateway: Option<IpAddr>,
    /// Name of the interface.
    pub(crate) interface: String,
}

impl Netlink {
    /// Gives a link an address, with the length of its network's prefix. It may be there
    /// already. Duplicates are not looked for: it can be used at once.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let message = added(index, address);
        self.one(message, || format!("give interface {index} the address {address}"))
    }

    /// Takes an address from a link. It is no error that it is not there.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn delete_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut message = Message::new(libc::RTM_DELADDR, ACK);
        message.fixed(&address_of(index, &address));
        put(&mut message, libc::IFA_LOCAL, address.addr());
        // Without it the length of the prefix is not looked at.
        put(&mut message, libc::IFA_ADDRESS, address.addr());
        let missing = [libc::EADDRNOTAVAIL, libc::ENODEV];
        let what = || format!("take the address {address} from interface {index}");
        self.one_or(message, &missing, what).map(drop)
    }

    /// All addresses, with the numbers of their links.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let mut message = Message::new(libc::RTM_GETADDR, 0);
        message.fixed(&[0; ADDRESS]);
        let answers =
            self.socket.dump(&mut message).map_err(|err| err.context("list addresses"))?;
        Ok(answers.iter().filter_map(parse_address).collect())
    }

    /// All routes of the main table.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn routes(&self) -> Result<Vec<Destination>> {
        let mut message = Message::new(libc::RTM_GETROUTE, 0);
        message.fixed(&[0; ROUTE]);
        let answers = self.socket.dump(&mut message).map_err(|err| err.context("list routes"))?;
        Ok(answers.iter().flat_map(parse_route).collect())
    }

    /// Numbers of the links that a router announced itself at, and is the default route of.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn learned_gateways(&self) -> Result<Vec<u32>> {
        let mut message = Message::new(libc::RTM_GETROUTE, 0);
        let mut fixed = [0; ROUTE];
        fixed[0] = V6;
        message.fixed(&fixed);
        let answers = self.socket.dump(&mut message).map_err(|err| err.context("list routes"))?;
        let learned = |answer: &&Answer| {
            let body = &answer.body;
            body.get(1) == Some(&0) && matches!(body.get(5), Some(&LEARNED | &libc::RTPROT_KERNEL))
        };
        let all = answers.iter().filter(learned).flat_map(parse_route);
        Ok(all.filter(|route| route.gateway.is_some()).map(|route| route.index).collect())
    }
}

/// A message that gives a link an address.
pub(super) fn added(index: u32, address: IpNet) -> Message {
    let mut message = Message::new(libc::RTM_NEWADDR, SET);
    message.fixed(&address_of(index, &address));
    put(&mut message, libc::IFA_LOCAL, address.addr());
    put(&mut message, libc::IFA_ADDRESS, address.addr());
    match address {
        IpNet::V4(net) if net.prefix_len() < 31 => {
            put(&mut message, libc::IFA_BROADCAST, net.broadcast().into());
        }
        IpNet::V4(_) => {}
        // Nobody else has it, and it would be of no use for a second.
        IpNet::V6(_) => {
            message.put_u32(libc::IFA_FLAGS, libc::IFA_F_NODAD);
        }
    }
    message
}

/// A message that makes a route, in place of one to the same destination: the default one without
/// `net`, straight without `gateway`.
///
/// # Errors
/// `InvalidArgument` when neither is given, or they are of two kinds.
pub(super) fn route(net: Option<IpNet>, gateway: Option<IpAddr>, index: u32) -> Result<Message> {
    let Some(family) = net.map(|net| net.addr()).or(gateway).map(|ip| family(&ip)) else {
        return Err(Error::invalid_argument("a route needs a destination or a gateway"));
    };
    if gateway.is_some_and(|gateway| self::family(&gateway) != family) {
        let route = describe(net, gateway);
        return Err(Error::invalid_argument(format!("the route {route} mixes IPv4 and IPv6")));
    }
    // A route to a host of the link's own network has that scope, as ip(8) has it.
    let straight = gateway.is_none() && family == V4;
    let scope = if straight { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let length = net.map_or(0, |net| net.prefix_len());
    let (table, protocol, kind) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC, libc::RTN_UNICAST);
    let mut message = Message::new(libc::RTM_NEWROUTE, SET);
    message.fixed(&[family, length, 0, 0, table, protocol, scope, kind, 0, 0, 0, 0]);
    if let Some(net) = net.filter(|net| net.prefix_len() > 0) {
        put(&mut message, libc::RTA_DST, net.network());
    }
    if let Some(gateway) = gateway {
        put(&mut message, libc::RTA_GATEWAY, gateway);
    }
    message.put_u32(libc::RTA_OIF, index);
    Ok(message)
}

/// Words for a route.
pub(super) fn describe(net: Option<IpNet>, gateway: Option<IpAddr>) -> String {
    let net = net.map_or_else(|| "default".to_owned(), |net| net.trunc().to_string());
    match gateway {
        Some(gateway) => format!("{net} via {gateway}"),
        None => net,
    }
}

/// Number of the link and address that a message is about.
pub(super) fn parse_address(answer: &Answer) -> Option<(u32, IpNet)> {
    if !matches!(answer.kind, libc::RTM_NEWADDR | libc::RTM_DELADDR) {
        return None;
    }
    let (family, length) = (*answer.body.first()?, *answer.body.get(1)?);
    let index = u32_at(&answer.body, 4)?;
    // Of a link between two, IFA_ADDRESS is the other one's.
    let (mut own, mut address) = (None, None);
    for (kind, value) in answer.attributes(ADDRESS) {
        match kind {
            libc::IFA_LOCAL => own = parse_ip(family, value),
            libc::IFA_ADDRESS => address = parse_ip(family, value),
            _ => {}
        }
    }
    Some((index, IpNet::new(own.or(address)?, length).ok()?))
}

/// The ways of the route that a message is about, if it is one of the main table.
fn parse_route(answer: &Answer) -> Vec<Destination> {
    destinations(answer).unwrap_or_default()
}

fn destinations(answer: &Answer) -> Option<Vec<Destination>> {
    let (family, length) = (*answer.body.first()?, *answer.body.get(1)?);
    let (mut table, way) = (u32::from(*answer.body.get(4)?), *answer.body.get(7)?);
    let cached = u32_at(&answer.body, 8)? & libc::RTM_F_CLONED != 0;
    if answer.kind != libc::RTM_NEWROUTE || cached || !matches!(family, V4 | V6) {
        return None;
    }
    let everything: IpAddr =
        if family == V4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut start, mut gateway, mut index, mut metric) = (Some(everything), None, 0, 0);
    let mut hops = None;
    for (kind, value) in answer.attributes(ROUTE) {
        match kind {
            libc::RTA_TABLE => table = u32_at(value, 0)?,
            libc::RTA_DST => start = parse_ip(family, value),
            libc::RTA_GATEWAY => gateway = parse_ip(family, value),
            libc::RTA_VIA => gateway = parse_via(value),
            libc::RTA_OIF => index = u32_at(value, 0)?,
            libc::RTA_PRIORITY => metric = u32_at(value, 0)?,
            libc::RTA_MULTIPATH => hops = Some(value),
            _ => {}
        }
    }
    let leads = match way {
        libc::RTN_UNICAST => true,
        libc::RTN_UNREACHABLE | libc::RTN_BLACKHOLE | libc::RTN_PROHIBIT => false,
        _ => return None,
    };
    if table != u32::from(libc::RT_TABLE_MAIN) {
        return None;
    }
    let net = IpNet::new(start?, length).ok()?;
    // The kernel has its own unreachable routes by the loopback interface.
    let index = if leads { index } else { 0 };
    let Some(mut hops) = hops else {
        return Some(vec![Destination { net, gateway, index, metric }]);
    };
    let mut all = Vec::new();
    while let Some(length) = u16_at(hops, 0).map(usize::from).filter(|length| *length >= NEXT_HOP) {
        let index = u32_at(hops, 4)?;
        let gateway =
            attributes(hops.get(NEXT_HOP..length)?).find_map(|(kind, value)| match kind {
                libc::RTA_GATEWAY => parse_ip(family, value),
                libc::RTA_VIA => parse_via(value),
                _ => None,
            });
        all.push(Destination { net, gateway, index, metric });
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(all)
}

/// `struct ifaddrmsg`.
fn address_of(index: u32, address: &IpNet) -> [u8; ADDRESS] {
    let mut fixed = [0; ADDRESS];
    fixed[0] = family(&address.addr());
    fixed[1] = address.prefix_len();
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    fixed
}

fn family(ip: &IpAddr) -> u8 {
    if ip.is_ipv4() { V4 } else { V6 }
}

fn put(message: &mut Message, kind: u16, ip: IpAddr) {
    match ip {
        IpAddr::V4(ip) => message.put(kind, &ip.octets()),
        IpAddr::V6(ip) => message.put(kind, &ip.octets()),
    };
}

fn parse_ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        V4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        V6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// `struct rtvia`: a router of the other kind.
fn parse_via(value: &[u8]) -> Option<IpAddr> {
    let family = u8::try_from(u16_at(value, 0)?).ok()?;
    parse_ip(family, value.get(2..)?)
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::super::testing::elsewhere;
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_come_and_go() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            let bridge = netlink.add_bridge("br0", None, [2, 0, 0, 0, 0, 1]).unwrap();
            for address in ["10.9.0.1/24", "fd00:9::1/64"] {
                netlink.add_address(bridge, net(address)).unwrap();
                // A second time is no error, as after a restart.
                netlink.add_address(bridge, net(address)).unwrap();
                assert!(netlink.addresses().unwrap().contains(&(bridge, net(address))));
            }
            assert!(netlink.routes().unwrap().iter().any(|route| {
                route.net == net("10.9.0.0/24") && route.index == bridge && route.gateway.is_none()
            }));
            netlink.delete_address(bridge, net("10.9.0.1/24")).unwrap();
            netlink.delete_address(bridge, net("10.9.0.1/24")).unwrap();
            let left = netlink.addresses().unwrap();
            assert!(!left.contains(&(bridge, net("10.9.0.1/24"))), "{left:?}");
        });
    }

    #[test]
    fn a_route_is_of_one_kind() {
        let mixed = route(Some(net("::/0")), Some(ip("10.0.0.1")), 1);
        assert_eq!(mixed.unwrap_err().kind(), Kind::InvalidArgument);
        assert!(route(None, None, 1).is_err());
    }

    #[test]
    fn a_route_with_two_ways_is_two() {
        let mut message = Message::new(libc::RTM_NEWROUTE, 0);
        message.fixed(&[V4, 8, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        put(&mut message, libc::RTA_DST, ip("10.0.0.0"));
        message.put_u32(libc::RTA_PRIORITY, 7);
        let hop = |index: u32, last: u8| {
            let mut hop = vec![16, 0, 0, 0];
            hop.extend_from_slice(&index.to_ne_bytes());
            hop.extend_from_slice(&[8, 0, 5, 0, 10, 1, 0, last]);
            hop
        };
        message.put(libc::RTA_MULTIPATH, &[hop(3, 1), hop(4, 2)].concat());
        let body = message.seal(1).unwrap()[16..].to_vec();
        let answer = Answer { kind: libc::RTM_NEWROUTE, flags: 0, port: 0, body };
        let expected = |index, gateway| Destination {
            net: net("10.0.0.0/8"),
            gateway: Some(ip(gateway)),
            index,
            metric: 7,
        };
        assert_eq!(parse_route(&answer), [expected(3, "10.1.0.1"), expected(4, "10.1.0.2")]);
    }
}
