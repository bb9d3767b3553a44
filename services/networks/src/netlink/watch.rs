//! What changes at the host: links and addresses.

use std::collections::VecDeque;

use gantry_core::Result;
use ipnet::IpNet;

use super::Link;
use super::message::Answer;
use super::routes::parse_address;
use super::socket::{Family, Heard, Multicast};

/// A change of links or addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// A link has been made or changed; this is what it is like then.
    Link(Link),
    /// A link has gone, or has gone to another namespace.
    LinkGone {
        /// The number that it had.
        index: u32,
        /// The name that it had.
        name: String,
    },
    /// A link has got an address.
    Address {
        /// The link's number.
        index: u32,
        /// The address.
        address: IpNet,
    },
    /// An address has gone from a link.
    AddressGone {
        /// The link's number.
        index: u32,
        /// The address.
        address: IpNet,
    },
    /// There were too many changes at once: everything may have changed.
    Lost,
}

impl Changed {
    /// What a message says.
    fn parse(answer: &Answer) -> Option<Self> {
        if let Some(link) = Link::parse(answer) {
            return Some(match answer.kind {
                libc::RTM_DELLINK => Self::LinkGone { index: link.index, name: link.name },
                _ => Self::Link(link),
            });
        }
        let (index, address) = parse_address(answer)?;
        Some(match answer.kind {
            libc::RTM_DELADDR => Self::AddressGone { index, address },
            _ => Self::Address { index, address },
        })
    }
}

/// Listens to changes in the network namespace of this thread, which is the daemon's own when
/// no other is entered. What happens from now on is heard.
///
/// # Errors
/// The kernel's.
///
/// # Panics
/// When no runtime of tokio runs.
pub(crate) fn watch() -> Result<Watch> {
    let groups = [libc::RTNLGRP_LINK, libc::RTNLGRP_IPV4_IFADDR, libc::RTNLGRP_IPV6_IFADDR];
    Ok(Watch { multicast: Multicast::join(Family::Route, &groups)?, heard: VecDeque::new() })
}

/// Changes, one after the other.
#[derive(Debug)]
pub(crate) struct Watch {
    multicast: Multicast,
    heard: VecDeque<Changed>,
}

impl Watch {
    /// The next change. Nothing is lost when this is given up.
    ///
    /// # Errors
    /// The socket failed: a new one is needed.
    pub(crate) async fn next(&mut self) -> Result<Changed> {
        loop {
            if let Some(changed) = self.heard.pop_front() {
                return Ok(changed);
            }
            match self.multicast.next().await? {
                Heard::Messages(messages) => {
                    self.heard.extend(messages.iter().filter_map(Changed::parse));
                }
                Heard::Lost => return Ok(Changed::Lost),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Netlink;
    use super::super::testing::elsewhere;
    use super::*;

    async fn until(watch: &mut Watch, wanted: impl Fn(&Changed) -> bool) -> Changed {
        let look = async {
            loop {
                let changed = watch.next().await.unwrap();
                if wanted(&changed) {
                    return changed;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), look).await.unwrap()
    }

    #[test]
    fn what_happens_is_heard() {
        elsewhere(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut watch = watch().unwrap();
                let netlink = Netlink::open().unwrap();
                let index = netlink.add_bridge("br0", None, [2, 0, 0, 0, 0, 1]).unwrap();
                let up = |changed: &Changed| {
                    matches!(changed, Changed::Link(link) if link.name == "br0" && link.up)
                };
                until(&mut watch, up).await;
                let address: IpNet = "10.9.0.1/24".parse().unwrap();
                netlink.add_address(index, address).unwrap();
                let added = Changed::Address { index, address };
                until(&mut watch, |changed| *changed == added).await;
                netlink.delete_link("br0").unwrap();
                let removed = Changed::AddressGone { index, address };
                until(&mut watch, |changed| *changed == removed).await;
                let gone = Changed::LinkGone { index, name: "br0".to_owned() };
                until(&mut watch, |changed| *changed == gone).await;
            });
        });
    }

    #[test]
    fn a_port_that_leaves_its_bridge_has_not_gone() {
        let mut body = vec![0; 16];
        body[0] = libc::AF_BRIDGE as u8;
        let answer = Answer { kind: libc::RTM_DELLINK, flags: 0, port: 0, body };
        assert_eq!(Changed::parse(&answer), None);
    }
}
