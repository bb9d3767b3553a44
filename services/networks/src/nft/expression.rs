//! What rules are made of: expressions, which load, compare and decide.

use crate::netlink::message::{Message, attributes, text};

/// Keys of `meta`.
pub(super) const META_MARK: u32 = 3;
pub(super) const META_IIF: u32 = 4;
pub(super) const META_OIF: u32 = 5;
pub(super) const META_IIFNAME: u32 = 6;
pub(super) const META_OIFNAME: u32 = 7;
pub(super) const META_NFPROTO: u32 = 15;
pub(super) const META_L4PROTO: u32 = 16;
/// Keys of `ct`.
pub(super) const CT_STATE: u32 = 0;
pub(super) const CT_DIRECTION: u32 = 1;
pub(super) const CT_STATUS: u32 = 2;
pub(super) const CT_MARK: u32 = 3;
pub(super) const CT_PROTO_DST: u32 = 12;
/// Bits of the state of a connection.
pub(super) const INVALID: u32 = 1;
pub(super) const ESTABLISHED: u32 = 2;
pub(super) const RELATED: u32 = 4;
pub(super) const NEW: u32 = 8;
/// Bit of the status of a connection whose destination was changed.
pub(super) const DNAT: u32 = 1 << 5;
/// Headers.
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;
/// `fib daddr type`: the flag, the result, and an address of the host's own.
pub(super) const FIB_DADDR: u32 = 2;
pub(super) const FIB_TYPE: u32 = 3;
pub(super) const LOCAL: u32 = 2;
/// Operators of `cmp`.
pub(super) const EQUAL: u32 = 0;
pub(super) const UNEQUAL: u32 = 1;

/// Bytes of all registers. The first of them in what follows is byte 0.
pub(super) const REGISTERS: usize = 64;

/// A part of a rule. Registers are written as the place of their first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// Something about the packet.
    Meta { key: u32, to: usize },
    /// Sets something about the packet.
    SetMeta { key: u32, from: usize },
    /// Something about its connection.
    Connection { key: u32, direction: Option<u8>, to: usize },
    /// Sets something about its connection.
    SetConnection { key: u32, from: usize },
    /// Bytes of a header.
    Payload { base: u32, offset: u32, length: u32, to: usize },
    /// Writes bytes of a header, and mends its checksum.
    SetPayload { base: u32, offset: u32, length: u32, from: usize, checksum: u32 },
    /// What the routing table says.
    Route { flags: u32, result: u32, to: usize },
    /// Goes on if a comparison holds.
    Compare { from: usize, operator: u32, value: Vec<u8> },
    /// Goes on if a value is in a range.
    Range { from: usize, inverted: bool, first: Vec<u8>, last: Vec<u8> },
    /// Masks and flips bits.
    Bits { from: usize, to: usize, mask: Vec<u8>, flip: Vec<u8> },
    /// Looks a key up, and goes on if it is there (`inverted`: if not).
    Lookup { set: String, from: usize, to: Option<Destination>, inverted: bool },
    /// A constant.
    Constant { to: usize, value: Vec<u8> },
    /// What becomes of the packet.
    Verdict(Verdict),
    /// Another address or port.
    Translate { destination: bool, address: Option<usize>, port: Option<usize> },
    /// The host's own address as the source.
    Masquerade,
    /// The host's own address as the destination.
    Redirect,
    /// No connection is kept for the packet.
    NoTrack,
    /// Refuses it, and says so.
    Reject,
    /// A match of iptables.
    Match { name: String, revision: u32, info: Vec<u8> },
    /// A target of iptables.
    Target { name: String, revision: u32, info: Vec<u8> },
    /// Something else, by the name of its kind.
    Other(String),
}

/// Where a map puts what it finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Destination {
    /// It decides.
    Verdict,
    /// A register.
    Register(usize),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes this chain.
    Accept,
    /// It is gone.
    Drop,
    /// The next rule.
    Continue,
    /// Back to where the chain was jumped to from.
    Return,
    /// Another chain, and back.
    Jump(String),
    /// Another chain.
    Goto(String),
    /// Another number of the kernel's: queues, breaks.
    Other(i32),
}

