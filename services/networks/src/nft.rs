//! The firewall of the host, and the way to a container's resolver: nf_tables by netlink.
//!
//! There is one table, `inet gantry` (another name for another daemon). It is changed in atomic
//! batches, and what packets cost does not grow with the number of containers: interfaces,
//! subnets and ports are elements of sets and maps.
//!
//! | chain | what it decides |
//! | --- | --- |
//! | `raw` | nothing from outside has an address of 127.0.0.0/8 |
//! | `prerouting`, `output` | packets to the host's own addresses: on to `published` |
//! | `published` | ports that lead into containers (DNAT) |
//! | `postrouting` | the host's address in place of a container's (masquerade) |
//! | `forward` | what goes into and out of bridges; nothing else is judged |
//! | `into` | what may enter a bridge: published ports, and what networks allow |
//! | `input` | what comes to the host itself: on to `relayed` where a container's shim listens |
//! | `relayed` | nothing of an internal network gets to a shim |
//! | `host-input-policy` | the administrator's: empty, asked for each new connection to a published port |
//!
//! An administrator fills `host-input-policy` as any chain; rules there are never touched:
//! ```text
//! nft add rule inet gantry host-input-policy iifname eth0 meta l4proto { tcp, udp } ct original proto-dst != 443 drop
//! ```
//! In a file for `nft -f` it is `table inet gantry { chain host-input-policy { … } }`, which may
//! be loaded before the daemon starts and when everything was flushed.
//!
//! An accept here is not final: a chain of somebody else's may still drop. Other tables are
//! changed only when that is asked for (`accept_elsewhere`), by rules with a comment that names
//! this table: what goes into a bridge, and whatever containers send, is accepted where such a
//! chain ends and would drop it.

mod batch;
mod dump;
mod elements;
mod elsewhere;
mod explain;
mod expression;
mod firewall;
mod layout;
mod resolver;
mod rules;
mod sets;
#[cfg(test)]
mod testing;
mod watch;
mod whole;
mod wire;
mod words;
mod worker;

pub(crate) use explain::Explained;
pub(crate) use firewall::Firewall;
pub(crate) use resolver::redirect_resolver;
pub(crate) use rules::{BridgeRules, Change, PortRule, Rules};
