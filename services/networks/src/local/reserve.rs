//! Addresses and ports are reserved for a container that is about to be made.

use std::net::IpAddr;
use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::networks::{
    Attachment, Driver, Endpoint, Member, NameFiles, Network, PortWish, Published, Subnet,
};
use gantry_core::{Error, Result, faults};
use ipnet::{Ipv4Net, Ipv6Net};

use super::inner::Inner;
use super::memory::{Known, Memory, Phase, Placed, Present, not_found};
use super::options::{Wanted, wanted};
use super::plan::Targets;
use super::predefined::new_id;
use super::records::MemberRecord;
use super::resolver::{dns_names, files, servers};
use crate::addresses::{Key, Refusal, Taker, mac};
use crate::names::{Servers, check_name};
use crate::netlink::{Netlink, shown_mac};
use crate::ports::{Taken, take};

impl Inner {
    pub(super) async fn reserve(self: &Arc<Self>, key: Key, member: Member) -> Result<NameFiles> {
        let held = self.members.lock(key.clone()).await;
        self.check_attachments(&key, &member.attachments)?;
        // What it has from an earlier time.
        self.leave_held(&key).await?;
        for attachment in &member.attachments {
            self.ensure(&attachment.network).await?;
        }
        let this = Arc::clone(self);
        blocking(move || {
            let _held = held;
            this.reserve_all(&key, &member)
        })
        .await
    }

    /// Refuses networks that are not there, and what does not fit together.
    pub(super) fn check_attachments(&self, key: &Key, wished: &[Attachment]) -> Result<()> {
        let mut memory = self.memory();
        for (at, attachment) in wished.iter().enumerate() {
            let known = memory.known(&attachment.network)?;
            if !known.is_for(&key.0) || known.phase != Phase::Ready {
                return Err(not_found(&attachment.network));
            }
            check_attachment(known, attachment)?;
            let again = wished[..at].iter().any(|other| other.network == attachment.network);
            if again {
                let name = known.name();
                return Err(Error::invalid_argument(format!("network {name} is named twice")));
            }
            let alone = matches!(known.record.network.driver, Driver::Host | Driver::Null);
            if alone && wished.len() > 1 {
                return Err(alone_only(known.name()));
            }
        }
        Ok(())
    }

    /// Reserves all that a container asks for. It blocks.
    fn reserve_all(&self, key: &Key, member: &Member) -> Result<NameFiles> {
        let host = self.host_resolver();
        let record = MemberRecord::new(member);
        self.memory()
            .members
            .insert(key.clone(), Present { record, sockets: Vec::new(), process: None });
        let reserved = self.reserve_places(key, &member.attachments).and_then(|()| {
            let (_, placed) = self.present(key)?;
            self.take_ports(key, &Targets::of(&placed), &member.ports)?;
            let (mut record, placed) = self.present(key)?;
            record.asks_shim = servers(&host, &record, &placed) == Servers::Shim;
            self.update(key, |own| own.asks_shim = record.asks_shim);
            faults::around("reserve addresses and ports", || self.put(key, &record))?;
            Ok(files(&host, &record, &placed))
        });
        if reserved.is_err() {
            self.drop_member(key);
        }
        reserved
    }

    /// Gives a container addresses in these networks, beside those that it has; all or none. It
    /// blocks.
    pub(super) fn reserve_places(&self, key: &Key, wished: &[Attachment]) -> Result<()> {
        let host = self.host_addresses(wished)?;
        let mut old = Vec::new();
        {
            let mut memory = self.memory();
            let mut new: Vec<Endpoint> = Vec::new();
            for attachment in wished {
                match place(&mut memory, key, attachment, &new, &host, &mut old) {
                    Ok(endpoint) => new.push(endpoint),
                    Err(err) => {
                        for endpoint in &new {
                            memory.release(key, endpoint);
                        }
                        return Err(err);
                    }
                }
            }
            if let Some(present) = memory.members.get_mut(key) {
                present.record.endpoints.extend(new);
                present.record.attachments.extend(wished.iter().cloned());
            }
        }
        // Who had one of these addresses a moment ago must not answer for it any more.
        for interface in old {
            Netlink::open()?.delete_link(&interface)?;
        }
        Ok(())
    }

