//! Networks of containers: bridges and links, addresses, published ports, names.
//!
//! | module | what it does |
//! | --- | --- |
//! | `netlink` | links, addresses and routes of a network namespace |
//! | `nft` | the firewall: one table of ours, changed in atomic batches |
//! | `addresses` | which addresses are whose |
//! | `ports` | which ports of the host are whose |
//! | `names` | the files that shims answer names from, resolv.conf and hosts |
//! | `local` | the networks themselves, and containers in them |

mod addresses;
mod local;
mod names;
mod netlink;
mod nft;
mod ports;

pub use addresses::AddressPool;
pub use local::{LocalNetworks, NetworkConfig};
