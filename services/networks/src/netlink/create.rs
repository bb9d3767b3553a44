//! What makes links: bridges, veth pairs, macvlan.

use gantry_core::Result;

use super::links::{ACK, INFO_KIND, MAKE, check, fixed, get};
use super::message::Message;
use super::{Link, Mac, Netlink, unexpected};

// Attributes within IFLA_LINKINFO (linux/if_link.h, linux/veth.h).
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const VETH_PEER: u16 = 1;
const MACVLAN_MODE: u16 = 1;
const PORT_HAIRPIN: u16 = 4;
const PORT_ISOLATED: u16 = 33;

/// A veth pair to make: a port of a bridge here, and an interface in another namespace.
#[derive(Clone, Debug)]
pub(crate) struct Veth<'a> {
    /// Name of this end.
    pub(crate) name: &'a str,
    /// Number of the bridge.
    pub(crate) master: u32,
    /// Longest packet, of both ends; the kernel's default when `None`.
    pub(crate) mtu: Option<u32>,
    /// Name of the other end.
    pub(crate) peer: &'a str,
    /// MAC address of the other end.
    pub(crate) mac: Mac,
    /// A process in the other end's network namespace.
    pub(crate) pid: u32,
    /// Whether the bridge carries nothing between this port and other isolated ones.
    pub(crate) isolated: bool,
    /// Whether the bridge sends packets back through the port that they came from. That is
    /// needed for a container that reaches itself at the host's address where bridged packets
    /// go through the firewall (br_netfilter).
    pub(crate) hairpin: bool,
}

/// What macvlan interfaces of one parent may send each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum MacvlanMode {
    /// Nothing.
    Private,
    /// What the switch outside sends back.
    Vepa,
    /// Everything, as if the parent was a bridge.
    #[default]
    Bridge,
    /// There is only one, and it has the parent for itself.
    Passthru,
}

impl MacvlanMode {
    /// The mode of this name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "private" => Self::Private,
            "vepa" => Self::Vepa,
            "bridge" => Self::Bridge,
            "passthru" => Self::Passthru,
            _ => return None,
        })
    }

    /// `enum macvlan_mode`.
    fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthru => 8,
        }
    }
}

/// A macvlan interface to make in another namespace.
#[derive(Clone, Debug)]
pub(crate) struct Macvlan<'a> {
    /// Number of the link here that it stands on.
    pub(crate) parent: u32,
    /// Mode.
    pub(crate) mode: MacvlanMode,
    /// The name that it gets at first. The kernel refuses one that a link of this namespace
    /// has as well, such as `eth0`: [`Interface::made_as`](super::Interface) renames it.
    pub(crate) name: &'a str,
    /// MAC address.
    pub(crate) mac: Mac,
    /// Longest packet; the parent's when `None`.
    pub(crate) mtu: Option<u32>,
    /// A process in the network namespace that it comes into.
    pub(crate) pid: u32,
}

