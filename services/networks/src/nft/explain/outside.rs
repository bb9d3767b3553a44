//! Where packets from outside come in, and firewalls that nf_tables does not show.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// A name that no interface has.
const NOWHERE: &str = "(outside)";

/// The interface that packets from outside come in on, as far as that is known: the one of the
/// default route, else one that anything is routed to, else one that no rule is about.
pub(super) fn interface(v6: bool, bridges: &[&str]) -> String {
    let file = if v6 { "ipv6_route" } else { "route" };
    let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let mut routes: Vec<(String, bool)> = match v6 {
        true => text.lines().filter_map(route6).collect(),
        false => text.lines().skip(1).filter_map(route4).collect(),
    };
    routes.retain(|(name, _)| name != "lo" && !bridges.contains(&name.as_str()));
    let found = routes.iter().find(|(_, default)| *default).or(routes.first());
    found.map_or_else(|| NOWHERE.to_owned(), |(name, _)| name.clone())
}

/// The host's address as others see it: the one that it would ask others from. Nothing is sent.
pub(super) fn address(v6: bool) -> IpAddr {
    let (own, other): (IpAddr, IpAddr) = match v6 {
        true => {
            (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into())
        }
        false => (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into()),
    };
    let found = UdpSocket::bind((own, 0)).and_then(|socket| {
        socket.connect((other, 9))?;
        socket.local_addr()
    });
    // One for documentation, when there is no way to anybody.
    found.map_or(other, |address| address.ip())
}

/// Interface, and whether it is the default route.
fn route4(line: &str) -> Option<(String, bool)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (name, destination, mask) = (fields.first()?, fields.get(1)?, fields.get(7)?);
    Some(((*name).to_owned(), (*destination, *mask) == ("00000000", "00000000")))
}

fn route6(line: &str) -> Option<(String, bool)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (destination, length, name) = (fields.first()?, fields.get(1)?, fields.get(9)?);
    // Addresses of links, and of groups, are everywhere.
    if destination.starts_with("fe80") || destination.starts_with("ff") {
        return None;
    }
    Some(((*name).to_owned(), *length == "00"))
}

/// Whether the old iptables has a table that may drop.
pub(super) fn has_legacy_filter(v6: bool) -> bool {
    let file = if v6 { "ip6_tables_names" } else { "ip_tables_names" };
    fs::read_to_string(format!("/proc/thread-self/net/{file}"))
        .is_ok_and(|names| names.lines().any(|name| name == "filter"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let line = "eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0";
        assert_eq!(route4(line), Some(("eth0".to_owned(), true)));
        let line = "eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0";
        assert_eq!(route4(line), Some(("eth0".to_owned(), false)));
        let zeros = "0".repeat(32);
        let line =
            format!("{zeros} 00 {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 eth0");
        assert_eq!(route6(&line), Some(("eth0".to_owned(), true)));
    }
}
