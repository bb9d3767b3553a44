//! Matches and targets of iptables, as nf_tables carries them: the common ones.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::expression::{ESTABLISHED, NEW};
use super::judge::Effect;
use super::packet::Packet;
use super::values::Holds;
use crate::netlink::message::{u16_at, u32_at};

/// Offsets in the data of `conntrack`.
const MATCHED: usize = 146;
const INVERTED: usize = 148;
const STATES: usize = 150;
/// What `conntrack` looks at: states, among which a changed destination is one.
const ITS_STATE: u16 = 1;
/// It may also be said which state is none.
const ITS_STATE_ALIAS: u16 = 1 << 13;
const TRANSLATED: u16 = 1 << 7;

/// Whether a match holds.
pub(super) fn holds(packet: &Packet, name: &str, revision: u32, info: &[u8]) -> Holds {
    let known = match name {
        "comment" => Some(true),
        "conntrack" => conntrack(packet, revision, info),
        "state" => u32_at(info, 0).map(|states| states & state(packet) != 0),
        "tcp" | "udp" => return ports(packet, name, info),
        "multiport" if revision == 1 => return multiport(packet, info),
        "addrtype" if revision == 1 => addrtype(packet, info),
        "mark" if revision == 1 => return mark(&packet.mark, info),
        "connmark" if revision == 1 => return mark(&packet.connection_mark, info),
        _ => None,
    };
    Holds::of(known)
}

/// What a target does; whether it is known.
pub(super) fn effect(name: &str, revision: u32, info: &[u8], effects: &mut Vec<Effect>) -> Holds {
    match name {
        "DNAT" => effects.push(destination(revision, info)),
        "REDIRECT" => effects.push(Effect::Destination(None, None)),
        "SNAT" | "MASQUERADE" | "NETMAP" => effects.push(Effect::Accept),
        "REJECT" => effects.push(Effect::Drop),
        "NFQUEUE" | "SYNPROXY" => {
            effects.push(Effect::Drop);
            return Holds::Perhaps;
        }
        // The others change or note something and go on.
        _ => {}
    }
    Holds::Yes
}

/// Whether a target sets marks.
pub(super) fn marks(name: &str) -> bool {
    matches!(name, "MARK" | "CONNMARK" | "CONNSECMARK")
}

/// The bit of the packet's state.
fn state(packet: &Packet) -> u32 {
    if packet.answer { ESTABLISHED } else { NEW }
}

fn conntrack(packet: &Packet, revision: u32, info: &[u8]) -> Option<bool> {
    let (looked, inverted) = (u16_at(info, MATCHED)?, u16_at(info, INVERTED)?);
    let states = match revision {
        1 => u16::from(*info.get(STATES)?),
        _ => u16_at(info, STATES)?,
    };
    if looked & ITS_STATE == 0 || looked & !(ITS_STATE | ITS_STATE_ALIAS) != 0 {
        return None;
    }
    let mut own = state(packet) as u16;
    if packet.status & super::super::expression::DNAT != 0 {
        own |= TRANSLATED;
    }
    Some((states & own != 0) != (inverted & ITS_STATE != 0))
}

/// Ranges of source and destination ports, and flags of TCP.
fn ports(packet: &Packet, name: &str, info: &[u8]) -> Holds {
    let number = if name == "tcp" { libc::IPPROTO_TCP } else { libc::IPPROTO_UDP };
    if packet.protocol != number as u8 {
        return Holds::No;
    }
    let at = |offset| u16_at(info, offset).unwrap_or(0);
    let range = |port: Option<u16>, first: u16, last: u16| {
        if (first, last) == (0, u16::MAX) {
            return Holds::Yes;
        }
        Holds::of(port.map(|port| (first..=last).contains(&port)))
    };
    let (inverted, flags) = match name {
        "tcp" => (info.get(11).copied().unwrap_or(0), info.get(8..11)),
        _ => (info.get(8).copied().unwrap_or(0), None),
    };
    let source = range(packet.source_port, at(0), at(2)).inverted(inverted & 1 != 0);
    let target = range(packet.port, at(4), at(6)).inverted(inverted & 2 != 0);
    let flags = match flags {
        // An option, or flags under a mask.
        Some([option, mask, want]) if *option != 0 || *mask != 0 => {
            let own = if packet.answer { 0x12 } else { 0x02 };
            let same = (*option == 0).then_some(own & mask == *want);
            Holds::of(same).inverted(inverted & 4 != 0)
        }
        _ => Holds::Yes,
    };
    source.and(target).and(flags)
}