impl Netlink {
    /// Makes a bridge and sets it up; returns its number. All else is as the kernel has it by
    /// default: no spanning tree, multicast snooping without a querier.
    ///
    /// # Errors
    /// [`AlreadyExists`](gantry_core::Kind::AlreadyExists); the kernel's. Then it is not there.
    pub(crate) fn add_bridge(&self, name: &str, mtu: Option<u32>, mac: Mac) -> Result<u32> {
        check(name)?;
        let mut made = Message::new(libc::RTM_NEWLINK, MAKE);
        made.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, name);
        // With an address of its own it keeps it, whatever ports come and go.
        made.put(libc::IFLA_ADDRESS, &mac);
        made.nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(INFO_KIND, "bridge");
        });
        // Set later on and not with the rest, the MTU stays when ports have a smaller one.
        let mut set = named(name, Some(true));
        if let Some(mtu) = mtu {
            set.put_u32(libc::IFLA_MTU, mtu);
        }
        let what = format!("make the bridge {name}");
        let link = self.make(name, made, &mut [set, get(name)], &what)?;
        link.map(|link| link.index).ok_or_else(|| unexpected(name))
    }

    /// Makes a veth pair. The other end comes up when it is set up over there.
    ///
    /// # Errors
    /// [`AlreadyExists`](gantry_core::Kind::AlreadyExists) for either name; `NotFound` when
    /// there is no such process; the kernel's. Then neither is there.
    pub(crate) fn add_veth(&self, veth: &Veth<'_>) -> Result<()> {
        check(veth.name)?;
        check(veth.peer)?;
        let mut made = Message::new(libc::RTM_NEWLINK, MAKE);
        made.fixed(&fixed(0, Some(true))).put_text(libc::IFLA_IFNAME, veth.name);
        made.put_u32(libc::IFLA_MASTER, veth.master);
        put_mtu(&mut made, veth.mtu);
        made.nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(INFO_KIND, "veth").nest(INFO_DATA, |data| {
                // Setting it up from here would fail: its namespace is another one.
                data.nest(VETH_PEER, |peer| {
                    peer.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, veth.peer);
                    peer.put(libc::IFLA_ADDRESS, &veth.mac);
                    put_mtu(peer, veth.mtu);
                    peer.put_u32(libc::IFLA_NET_NS_PID, veth.pid);
                });
            });
        });
        let mut then = Vec::new();
        if veth.isolated || veth.hairpin {
            let mut port = named(veth.name, None);
            port.nest(libc::IFLA_LINKINFO, |info| {
                info.put_text(INFO_SLAVE_KIND, "bridge").nest(INFO_SLAVE_DATA, |data| {
                    data.put_u8(PORT_HAIRPIN, veth.hairpin.into());
                    data.put_u8(PORT_ISOLATED, veth.isolated.into());
                });
            });
            then.push(port);
        }
        let Veth { name, peer, pid, .. } = veth;
        let what = format!("make the interface {name} and {peer} at process {pid}");
        self.make(name, made, &mut then, &what).map(drop)
    }

    /// Makes a macvlan interface.
    ///
    /// # Errors
    /// As [`Netlink::add_veth`].
    pub(crate) fn add_macvlan(&self, macvlan: &Macvlan<'_>) -> Result<()> {
        check(macvlan.name)?;
        let mut made = Message::new(libc::RTM_NEWLINK, MAKE);
        made.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, macvlan.name);
        made.put_u32(libc::IFLA_LINK, macvlan.parent).put(libc::IFLA_ADDRESS, &macvlan.mac);
        put_mtu(&mut made, macvlan.mtu);
        made.put_u32(libc::IFLA_NET_NS_PID, macvlan.pid);
        made.nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(INFO_KIND, "macvlan").nest(INFO_DATA, |data| {
                data.put_u32(MACVLAN_MODE, macvlan.mode.number());
            });
        });
        let Macvlan { name, pid, .. } = macvlan;
        self.one(made, || format!("make the macvlan interface {name} at process {pid}"))
    }

    /// Whether the kernel has links of this kind. Loads its module if it has one; makes none.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn has_kind(&self, kind: &str) -> Result<bool> {
        // No kind takes a MAC address of one byte, and those that look at their parent first
        // miss it: only a kind that is not there is answered by EOPNOTSUPP.
        let name = format!("try{:07x}", rand::random::<u32>() >> 4);
        let mut message = Message::new(libc::RTM_NEWLINK, MAKE);
        message.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, &name);
        message.put(libc::IFLA_ADDRESS, &[0]);
        message.nest(libc::IFLA_LINKINFO, |info| {
            info.put_text(INFO_KIND, kind);
        });
        let replies = self.socket.batch(&mut [message])?;
        match replies.refused.first().map(|refusal| (refusal.errno, refusal)) {
            Some((libc::EOPNOTSUPP, _)) => Ok(false),
            Some((libc::EPERM, refusal)) => {
                Err(refusal.error(format!("look whether the kernel has {kind} interfaces")))
            }
            Some(_) => Ok(true),
            None => self.delete_link(&name).map(|()| true),
        }
    }

    /// Sends the message that makes a link, then those that go on with it, and undoes it when
    /// one of these is refused. They don't go together: were the link another's, they would
    /// change that. Returns the link, if the last one asks for it.
    fn make(
        &self,
        name: &str,
        made: Message,
        then: &mut [Message],
        what: &str,
    ) -> Result<Option<Link>> {
        self.one(made, || what.to_owned())?;
        if then.is_empty() {
            return Ok(None);
        }
        let done = self.all(then, |_| what.to_owned());
        if done.is_err() {
            let _ = self.delete_link(name);
        }
        Ok(done?.first().and_then(Link::parse))
    }
}

/// A change of the link of this name.
fn named(name: &str, up: Option<bool>) -> Message {
    let mut message = Message::new(libc::RTM_NEWLINK, ACK);
    message.fixed(&fixed(0, up)).put_text(libc::IFLA_IFNAME, name);
    message
}

fn put_mtu(message: &mut Message, mtu: Option<u32>) {
    if let Some(mtu) = mtu {
        message.put_u32(libc::IFLA_MTU, mtu);
    }
}

#[cfg(test)]
mod tests {
    use gantry_core::Kind;

    use super::super::testing::{Process, elsewhere};
    use super::super::{in_namespace, namespace_of};
    use super::*;

    const MAC: Mac = [2, 0x42, 10, 9, 0, 2];

