//! Networks come and go.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_core::db::{Durability, blocking, write};
use gantry_core::networks::{BRIDGE, Driver, HOST, NONE, Network, NewNetwork, NewSubnet, Subnet};
use gantry_core::{Error, Namespace, Result, Timestamp, faults, labels};
use ipnet::IpNet;

use super::bridge::{self, HostAddresses};
use super::inner::Inner;
use super::memory::{Known, Memory, Phase};
use super::options::{self, Settings};
use super::predefined::{exhausted, new_id, pools6, taken};
use super::records::{NETWORKS, NetworkRecord};
use crate::addresses::{checked, checked_beside, overlap};
use crate::netlink::{Netlink, sysctl};
use crate::nft::Change;
use crate::ports::has_ipv6;

/// Longest name, in bytes.
const LONGEST: usize = 255;

/// A network to make, as far as it can be checked without looking at the host.
struct Wish {
    new: NewNetwork,
    driver: Driver,
    settings: Settings,
    /// What is asked of its IPv4, and of its IPv6, where it has them.
    kinds: [Option<NewSubnet>; 2],
    /// What users should know.
    warnings: Vec<String>,
}

impl Inner {
    pub(super) async fn create(
        self: &Arc<Self>,
        namespace: Namespace,
        new: NewNetwork,
    ) -> Result<(Network, Vec<String>)> {
        let name = new.name.clone();
        let failed = |err: Error| err.about("network", &name);
        let wish = check(new, self.config.mtu).map_err(failed)?;
        self.firewall().map_err(failed)?;
        let this = Arc::clone(self);
        let owner = namespace.clone();
        let begun = blocking(move || this.begin(&owner, wish)).await;
        let (record, mut warnings) = begun.map_err(failed)?;
        let id = record.network.id.clone();
        let (owner, row) = (namespace, record.clone());
        let stored = write(&self.db, Durability::Sync, move |tx| {
            NETWORKS.put(tx, owner.as_str(), &row.network.id, &row)
        });
        let make = async {
            stored.await?;
            let more = self.ensure(&id).await?;
            self.begin_names(&id).await?;
            Ok::<_, Error>(more)
        };
        match make.await {
            Ok(more) => warnings.extend(more),
            Err(err) => {
                self.undo(&record).await;
                return Err(failed(err));
            }
        }
        if let Ok(known) = self.memory().known(&id) {
            known.phase = Phase::Ready;
        }
        Ok((record.network, warnings))
    }

    /// Gives a network that is about to come its name and its subnets. It blocks.
    fn begin(&self, namespace: &Namespace, mut wish: Wish) -> Result<(NetworkRecord, Vec<String>)> {
        let id = new_id();
        let (interface, adopted) = interface(&id, &wish)?;
        let own = (wish.driver == Driver::Bridge).then_some(interface.as_str());
        let host = HostAddresses::read(&self.config, own)?;
        let local_range = self.local_range()?;
        let mut memory = self.memory();
        check_free(&memory, namespace, &wish, &interface)?;
        let others = taken(&memory, &id);
        // What stands on an interface of the host's does not reach the host.
        let beside: &[IpAddr] = match wish.driver {
            Driver::Macvlan => &host.addresses,
            _ => &[],
        };
        let (mut subnets, mut warnings) = (Vec::new(), std::mem::take(&mut wish.warnings));
        for v6 in [false, true] {
            let Some(new) = &wish.kinds[usize::from(v6)] else { continue };
            let subnet = match new.subnet {
                Some(subnet) => {
                    let subnet = checked_beside(new, subnet, beside)?;
                    check_subnet(subnet.subnet, &others)?;
                    if wish.driver == Driver::Bridge {
                        warnings.extend(host.check(subnet.subnet)?);
                    }
                    subnet
                }
                None => {
                    let taken: Vec<_> = others.iter().map(|(_, net)| *net).collect();
                    let pools = if v6 {
                        pools6(&self.config, local_range)
                    } else {
                        self.config.pools.clone()
                    };
                    let subnet = host.choose(&pools, v6, &taken).ok_or_else(exhausted)?;
                    warnings.extend(host.warning(subnet));
                    checked_beside(new, subnet, beside)?
                }
            };
            subnets.push(subnet);
        }
        let settings = wish.settings.clone();
        let network = network(id, wish, subnets, interface);
        let (mut added, mut localnet) = (Vec::new(), false);
        if adopted && network.driver == Driver::Bridge {
            added = bridge::addresses(&network, &settings);
            added.retain(|address| !host.left_out.contains(address));
            localnet =
                bridge::needs_localnet(&network) && !sysctl::has_localnet(&network.interface)?;
        }
        let record = NetworkRecord { network, adopted, added, localnet };
        let known = Known::new(Some(namespace.clone()), record.clone(), Phase::Making);
        memory.networks.insert(known.id().to_owned(), known);
        Ok((record, warnings))
    }