/// The place of the register of this number.
fn place(register: u32) -> Option<usize> {
    let place = match register {
        1..=4 => (register as usize - 1) * 16,
        8..=23 => (register as usize - 8) * 4,
        _ => return None,
    };
    Some(place)
}

/// The number of the register at this place.
fn register(place: usize) -> u32 {
    let number = if place.is_multiple_of(16) { place / 16 + 1 } else { place / 4 + 8 };
    number as u32
}

impl Expression {
    /// The name of its kind.
    fn name(&self) -> &str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Connection { .. } | Self::SetConnection { .. } => "ct",
            Self::Payload { .. } | Self::SetPayload { .. } => "payload",
            Self::Route { .. } => "fib",
            Self::Compare { .. } => "cmp",
            Self::Range { .. } => "range",
            Self::Bits { .. } => "bitwise",
            Self::Lookup { .. } => "lookup",
            Self::Constant { .. } | Self::Verdict(_) => "immediate",
            Self::Translate { .. } => "nat",
            Self::Masquerade => "masq",
            Self::Redirect => "redir",
            Self::NoTrack => "notrack",
            Self::Reject => "reject",
            Self::Match { .. } => "match",
            Self::Target { .. } => "target",
            Self::Other(name) => name,
        }
    }

    /// Appends it to a list of expressions. Only those that rules of ours have are written.
    pub(super) fn put(&self, item: &mut Message) {
        item.put_text(1, self.name());
        item.nest(2, |data| self.put_data(data));
    }

    fn put_data(&self, data: &mut Message) {
        match self {
            Self::Meta { key, to } => put_numbers(data, &[(1, register(*to)), (2, *key)]),
            Self::Connection { key, direction, to } => {
                put_numbers(data, &[(1, register(*to)), (2, *key)]);
                if let Some(direction) = direction {
                    data.put_u8(3, *direction);
                }
            }
            Self::Payload { base, offset, length, to } => {
                put_numbers(data, &[(1, register(*to)), (2, *base), (3, *offset), (4, *length)])
            }
            Self::SetPayload { base, offset, length, from, checksum } => {
                let place = [(5, register(*from)), (2, *base), (3, *offset), (4, *length)];
                put_numbers(data, &place);
                // One as in IP, TCP and UDP, at this offset; no other one has to be mended.
                put_numbers(data, &[(6, 1), (7, *checksum), (8, 0)]);
            }
            Self::Route { flags, result, to } => {
                put_numbers(data, &[(1, register(*to)), (2, *result), (3, *flags)]);
            }
            Self::Compare { from, operator, value } => {
                put_numbers(data, &[(1, register(*from)), (2, *operator)]);
                put_value(data, 3, value);
            }
            Self::Bits { from, to, mask, flip } => {
                let length = mask.len() as u32;
                put_numbers(data, &[(1, register(*from)), (2, register(*to)), (3, length)]);
                put_value(data, 4, mask);
                put_value(data, 5, flip);
            }
            Self::Lookup { set, from, to, inverted } => {
                data.put_text(1, set).put_be32(2, register(*from));
                match to {
                    None => {}
                    Some(Destination::Verdict) => put_numbers(data, &[(3, 0)]),
                    Some(Destination::Register(to)) => put_numbers(data, &[(3, register(*to))]),
                }
                if *inverted {
                    data.put_be32(5, 1);
                }
            }
            Self::Constant { to, value } => {
                data.put_be32(1, register(*to));
                put_value(data, 2, value);
            }
            Self::Verdict(verdict) => put_verdict(data, verdict),
            Self::Translate { destination, address, port } => {
                put_translation(data, *destination, *address, *port);
            }
            // These have nothing to say.
            Self::Masquerade | Self::Redirect | Self::NoTrack | Self::Reject => {}
            // These are only read: the kernel would refuse them like this.
            Self::SetMeta { .. }
            | Self::SetConnection { .. }
            | Self::Range { .. }
            | Self::Match { .. }
            | Self::Target { .. }
            | Self::Other(_) => {}
        }
    }

    /// One item of a list of expressions, as the kernel writes it.
    pub(super) fn read(item: &[u8]) -> Self {
        let name = attributes(item).find(|(kind, _)| *kind == 1).map(|(_, name)| text(name));
        let data = attributes(item).find(|(kind, _)| *kind == 2).map(|(_, data)| data);
        let name = name.unwrap_or_default();
        let data = Data(data.unwrap_or_default());
        data.read(&name).unwrap_or(Self::Other(name))
    }
}