    /// What a link of a process' namespace is like.
    fn over_there(process: &Process, name: &'static str) -> Option<Link> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look = move || Netlink::open()?.link(name);
        runtime.block_on(in_namespace(process.id(), look)).unwrap()
    }

    #[test]
    fn a_bridge_keeps_its_address_and_mtu() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            let index = netlink.add_bridge("br0", Some(9000), MAC).unwrap();
            let bridge = netlink.link("br0").unwrap().unwrap();
            assert_eq!((bridge.index, bridge.mtu, bridge.mac), (index, 9000, Some(MAC)));
            assert_eq!((bridge.kind.as_str(), bridge.up), ("bridge", true));
            let err = netlink.add_bridge("br0", None, MAC).unwrap_err();
            assert_eq!(err.kind(), Kind::AlreadyExists, "{err}");
            let names: Vec<_> = netlink.links().unwrap().into_iter().map(|l| l.name).collect();
            assert!(names.contains(&"br0".to_owned()) && names.contains(&"lo".to_owned()));
            // What is refused half-way is not there.
            assert!(netlink.add_bridge("br1", Some(1 << 30), MAC).is_err());
            assert_eq!(netlink.link("br1").unwrap(), None);
            netlink.delete_link("br0").unwrap();
            netlink.delete_link("br0").unwrap();
            assert_eq!(netlink.link("br0").unwrap(), None);
        });
    }

    #[test]
    fn a_veth_leads_into_another_namespace() {
        elsewhere(|| {
            let process = Process::new();
            let netlink = Netlink::open().unwrap();
            let master = netlink.add_bridge("br0", None, MAC).unwrap();
            let mut veth = Veth {
                name: "veth0",
                master,
                mtu: Some(1400),
                peer: "eth0",
                mac: MAC,
                pid: process.id(),
                isolated: true,
                hairpin: true,
            };
            netlink.add_veth(&veth).unwrap();
            let here = netlink.link("veth0").unwrap().unwrap();
            assert_eq!((here.master, here.mtu, here.up), (Some(master), 1400, true));
            let there = over_there(&process, "eth0").unwrap();
            assert_eq!((there.mac, there.mtu, there.up), (Some(MAC), 1400, false));
            let err = netlink.add_veth(&veth).unwrap_err();
            assert_eq!(err.kind(), Kind::AlreadyExists, "{err}");
            netlink.set_master(here.index, None).unwrap();
            assert_eq!(netlink.link("veth0").unwrap().unwrap().master, None);
            // No bridge: the second message is never looked at, and nothing is left.
            (veth.name, veth.peer, veth.master) = ("veth1", "eth1", 4711);
            assert!(netlink.add_veth(&veth).is_err());
            assert_eq!(netlink.link("veth1").unwrap(), None);
            assert_eq!(over_there(&process, "eth1"), None);
        });
    }

    #[test]
    fn a_process_that_has_ended_gets_nothing() {
        elsewhere(|| {
            let process = Process::new();
            let pid = process.id();
            drop(process);
            assert_eq!(namespace_of(pid).unwrap_err().kind(), Kind::NotFound);
            let netlink = Netlink::open().unwrap();
            let master = netlink.add_bridge("br0", None, MAC).unwrap();
            let veth = Veth {
                name: "veth0",
                master,
                mtu: None,
                peer: "eth0",
                mac: MAC,
                pid,
                isolated: false,
                hairpin: false,
            };
            let err = netlink.add_veth(&veth).unwrap_err();
            assert_eq!(err.kind(), Kind::NotFound, "{err}");
            assert_eq!(netlink.link("veth0").unwrap(), None);
        });
    }

    #[test]
    fn a_macvlan_stands_on_a_link() {
        elsewhere(|| {
            let process = Process::new();
            let netlink = Netlink::open().unwrap();
            if !netlink.has_kind("macvlan").unwrap() {
                return;
            }
            let parent = netlink.add_bridge("br0", None, MAC).unwrap();
            let mac = [2, 0, 0, 0, 0, 7];
            let macvlan = Macvlan {
                parent,
                mode: MacvlanMode::Bridge,
                name: "mv0",
                mac,
                mtu: None,
                pid: process.id(),
            };
            netlink.add_macvlan(&macvlan).unwrap();
            let there = over_there(&process, "mv0").unwrap();
            assert_eq!((there.kind.as_str(), there.mac), ("macvlan", Some(mac)));
            assert_eq!(there.parent, Some(parent));
        });
    }

    #[test]
    fn kinds_are_there_or_not() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            let before = netlink.links().unwrap().len();
            assert!(netlink.has_kind("bridge").unwrap());
            assert!(netlink.has_kind("veth").unwrap());
            assert!(!netlink.has_kind("no-such-kind").unwrap());
            assert_eq!(netlink.links().unwrap().len(), before);
        });
    }
}