    /// The host's own addresses, where one of these networks is on an interface that is not ours
    /// alone. It blocks then.
    fn host_addresses(&self, wished: &[Attachment]) -> Result<Vec<IpAddr>> {
        let beside = {
            let memory = self.memory();
            let mut known = wished.iter().filter_map(|at| memory.networks.get(&at.network));
            known.any(|known| known.record.adopted)
        };
        if !beside {
            return Ok(Vec::new());
        }
        let all = Netlink::open()?.addresses()?;
        Ok(all.into_iter().map(|(_, address)| address.addr()).collect())
    }

    /// Takes ports of the host's for a container. It blocks.
    pub(super) fn take_ports(
        &self,
        key: &Key,
        targets: &Targets,
        wishes: &[PortWish],
    ) -> Result<Vec<Published>> {
        if targets.is_empty() || wishes.is_empty() {
            return Ok(Vec::new());
        }
        let (wishes, open) = targets.split(wishes);
        let taken = take(&self.ports, &wishes, key, |key| self.memory().name_of(key))?;
        let open = open.into_iter().map(|port| Taken { port, socket: None });
        let taken: Vec<_> = taken.into_iter().chain(open).collect();
        let ports: Vec<_> = taken.iter().map(|taken| taken.port.clone()).collect();
        let mut memory = self.memory();
        let present = memory.members.get_mut(key).ok_or_else(|| not_reserved(key))?;
        for port in &ports {
            // One that is only open at the container's own address may be wished for again.
            if !present.record.ports.contains(port) {
                present.record.ports.push(port.clone());
            }
        }
        present.sockets.extend(taken.into_iter().filter(|taken| taken.socket.is_some()));
        Ok(ports)
    }

    /// What is known of a container.
    pub(super) fn present(&self, key: &Key) -> Result<(MemberRecord, Vec<Placed>)> {
        let memory = self.memory();
        let present = memory.members.get(key).ok_or_else(|| not_reserved(key))?;
        let placed = memory.placed(&present.record);
        Ok((present.record.clone(), placed))
    }

    /// Changes what is known of a container, if it is there.
    pub(super) fn update(&self, key: &Key, change: impl FnOnce(&mut MemberRecord)) {
        if let Some(present) = self.memory().members.get_mut(key) {
            change(&mut present.record);
        }
    }

    /// Forgets a container in memory, with its addresses and ports.
    pub(super) fn drop_member(&self, key: &Key) {
        let present = {
            let mut memory = self.memory();
            let present = memory.members.remove(key);
            for endpoint in present.iter().flat_map(|present| &present.record.endpoints) {
                memory.release(key, endpoint);
            }
            present
        };
        let Some(Present { record, sockets, .. }) = present else { return };
        // What is not handed over is free at once.
        drop(sockets);
        let mut ports = self.ports();
        for port in &record.ports {
            ports.release(port, key);
        }
    }
}

