//! What is done when the daemon starts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use gantry_core::db::{Durability, blocking, write_blocking};
use gantry_core::networks::{Handover, Living, NameFiles, Recovered};
use gantry_core::{Error, Namespace, Result, faults};

use super::attach::namespace_number;
use super::inner::Inner;
use super::join::relay_message;
use super::leave::forget_flows_of;
use super::memory::{Phase, Placed, Present, addresses};
use super::plan::{Targets, bridge_rules, changes};
use super::records::{MEMBERS, MemberRecord};
use super::resolver::{ResolverSockets, files, servers};
use crate::addresses::Key;
use crate::names::Servers;
use crate::netlink::{Netlink, in_namespace};
use crate::nft::{Change, PortRule, Rules, redirect_resolver};
use crate::ports::rebind;

impl Inner {
    pub(super) async fn recover(self: &Arc<Self>, living: Vec<Living>) -> Result<Vec<Recovered>> {
        let living: HashMap<Key, u32> =
            living.into_iter().map(|one| ((one.ctx.namespace, one.container), one.pid)).collect();
        let this = Arc::clone(self);
        let dead = blocking(move || this.read_members(&living)).await?;
        if self.firewall.is_ok() {
            if let Err(err) = self.recover_host(dead).await {
                tracing::error!(error = %err, "bring the host's networks in order");
                self.assert_later();
            }
            self.watch();
            if let Err(err) = self.repair().await {
                tracing::error!(error = %err, "bring the interfaces of containers in order");
            }
        }
        let this = Arc::clone(self);
        let kept = blocking(move || this.recover_names()).await?;
        let mut recovered = Vec::new();
        for key in kept {
            recovered.extend(self.recovered(key).await);
        }
        Ok(recovered)
    }

    /// Takes those in that live, and forgets the others; says whether there were any. It blocks.
    fn read_members(&self, living: &HashMap<Key, u32>) -> Result<bool> {
        let mut dead = false;
        for namespace in self.db.namespaces(MEMBERS.name())? {
            let rows = MEMBERS.list(&*self.db, &namespace)?;
            let namespace = Namespace::new(namespace)?;
            let mut gone = Vec::new();
            for (id, record) in rows {
                let key = (namespace.clone(), id);
                match living.get(&key) {
                    Some(pid) if record.joined => self.take_in(key, record, *pid),
                    _ => {
                        forget_flows_of(&record);
                        for endpoint in &record.endpoints {
                            self.throw_away(&endpoint.host_interface);
                        }
                        gone.push(key.1);
                    }
                }
            }
            dead |= !gone.is_empty();
            forget(self, &namespace, &gone)?;
        }
        Ok(dead)
    }

    /// Takes note of what a container has that lives.
    fn take_in(&self, key: Key, record: MemberRecord, pid: u32) {
        let translated = record.ports.iter().filter(|port| port.host_port != 0);
        let translated: Vec<_> = translated.cloned().collect();
        let claimed = self.ports().claim(&translated, &key);
        let mut memory = self.memory();
        let mut whole = claimed.is_ok();
        for endpoint in &record.endpoints {
            let Some(known) = memory.networks.get_mut(&endpoint.network) else {
                whole = false;
                continue;
            };
            for address in addresses(endpoint) {
                let range = known.range(address.is_ipv6());
                whole &= range.is_some_and(|range| range.keep(address, key.clone()));
            }
            known.members.insert(key.clone());
            if !endpoint.host_interface.is_empty() {
                memory.ends.insert(endpoint.host_interface.clone(), key.clone());
            }
        }
        if !whole {
            tracing::warn!(container = %key.1, "a container has addresses or ports of others");
        }
        let process = Some((pid, record.namespace));
        memory.members.insert(key, Present { record, sockets: Vec::new(), process });
    }

