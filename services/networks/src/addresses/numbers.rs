//! Addresses as numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The number of an address.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of a number.
pub(super) fn address(number: u128, v6: bool) -> IpAddr {
    if v6 {
        return Ipv6Addr::from_bits(number).into();
    }
    // Numbers of IPv4 are made from such addresses alone.
    Ipv4Addr::from_bits(number as u32).into()
}

/// First and last number of a subnet.
pub(super) fn bounds(subnet: IpNet) -> (u128, u128) {
    (number(subnet.network()), number(subnet.broadcast()))
}

/// First and last number of a subnet that an interface may have: the first one names the subnet
/// (of IPv6: any router), the last one of IPv4 all that is in it.
pub(super) fn usable(subnet: IpNet) -> (u128, u128) {
    let (first, last) = bounds(subnet);
    let tiny = subnet.max_prefix_len() - subnet.prefix_len() < 2;
    match subnet {
        _ if tiny => (first, last),
        IpNet::V4(_) => (first + 1, last - 1),
        IpNet::V6(_) => (first + 1, last),
    }
}