/// Checks what a container asks of a network.
fn check_attachment(known: &Known, attachment: &Attachment) -> Result<()> {
    let network = &known.record.network;
    wanted(attachment)?;
    attachment.aliases.iter().try_for_each(|alias| check_name(alias))?;
    if !network.has_names() && !attachment.aliases.is_empty() {
        return Err(Error::invalid_argument(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    let fixed = [attachment.ipv4.map(IpAddr::from), attachment.ipv6.map(IpAddr::from)];
    for (wanted, subnet) in fixed.into_iter().zip([network.ipv4(), network.ipv6()]) {
        let Some(address) = wanted else { continue };
        if network.predefined {
            return Err(Error::invalid_argument(
                "user specified IP address is supported on user defined networks only",
            ));
        }
        if !subnet.is_some_and(|subnet| subnet.subnet.contains(&address)) {
            return Err(outside(address, &network.name));
        }
    }
    Ok(())
}

/// Gives a container its place in a network. `others` are its new places so far, `host` the host's
/// own addresses; `old` gets the interfaces of those who had its addresses a moment ago.
fn place(
    memory: &mut Memory,
    key: &Key,
    attachment: &Attachment,
    others: &[Endpoint],
    host: &[IpAddr],
    old: &mut Vec<String>,
) -> Result<Endpoint> {
    let wanted = wanted(attachment)?;
    let present = memory.members.get(key).ok_or_else(|| not_reserved(key))?;
    let has = present.record.endpoints.iter().chain(others);
    let used: Vec<_> = has.map(|endpoint| endpoint.interface.clone()).collect();
    let dns_names = dns_names(&present.record, &key.1, &attachment.aliases);
    check_mac(memory, key, attachment)?;
    let known = memory.known(&attachment.network)?;
    if known.phase != Phase::Ready {
        return Err(not_found(known.name()));
    }
    let network = known.record.network.clone();
    let interface = interface_name(known, wanted, &used)?;
    let adopted = known.record.adopted;
    let mut claimed = [None, None];
    for (v6, fixed) in
        [(false, attachment.ipv4.map(IpAddr::from)), (true, attachment.ipv6.map(IpAddr::from))]
    {
        let Some(range) = known.range(v6) else { continue };
        if adopted {
            range.keep_from(host);
        }
        match range.claim(fixed, key.clone()) {
            Ok((address, last)) => {
                claimed[usize::from(v6)] = Some(address);
                old.extend(last);
            }
            Err(refusal) => {
                // What was claimed of the other kind.
                for address in claimed.into_iter().flatten() {
                    if let Some(range) = known.range(address.is_ipv6()) {
                        range.release(address, key, None);
                    }
                }
                return Err(refused(memory, &network, v6, fixed, refusal));
            }
        }
    }
    known.members.insert(key.clone());
    let endpoint = endpoint(key, attachment, &network, interface, claimed, dns_names);
    if !endpoint.host_interface.is_empty() {
        memory.ends.insert(endpoint.host_interface.clone(), key.clone());
    }
    Ok(endpoint)
}

fn endpoint(
    key: &Key,
    attachment: &Attachment,
    network: &Network,
    interface: String,
    claimed: [Option<IpAddr>; 2],
    dns_names: Vec<String>,
) -> Endpoint {
    let [ipv4, ipv6] = claimed;
    let ipv4 = match (ipv4, network.ipv4()) {
        (Some(IpAddr::V4(address)), Some(subnet)) => {
            Ipv4Net::new(address, subnet.subnet.prefix_len()).ok()
        }
        _ => None,
    };
    let ipv6 = match (ipv6, network.ipv6()) {
        (Some(IpAddr::V6(address)), Some(subnet)) => {
            Ipv6Net::new(address, subnet.subnet.prefix_len()).ok()
        }
        _ => None,
    };
    let out = |subnet: Option<&Subnet>| {
        subnet.filter(|_| !network.internal).and_then(|subnet| subnet.gateway)
    };
    let ipv4_gateway = match out(network.ipv4()) {
        Some(IpAddr::V4(gateway)) => Some(gateway),
        _ => None,
    };
    let ipv6_gateway = match out(network.ipv6()) {
        Some(IpAddr::V6(gateway)) => Some(gateway),
        _ => None,
    };
    let bridge = network.driver == Driver::Bridge;
    let end = || format!("veth{:07x}", rand::random::<u32>() >> 4);
    Endpoint {
        id: new_id(),
        network: network.id.clone(),
        container: key.1.clone(),
        interface,
        host_interface: if bridge { end() } else { String::new() },
        mac: attachment.mac.unwrap_or_else(|| mac(ipv4.map(|net| net.addr()))),
        ipv4,
        ipv6,
        ipv4_gateway,
        ipv6_gateway,
        dns_names: if network.has_names() { dns_names } else { Vec::new() },
    }
}

/// The name of a container's interface: the one that is wanted, else the first that is free.
fn interface_name(known: &Known, wanted: Wanted, used: &[String]) -> Result<String> {
    if !matches!(known.record.network.driver, Driver::Bridge | Driver::Macvlan) {
        return Ok(String::new());
    }
    if let Some(name) = wanted.interface {
        if used.contains(&name) || name == "lo" {
            return Err(Error::invalid_argument(format!(
                "the container has an interface {name} already"
            )));
        }
        return Ok(name);
    }
    let prefix = &known.settings.prefix;
    let mut names = (0..=used.len()).map(|number| format!("{prefix}{number}"));
    let free = names.find(|name| !used.contains(name));
    free.ok_or_else(|| Error::internal("no name of an interface is free"))
}

/// Why a container does not get an address.
fn refused(
    memory: &Memory,
    network: &Network,
    v6: bool,
    fixed: Option<IpAddr>,
    refusal: Refusal,
) -> Error {
    let subnet = if v6 { network.ipv6() } else { network.ipv4() };
    let all = match subnet.and_then(|subnet| subnet.ip_range) {
        Some(part) => format!("ip-range {part}"),
        None => "subnet".to_owned(),
    };
    let network = &network.name;
    let address = fixed.map(|address| address.to_string()).unwrap_or_default();
    match refusal {
        Refusal::Full => Error::resource_exhausted(format!(
            "no available IP addresses in network {network}: all of its {all} are taken"
        )),
        Refusal::Outside => Error::invalid_argument(format!(
            "no configured subnet or ip-range of network {network} contains the IP address \
             {address}"
        )),
        Refusal::Taken(taker) => {
            let who = match taker {
                Taker::Gateway => "the gateway has it".to_owned(),
                Taker::Host => "the host has it".to_owned(),
                Taker::Reserved(what) => format!("it is reserved for {what}"),
                Taker::Container(key) => format!("container {} has it", memory.name_of(&key)),
            };
            Error::failed_precondition(format!(
                "Address already in use: {address} of network {network}: {who}"
            ))
        }
    }
}

/// Refuses a wished MAC address that another container has in the same network, or in another one
/// on the same interface.
fn check_mac(memory: &Memory, key: &Key, attachment: &Attachment) -> Result<()> {
    let (Some(mac), Some(known)) = (attachment.mac, memory.networks.get(&attachment.network))
    else {
        return Ok(());
    };
    let network = &known.record.network;
    let beside = |endpoint: &Endpoint| {
        let known = memory.networks.get(&endpoint.network);
        known.is_some_and(|known| known.record.network.interface == network.interface)
    };
    let has = |present: &Present| {
        present.record.endpoints.iter().any(|endpoint| endpoint.mac == mac && beside(endpoint))
    };
    let holder = memory.members.iter().find(|(other, present)| *other != key && has(present));
    match holder {
        Some((_, present)) => Err(Error::failed_precondition(format!(
            "MAC address already in use: {} of network {}: container {} has it",
            shown_mac(mac),
            network.name,
            present.record.name
        ))),
        None => Ok(()),
    }
}

fn outside(address: IpAddr, network: &str) -> Error {
    Error::invalid_argument(format!(
        "no configured subnet of network {network} contains the IP address {address}"
    ))
}

/// That a network does not go with others.
pub(super) fn alone_only(network: &str) -> Error {
    Error::invalid_argument(format!(
        "container cannot be connected to multiple networks with one of the networks in {network} \
         mode"
    ))
}

/// That nothing is reserved for a container.
pub(super) fn not_reserved(key: &Key) -> Error {
    Error::failed_precondition(format!("container {} is in no network", key.1))
        .about("container", &key.1)
}
