//! A packet of which only some is known, as rules see it.

use std::net::IpAddr;

use super::super::elements::octets;
use super::super::expression::{
    CT_DIRECTION, CT_MARK, CT_PROTO_DST, CT_STATE, CT_STATUS, ESTABLISHED, FIB_DADDR, FIB_TYPE,
    LOCAL, META_IIF, META_IIFNAME, META_L4PROTO, META_MARK, META_NFPROTO, META_OIF, META_OIFNAME,
    NETWORK, NEW, TRANSPORT,
};
use super::super::layout::name_of;

/// Bytes, of which some are not known.
pub(in crate::nft) type Known = Vec<Option<u8>>;

/// Type of an address that is not the host's own.
const UNICAST: u32 = 1;
/// Keys of `ct` that say what the packet says itself.
const CT_L3PROTOCOL: u32 = 7;
const CT_PROTOCOL: u32 = 10;

/// A packet.
#[derive(Clone, Debug, Default)]
pub(in crate::nft) struct Packet {
    pub(in crate::nft) v6: bool,
    /// The first one of a connection, or an answer.
    pub(in crate::nft) answer: bool,
    /// The interface that it came in on; empty when there is none.
    pub(in crate::nft) iifname: Option<String>,
    /// The interface that it leaves on; empty when there is none.
    pub(in crate::nft) oifname: Option<String>,
    pub(in crate::nft) source: Option<IpAddr>,
    pub(in crate::nft) destination: Option<IpAddr>,
    /// Whether the destination is the host itself.
    pub(in crate::nft) local: bool,
    pub(in crate::nft) protocol: u8,
    pub(in crate::nft) source_port: Option<u16>,
    pub(in crate::nft) port: Option<u16>,
    /// The port that the client asked for.
    pub(in crate::nft) original_port: Option<u16>,
    /// Bits of its connection's status.
    pub(in crate::nft) status: u32,
    /// Marks; nothing has one at first.
    pub(in crate::nft) mark: Known,
    pub(in crate::nft) connection_mark: Known,
}

impl Packet {
    /// The first packet of a connection from outside to a port of the host.
    pub(in crate::nft) fn new(v6: bool, protocol: u8, port: Option<u16>) -> Self {
        Self {
            v6,
            local: true,
            protocol,
            port,
            original_port: port,
            oifname: Some(String::new()),
            mark: known(&[0; 4]),
            connection_mark: known(&[0; 4]),
            ..Self::default()
        }
    }

    /// An answer to this one.
    pub(in crate::nft) fn answered(&self) -> Self {
        Self {
            answer: true,
            iifname: self.oifname.clone(),
            oifname: self.iifname.clone(),
            source: self.destination,
            destination: self.source,
            local: false,
            source_port: self.port,
            port: self.source_port,
            mark: known(&[0; 4]),
            ..self.clone()
        }
    }

