//! The networks that are always there, and the subnets of the default one.

use std::net::Ipv6Addr;
use std::sync::Arc;

use gantry_core::db::{Database, Durability, GLOBAL, blocking, write_blocking};
use gantry_core::networks::{BRIDGE, Driver, HOST, NONE, Network, NewSubnet, Options, Subnet};
use gantry_core::{Error, Labels, Result, Timestamp};
use ipnet::{IpNet, Ipv6Net};

use super::bridge::HostAddresses;
use super::config::NetworkConfig;
use super::inner::Inner;
use super::memory::{Known, Memory};
use super::options;
use super::records::{INSTALLATION, INSTALLATION_KEY, Installation};
use crate::addresses::{AddressPool, checked, overlap};
use crate::netlink::Netlink;
use crate::ports::has_ipv6;

/// Length of the prefix of a subnet of IPv6.
const SUBNET6: u8 = 64;

/// A new ID.
pub(super) fn new_id() -> String {
    let (one, two) = (rand::random::<u128>(), rand::random::<u128>());
    format!("{one:032x}{two:032x}")
}

/// What is the same for all namespaces; made at the first start.
pub(super) fn installation(config: &NetworkConfig, db: &dyn Database) -> Result<Installation> {
    let fresh = Installation {
        local_range: local_range()?,
        predefined: vec![
            predefined(BRIDGE, Driver::Bridge),
            predefined(HOST, Driver::Host),
            predefined(NONE, Driver::Null),
        ],
    };
    let mut stored = match INSTALLATION.get(db, GLOBAL, INSTALLATION_KEY)? {
        Some(stored) => stored,
        None => {
            put(db, &fresh)?;
            fresh
        }
    };
    for network in &mut stored.predefined {
        if network.driver == Driver::Bridge {
            network.interface = config.bridge.clone();
            network.options = options::of_default(&config.bridge, config.mtu);
        }
    }
    Ok(stored)
}

fn put(db: &dyn Database, installation: &Installation) -> Result<()> {
    write_blocking(db, Durability::Sync, &mut |tx| {
        INSTALLATION.put(tx, GLOBAL, INSTALLATION_KEY, installation)
    })
}

fn predefined(name: &str, driver: Driver) -> Network {
    Network {
        id: new_id(),
        name: name.to_owned(),
        driver,
        labels: Labels::new(),
        options: Options::new(),
        internal: false,
        subnets: Vec::new(),
        created_at: Timestamp::now(),
        interface: String::new(),
        predefined: true,
    }
}

/// A random range of unique local addresses (RFC 4193, section 3.2).
fn local_range() -> Result<Ipv6Net> {
    let global = u128::from(rand::random::<u64>() & 0xff_ffff_ffff);
    let bits = (0xfd << 120) | (global << 80);
    Ipv6Net::new(Ipv6Addr::from_bits(bits), 48)
        .map_err(|err| Error::internal("make a local range of IPv6").with_source(err))
}

/// The pools of IPv6.
pub(super) fn pools6(config: &NetworkConfig, local_range: Ipv6Net) -> Vec<AddressPool> {
    let configured = config.pools.iter().filter(|pool| pool.base.addr().is_ipv6());
    let configured: Vec<_> = configured.copied().collect();
    if !configured.is_empty() {
        return configured;
    }
    vec![AddressPool { base: IpNet::V6(local_range), size: SUBNET6 }]
}

/// The subnets of all networks but this one.
pub(super) fn taken(memory: &Memory, but: &str) -> Vec<(String, IpNet)> {
    let others = memory.networks.values().filter(|known| known.id() != but);
    let subnets = others.flat_map(|known| {
        let name = known.name().to_owned();
        let subnets = known.record.network.subnets.iter();
        subnets.map(move |subnet| (name.clone(), subnet.subnet))
    });
    subnets.collect()
}

impl Inner {
    /// Range of IPv6 addresses that is this installation's. It blocks.
    pub(super) fn local_range(&self) -> Result<Ipv6Net> {
        Ok(installation(&self.config, &*self.db)?.local_range)
    }