/// Up to 15 ports or ranges of them.
fn multiport(packet: &Packet, info: &[u8]) -> Holds {
    let (Some([kind, count]), Some(inverted)) = (info.get(..2), info.get(47)) else {
        return Holds::Perhaps;
    };
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < usize::from(*count).min(15) {
        let port = |at: usize| u16_at(info, 2 + 2 * at).unwrap_or(0);
        let follows = info.get(32 + at).is_some_and(|flag| *flag != 0);
        let last = if follows { port(at + 1) } else { port(at) };
        ranges.push(port(at)..=last);
        at += if follows { 2 } else { 1 };
    }
    let within = |port: Option<u16>| {
        Holds::of(port.map(|port| ranges.iter().any(|range| range.contains(&port))))
    };
    let found = match kind {
        0 => within(packet.source_port),
        1 => within(packet.port),
        _ => match (within(packet.source_port), within(packet.port)) {
            (Holds::Yes, _) | (_, Holds::Yes) => Holds::Yes,
            (Holds::No, Holds::No) => Holds::No,
            _ => Holds::Perhaps,
        },
    };
    found.inverted(*inverted != 0)
}

/// Kinds of the source's and the destination's addresses.
fn addrtype(packet: &Packet, info: &[u8]) -> Option<bool> {
    let (source, destination, flags) = (u16_at(info, 0)?, u16_at(info, 2)?, u32_at(info, 4)?);
    // A bit for each type: 1 for addresses elsewhere, 2 for the host's own.
    let bit = |local: bool| if local { 1 << 2 } else { 1 << 1 };
    let one =
        |mask: u16, local: bool, inverted: bool| mask == 0 || (mask & bit(local) != 0) != inverted;
    Some(one(source, false, flags & 1 != 0) && one(destination, packet.local, flags & 2 != 0))
}

fn mark(own: &[Option<u8>], info: &[u8]) -> Holds {
    let (Some(want), Some(mask)) = (u32_at(info, 0), u32_at(info, 4)) else {
        return Holds::Perhaps;
    };
    let own: Option<Vec<u8>> = own.iter().copied().collect();
    let own = own.and_then(|own| u32_at(&own, 0));
    let inverted = info.get(8).is_some_and(|inverted| *inverted != 0);
    Holds::of(own.map(|own| own & mask == want)).inverted(inverted)
}

/// Address and port of `DNAT`.
fn destination(revision: u32, info: &[u8]) -> Effect {
    let port_at = |at: usize| {
        let port: Option<[u8; 2]> = info.get(at..at + 2).and_then(|port| port.try_into().ok());
        port.map(u16::from_be_bytes).filter(|port| *port != 0)
    };
    let v4 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 4] = info.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(octets).into())
    };
    let v6 = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = info.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(octets).into())
    };
    match revision {
        // A count, flags, two addresses of IPv4, two ports.
        0 => Effect::Destination(v4(8), port_at(16)),
        // Flags, two addresses of either kind, two ports.
        _ => {
            let wide = info.get(8..20).is_some_and(|rest| rest.iter().any(|byte| *byte != 0));
            Effect::Destination(if wide { v6(4) } else { v4(4) }, port_at(36))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Data of `conntrack`, revision 3.
    fn info(states: u16, inverted: u16) -> Vec<u8> {
        let mut info = vec![0; 160];
        info[MATCHED..MATCHED + 2].copy_from_slice(&ITS_STATE.to_ne_bytes());
        info[INVERTED..INVERTED + 2].copy_from_slice(&inverted.to_ne_bytes());
        info[STATES..STATES + 2].copy_from_slice(&states.to_ne_bytes());
        info
    }

    #[test]
    fn states_are_those_of_the_first_packet() {
        let mut packet = Packet::new(false, 6, Some(80));
        let established = info((ESTABLISHED | 4) as u16, 0);
        assert_eq!(holds(&packet, "conntrack", 3, &established), Holds::No);
        assert_eq!(holds(&packet.answered(), "conntrack", 3, &established), Holds::Yes);
        assert_eq!(holds(&packet, "conntrack", 3, &info(TRANSLATED, 0)), Holds::No);
        packet.status = super::super::super::expression::DNAT;
        assert_eq!(holds(&packet, "conntrack", 3, &info(TRANSLATED, 0)), Holds::Yes);
        assert_eq!(holds(&packet, "conntrack", 3, &info(TRANSLATED, 1)), Holds::No);
        assert_eq!(holds(&packet, "recent", 0, &[]), Holds::Perhaps);
    }

    #[test]
    fn ports_are_ranges() {
        let packet = Packet::new(false, 6, Some(80));
        let tcp = |first: u16, last: u16, inverted: u8| {
            let ports = [0, u16::MAX, first, last];
            let mut info: Vec<u8> = ports.iter().flat_map(|port| port.to_ne_bytes()).collect();
            info.extend_from_slice(&[0, 0, 0, inverted]);
            holds(&packet, "tcp", 0, &info)
        };
        assert_eq!(
            (tcp(80, 80, 0), tcp(81, 90, 0), tcp(80, 80, 2)),
            (Holds::Yes, Holds::No, Holds::No)
        );
        assert_eq!(holds(&packet, "udp", 0, &[0; 9]), Holds::No);
        let mut ports = vec![1, 2];
        ports.extend_from_slice(&70u16.to_ne_bytes());
        ports.extend_from_slice(&90u16.to_ne_bytes());
        ports.resize(48, 0);
        ports[32] = 1;
        assert_eq!(holds(&packet, "multiport", 1, &ports), Holds::Yes);
    }
}