    /// Writes an empty file of names, so that a resolver never misses it.
    async fn begin_names(self: &Arc<Self>, id: &str) -> Result<()> {
        let touched = self.memory().touch([id]);
        let this = Arc::clone(self);
        blocking(move || this.write_names(&touched)).await
    }

    /// Takes away what was made of a network that could not be made.
    async fn undo(self: &Arc<Self>, record: &NetworkRecord) {
        if let Ok(known) = self.memory().known(&record.network.id) {
            known.phase = Phase::Removing;
        }
        if let Err(err) = self.take_away(record).await {
            let network = &record.network.name;
            tracing::warn!(error = %err, network, "something stays of a network");
        }
    }

    pub(super) async fn remove(self: &Arc<Self>, namespace: Namespace, id: &str) -> Result<()> {
        let record = {
            let mut memory = self.memory();
            let id = memory.find(&namespace, id)?.id().to_owned();
            let users: Vec<_> = memory.known(&id)?.members.iter().cloned().collect();
            let users: Vec<_> = users
                .iter()
                .map(|key| format!("name:{:?} id:{:?}", memory.name_of(key), short(&key.1)))
                .collect();
            let known = memory.known(&id)?;
            let network = &known.record.network;
            let refuse = |why: String| {
                Err(Error::failed_precondition(format!("error while removing network: {why}"))
                    .about("network", &network.name))
            };
            if network.predefined {
                let name = &network.name;
                return refuse(format!("{name} is a pre-defined network and cannot be removed"));
            }
            if !users.is_empty() {
                let (name, users) = (&network.name, users.join(", "));
                return refuse(format!("network {name} has active endpoints ({users})"));
            }
            known.phase = Phase::Removing;
            known.record.clone()
        };
        let done = self.take_away(&record).await;
        if done.is_err()
            && let Ok(known) = self.memory().known(&record.network.id)
        {
            // It is there until it has gone altogether.
            known.phase = Phase::Ready;
            known.index = None;
        }
        done
    }

    /// Takes a network's rules and bridge away, then its record.
    async fn take_away(self: &Arc<Self>, record: &NetworkRecord) -> Result<()> {
        let network = &record.network;
        let _held = self.networks.lock(network.id.clone()).await;
        if network.driver == Driver::Bridge && self.firewall.is_ok() {
            if self.asserted.initialized() {
                self.change_rules(&[Change::RemoveBridge(network.id.clone())]).await?;
            }
            let (name, adopted) = (network.interface.clone(), record.adopted);
            let (added, localnet) = (record.added.clone(), record.localnet);
            blocking(move || {
                let delete = || match adopted {
                    true => bridge::give_back(&name, &added, localnet),
                    false => Netlink::open()?.delete_link(&name),
                };
                faults::around("delete a bridge", delete)
            })
            .await?;
        }
        let owner = {
            let mut memory = self.memory();
            memory.known(&network.id)?.namespace.clone()
        };
        let id = network.id.clone();
        write(&self.db, Durability::Sync, move |tx| {
            let namespace = owner.as_ref().map_or("", Namespace::as_str);
            NETWORKS.delete(tx, namespace, &id)
        })
        .await?;
        self.memory().networks.remove(&network.id);
        let (this, id) = (Arc::clone(self), network.id.clone());
        blocking(move || this.write_names(&[(id, u64::MAX)])).await
    }
}

