//! Networks of running containers change.

use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::networks::{Attachment, Driver, Handover, Joined, Member, PortWish, Published};
use gantry_core::{Error, Result};

use super::inner::Inner;
use super::join::{drop_message, forget_flows, relay_message, relays};
use super::leave::forget_flows_of;
use super::memory::Placed;
use super::plan::{Targets, changes};
use super::records::MemberRecord;
use super::recover::check_process;
use super::reserve::{alone_only, not_reserved};
use super::resolver::{ResolverSockets, dns_names, files, servers};
use crate::addresses::Key;
use crate::names::Servers;
use crate::netlink::{Inside, Netlink, in_namespace};

impl Inner {
    pub(super) async fn connect(
        self: &Arc<Self>,
        key: Key,
        member: Member,
        pid: u32,
    ) -> Result<Joined> {
        let _held = self.members.lock(key.clone()).await;
        let Some(attachment) = member.attachments.last().cloned() else {
            return Err(Error::invalid_argument("there is no network to connect to"));
        };
        let (before, was) = self.running(&key)?;
        self.check_connect(&key, &before, &was, &attachment)?;
        check_process(pid, before.namespace).await?;
        self.ensure(&attachment.network).await?;
        let (this, own, old) = (Arc::clone(self), key.clone(), before.clone());
        let wishes = member.ports;
        let reserved = blocking(move || this.reserve_further(&own, &old, &attachment, &wishes));
        let (record, placed) = reserved.await?;
        let Some(new) = placed.last().cloned() else { return Err(not_reserved(&key)) };
        let rules = [&before, &record].map(|record| record.ports.clone());
        let (old, to) = (Targets::of(&was), Targets::of(&placed));
        let comes = changes(&old.rules(&rules[0]), &to.rules(&rules[1]));
        let new = [new];
        let (attached, ruled) =
            tokio::join!(self.attach(&new, &placed, pid, false), self.change_rules(&comes));
        let done = async {
            attached.and(ruled)?;
            // Its first ones, or those that a shim was not handed.
            let resolver = self.missing_resolver(&key, &record).await?;
            self.connected(&key, &new, resolver.as_ref()).await?;
            Ok::<_, Error>(resolver)
        };
        match done.await {
            Ok(resolver) => self.told(&key, &old, &to, &rules, resolver).await,
            Err(err) => {
                self.undo_connect(&key, before, &new, pid).await;
                Err(err)
            }
        }
    }

    /// Refuses what a running container can't be connected to.
    fn check_connect(
        &self,
        key: &Key,
        record: &MemberRecord,
        placed: &[Placed],
        attachment: &Attachment,
    ) -> Result<()> {
        self.check_attachments(key, std::slice::from_ref(attachment))?;
        let (name, driver) = {
            let mut memory = self.memory();
            let network = &memory.known(&attachment.network)?.record.network;
            (network.name.clone(), network.driver)
        };
        if placed.iter().any(|at| at.network.id == attachment.network) {
            return Err(Error::already_exists(format!(
                "endpoint with name {} already exists in network {name}",
                record.name
            )));
        }
        let alone = |driver: Driver| matches!(driver, Driver::Host | Driver::Null);
        if alone(driver) {
            return Err(alone_only(&name));
        }
        match placed.iter().find(|at| alone(at.network.driver)) {
            Some(at) => Err(alone_only(&at.network.name)),
            None => Ok(()),
        }
    }

    /// Reserves what a running container needs in one more network, and writes that down; all or
    /// nothing. It blocks.
    fn reserve_further(
        &self,
        key: &Key,
        before: &MemberRecord,
        attachment: &Attachment,
        wishes: &[PortWish],
    ) -> Result<(MemberRecord, Vec<Placed>)> {
        let further = || {
            self.reserve_places(key, std::slice::from_ref(attachment))?;
            let (record, placed) = self.present(key)?;
            // Ports that led nowhere so far.
            if record.ports.is_empty() {
                self.take_ports(key, &Targets::of(&placed), wishes)?;
            }
            let asks = servers(&self.host_resolver(), &record, &placed) == Servers::Shim;
            self.update(key, |record| record.asks_shim = asks);
            let (record, placed) = self.present(key)?;
            self.put(key, &record)?;
            Ok((record, placed))
        };
        let reserved = further();
        if reserved.is_err() {
            self.take_places_back(key, before);
        }
        reserved
    }