fn put_numbers(data: &mut Message, numbers: &[(u16, u32)]) {
    for (attribute, number) in numbers {
        data.put_be32(*attribute, *number);
    }
}

fn put_value(data: &mut Message, attribute: u16, value: &[u8]) {
    data.nest(attribute, |inner| {
        inner.put(1, value);
    });
}

fn put_verdict(data: &mut Message, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (libc::NF_ACCEPT, None),
        Verdict::Drop => (libc::NF_DROP, None),
        Verdict::Continue => (-1, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
        Verdict::Other(code) => (*code, None),
    };
    data.put_be32(1, 0).nest(2, |inner| {
        inner.nest(2, |inner| {
            inner.put_be32(1, code.cast_unsigned());
            if let Some(chain) = chain {
                inner.put_text(2, chain);
            }
        });
    });
}

/// The kind of address follows from where the port is: behind one of IPv4 or of IPv6.
fn put_translation(
    data: &mut Message,
    destination: bool,
    address: Option<usize>,
    port: Option<usize>,
) {
    let wide = matches!((address, port), (Some(address), Some(port)) if port == address + 16);
    let family = if wide { libc::NFPROTO_IPV6 } else { libc::NFPROTO_IPV4 };
    put_numbers(data, &[(1, u32::from(destination)), (2, family as u32)]);
    if let Some(address) = address {
        data.put_be32(3, register(address));
    }
    if let Some(port) = port {
        data.put_be32(5, register(port));
    }
}