    /// Bridges and rules as they are to be.
    async fn recover_host(self: &Arc<Self>, dead: bool) -> Result<()> {
        let all: Vec<(String, bool)> = {
            let memory = self.memory();
            let bridges = memory.networks.values().filter(|known| known.is_bridge());
            // The default one is made when it is first used.
            bridges
                .map(|known| {
                    let unused = known.record.network.predefined && known.members.is_empty();
                    (known.id().to_owned(), !unused)
                })
                .collect()
        };
        let mut needed = Vec::new();
        for (id, used) in all {
            if let Err(err) = self.settle_default(&id).await {
                tracing::warn!(error = %err, "the default network has no addresses");
            }
            if !used && !self.is_there(&id).await? {
                continue;
            }
            match self.make_bridge(&id).await {
                Ok(made) => {
                    for warning in made.warnings {
                        tracing::warn!(network = %id, "{warning}");
                    }
                    if let Ok(known) = self.memory().known(&id) {
                        known.index = Some(made.index);
                    }
                }
                Err(err) => tracing::error!(error = %err, network = %id, "make a bridge again"),
            }
            needed.push(id);
        }
        if needed.is_empty() && !dead {
            return Ok(());
        }
        let rules = self.all_rules(&needed);
        self.assert_rules(rules).await
    }

    async fn is_there(self: &Arc<Self>, id: &str) -> Result<bool> {
        let name = self.memory().known(id)?.record.network.interface.clone();
        blocking(move || Ok(Netlink::open()?.link(&name)?.is_some())).await
    }

    /// The rules for these networks, and for all that is published.
    pub(super) fn all_rules(&self, networks: &[String]) -> Rules {
        let mut rules = Rules::default();
        rules.ports.extend(self.port_rules().into_values().flatten());
        let memory = self.memory();
        for known in networks.iter().filter_map(|id| memory.networks.get(id)) {
            let bridge = bridge_rules(&known.record.network, &known.settings);
            rules.bridges.insert(known.id().to_owned(), bridge);
        }
        rules
    }

    /// The rules for what is published, by the containers that have joined.
    fn port_rules(&self) -> BTreeMap<Key, BTreeSet<PortRule>> {
        let memory = self.memory();
        let joined = memory.members.iter().filter(|(_, present)| present.record.joined);
        let rules = joined.map(|(key, present)| {
            let targets = Targets::of(&memory.placed(&present.record));
            (key.clone(), targets.rules(&present.record.ports))
        });
        rules.collect()
    }

    /// Makes the firewall say what it could not be made to say when the daemon started.
    /// Networks and containers come and go meanwhile.
    pub(super) async fn assert_again(self: &Arc<Self>) -> Result<()> {
        let networks: Vec<String> = {
            let memory = self.memory();
            let bridges = memory.networks.values().filter(|known| known.is_bridge());
            let used = bridges.filter(|known| known.index.is_some() || !known.members.is_empty());
            used.map(|known| known.id().to_owned()).collect()
        };
        let before = self.port_rules();
        self.assert_rules(self.all_rules(&networks)).await?;
        // Somebody else may have been first, with one network alone, or have changed rules just
        // before they were replaced.
        for id in networks {
            let _held = self.networks.lock(id.clone()).await;
            let change = match self.memory().networks.get(&id) {
                Some(known) if known.phase == Phase::Ready => {
                    Change::AddBridge(id, bridge_rules(&known.record.network, &known.settings))
                }
                _ => Change::RemoveBridge(id),
            };
            self.change_rules(&[change]).await?;
        }
        let keys: BTreeSet<Key> =
            before.keys().cloned().chain(self.port_rules().into_keys()).collect();
        for key in keys {
            let _held = self.members.lock(key.clone()).await;
            let joined = self.present(&key).ok().filter(|(record, _)| record.joined);
            let now = joined.map(|(record, placed)| Targets::of(&placed).rules(&record.ports));
            let now = now.unwrap_or_default();
            let gone = before.get(&key).map(|old| old - &now).unwrap_or_default();
            self.change_rules(&changes(&gone, &now)).await?;
        }
        Ok(())
    }

    /// Files of names as they are to be; those who are there. It blocks.
    fn recover_names(&self) -> Result<Vec<Key>> {
        let (networks, members, touched) = {
            let mut memory = self.memory();
            let members: BTreeSet<Key> = memory.members.keys().cloned().collect();
            let networks: BTreeSet<String> = memory.networks.keys().cloned().collect();
            let touched = memory.touch(networks.iter().map(String::as_str));
            (networks, members, touched)
        };
        self.names.sweep(&networks, &members)?;
        self.write_names(&touched)?;
        for key in &members {
            let (record, placed) = self.present(key)?;
            if record.resolver.is_some() {
                self.write_settings(key, &record, &placed)?;
            }
        }
        Ok(members.into_iter().collect())
    }