    /// Gives back what a container has beyond this record, in memory.
    fn take_places_back(&self, key: &Key, before: &MemberRecord) {
        let ports: Vec<Published> = {
            let mut memory = self.memory();
            let Some(present) = memory.members.get_mut(key) else { return };
            let now = std::mem::replace(&mut present.record, before.clone());
            present.sockets.clear();
            let kept = |id: &str| before.endpoints.iter().any(|endpoint| endpoint.id == id);
            for endpoint in now.endpoints.iter().filter(|endpoint| !kept(&endpoint.id)) {
                memory.release(key, endpoint);
            }
            now.ports.into_iter().filter(|port| !before.ports.contains(port)).collect()
        };
        self.release_ports(key, &ports);
    }

    /// Lets others find a container where it has just been connected, and stores where its shim
    /// answers names if that is new.
    pub(super) async fn connected(
        self: &Arc<Self>,
        key: &Key,
        new: &[Placed],
        resolver: Option<&ResolverSockets>,
    ) -> Result<()> {
        if let Some(sockets) = resolver {
            self.update(key, |record| record.resolver = Some(sockets.ports));
        }
        let touched = self.memory().touch(new.iter().map(|at| at.network.id.as_str()));
        self.store_changed(key, touched).await
    }

    /// Writes what has changed of a running container.
    async fn store_changed(self: &Arc<Self>, key: &Key, touched: Vec<(String, u64)>) -> Result<()> {
        let (this, key) = (Arc::clone(self), key.clone());
        blocking(move || {
            let (record, placed) = this.present(&key)?;
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

    /// What is to be told to a container's shim, and to who writes its files, when its ports led
    /// to `old` and lead to `to` now.
    async fn told(
        self: &Arc<Self>,
        key: &Key,
        old: &Targets,
        to: &Targets,
        [before, after]: &[Vec<Published>; 2],
        resolver: Option<ResolverSockets>,
    ) -> Result<Joined> {
        let mut handovers: Vec<Handover> = Vec::new();
        if let Some(resolver) = resolver {
            handovers.extend(resolver.handovers(&self.names.resolver(key)));
        }
        for port in before {
            if !after.contains(port) {
                handovers.extend(drop_message(port));
            } else if old.relay(port) != to.relay(port) {
                let message = relay_message(port, to);
                handovers.extend(message.map(|message| Handover { message, socket: None }));
            }
        }
        handovers.extend(relays(self.take_sockets(key), to));
        let (this, own) = (Arc::clone(self), key.clone());
        blocking(move || {
            let (record, placed) = this.present(&own)?;
            let files = files(&this.host_resolver(), &record, &placed);
            let MemberRecord { endpoints, ports, .. } = record;
            Ok(Joined { endpoints, ports, handovers, files: Some(files) })
        })
        .await
    }

    /// Takes away what was made for a container that could not be connected.
    async fn undo_connect(
        self: &Arc<Self>,
        key: &Key,
        before: MemberRecord,
        new: &[Placed],
        pid: u32,
    ) {
        let Ok((now, placed)) = self.present(key) else { return };
        self.take_places_back(key, &before);
        let (_, was) = self.present(key).unwrap_or_default();
        let (from, to) = (Targets::of(&placed), Targets::of(&was));
        let back = changes(&from.rules(&now.ports), &to.rules(&before.ports));
        let unruled = self.change_rules(&back).await;
        self.detach(new, pid).await;
        let touched = self.memory().touch(new.iter().map(|at| at.network.id.as_str()));
        let routed = set_routes(&was, pid).await;
        let stored = self.store_changed(key, touched).await;
        if let Err(err) = unruled.and(routed).and(stored) {
            tracing::warn!(error = %err, "something stays of a network that a container left");
        }
    }

    pub(super) async fn disconnect(
        self: &Arc<Self>,
        key: Key,
        network: &str,
        pid: u32,
    ) -> Result<Joined> {
        let _held = self.members.lock(key.clone()).await;
        let (before, was) = self.running(&key)?;
        let leaving = was.iter().find(|at| at.network.id == network || at.network.name == network);
        let Some(leaving) = leaving.cloned() else {
            return Err(Error::failed_precondition(format!(
                "container {} is not connected to network {network}",
                before.name
            )));
        };
        if matches!(leaving.network.driver, Driver::Host | Driver::Null) {
            return Err(Error::failed_precondition(format!(
                "container cannot be disconnected from {} network",
                leaving.network.name
            )));
        }
        check_process(pid, before.namespace).await?;
        let mut after = without(&before, &leaving);
        let placed = self.memory().placed(&after);
        let (old, to) = (Targets::of(&was), Targets::of(&placed));
        if to.is_empty() {
            after.ports.clear();
        }
        let after = after;
        let goes = changes(&old.rules(&before.ports), &to.rules(&after.ports));
        self.change_rules(&goes).await?;
        // Written before the addresses are free: what is left is deleted when the daemon ends now.
        let touched = {
            let mut memory = self.memory();
            if let Some(present) = memory.members.get_mut(&key) {
                present.record = after.clone();
            }
            memory.touch([leaving.network.id.as_str()])
        };
        let stored = self.store_changed(&key, touched).await;
        self.detach(std::slice::from_ref(&leaving), pid).await;
        let routed = set_routes(&placed, pid).await;
        let gone: Vec<Published> =
            before.ports.iter().filter(|port| !after.ports.contains(port)).cloned().collect();
        let flows = MemberRecord {
            ports: before.ports.clone(),
            endpoints: vec![leaving.endpoint.clone()],
            ..MemberRecord::default()
        };
        blocking(move || {
            forget_flows_of(&flows);
            Ok(())
        })
        .await?;
        self.memory().release(&key, &leaving.endpoint);
        self.release_ports(&key, &gone);
        stored.and(routed)?;
        self.told(&key, &old, &to, &[before.ports, after.ports], None).await
    }

    pub(super) async fn rename(self: &Arc<Self>, key: Key, name: String) -> Result<()> {
        let _held = self.members.lock(key.clone()).await;
        let touched = {
            let mut memory = self.memory();
            let Some(present) = memory.members.get_mut(&key) else { return Ok(()) };
            let record = &mut present.record;
            if record.name == name {
                return Ok(());
            }
            record.name = name;
            let names: Vec<_> = record
                .attachments
                .iter()
                .map(|attachment| dns_names(record, &key.1, &attachment.aliases))
                .collect();
            for (endpoint, names) in record.endpoints.iter_mut().zip(names) {
                if !endpoint.dns_names.is_empty() {
                    endpoint.dns_names = names;
                }
            }
            let networks: Vec<_> =
                record.endpoints.iter().map(|endpoint| endpoint.network.clone()).collect();
            memory.touch(networks.iter().map(String::as_str))
        };
        let this = Arc::clone(self);
        blocking(move || {
            let (record, _) = this.present(&key)?;
            this.put(&key, &record)?;
            this.write_names(&touched)
        })
        .await
    }
}

/// A record without one place.
fn without(record: &MemberRecord, leaving: &Placed) -> MemberRecord {
    let mut after = record.clone();
    let places = record.endpoints.iter().zip(&record.attachments);
    let kept = places.filter(|(endpoint, _)| endpoint.id != leaving.endpoint.id);
    (after.endpoints, after.attachments) =
        kept.map(|(endpoint, attachment)| (endpoint.clone(), attachment.clone())).unzip();
    after
}

/// Gives a container its default routes.
async fn set_routes(placed: &[Placed], pid: u32) -> Result<()> {
    let routes = super::plan::routes(placed);
    if routes.is_empty() {
        return Ok(());
    }
    let inside = Inside { interfaces: Vec::new(), routes };
    match in_namespace(pid, move || Netlink::open()?.configure(&inside)).await {
        // A process that has ended needs none.
        Err(err) if err.is_not_found() => Ok(()),
        done => done,
    }
}