/// Checks a network to make by itself; `mtu` is that of bridges that do not say.
fn check(mut new: NewNetwork, mtu: Option<u32>) -> Result<Wish> {
    check_name(&new.name)?;
    let driver = match new.driver.as_str() {
        "" | "bridge" => Driver::Bridge,
        "macvlan" => Driver::Macvlan,
        "host" | "null" => {
            return Err(Error::failed_precondition(format!(
                "only one instance of \"{}\" network is allowed",
                new.driver
            )));
        }
        "ipvlan" | "overlay" => {
            return Err(Error::unimplemented(format!(
                "networks of the driver {} are not supported: bridge and macvlan are",
                new.driver
            )));
        }
        other => {
            return Err(Error::not_found(format!(
                "could not find plugin {other} in v1 plugin registry: plugin not found: bridge and \
                 macvlan are drivers"
            )));
        }
    };
    labels::validate_all(&new.labels)?;
    new.options = options::complete(driver, &new.options)?;
    let settings = options::parse(driver, &new.options)?;
    if driver == Driver::Macvlan && settings.parent.is_none() {
        return Err(Error::invalid_argument(
            "a macvlan network needs an interface of the host to stand on: -o parent=eth0",
        ));
    }
    // A bridge that has a name may be there, with an MTU of its own.
    let mtu = mtu.filter(|_| driver == Driver::Bridge && settings.bridge.is_none());
    let mtu = settings.mtu.or(mtu);
    let short = mtu.filter(|mtu| options::is_short(*mtu));
    let kinds = kinds(&new, driver, short)?;
    let mut warnings = Vec::new();
    if let Some(mtu) = short
        && driver == Driver::Bridge
        && new.ipv6.is_none()
        && has_ipv6()
    {
        warnings.push(format!(
            "the network has no IPv6, which needs an MTU of 1280 or more: it is {mtu}"
        ));
    }
    Ok(Wish { new, driver, settings, kinds, warnings })
}

/// What is asked of each kind of addresses. `short` is the length of packets, when that is too
/// short for IPv6.
fn kinds(new: &NewNetwork, driver: Driver, short: Option<u32>) -> Result<[Option<NewSubnet>; 2]> {
    let mut asked: [Option<NewSubnet>; 2] = [None, None];
    for subnet in &new.subnets {
        let parts = subnet.gateway.is_some() || subnet.ip_range.is_some();
        let Some(net) = subnet.subnet else {
            if parts || !subnet.reserved.is_empty() {
                return Err(Error::invalid_argument(
                    "every ip-range, gateway or auxiliary address must have a corresponding subnet",
                ));
            }
            continue;
        };
        let kind = &mut asked[usize::from(net.addr().is_ipv6())];
        if kind.is_some() {
            return Err(Error::invalid_argument(
                "a network has at most one subnet of IPv4 and one of IPv6",
            ));
        }
        checked(subnet, net)?;
        *kind = Some(subnet.clone());
    }
    // What a router of the network outside knows is for the user to say.
    let usual = [true, driver == Driver::Bridge && has_ipv6() && short.is_none()];
    let [ipv4, ipv6] = [(new.ipv4, 0), (new.ipv6, 1)].map(|(wanted, kind)| match &asked[kind] {
        None => wanted.unwrap_or(usual[kind]).then(NewSubnet::default),
        Some(subnet) => wanted.unwrap_or(true).then(|| subnet.clone()),
    });
    for (kind, wanted) in [(0, &ipv4), (1, &ipv6)] {
        if let (Some(subnet), None) = (&asked[kind], wanted) {
            let net = subnet.subnet.map(|net| net.to_string()).unwrap_or_default();
            return Err(Error::invalid_argument(format!(
                "invalid subnet {net}: the network has no addresses of that kind"
            )));
        }
    }
    if ipv4.is_none() && ipv6.is_none() {
        return Err(Error::invalid_argument("IPv4 or IPv6 must be enabled"));
    }
    if ipv6.is_some() && !has_ipv6() {
        return Err(Error::failed_precondition("the kernel of this host has no IPv6"));
    }
    if let (Some(mtu), Some(_)) = (short, &ipv6) {
        return Err(Error::invalid_argument(format!(
            "IPv6 needs an MTU of 1280 or more, and not {mtu}: use --ipv6=false"
        )));
    }
    Ok([ipv4, ipv6])
}