    /// What a container is to have that lives. What was not handed to its shim any more is made
    /// anew.
    async fn recovered(self: &Arc<Self>, key: Key) -> Option<Recovered> {
        let _held = self.members.lock(key.clone()).await;
        let (this, own) = (Arc::clone(self), key.clone());
        let (record, placed, files) = blocking(move || this.wanted(&own)).await.ok()?;
        let resolver = match self.missing_resolver(&key, &record).await {
            // A connect was cut off before it had any.
            Ok(Some(sockets)) if record.resolver.is_none() => {
                self.connected(&key, &[], Some(&sockets)).await.map(|()| Some(sockets))
            }
            other => other,
        };
        let mut handovers = Vec::new();
        match resolver {
            Ok(sockets) => {
                let path = self.names.resolver(&key);
                handovers.extend(sockets.into_iter().flat_map(|sockets| sockets.handovers(&path)));
            }
            Err(err) if err.is_not_found() => {}
            Err(err) => {
                tracing::warn!(error = %err, container = %key.1, "look after a resolver");
            }
        }
        let targets = Targets::of(&placed);
        let all = blocking(move || Ok(all_relays(&record, &targets))).await;
        let (relays, sockets) = all.unwrap_or_default();
        handovers.extend(sockets);
        let (namespace, container) = key;
        Some(Recovered { namespace, container, relays, handovers, files })
    }

    /// What is known of a container that lives, and its files as they are to be. It blocks.
    fn wanted(&self, key: &Key) -> Result<(MemberRecord, Vec<Placed>, NameFiles)> {
        let (mut record, placed) = self.present(key)?;
        let host = self.host_resolver();
        let asks = servers(&host, &record, &placed) == Servers::Shim;
        if asks && !record.asks_shim {
            // The host's servers are others by now.
            record.asks_shim = true;
            self.update(key, |own| own.asks_shim = true);
        }
        let files = files(&host, &record, &placed);
        Ok((record, placed, files))
    }

    /// Sockets for the names of a container whose shim is to answer them and has none: new ones,
    /// or again those that nobody has. Nothing where nothing is missing.
    ///
    /// # Errors
    /// `NotFound` when the container has ended; the kernel's.
    pub(super) async fn missing_resolver(
        &self,
        key: &Key,
        record: &MemberRecord,
    ) -> Result<Option<ResolverSockets>> {
        let process = self.memory().members.get(key).and_then(|present| present.process);
        let ports = record.resolver;
        let Some((pid, namespace)) = process.filter(|_| record.asks_shim || ports.is_some()) else {
            return Ok(None);
        };
        check_process(pid, namespace).await?;
        in_namespace(pid, move || {
            let sockets = match ports {
                Some(ports) => ResolverSockets::open_again(ports)?,
                None => Some(ResolverSockets::open()?),
            };
            if let Some(sockets) = &sockets {
                redirect_resolver(sockets.ports.udp, sockets.ports.tcp)?;
            }
            Ok(sockets)
        })
        .await
    }
}

/// The relays that the shim of a container with these ports is to have, and those of them that
/// nobody has. It blocks.
fn all_relays(record: &MemberRecord, targets: &Targets) -> (Vec<String>, Vec<Handover>) {
    let (mut relays, mut lost) = (Vec::new(), Vec::new());
    for port in record.ports.iter().filter(|port| port.host_port != 0) {
        let Some(message) = relay_message(port, targets) else { continue };
        relays.push(message.clone());
        match rebind(port) {
            Ok(Some(socket)) => lost.push(Handover { message, socket: Some(socket) }),
            Ok(None) => {}
            Err(err) => tracing::warn!(error = %err, "keep a published port"),
        }
    }
    (relays, lost)
}

/// Makes sure that a process is the one that it was.
///
/// # Errors
/// `NotFound` when it is another one, or has ended.
pub(super) async fn check_process(pid: u32, namespace: u64) -> Result<()> {
    let now = blocking(move || namespace_number(pid)).await?;
    if now != namespace {
        return Err(Error::not_found(format!("process {pid} has ended: not found")));
    }
    Ok(())
}

fn forget(inner: &Inner, namespace: &Namespace, gone: &[String]) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    faults::around("forget containers that do not live", || {
        write_blocking(&*inner.db, Durability::Buffered, &mut |tx| {
            gone.iter().try_for_each(|id| MEMBERS.delete(tx, namespace.as_str(), id))
        })
    })
}
