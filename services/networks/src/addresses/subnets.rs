//! Subnets of networks: chosen from pools, or checked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gantry_core::networks::{NewSubnet, Subnet};
use gantry_core::{Error, Result};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::numbers::{address, bounds, number, usable};

/// A pool that subnets are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressPool {
    /// All of it.
    pub base: IpNet,
    /// Length of the prefix of each subnet.
    pub size: u8,
}

impl AddressPool {
    /// Checks that subnets of that size fit in.
    ///
    /// # Errors
    /// `InvalidArgument`.
    pub fn validate(&self) -> Result<()> {
        let Self { base, size } = self;
        if *size < base.prefix_len() || size.saturating_add(2) > base.max_prefix_len() {
            return Err(Error::invalid_argument(format!(
                "address pool {base} can't have subnets of size {size}: the size is the length of \
                 their prefix, from {} to {}",
                base.prefix_len(),
                base.max_prefix_len() - 2
            )));
        }
        Ok(())
    }
}

/// Whether two subnets have addresses in common.
pub(crate) fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// The first subnet of the pools, of that kind, that has nothing in common with those that are
/// taken.
pub(crate) fn choose(pools: &[AddressPool], v6: bool, taken: &[IpNet]) -> Option<IpNet> {
    let mut of_kind = pools.iter().filter(|pool| pool.base.addr().is_ipv6() == v6);
    of_kind.find_map(|pool| choose_from(pool, v6, taken))
}

fn choose_from(pool: &AddressPool, v6: bool, taken: &[IpNet]) -> Option<IpNet> {
    let (mut at, last) = bounds(pool.base.trunc());
    while at <= last {
        let candidate = IpNet::new(address(at, v6), pool.size).ok()?;
        let own_last = bounds(candidate).1;
        if own_last > last {
            return None;
        }
        let Some(in_the_way) = taken.iter().find(|other| overlap(&candidate, other)) else {
            return Some(candidate);
        };
        // Behind whichever of them is longer: both end where a subnet of this size may begin.
        at = own_last.max(bounds(*in_the_way).1).checked_add(1)?;
    }
    None
}

/// Completes a subnet that somebody asks for, whose addresses were chosen if he asked for none.
///
/// # Errors
/// `InvalidArgument` for what does not fit together.
pub(crate) fn checked(new: &NewSubnet, subnet: IpNet) -> Result<Subnet> {
    checked_beside(new, subnet, &[])
}

