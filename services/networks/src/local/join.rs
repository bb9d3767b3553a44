//! Containers come into their networks.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::networks::{Driver, Handover, Joined, Protocol, Published};
use gantry_core::{Error, Result};

use super::attach::namespace_number;
use super::inner::Inner;
use super::memory::Placed;
use super::plan::{self, Targets, changes};
use super::records::MemberRecord;
use super::reserve::not_reserved;
use super::resolver::ResolverSockets;
use crate::addresses::Key;
use crate::ports::{Taken, forget_flows_to, shown_port};

impl Inner {
    pub(super) async fn join(self: &Arc<Self>, key: Key, pid: u32) -> Result<Joined> {
        let _held = self.members.lock(key.clone()).await;
        let (record, placed) = self.present(&key)?;
        if record.joined {
            return Err(Error::failed_precondition(format!(
                "container {} is in its networks already",
                record.name
            )));
        }
        // With the host's network it never gets interfaces; all others may.
        let namespace = match placed.iter().any(|at| at.network.driver == Driver::Host) {
            true => 0,
            false => blocking(move || namespace_number(pid)).await?,
        };
        if !plan::has_interfaces(&placed) {
            self.joined(&key, pid, namespace, None).await?;
            let (endpoints, ports) = (record.endpoints, record.ports);
            return Ok(Joined { endpoints, ports, ..Joined::default() });
        }
        let targets = Targets::of(&placed);
        let rules = targets.rules(&record.ports);
        let comes = changes(&BTreeSet::new(), &rules);
        let (attached, ruled) = tokio::join!(
            self.attach(&placed, &placed, pid, record.asks_shim),
            self.change_rules(&comes)
        );
        let done = match (attached, ruled) {
            (Ok(resolver), Ok(())) => {
                let ports = resolver.as_ref().map(|sockets| sockets.ports);
                self.joined(&key, pid, namespace, ports).await.map(|()| resolver)
            }
            (Err(err), _) | (_, Err(err)) => Err(err),
        };
        match done {
            Ok(resolver) => self.hand_over(&key, &targets, resolver),
            Err(err) => {
                self.undo_join(&key, &record, &placed, pid).await;
                Err(err)
            }
        }
    }

    /// Takes note that a container is in its networks, and lets others find it.
    async fn joined(
        self: &Arc<Self>,
        key: &Key,
        pid: u32,
        namespace: u64,
        resolver: Option<super::records::ResolverPorts>,
    ) -> Result<()> {
        let (record, placed, touched) = {
            let mut memory = self.memory();
            let present = memory.members.get_mut(key).ok_or_else(|| not_reserved(key))?;
            present.process = Some((pid, namespace));
            present.record.joined = true;
            present.record.namespace = namespace;
            present.record.resolver = resolver;
            let record = present.record.clone();
            let placed = memory.placed(&record);
            let networks = placed.iter().map(|at| at.network.id.as_str());
            let touched = memory.touch(networks);
            (record, placed, touched)
        };
        let (this, key) = (Arc::clone(self), key.clone());
        blocking(move || {
            this.put(&key, &record)?;
            if record.resolver.is_some() {
                this.write_settings(&key, &record, &placed)?;
            }
            this.write_names(&touched)?;
            forget_flows(&record.ports);
            Ok(())
        })
        .await
    }

    /// What the shim of a container that has just joined is to be handed.
    fn hand_over(
        &self,
        key: &Key,
        targets: &Targets,
        resolver: Option<ResolverSockets>,
    ) -> Result<Joined> {
        let mut memory = self.memory();
        let present = memory.members.get_mut(key).ok_or_else(|| not_reserved(key))?;
        let sockets = std::mem::take(&mut present.sockets);
        let mut handovers = Vec::new();
        if let Some(resolver) = resolver {
            handovers.extend(resolver.handovers(&self.names.resolver(key)));
        }
        handovers.extend(relays(sockets, targets));
        let (endpoints, ports) = (present.record.endpoints.clone(), present.record.ports.clone());
        Ok(Joined { endpoints, ports, handovers, files: None })
    }

    /// Takes away what was made for a container that could not join. Its reservation stays.
    async fn undo_join(
        self: &Arc<Self>,
        key: &Key,
        record: &MemberRecord,
        placed: &[Placed],
        pid: u32,
    ) {
        let touched = {
            let mut memory = self.memory();
            if let Some(present) = memory.members.get_mut(key) {
                present.record = record.clone();
                present.process = None;
            }
            memory.touch(placed.iter().map(|at| at.network.id.as_str()))
        };
        let rules = Targets::of(placed).rules(&record.ports);
        let unruled = self.change_rules(&changes(&rules, &BTreeSet::new())).await;
        self.detach(placed, pid).await;
        let (this, key, record) = (Arc::clone(self), key.clone(), record.clone());
        let forgotten = blocking(move || {
            this.write_names(&touched)?;
            this.names.remove_resolver(&key)?;
            this.put(&key, &record)
        });
        if let Err(err) = unruled.and(forgotten.await) {
            tracing::warn!(error = %err, "something stays of a container that could not join");
        }
    }
}

/// The messages for relays at these sockets.
pub(super) fn relays(sockets: Vec<Taken>, targets: &Targets) -> Vec<Handover> {
    let relay = |taken: Taken| {
        let socket = taken.socket?;
        let message = relay_message(&taken.port, targets)?;
        Some(Handover { message, socket: Some(socket) })
    };
    sockets.into_iter().filter_map(relay).collect()
}

/// The message about the relay at a port.
pub(super) fn relay_message(port: &Published, targets: &Targets) -> Option<String> {
    let target = targets.relay(port).filter(|_| port.protocol != Protocol::Sctp)?;
    Some(format!("relay {} {} {target}", port.protocol.as_str(), shown_port(port)))
}

/// The message that ends the relay at a port.
pub(super) fn drop_message(port: &Published) -> Option<Handover> {
    let relayed = port.protocol != Protocol::Sctp && port.host_port != 0;
    let message = || format!("drop {} {}", port.protocol.as_str(), shown_port(port));
    relayed.then(|| Handover { message: message(), socket: None })
}

/// Datagrams that come all the time are to go where these ports lead now. It blocks.
pub(super) fn forget_flows(ports: &[Published]) {
    let datagrams = ports.iter().filter(|port| port.protocol == Protocol::Udp);
    for port in datagrams.filter(|port| port.host_port != 0) {
        if let Err(err) = forget_flows_to(port.host_port, port.host_ip.is_ipv6()) {
            tracing::debug!(error = %err, "older flows of datagrams stay");
        }
    }
}