/// Docker's rule for names of networks.
fn check_name(name: &str) -> Result<()> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    let shown: String = name.chars().take(64).collect();
    if name.len() > LONGEST {
        return Err(Error::invalid_argument(format!(
            "invalid network name {shown:?}...: it has {} bytes, and {LONGEST} at most are allowed",
            name.len()
        )));
    }
    if !first || !rest {
        return Err(Error::invalid_argument(format!(
            "invalid network name {shown:?}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )));
    }
    if name == "default" || [BRIDGE, HOST, NONE].contains(&name) {
        return Err(Error::invalid_argument(format!(
            "operation is not permitted on predefined {name} network"
        )));
    }
    Ok(())
}

/// The interface of the host's that a network is to have, and whether it is there.
fn interface(id: &str, wish: &Wish) -> Result<(String, bool)> {
    let netlink = Netlink::open()?;
    if let Some(parent) = &wish.settings.parent {
        if !netlink.has_kind("macvlan")? {
            return Err(Error::unimplemented("the kernel of this host has no macvlan"));
        }
        let refuse = |why: String| Err(Error::failed_precondition(why));
        return match netlink.link(parent)? {
            None => refuse(format!(
                "the host has no interface {parent} for a macvlan network to stand on; one of a \
                 VLAN is made so: ip link add link eth0 name eth0.50 type vlan id 50"
            )),
            Some(link) if link.loopback => {
                refuse(format!("a macvlan network can't stand on the loopback interface {parent}"))
            }
            Some(_) => Ok((parent.clone(), true)),
        };
    }
    let Some(name) = &wish.settings.bridge else {
        return Ok((format!("br-{}", short(id)), false));
    };
    match netlink.link(name)? {
        Some(link) if link.kind != "bridge" => Err(Error::failed_precondition(format!(
            "the host's interface {name} is no bridge: choose another name"
        ))),
        found => Ok((name.clone(), found.is_some())),
    }
}

/// Refuses names that are taken.
fn check_free(memory: &Memory, namespace: &Namespace, wish: &Wish, interface: &str) -> Result<()> {
    let name = &wish.new.name;
    // Also one that is only coming.
    let mut own = memory
        .networks
        .values()
        .filter(|known| known.namespace.as_ref().is_none_or(|owner| owner == namespace));
    if own.any(|known| known.name() == name) {
        return Err(Error::already_exists(format!("network with name {name} already exists")));
    }
    let mut bridges = memory.networks.values().filter(|known| known.is_bridge());
    let same = bridges.find(|known| known.record.network.interface == interface);
    match same {
        Some(known) if wish.driver == Driver::Bridge => Err(Error::failed_precondition(format!(
            "network {} has the bridge {interface}: choose another name",
            known.name()
        ))),
        _ => Ok(()),
    }
}

/// Refuses a subnet that is another network's in part.
fn check_subnet(subnet: IpNet, others: &[(String, IpNet)]) -> Result<()> {
    match others.iter().find(|(_, other)| overlap(other, &subnet)) {
        Some((name, other)) => Err(Error::failed_precondition(format!(
            "invalid pool request: Pool overlaps with other one on this address space: network \
             {name} has {other}"
        ))),
        None => Ok(()),
    }
}

fn network(id: String, wish: Wish, subnets: Vec<Subnet>, interface: String) -> Network {
    let Wish { new, driver, .. } = wish;
    Network {
        id,
        name: new.name,
        driver,
        labels: new.labels,
        options: new.options,
        internal: new.internal,
        subnets,
        created_at: Timestamp::now(),
        interface,
        predefined: false,
    }
}

/// The beginning of an ID.
pub(super) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::*;

    fn check(new: NewNetwork) -> Result<Wish> {
        super::check(new, None)
    }

    fn new(name: &str) -> NewNetwork {
        NewNetwork { name: name.to_owned(), ..NewNetwork::default() }
    }

    fn subnet(net: &str) -> NewSubnet {
        NewSubnet { subnet: Some(net.parse().unwrap()), ..NewSubnet::default() }
    }

    #[test]
    fn names_and_drivers_are_checked() {
        for bad in ["", "-a", "a/b", "a b", "container:x", "bridge", "host", "none", "default"] {
            let err = check(new(bad)).err().unwrap();
            assert_eq!(err.kind(), Kind::InvalidArgument, "{bad}");
        }
        let err = check(new(&"a".repeat(256))).err().unwrap();
        let said = "it has 256 bytes, and 255 at most are allowed";
        assert!(err.to_string().ends_with(said), "{err}");
        let of = |driver: &str| {
            let wish = check(NewNetwork { driver: driver.to_owned(), ..new("n") });
            wish.map(|wish| wish.driver).map_err(|err| err.kind())
        };
        assert_eq!(of(""), Ok(Driver::Bridge));
        assert_eq!(of("macvlan"), Err(Kind::InvalidArgument));
        assert_eq!(of("host"), Err(Kind::FailedPrecondition));
        assert_eq!(of("ipvlan"), Err(Kind::Unimplemented));
        assert_eq!(of("weave"), Err(Kind::NotFound));
    }

    #[test]
    fn kinds_of_addresses_are_chosen() {
        let of = |new: NewNetwork| check(new).map(|wish| wish.kinds.map(|kind| kind.is_some()));
        assert_eq!(of(new("n")).unwrap(), [true, has_ipv6()]);
        let ipv4 = NewNetwork { ipv6: Some(false), ..new("n") };
        assert_eq!(of(ipv4.clone()).unwrap(), [true, false]);
        assert!(of(NewNetwork { ipv4: Some(false), ..ipv4.clone() }).is_err());
        let given = NewNetwork { subnets: vec![subnet("fd00::/64")], ..ipv4.clone() };
        assert!(of(given).is_err());
        let twice = vec![subnet("10.0.0.0/24"), subnet("10.1.0.0/24")];
        assert!(of(NewNetwork { subnets: twice, ..ipv4.clone() }).is_err());
        let gateway = Some("10.0.0.1".parse().unwrap());
        let without = NewSubnet { gateway, ..NewSubnet::default() };
        assert!(of(NewNetwork { subnets: vec![without], ..ipv4.clone() }).is_err());
        let bad = vec![subnet("10.0.0.1/24")];
        assert!(of(NewNetwork { subnets: bad, ..ipv4 }).is_err());
    }

    #[test]
    fn ipv6_needs_long_packets() {
        let of = |mtu: &str, usual: Option<u32>, ipv6: Option<bool>| {
            let options = [("mtu".to_owned(), mtu.to_owned())].into();
            let wish = super::check(NewNetwork { options, ipv6, ..new("n") }, usual);
            wish.map(|wish| (wish.kinds[1].is_some(), wish.warnings.len()))
        };
        let warned = usize::from(has_ipv6());
        assert_eq!(of("1280", Some(1200), None).unwrap(), (has_ipv6(), 0));
        assert_eq!(of("1279", None, None).unwrap(), (false, warned));
        assert_eq!(of("0", Some(1200), None).unwrap(), (false, warned));
        assert_eq!(of("1200", None, Some(false)).unwrap(), (false, 0));
        assert!(of("1200", None, Some(true)).is_err());
        let given = NewNetwork { subnets: vec![subnet("fd00::/64")], ..new("n") };
        assert!(super::check(given, Some(1200)).is_err());
    }

    #[test]
    fn a_subnet_is_of_one_network() {
        let others = [("app-net".to_owned(), "172.18.0.0/24".parse().unwrap())];
        check_subnet("172.18.1.0/24".parse().unwrap(), &others).unwrap();
        let err = check_subnet("172.18.0.0/16".parse().unwrap(), &others).unwrap_err();
        assert!(err.to_string().ends_with("network app-net has 172.18.0.0/24"), "{err}");
    }
}
