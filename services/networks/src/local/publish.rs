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
        let (this, own, to) = (Arc::clone(self), key.clone(), targets.clone());
        let ports = blocking(move || this.take_and_store(&own, &to, &wishes)).await?;
        let rules = changes(&BTreeSet::new(), &targets.rules(&ports));
        if let Err(err) = self.change_rules(&rules).await {
            self.take_back(&key, &ports).await;
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
        wishes: &[PortWish],
    ) -> Result<Vec<Published>> {
        let ports = self.take_ports(key, targets, wishes)?;
        let stored = self.present(key).and_then(|(record, _)| self.put(key, &record));
        if let Err(err) = stored {
            self.give_back(key, &ports);
            return Err(err);
        }
        Ok(ports)
    }

    /// Undoes [`Inner::take_and_store`].
    async fn take_back(self: &Arc<Self>, key: &Key, ports: &[Published]) {
        self.give_back(key, ports);
        let (this, key) = (Arc::clone(self), key.clone());
        let stored = blocking(move || {
            let (record, _) = this.present(&key)?;
            this.put(&key, &record)
        });
        if let Err(err) = stored.await {
            tracing::warn!(error = %err, "a port that could not be published stays reserved");
        }
    }

    /// Takes ports from a container in memory, with their sockets.
    fn give_back(&self, key: &Key, ports: &[Published]) {
        {
            let mut memory = self.memory();
            if let Some(present) = memory.members.get_mut(key) {
                present.record.ports.retain(|port| !ports.contains(port));
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
        let mut after = record.clone();
        after.ports.retain(|port| !gone.contains(port));
        let (this, own, stored) = (Arc::clone(self), key.clone(), after.clone());
        if let Err(err) = blocking(move || this.put(&own, &stored)).await {
            // It has them still: so it is stored, and its shim serves them.
            if let Err(left) = self.change_rules(&changes(&BTreeSet::new(), &rules)).await {
                tracing::warn!(error = %left, "ports are closed that could not be taken away");
            }
            return Err(err);
        }
        self.update(&key, |own| *own = after);
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
