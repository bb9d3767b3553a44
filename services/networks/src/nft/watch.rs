//! Who else changes the firewall.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gantry_core::Result;

use super::wire::{self, Layer};
use crate::netlink::message::{Answer, text};
use crate::netlink::socket::{Family, Heard, Multicast};

/// The multicast group of changes.
const GROUP: u32 = libc::NFNLGRP_NFTABLES as u32;
/// A program that loads rules does so in several batches: how long it is waited for more.
const PAUSE: Duration = Duration::from_millis(20);

/// Hears when somebody else changes the table, or another one when those matter.
#[derive(Debug)]
pub(crate) struct Watch {
    heard: Multicast,
    table: Arc<str>,
    /// Port of our own socket.
    port: u32,
    elsewhere: Arc<AtomicBool>,
}

impl Watch {
    /// Listens from now on, in this thread's network namespace.
    pub(super) fn open(table: &Arc<str>, port: u32, elsewhere: Arc<AtomicBool>) -> Result<Self> {
        let heard = Multicast::join(Family::Netfilter, &[GROUP])?;
        Ok(Self { heard, table: Arc::clone(table), port, elsewhere })
    }

    /// Returns when somebody else has changed something, or may have. What is found then is for
    /// [`super::Firewall::repair`] to say. Nothing is missed between two calls.
    ///
    /// # Errors
    /// The socket failed: another one has to be opened.
    pub(crate) async fn changed(&mut self) -> Result<()> {
        loop {
            let matters = match self.heard.next().await? {
                Heard::Lost => true,
                Heard::Messages(messages) => messages.iter().any(|message| {
                    message.port != self.port
                        && matters(message, &self.table, self.elsewhere.load(Ordering::Relaxed))
                }),
            };
            if matters {
                tokio::time::sleep(PAUSE).await;
                return Ok(());
            }
        }
    }
}

/// Whether a change is one of the table, or of chains and rules of others when those matter.
fn matters(message: &Answer, table: &str, elsewhere: bool) -> bool {
    let Some(kind) = wire::kind(message) else { return false };
    if elsewhere && matches!(kind, wire::NEW_CHAIN | wire::NEW_RULE | wire::DELETE_RULE) {
        return true;
    }
    // The first attribute of all these is the table's name.
    let ours = wire::layer(message) == Some(Layer::Inet)
        && message
            .attributes(wire::FIXED)
            .any(|(attribute, value)| attribute == wire::TABLE && text(value) == table);
    ours && wire::CHANGES.contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of the kernel's about this table.
    fn message(kind: u16, layer: Layer, table: &str) -> Answer {
        let mut body = vec![layer.number(), 0, 0, 0];
        let length = u16::try_from(4 + table.len() + 1).unwrap();
        body.extend_from_slice(&length.to_ne_bytes());
        body.extend_from_slice(&1u16.to_ne_bytes());
        body.extend_from_slice(table.as_bytes());
        body.push(0);
        Answer { kind: (10 << 8) | kind, flags: 0, port: 7, body }
    }

    #[test]
    fn changes_of_the_table_matter() {
        assert!(matters(&message(wire::DELETE_TABLE, Layer::Inet, "gantry"), "gantry", false));
        assert!(matters(&message(wire::NEW_ELEMENTS, Layer::Inet, "gantry"), "gantry", false));
        assert!(!matters(&message(wire::DELETE_TABLE, Layer::Ip, "gantry"), "gantry", false));
        assert!(!matters(&message(wire::DELETE_TABLE, Layer::Inet, "other"), "gantry", false));
        // A new generation, which says nothing of its own.
        assert!(!matters(&message(15, Layer::Inet, ""), "gantry", true));
        assert!(matters(&message(wire::NEW_RULE, Layer::Ip, "filter"), "gantry", true));
        assert!(!matters(&message(wire::NEW_RULE, Layer::Ip, "filter"), "gantry", false));
    }
}