    /// Chooses the subnets of the default network, if this is the default network, unless it has
    /// some that are free, or are used.
    pub(super) async fn settle_default(self: &Arc<Self>, id: &str) -> Result<()> {
        let is_default = {
            let mut memory = self.memory();
            let known = memory.known(id)?;
            known.is_bridge() && known.record.network.predefined && known.members.is_empty()
        };
        if !is_default {
            return Ok(());
        }
        let (this, id) = (Arc::clone(self), id.to_owned());
        blocking(move || this.choose_default(&id)).await
    }

    fn choose_default(&self, id: &str) -> Result<()> {
        let name = self.config.bridge.as_str();
        let host = HostAddresses::read(&self.config, Some(name))?;
        let there = Netlink::open()?.link(name)?.is_some();
        let mut installation = installation(&self.config, &*self.db)?;
        let pools6 = pools6(&self.config, installation.local_range);
        let subnets = {
            let mut memory = self.memory();
            let taken: Vec<_> = taken(&memory, id).into_iter().map(|(_, net)| net).collect();
            let known = memory.known(id)?;
            let before = &known.record.network.subnets;
            let fits = |subnet: &Subnet| {
                let mut others = taken.iter();
                let in_the_way = host.is_in(&subnet.subnet)
                    || others.any(|other| overlap(other, &subnet.subnet));
                let wanted = self.config.bridge_subnet;
                let other = wanted.is_some_and(|net| {
                    net.addr().is_ipv4() == subnet.subnet.addr().is_ipv4() && net != subnet.subnet
                });
                // What a bridge has that is there has proved itself; routes may come and go.
                !other && (there || !in_the_way)
            };
            let kinds = [true, self.config.bridge_ipv6 && has_ipv6()];
            let as_wanted = before.len() == kinds.iter().filter(|kind| **kind).count();
            if as_wanted && before.iter().all(fits) {
                return Ok(());
            }
            let mut subnets = Vec::new();
            for (v6, pools) in [(false, self.config.bridge_pools()), (true, pools6)] {
                if kinds[usize::from(v6)] {
                    let subnet = host.choose(&pools, v6, &taken).ok_or_else(exhausted)?;
                    if let Some(warning) = host.warning(subnet) {
                        tracing::warn!("{warning}");
                    }
                    subnets.push(checked(&NewSubnet::default(), subnet)?);
                }
            }
            set_subnets(known, &subnets);
            subnets
        };
        for network in &mut installation.predefined {
            if network.id == id {
                network.subnets.clone_from(&subnets);
            }
        }
        put(&*self.db, &installation)
    }
}

fn set_subnets(known: &mut Known, subnets: &[Subnet]) {
    known.record.network.subnets = subnets.to_vec();
    known.set_ranges();
}

/// That no subnet is free.
pub(super) fn exhausted() -> Error {
    Error::resource_exhausted(
        "could not find an available, non-overlapping address pool among the defaults to assign to \
         the network: all predefined address pools have been fully subnetted; name a subnet, or \
         configure further pools",
    )
}

#[cfg(test)]
mod tests {
    use gantry_core::db::memory::MemoryDatabase;

    use super::*;

    #[test]
    fn an_installation_is_made_once() {
        let db = MemoryDatabase::new();
        let config = NetworkConfig::new("/run/gantry".into());
        let first = installation(&config, &db).unwrap();
        assert_eq!(installation(&config, &db).unwrap(), first);
        let names: Vec<_> = first.predefined.iter().map(|network| network.name.as_str()).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        assert_eq!(first.predefined[0].interface, "gantry0");
        assert_eq!(first.local_range.addr().octets()[0], 0xfd);
        assert_eq!(first.local_range.trunc(), first.local_range);
        let pools = pools6(&config, first.local_range);
        assert_eq!(pools.len(), 1);
        pools[0].validate().unwrap();
    }
}