/// The attributes of an expression.
struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    fn find(&self, attribute: u16) -> Option<&'a [u8]> {
        attributes(self.0).find(|(kind, _)| *kind == attribute).map(|(_, value)| value)
    }

    fn number(&self, attribute: u16) -> Option<u32> {
        self.find(attribute)?.get(..4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn place(&self, attribute: u16) -> Option<usize> {
        place(self.number(attribute)?)
    }

    fn value(&self, attribute: u16) -> Option<Vec<u8>> {
        Data(self.find(attribute)?).find(1).map(<[u8]>::to_vec)
    }

    fn read(&self, name: &str) -> Option<Expression> {
        let read = match name {
            "meta" => match self.place(1) {
                Some(to) => Expression::Meta { key: self.number(2)?, to },
                None => Expression::SetMeta { key: self.number(2)?, from: self.place(3)? },
            },
            "ct" => match self.place(1) {
                Some(to) => {
                    let direction = self.find(3).and_then(|value| value.first().copied());
                    Expression::Connection { key: self.number(2)?, direction, to }
                }
                None => Expression::SetConnection { key: self.number(2)?, from: self.place(4)? },
            },
            "payload" => self.payload()?,
            "fib" => Expression::Route {
                flags: self.number(3)?,
                result: self.number(2)?,
                to: self.place(1)?,
            },
            "cmp" => Expression::Compare {
                from: self.place(1)?,
                operator: self.number(2)?,
                value: self.value(3)?,
            },
            "range" => Expression::Range {
                from: self.place(1)?,
                inverted: self.number(2)? != 0,
                first: self.value(3)?,
                last: self.value(4)?,
            },
            "bitwise" if self.number(6).unwrap_or(0) == 0 => Expression::Bits {
                from: self.place(1)?,
                to: self.place(2)?,
                mask: self.value(4)?,
                flip: self.value(5)?,
            },
            "lookup" => self.lookup()?,
            "immediate" => match self.number(1)? {
                0 => Expression::Verdict(self.verdict(2)?),
                _ => Expression::Constant { to: self.place(1)?, value: self.value(2)? },
            },
            "nat" => Expression::Translate {
                destination: self.number(1)? == 1,
                address: self.place(3),
                port: self.place(5),
            },
            "masq" => Expression::Masquerade,
            "redir" => Expression::Redirect,
            "notrack" => Expression::NoTrack,
            "reject" => Expression::Reject,
            "match" => {
                let (name, revision, info) = self.extension()?;
                Expression::Match { name, revision, info }
            }
            "target" => {
                let (name, revision, info) = self.extension()?;
                Expression::Target { name, revision, info }
            }
            _ => return None,
        };
        Some(read)
    }

    fn payload(&self) -> Option<Expression> {
        let (base, offset, length) = (self.number(2)?, self.number(3)?, self.number(4)?);
        Some(match self.place(1) {
            Some(to) => Expression::Payload { base, offset, length, to },
            None => {
                let checksum = self.number(7).unwrap_or(0);
                Expression::SetPayload { base, offset, length, from: self.place(5)?, checksum }
            }
        })
    }

    fn lookup(&self) -> Option<Expression> {
        let to = match self.number(3) {
            None => None,
            Some(0) => Some(Destination::Verdict),
            Some(number) => Some(Destination::Register(place(number)?)),
        };
        Some(Expression::Lookup {
            set: text(self.find(1)?),
            from: self.place(2)?,
            to,
            inverted: self.number(5).unwrap_or(0) & 1 != 0,
        })
    }

    /// A verdict in the attribute of data.
    fn verdict(&self, attribute: u16) -> Option<Verdict> {
        read_verdict(self.find(attribute)?)
    }

    fn extension(&self) -> Option<(String, u32, Vec<u8>)> {
        Some((text(self.find(1)?), self.number(2)?, self.find(3)?.to_vec()))
    }
}

/// The verdict in data of an expression, or of an element.
pub(super) fn read_verdict(data: &[u8]) -> Option<Verdict> {
    let verdict = Data(Data(data).find(2)?);
    let chain = || verdict.find(2).map(text).unwrap_or_default();
    Some(match verdict.number(1)?.cast_signed() {
        libc::NF_ACCEPT => Verdict::Accept,
        libc::NF_DROP => Verdict::Drop,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        code => Verdict::Other(code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::layout;

    #[test]
    fn registers_have_two_numbers() {
        for place_of in (0..REGISTERS).step_by(4) {
            assert_eq!(place(register(place_of)), Some(place_of));
        }
        assert_eq!(
            (place(1), place(8), place(9), place(2), place(12)),
            (Some(0), Some(0), Some(4), Some(16), Some(16))
        );
        assert_eq!(place(0), None);
    }

    #[test]
    fn what_our_rules_say_is_read_again() {
        for rule in layout::rules() {
            for expression in &rule.expressions {
                let mut message = Message::new(0, 0);
                message.nest(1, |item| expression.put(item));
                let bytes = message.seal(1).unwrap().to_vec();
                let (_, item) = attributes(&bytes[16..]).next().unwrap();
                assert_eq!(&Expression::read(item), expression);
            }
        }
    }

    #[test]
    fn what_is_not_known_keeps_its_name() {
        let mut message = Message::new(0, 0);
        message.nest(1, |item| {
            item.put_text(1, "quota");
        });
        let bytes = message.seal(1).unwrap().to_vec();
        let (_, item) = attributes(&bytes[16..]).next().unwrap();
        assert_eq!(Expression::read(item), Expression::Other("quota".to_owned()));
    }
}
