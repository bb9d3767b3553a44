//! What is known of networks and of containers in them. Built from the records at start, and
//! changed together with them.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use gantry_core::networks::{Attachment, Driver, Endpoint, Network};
use gantry_core::{Error, Namespace, Result};

use super::options::Settings;
use super::records::{MemberRecord, NetworkRecord};
use crate::addresses::{Key, Range};
use crate::names::{Named, names_text};
use crate::ports::Taken;

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Networks by ID.
    pub(super) networks: HashMap<String, Known>,
    /// Containers that have addresses.
    pub(super) members: HashMap<Key, Present>,
    /// Whose the host's ends of veth pairs are, by their names.
    pub(super) ends: HashMap<String, Key>,
}

/// What is being done to a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It comes, and is not there for anybody yet.
    Making,
    /// It is there.
    Ready,
    /// It goes, and nobody gets in any more.
    Removing,
}

/// A network.
#[derive(Debug)]
pub(super) struct Known {
    /// Whose it is; everybody's when there is none.
    pub(super) namespace: Option<Namespace>,
    pub(super) record: NetworkRecord,
    pub(super) settings: Settings,
    pub(super) phase: Phase,
    /// Its addresses of IPv4, and of IPv6.
    pub(super) ranges: [Option<Range>; 2],
    /// Containers that have an address there.
    pub(super) members: BTreeSet<Key>,
    /// Number of its bridge, once that was made by this daemon or found.
    pub(super) index: Option<u32>,
    /// Counts changes of who is found there by which name.
    pub(super) version: u64,
}

/// A container that has addresses.
#[derive(Debug)]
pub(super) struct Present {
    pub(super) record: MemberRecord,
    /// Sockets that its shim has not been handed.
    pub(super) sockets: Vec<Taken>,
    /// Its first process, and the number of the file that is its network namespace.
    pub(super) process: Option<(u32, u64)>,
}

/// A place of a container in a network, with all that says what it is like.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    pub(super) endpoint: Endpoint,
    pub(super) attachment: Attachment,
    pub(super) network: Network,
    pub(super) settings: Settings,
}

impl Known {
    pub(super) fn new(namespace: Option<Namespace>, record: NetworkRecord, phase: Phase) -> Self {
        let settings = Settings::of(&record.network);
        let mut known = Self {
            namespace,
            record,
            settings,
            phase,
            ranges: [None, None],
            members: BTreeSet::new(),
            index: None,
            version: 0,
        };
        known.set_ranges();
        known
    }

    /// After the subnets were changed, which nobody has an address of.
    pub(super) fn set_ranges(&mut self) {
        let network = &self.record.network;
        self.ranges = [network.ipv4().map(Range::new), network.ipv6().map(Range::new)];
    }

    /// The addresses of that kind.
    pub(super) fn range(&mut self, v6: bool) -> Option<&mut Range> {
        self.ranges[usize::from(v6)].as_mut()
    }

    /// Whether it is there for this namespace.
    pub(super) fn is_for(&self, namespace: &Namespace) -> bool {
        self.phase != Phase::Making && self.namespace.as_ref().is_none_or(|own| own == namespace)
    }

    pub(super) fn id(&self) -> &str {
        &self.record.network.id
    }

    pub(super) fn name(&self) -> &str {
        &self.record.network.name
    }

    /// Whether the host has a bridge for it.
    pub(super) fn is_bridge(&self) -> bool {
        self.record.network.driver == Driver::Bridge
    }
}

impl Memory {
    /// Finds a network by name, ID or a unique beginning of the ID.
    pub(super) fn find(&self, namespace: &Namespace, text: &str) -> Result<&Known> {
        let all = || self.networks.values().filter(move |known| known.is_for(namespace));
        let exact = all()
            .find(|known| known.name() == text)
            .or_else(|| self.networks.get(text).filter(|known| known.is_for(namespace)));
        if let Some(known) = exact {
            return Ok(known);
        }
        let mut begin = all().filter(|known| !text.is_empty() && known.id().starts_with(text));
        match (begin.next(), begin.next()) {
            (Some(known), None) => Ok(known),
            (None, _) => Err(not_found(text)),
            (Some(_), Some(_)) => Err(Error::invalid_argument(format!(
                "network {text} is ambiguous: several IDs begin with it"
            ))
            .about("network", text)),
        }
    }

    /// The network of this ID.
    pub(super) fn known(&mut self, id: &str) -> Result<&mut Known> {
        self.networks.get_mut(id).ok_or_else(|| not_found(id))
    }

    /// A container's name, for messages.
    pub(super) fn name_of(&self, key: &Key) -> String {
        match self.members.get(key) {
            Some(present) => present.record.name.clone(),
            None => key.1.clone(),
        }
    }

    /// The places of a container, in the order of its attachments.
    pub(super) fn placed(&self, record: &MemberRecord) -> Vec<Placed> {
        let places = record.endpoints.iter().zip(&record.attachments);
        let placed = places.filter_map(|(endpoint, attachment)| {
            let known = self.networks.get(&endpoint.network)?;
            Some(Placed {
                endpoint: endpoint.clone(),
                attachment: attachment.clone(),
                network: known.record.network.clone(),
                settings: known.settings.clone(),
            })
        });
        placed.collect()
    }

    /// The names of a network, and their version.
    pub(super) fn names(&self, network: &str) -> Option<(u64, String)> {
        let known = self.networks.get(network)?;
        let mut members = Vec::new();
        for key in &known.members {
            let Some(present) = self.members.get(key).filter(|present| present.record.joined)
            else {
                continue;
            };
            let here = present.record.endpoints.iter().filter(|at| at.network == network);
            members.extend(here.map(|endpoint| Named {
                names: endpoint.dns_names.clone(),
                addresses: addresses(endpoint),
            }));
        }
        Some((known.version, names_text(known.name(), &members)))
    }

    /// Says that other names are found in these networks from now on; returns their versions.
    pub(super) fn touch<'a>(
        &mut self,
        networks: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, u64)> {
        let mut touched = Vec::new();
        for id in networks {
            if let Some(known) = self.networks.get_mut(id)
                && known.record.network.has_names()
            {
                known.version += 1;
                touched.push((id.to_owned(), known.version));
            }
        }
        touched
    }

    /// Takes the addresses of an endpoint back.
    pub(super) fn release(&mut self, key: &Key, endpoint: &Endpoint) {
        let interface = Some(endpoint.host_interface.as_str()).filter(|name| !name.is_empty());
        if let Some(known) = self.networks.get_mut(&endpoint.network) {
            for address in addresses(endpoint) {
                if let Some(range) = known.range(address.is_ipv6()) {
                    range.release(address, key, interface);
                }
            }
            known.members.remove(key);
        }
        self.ends.remove(&endpoint.host_interface);
    }

    /// An interface of the host's has gone.
    pub(super) fn gone(&mut self, interface: &str) {
        for known in self.networks.values_mut() {
            for range in known.ranges.iter_mut().flatten() {
                range.gone(interface);
            }
        }
    }
}

/// The addresses of an endpoint.
pub(super) fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let ipv4 = endpoint.ipv4.map(|net| IpAddr::from(net.addr()));
    let ipv6 = endpoint.ipv6.map(|net| IpAddr::from(net.addr()));
    ipv4.into_iter().chain(ipv6).collect()
}

/// What a client is told that asks for a network that is not there.
pub(super) fn not_found(name: &str) -> Error {
    Error::not_found(format!("network {name} not found")).about("network", name)
}