/// [`checked`], where none of these addresses is chosen for the gateway.
///
/// # Errors
/// As [`checked`].
pub(crate) fn checked_beside(new: &NewSubnet, subnet: IpNet, others: &[IpAddr]) -> Result<Subnet> {
    if subnet.trunc() != subnet {
        return refuse(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
    }
    check_kind(subnet)?;
    if let Some(part) = new.ip_range {
        if part.trunc() != part {
            return refuse(format!("invalid ip-range {part}: it should be {}", part.trunc()));
        }
        if !subnet.contains(&part) {
            return refuse(format!("invalid ip-range {part}: subnet {subnet} does not contain it"));
        }
    }
    let mut seen = BTreeSet::new();
    let mut check = |what: &str, address: IpAddr| {
        let (first, last) = usable(subnet);
        if !subnet.contains(&address) || !(first..=last).contains(&number(address)) {
            return refuse(format!(
                "invalid {what} {address}: subnet {subnet} does not contain it"
            ));
        }
        if !seen.insert(address) {
            return refuse(format!("invalid {what} {address}: it is there twice"));
        }
        Ok(())
    };
    let gateway = match new.gateway {
        Some(gateway) => gateway,
        None => first_free(subnet, new, others),
    };
    check("gateway", gateway)?;
    for (what, reserved) in &new.reserved {
        check(&format!("auxiliary address {what}"), *reserved)?;
    }
    let reserved = new.reserved.clone();
    Ok(Subnet { subnet, gateway: Some(gateway), ip_range: new.ip_range, reserved })
}

fn refuse<T>(why: String) -> Result<T> {
    Err(Error::invalid_argument(why))
}

/// The first address that an interface may have and that is neither reserved nor one of the others;
/// of a subnet whose containers get theirs from a part of it, the first one of that part.
fn first_free(subnet: IpNet, new: &NewSubnet, others: &[IpAddr]) -> IpAddr {
    let (first, last) = usable(subnet);
    let first = new.ip_range.map_or(first, |part| first.max(number(part.network())));
    let v6 = subnet.addr().is_ipv6();
    let taken = new.reserved.values().chain(others).filter(|at| at.is_ipv6() == v6);
    let taken: BTreeSet<u128> = taken.map(|at| number(*at)).collect();
    let mut at = first;
    while at < last && taken.contains(&at) {
        at += 1;
    }
    address(at, v6)
}

/// Refuses subnets whose addresses mean something else to the kernel, or that are too small.
fn check_kind(subnet: IpNet) -> Result<()> {
    let special: &[&str] = match subnet {
        IpNet::V4(_) => &["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3"],
        IpNet::V6(_) => &["::/128", "::1/128", "fe80::/10", "ff00::/8"],
    };
    let special = special.iter().filter_map(|text| text.parse::<IpNet>().ok());
    let room = subnet.max_prefix_len() - subnet.prefix_len();
    if room == 0 || special.into_iter().any(|special| overlap(&special, &subnet)) {
        return Err(Error::invalid_argument(format!(
            "invalid subnet {subnet}: no container can have an address of it"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn pool(base: &str, size: u8) -> AddressPool {
        AddressPool { base: net(base), size }
    }

    #[test]
    fn subnets_are_chosen_around_what_is_taken() {
        let pools = [pool("172.18.0.0/23", 24), pool("fd00::/48", 64), pool("192.168.0.0/22", 24)];
        let chosen = |taken: &[&str]| {
            let taken: Vec<_> = taken.iter().map(|text| net(text)).collect();
            choose(&pools, false, &taken).map(|subnet| subnet.to_string())
        };
        assert_eq!(chosen(&[]).as_deref(), Some("172.18.0.0/24"));
        assert_eq!(chosen(&["172.18.0.128/32"]).as_deref(), Some("172.18.1.0/24"));
        assert_eq!(chosen(&["172.16.0.0/12"]).as_deref(), Some("192.168.0.0/24"));
        assert_eq!(
            chosen(&["172.16.0.0/12", "192.168.0.0/24", "192.168.1.7/32"]).as_deref(),
            Some("192.168.2.0/24")
        );
        assert_eq!(chosen(&["172.16.0.0/12", "192.168.0.0/16"]), None);
        let v6 = choose(&pools, true, &[net("fd00::/64"), net("172.18.0.0/24")]);
        assert_eq!(v6, Some(net("fd00:0:0:1::/64")));
    }

    #[test]
    fn pools_have_subnets_of_their_size() {
        for good in [pool("10.0.0.0/8", 24), pool("10.0.0.0/24", 24), pool("fd00::/48", 64)] {
            good.validate().unwrap();
        }
        for bad in [pool("10.0.0.0/24", 16), pool("10.0.0.0/24", 31), pool("fd00::/48", 127)] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn gateways_are_the_first_address() {
        let of = |new: &NewSubnet, subnet: &str| checked(new, net(subnet)).unwrap().gateway;
        let mut new = NewSubnet::default();
        assert_eq!(of(&new, "10.0.0.0/24"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(of(&new, "fd00::/64"), Some("fd00::1".parse().unwrap()));
        new.reserved.insert("a".into(), "10.0.0.1".parse().unwrap());
        assert_eq!(of(&new, "10.0.0.0/24"), Some("10.0.0.2".parse().unwrap()));
        new.ip_range = Some(net("10.0.0.128/25"));
        assert_eq!(of(&new, "10.0.0.0/24"), Some("10.0.0.128".parse().unwrap()));
        let host = ["10.0.0.1", "::2", "10.0.0.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let beside = checked_beside(&NewSubnet::default(), net("10.0.0.0/24"), &host).unwrap();
        assert_eq!(beside.gateway, Some("10.0.0.3".parse().unwrap()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused =
            |new: NewSubnet, subnet: &str| checked(&new, net(subnet)).unwrap_err().to_string();
        let new = NewSubnet::default;
        assert_eq!(
            refused(new(), "10.0.0.5/24"),
            "invalid subnet 10.0.0.5/24: it should be 10.0.0.0/24"
        );
        for special in ["127.0.0.0/24", "224.0.0.0/24", "0.0.0.0/0", "10.0.0.1/32", "fe80::/64"] {
            assert!(refused(new(), special).starts_with("invalid subnet"), "{special}");
        }
        let gateway = |text: &str| NewSubnet { gateway: Some(text.parse().unwrap()), ..new() };
        for outside in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
            let why = refused(gateway(outside), "10.0.0.0/24");
            assert!(why.starts_with("invalid gateway"), "{why}");
        }
        let part = |text: &str| NewSubnet { ip_range: Some(net(text)), ..new() };
        for outside in ["10.0.1.0/25", "10.0.0.1/25", "10.0.0.0/16"] {
            let why = refused(part(outside), "10.0.0.0/24");
            assert!(why.starts_with("invalid ip-range"), "{why}");
        }
        let mut twice = gateway("10.0.0.1");
        twice.reserved.insert("router".into(), "10.0.0.1".parse().unwrap());
        assert!(refused(twice, "10.0.0.0/24").ends_with("it is there twice"));
    }
}
