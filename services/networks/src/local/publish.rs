//! Ports of running containers come and go.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::networks::{Joined, PortWish, Published};
use gantry_core::{Error, Result};

use super::inner::Inner;
use super::join::{drop_message, forget_flows, relays};
use super::plan::{Targets, changes};
use super::records::MemberRecord;
use crate::addresses::Key;
use crate::ports::Taken;

impl Inner {
    pub(super) async fn publish(
        self: &Arc<Self>,
        key: Key,
        wishes: Vec<PortWish>,
    ) -> Result<Joined> {
        let _held = self.members.lock(key.clone()).await;
        let (record, placed) = self.running(&key)?;
        let targets = Targets::of(&placed);
        if targets.is_empty() {
            return Err(Error::failed_precondition(format!(
                "container {} is in no network from which ports can be published",
                record.name
            )));
        }
        let (this, own, wanted) = (Arc::clone(self), key.clone(), wishes.clone());
        let to = targets.clone();
        let ports = blocking(move || this.take_and_store(&own, &to, wanted)).await?;
        let rules = changes(&BTreeSet::new(), &targets.rules(&ports));
        if let Err(err) = self.change_rules(&rules).await {
            self.take_back(&key, &ports, &wishes).await;
            return Err(err);
        }
        let flows = ports.clone();
        blocking(move || {
            forget_flows(&flows);
            Ok(())
        })
        .await?;
        let sockets = self.take_sockets(&key);
        let handovers = relays(sockets, &targets);
        Ok(Joined { endpoints: record.endpoints, ports, handovers, files: None })
    }

    /// Takes ports, and writes that down. It blocks.
    fn take_and_store(
        &self,
        key: &Key,
        targets: &Targets,
        wishes: Vec<PortWish>,
    ) -> Result<Vec<Published>> {
        let ports = self.take_ports(key, targets, &wishes)?;
        self.update(key, |record| record.wishes.extend(wishes.iter().cloned()));
        let stored = self.present(key).and_then(|(record, _)| self.put(key, &record));
        if let Err(err) = stored {
            self.give_back(key, &ports, &wishes);
            return Err(err);
        }
        Ok(ports)
    }

    /// Undoes [`Inner::take_and_store`].
    async fn take_back(self: &Arc<Self>, key: &Key, ports: &[Published], wishes: &[PortWish]) {
        self.give_back(key, ports, wishes);
        let (this, key) = (Arc::clone(self), key.clone());
        let stored = blocking(move || {
            let (record, _) = this.present(&key)?;
            this.put(&key, &record)
        });
        if let Err(err) = stored.await {
            tracing::warn!(error = %err, "a port that could not be published stays reserved");
        }
    }

    /// Takes ports and wishes from a container in memory, with their sockets.
    fn give_back(&self, key: &Key, ports: &[Published], wishes: &[PortWish]) {
        {
            let mut memory = self.memory();
            if let Some(present) = memory.members.get_mut(key) {
                present.record.ports.retain(|port| !ports.contains(port));
                present.record.wishes.retain(|wish| !wishes.contains(wish));
                present.sockets.retain(|taken| !ports.contains(&taken.port));
            }
        }
        self.release_ports(key, ports);
    }

    /// Ports of the host's are a container's no more.
    pub(super) fn release_ports(&self, key: &Key, ports: &[Published]) {
        let mut table = self.ports();
        for port in ports {
            table.release(port, key);
        }
    }

    pub(super) async fn unpublish(
        self: &Arc<Self>,
        key: Key,
        ports: Vec<Published>,
    ) -> Result<Joined> {
        let _held = self.members.lock(key.clone()).await;
        let (record, placed) = self.running(&key)?;
        let is_meant = |port: &&Published| ports.iter().any(|meant| meant == *port);
        let gone: Vec<_> = record.ports.iter().filter(is_meant).cloned().collect();
        let rules = Targets::of(&placed).rules(&gone);
        self.change_rules(&changes(&rules, &BTreeSet::new())).await?;
        self.update(&key, |own| forget_ports(own, &gone));
        let (this, own) = (Arc::clone(self), key.clone());
        blocking(move || {
            let (record, _) = this.present(&own)?;
            this.put(&own, &record)
        })
        .await?;
        self.release_ports(&key, &gone);
        let handovers = gone.iter().filter_map(drop_message).collect();
        Ok(Joined { endpoints: record.endpoints, ports: gone, handovers, files: None })
    }

    /// What is known of a container that has joined.
    pub(super) fn running(&self, key: &Key) -> Result<(MemberRecord, Vec<super::memory::Placed>)> {
        let (record, placed) = self.present(key)?;
        if !record.joined {
            return Err(Error::failed_precondition(format!(
                "container {} is not running",
                record.name
            )));
        }
        Ok((record, placed))
    }

    /// The sockets that a container's shim is to be handed.
    pub(super) fn take_sockets(&self, key: &Key) -> Vec<Taken> {
        let mut memory = self.memory();
        let present = memory.members.get_mut(key);
        present.map(|present| std::mem::take(&mut present.sockets)).unwrap_or_default()
    }
}

/// Takes ports from a record, and the wishes of which nothing is left.
fn forget_ports(record: &mut MemberRecord, gone: &[Published]) {
    record.ports.retain(|port| !gone.contains(port));
    let MemberRecord { ports, wishes, .. } = record;
    wishes.retain(|wish| {
        let was = gone.iter().any(|port| is_of(port, wish));
        !was || ports.iter().any(|port| is_of(port, wish))
    });
}

/// Whether a port is what was wished for.
fn is_of(port: &Published, wish: &PortWish) -> bool {
    let number = wish.host_port == 0
        || port.host_port == 0
        || (wish.host_port..=wish.host_port_end.max(wish.host_port)).contains(&port.host_port);
    number
        && port.container_port == wish.container_port
        && port.protocol == wish.protocol
        && wish.host_ip.is_none_or(|ip| ip == port.host_ip)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use gantry_core::networks::Protocol;

    use super::*;

    #[test]
    fn a_wish_goes_with_its_last_port() {
        let wish = PortWish {
            host_ip: None,
            host_port: 8000,
            host_port_end: 8010,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let port = |host_ip| Published {
            host_ip,
            host_port: 8003,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let both = [port(Ipv4Addr::UNSPECIFIED.into()), port(Ipv6Addr::UNSPECIFIED.into())];
        let other = PortWish { container_port: 81, ..wish.clone() };
        let mut record = MemberRecord {
            wishes: vec![wish, other],
            ports: both.to_vec(),
            ..MemberRecord::default()
        };
        forget_ports(&mut record, &both[..1]);
        assert_eq!((record.wishes.len(), record.ports.len()), (2, 1));
        forget_ports(&mut record, &both[1..]);
        assert_eq!((record.wishes.len(), record.ports.len()), (1, 0));
    }
}
