//! Which addresses are whose: the subnets of networks, and the addresses of containers in them.

mod numbers;
mod range;
mod subnets;

use std::net::Ipv4Addr;

use gantry_core::Namespace;

pub(crate) use range::{Range, Refusal, Taker};
pub use subnets::AddressPool;
pub(crate) use subnets::{checked, checked_beside, choose, overlap};

/// A container: its namespace and its ID.
pub(crate) type Key = (Namespace, String);

/// The MAC address of a container: made from its IPv4 address, so that who takes an address over
/// takes what neighbours remember of it over as well, else a random one.
pub(crate) fn mac(ipv4: Option<Ipv4Addr>) -> [u8; 6] {
    match ipv4.map(|address| address.octets()) {
        Some([a, b, c, d]) => [0x02, 0x42, a, b, c, d],
        None => {
            let [_, a, b, c, d, e, ..] = rand::random::<u64>().to_be_bytes();
            // Locally administered, and of one interface.
            [0x02 | (a & 0xfc), a, b, c, d, e]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_local_ones() {
        let of_ipv4 = mac(Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(of_ipv4, [0x02, 0x42, 172, 17, 0, 2]);
        for _ in 0..100 {
            assert_eq!(mac(None)[0] & 0x03, 0x02);
        }
    }
}
