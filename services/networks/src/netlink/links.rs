//! Links: bridges, veth pairs, macvlan and what else has a name.

use gantry_core::{Error, Result};

use super::message::{Answer, Message, attributes, text, u32_at};
use super::{Mac, Netlink, unexpected};

/// Bytes of `struct ifinfomsg`.
const FIXED: usize = 16;
/// Longest name, in bytes.
const LONGEST: usize = 15;
/// `IFF_UP`, and `IFF_LOWER_UP` and `IFF_LOOPBACK`.
const UP: u32 = libc::IFF_UP as u32;
const LOWER_UP: u32 = libc::IFF_LOWER_UP as u32;
const LOOPBACK: u32 = libc::IFF_LOOPBACK as u32;
/// Flags of a message that makes something that is not there, and asks for an answer.
pub(super) const MAKE: u16 = (libc::NLM_F_CREATE | libc::NLM_F_EXCL | libc::NLM_F_ACK) as u16;
/// Flag of a message that asks for an answer.
pub(super) const ACK: u16 = libc::NLM_F_ACK as u16;
/// `RTEXT_FILTER_SKIP_STATS`: counters are not wanted.
const NO_COUNTERS: u32 = 1 << 3;

/// Attribute within `IFLA_LINKINFO`.
pub(super) const INFO_KIND: u16 = 1;

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number in its namespace.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Such as `bridge`, `veth`; empty for hardware and for loopback.
    pub(crate) kind: String,
    /// Whether it is set up.
    pub(crate) up: bool,
    /// Whether something is at the other end.
    pub(crate) running: bool,
    /// Whether it is the loopback interface.
    pub(crate) loopback: bool,
    /// Longest packet.
    pub(crate) mtu: u32,
    /// Its MAC address, if it has one.
    pub(crate) mac: Option<Mac>,
    /// Number of the bridge that it is a port of.
    pub(crate) master: Option<u32>,
    /// Number of the link that it stands on, or of a veth's other end, which may be that of
    /// another namespace.
    pub(crate) parent: Option<u32>,
}

/// Whether the kernel takes this as the name of an interface, and files of its settings can
/// be found by it.
pub(crate) fn is_interface_name(name: &str) -> bool {
    !matches!(name, "" | "." | ".." | "all" | "default")
        && name.len() <= LONGEST
        && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace())
}

impl Netlink {
    /// All links.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn links(&self) -> Result<Vec<Link>> {
        let mut message = Message::new(libc::RTM_GETLINK, 0);
        message.fixed(&fixed(0, None)).put_u32(libc::IFLA_EXT_MASK, NO_COUNTERS);
        let answers = self.socket.dump(&mut message).map_err(|err| err.context("list links"))?;
        Ok(answers.iter().filter_map(Link::parse).collect())
    }

    /// The link of this name, if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn link(&self, name: &str) -> Result<Option<Link>> {
        if !is_interface_name(name) {
            return Ok(None);
        }
        let replies = self.socket.batch(&mut [get(name)])?;
        match replies.refused.first() {
            Some(refusal) if refusal.errno == libc::ENODEV => Ok(None),
            Some(refusal) => Err(refusal.error(format!("look for the interface {name}"))),
            None => {
                let link = replies.answers.first().and_then(Link::parse);
                link.map(Some).ok_or_else(|| unexpected(name))
            }
        }
    }

    /// Deletes a link, its addresses and routes. It is no error that it is not there. For a
    /// veth this takes some 16 ms.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn delete_link(&self, name: &str) -> Result<()> {
        check(name)?;
        let mut message = Message::new(libc::RTM_DELLINK, ACK);
        message.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, name);
        let what = || format!("delete the interface {name}");
        self.one_or(message, &[libc::ENODEV], what).map(drop)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_up(&self, index: u32) -> Result<()> {
        self.one(change(index, Some(true)), || format!("set interface {index} up"))
    }

    /// Makes a link a port of a bridge, or of none.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn set_master(&self, index: u32, master: Option<u32>) -> Result<()> {
        let mut message = change(index, None);
        message.put_u32(libc::IFLA_MASTER, master.unwrap_or(0));
        self.one(message, || match master {
            Some(master) => format!("make interface {index} a port of interface {master}"),
            None => format!("take interface {index} out of its bridge"),
        })
    }
}

impl Link {
    /// The link that a message is about, unless that is about something else.
    pub(super) fn parse(answer: &Answer) -> Option<Self> {
        // Of the family of bridges are messages about ports: a link that is none any more
        // looks like one that has gone.
        if !matches!(answer.kind, libc::RTM_NEWLINK | libc::RTM_DELLINK)
            || i32::from(*answer.body.first()?) != libc::AF_UNSPEC
        {
            return None;
        }
        let flags = u32_at(&answer.body, 8)?;
        let mut link = Self {
            index: u32_at(&answer.body, 4)?,
            up: flags & UP != 0,
            running: flags & LOWER_UP != 0,
            loopback: flags & LOOPBACK != 0,
            ..Self::default()
        };
        for (kind, value) in answer.attributes(FIXED) {
            match kind {
                libc::IFLA_IFNAME => link.name = text(value),
                libc::IFLA_MTU => link.mtu = u32_at(value, 0)?,
                libc::IFLA_ADDRESS => link.mac = value.try_into().ok(),
                libc::IFLA_MASTER => link.master = u32_at(value, 0),
                libc::IFLA_LINK => link.parent = u32_at(value, 0),
                libc::IFLA_LINKINFO => {
                    let kind = attributes(value).find(|(kind, _)| *kind == INFO_KIND);
                    link.kind = kind.map(|(_, kind)| text(kind)).unwrap_or_default();
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// A change of the link's MAC address, or none: then its neighbours are told it again, if
/// `arp_notify` and `ndisc_notify` are on.
pub(super) fn with_mac(index: u32, mac: Mac) -> Message {
    let mut message = change(index, None);
    message.put(libc::IFLA_ADDRESS, &mac);
    message
}

/// A request for the link of this name.
pub(super) fn get(name: &str) -> Message {
    let mut message = Message::new(libc::RTM_GETLINK, ACK);
    message.fixed(&fixed(0, None)).put_text(libc::IFLA_IFNAME, name);
    message.put_u32(libc::IFLA_EXT_MASK, NO_COUNTERS);
    message
}

/// A change of the link of this number, set up or down if wanted.
pub(super) fn change(index: u32, up: Option<bool>) -> Message {
    let mut message = Message::new(libc::RTM_SETLINK, ACK);
    message.fixed(&fixed(index, up));
    message
}

/// A change of the link's name.
pub(super) fn renamed(index: u32, name: &str) -> Message {
    let mut message = change(index, None);
    message.put_text(libc::IFLA_IFNAME, name);
    message
}

/// `struct ifinfomsg`.
pub(super) fn fixed(index: u32, up: Option<bool>) -> [u8; FIXED] {
    let mut fixed = [0; FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = up {
        let flags = if up { UP } else { 0 };
        fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
        fixed[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    fixed
}

/// Refuses what is no name of an interface.
pub(super) fn check(name: &str) -> Result<()> {
    if is_interface_name(name) {
        return Ok(());
    }
    let rule = format!("up to {LONGEST} bytes without spaces, `/`, `:` and `%`");
    Err(Error::invalid_argument(format!("invalid interface name {name:?}: {rule}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_interfaces() {
        for good in ["eth0", "br-0123456789ab", "a.b"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in ["", ".", "..", "all", "a/b", "a b", "a:1", "br-0123456789abc", "veth%d"] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }
}
