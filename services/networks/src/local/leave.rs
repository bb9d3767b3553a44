//! Containers leave their networks.

use std::collections::BTreeSet;
use std::sync::Arc;

use gantry_core::Result;
use gantry_core::db::blocking;
use gantry_core::networks::Protocol;

use super::inner::Inner;
use super::memory::addresses;
use super::plan::{Targets, changes};
use super::records::MemberRecord;
use crate::addresses::Key;
use crate::ports::forget_flows_from;

impl Inner {
    pub(super) async fn leave(self: &Arc<Self>, key: Key) -> Result<()> {
        let _held = self.members.lock(key.clone()).await;
        self.leave_held(&key).await
    }

    /// [`Inner::leave`] for who holds the container.
    pub(super) async fn leave_held(self: &Arc<Self>, key: &Key) -> Result<()> {
        let Ok((record, placed)) = self.present(key) else { return Ok(()) };
        // Nobody finds it any more, and nothing is led to it, before its addresses are free.
        let touched = {
            let mut memory = self.memory();
            if let Some(present) = memory.members.get_mut(key) {
                present.record.joined = false;
                present.process = None;
            }
            memory.touch(placed.iter().map(|at| at.network.id.as_str()))
        };
        let rules = Targets::of(&placed).rules(&record.ports);
        self.change_rules(&changes(&rules, &BTreeSet::new())).await?;
        let (this, own, gone) = (Arc::clone(self), key.clone(), record.clone());
        blocking(move || {
            this.write_names(&touched)?;
            this.names.remove_resolver(&own)?;
            forget_flows_of(&gone);
            this.forget(&own)
        })
        .await?;
        self.drop_member(key);
        for endpoint in &record.endpoints {
            self.throw_away(&endpoint.host_interface);
        }
        Ok(())
    }
}

/// Who sends datagrams to a port that led to these addresses must not reach who gets them next.
/// It blocks.
pub(super) fn forget_flows_of(record: &MemberRecord) {
    if !record.ports.iter().any(|port| port.protocol == Protocol::Udp) {
        return;
    }
    for address in record.endpoints.iter().flat_map(addresses) {
        if let Err(err) = forget_flows_from(address) {
            tracing::debug!(error = %err, "older flows of datagrams stay");
        }
    }
}