    /// What `meta` loads.
    pub(in crate::nft) fn meta(&self, key: u32) -> Known {
        match key {
            META_IIFNAME => interface(self.iifname.as_deref()),
            META_OIFNAME => interface(self.oifname.as_deref()),
            META_IIF | META_OIF => {
                let name = if key == META_IIF { &self.iifname } else { &self.oifname };
                index(name.as_deref())
            }
            META_NFPROTO => {
                let number = if self.v6 { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
                known(&[number as u8])
            }
            META_L4PROTO => known(&[self.protocol]),
            META_MARK => self.mark.clone(),
            _ => vec![None; 16],
        }
    }

    /// What `ct` loads.
    pub(in crate::nft) fn connection(&self, key: u32, direction: Option<u8>) -> Known {
        match key {
            CT_STATE => known(&(if self.answer { ESTABLISHED } else { NEW }).to_ne_bytes()),
            CT_STATUS => known(&self.status.to_ne_bytes()),
            CT_DIRECTION => known(&[u8::from(self.answer)]),
            CT_MARK => self.connection_mark.clone(),
            CT_L3PROTOCOL => self.meta(META_NFPROTO),
            CT_PROTOCOL => known(&[self.protocol]),
            CT_PROTO_DST if direction == Some(0) => {
                optional(self.original_port.map(u16::to_be_bytes).as_ref().map(|port| &port[..]), 2)
            }
            _ => vec![None; 16],
        }
    }

    /// Bytes of a header.
    pub(in crate::nft) fn payload(&self, base: u32, offset: u32, length: u32) -> Known {
        let header = match base {
            NETWORK if self.v6 => self.header6(),
            NETWORK => self.header4(),
            TRANSPORT => self.transport(),
            _ => Vec::new(),
        };
        let (offset, length) = (offset as usize, length.min(64) as usize);
        (offset..offset + length).map(|at| header.get(at).copied().flatten()).collect()
    }

    /// What `fib` finds.
    pub(in crate::nft) fn route(&self, flags: u32, result: u32) -> Known {
        match result {
            FIB_TYPE => {
                let own = self.local && flags & FIB_DADDR != 0;
                known(&(if own { LOCAL } else { UNICAST }).to_ne_bytes())
            }
            // There is a way back: the packet would be none of ours else.
            _ => known(&1u32.to_ne_bytes()),
        }
    }

    fn header4(&self) -> Known {
        let mut header = vec![None; 20];
        header[0] = Some(0x45);
        header[9] = Some(self.protocol);
        write(&mut header, 12, &address(self.source, 4));
        write(&mut header, 16, &address(self.destination, 4));
        header
    }

    fn header6(&self) -> Known {
        let mut header = vec![None; 40];
        header[6] = Some(self.protocol);
        write(&mut header, 8, &address(self.source, 16));
        write(&mut header, 24, &address(self.destination, 16));
        header
    }

    fn transport(&self) -> Known {
        let mut header = vec![None; 20];
        for (at, port) in [(0, self.source_port), (2, self.port)] {
            let bytes = port.map(u16::to_be_bytes);
            write(&mut header, at, &optional(bytes.as_ref().map(|port| &port[..]), 2));
        }
        if self.protocol == libc::IPPROTO_TCP as u8 {
            // SYN, or SYN and ACK.
            header[13] = Some(if self.answer { 0x12 } else { 0x02 });
        }
        header
    }
}

/// Bytes that are all known.
pub(in crate::nft) fn known(bytes: &[u8]) -> Known {
    bytes.iter().copied().map(Some).collect()
}

fn optional(bytes: Option<&[u8]>, length: usize) -> Known {
    bytes.map_or_else(|| vec![None; length], known)
}

fn address(address: Option<IpAddr>, length: usize) -> Known {
    let bytes = address.map(octets).filter(|bytes| bytes.len() == length);
    optional(bytes.as_deref(), length)
}

fn write(header: &mut [Option<u8>], at: usize, bytes: &[Option<u8>]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

fn interface(name: Option<&str>) -> Known {
    optional(name.map(name_of).as_deref(), 16)
}

/// The index of an interface: `lo` is the first one of all, others have other numbers.
fn index(name: Option<&str>) -> Known {
    match name {
        Some("") => known(&0u32.to_ne_bytes()),
        Some(name) => {
            let number = nix::net::if_::if_nametoindex(name).ok();
            optional(number.map(u32::to_ne_bytes).as_ref().map(|number| &number[..]), 4)
        }
        None => vec![None; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_show_what_is_known() {
        let mut packet = Packet::new(false, 6, Some(8080));
        packet.destination = Some("10.0.0.1".parse().unwrap());
        assert_eq!(packet.payload(NETWORK, 16, 3), known(&[10, 0, 0]));
        assert_eq!(packet.payload(NETWORK, 12, 4), [None; 4]);
        assert_eq!(packet.payload(TRANSPORT, 0, 4), [None, None, Some(0x1f), Some(0x90)]);
        let answer = packet.answered();
        assert_eq!(answer.payload(TRANSPORT, 0, 2), known(&[0x1f, 0x90]));
        assert_eq!(answer.payload(NETWORK, 12, 4), known(&[10, 0, 0, 1]));
        assert_eq!(answer.connection(CT_STATE, None), known(&ESTABLISHED.to_ne_bytes()));
    }
}
