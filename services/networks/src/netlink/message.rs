//! Messages of netlink, of whatever family: a header, a fixed part, attributes.

use gantry_core::{Error, Result};

/// Bytes of the header of a message.
const HEADER: usize = 16;
/// Bytes of the header of an attribute.
const ATTRIBUTE: usize = 4;
/// The bit that says that an attribute holds attributes.
const NESTED: u16 = libc::NLA_F_NESTED as u16;
/// The bits of an attribute's type that are its type.
const TYPE: u16 = !(libc::NLA_F_NESTED as u16 | libc::NLA_F_NET_BYTEORDER as u16);

/// A message to send. The socket fills in its length and its number.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    /// An attribute has become longer than its length can say.
    too_long: bool,
}

impl Message {
    /// A message of this type. `NLM_F_REQUEST` is among the flags of every message.
    pub(crate) fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes, too_long: false }
    }

    /// Appends a fixed part, padded to four bytes.
    pub(crate) fn fixed(&mut self, part: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(part);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value);
        self.end(start);
        self
    }

    /// Appends a byte.
    pub(crate) fn put_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.put(kind, &[value])
    }

    /// Appends a number of four bytes in the machine's order.
    pub(crate) fn put_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_ne_bytes())
    }

    /// Appends a number of four bytes in the network's order.
    pub(crate) fn put_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a number of eight bytes in the network's order.
    pub(crate) fn put_be64(&mut self, kind: u16, value: u64) -> &mut Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// Appends a text, with the NUL byte at its end.
    pub(crate) fn put_text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.begin(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.end(start);
        self
    }

    /// Appends an attribute that holds what `fill` appends.
    pub(crate) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.begin(kind | NESTED);
        fill(self);
        self.end(start);
        self
    }

    /// Bytes so far: whoever appends many elements has to begin a new message before an
    /// attribute has 64 KiB.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it asks for an answer when it succeeds. Failures are always answered.
    pub(super) fn wants_answer(&self) -> bool {
        self.flags() & libc::NLM_F_ACK as u16 != 0
    }

    /// Makes it ready to be sent under this number.
    ///
    /// # Errors
    /// An attribute is too long, which is a defect of who made it.
    pub(crate) fn seal(&mut self, number: u32) -> Result<&[u8]> {
        if self.too_long {
            return Err(Error::internal("an attribute of a netlink message has over 65535 bytes"));
        }
        let length = u32::try_from(self.bytes.len())
            .map_err(|_| Error::internal("a netlink message has over 4 GiB"))?;
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&number.to_ne_bytes());
        Ok(&self.bytes)
    }

    /// Adds flags.
    pub(super) fn add_flags(&mut self, flags: u16) {
        let flags = self.flags() | flags;
        self.bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    /// Begins an attribute; returns where.
    fn begin(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    /// Ends the attribute that began there.
    fn end(&mut self, start: usize) {
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.too_long = true,
        }
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// A message that the kernel sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its type.
    pub(crate) kind: u16,
    /// Its flags.
    pub(crate) flags: u16,
    /// Port of the socket that asked for it, or that made the change it tells of.
    pub(crate) port: u32,
    /// What follows the header: the fixed part and the attributes.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The attributes behind a fixed part of this many bytes.
    pub(crate) fn attributes(&self, fixed: usize) -> Attributes<'_> {
        attributes(self.body.get(fixed.next_multiple_of(4)..).unwrap_or_default())
    }
}

/// A message within what was received at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) number: u32,
    pub(super) port: u32,
    pub(super) body: &'a [u8],
}

impl Part<'_> {
    /// A copy that may stay.
    pub(super) fn keep(&self) -> Answer {
        Answer { kind: self.kind, flags: self.flags, port: self.port, body: self.body.to_vec() }
    }
}

/// The messages in what was received at once; ends where one is not whole.
pub(super) fn parts(mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let whole = bytes.get(..length).filter(|whole| whole.len() >= HEADER)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Part {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            number: u32_at(whole, 8)?,
            port: u32_at(whole, 12)?,
            body: &whole[HEADER..],
        })
    })
}

/// The attributes in these bytes.
pub(crate) fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes { rest: bytes }
}

/// Type and value of each attribute; ends where one is not whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & TYPE;
        let value = self.rest.get(ATTRIBUTE..length)?;
        self.rest = self.rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The number of two bytes there, in the machine's order.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

/// The number of four bytes there, in the machine's order.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A text that may end in a NUL byte.
pub(crate) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::new(16, 4);
        message.fixed(&[7; 6]).put_u8(1, 9).nest(2, |inner| {
            inner.put_text(3, "eth0").put_u32(4, 5);
        });
        assert!(message.wants_answer());
        let bytes = message.seal(77).unwrap().to_vec();
        let mut all = parts(&bytes);
        let part = all.next().unwrap();
        assert!(all.next().is_none());
        assert_eq!((part.kind, part.flags, part.number), (16, 5, 77));
        let answer = part.keep();
        let read: Vec<_> = answer.attributes(6).collect();
        assert_eq!(read[0], (1, &[9][..]));
        assert_eq!(read[1].0, 2);
        let inner: Vec<_> = attributes(read[1].1).collect();
        assert_eq!(text(inner[0].1), "eth0");
        assert_eq!(u32_at(inner[1].1, 0), Some(5));
    }

    #[test]
    fn an_attribute_has_room_for_64_kib() {
        let mut message = Message::new(1, 0);
        message.put(1, &vec![0; 65_531]);
        message.seal(1).unwrap();
        message.put(1, &vec![0; 65_532]);
        assert!(message.seal(1).is_err());
    }

    #[test]
    fn what_is_cut_off_ends_the_list() {
        let mut message = Message::new(1, 0);
        message.put_u32(1, 1).put_u32(2, 2);
        let bytes = message.seal(1).unwrap();
        assert_eq!(attributes(&bytes[HEADER..bytes.len() - 1]).count(), 1);
        assert_eq!(parts(&bytes[..bytes.len() - 1]).count(), 0);
        // A length of nothing must not be read for ever.
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(parts(&[0; 32]).count(), 0);
    }
}
