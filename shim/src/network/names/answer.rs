//! Answers of name servers. They are passed on as they came, records of unknown
//! types included: number, question and flags become the client's, what is kept
//! grows old, and OPT is between neighbours only.

use std::ops::Range;
use std::time::Duration;

use hickory_proto::op::{Header, MessageType, OpCode, Query as Question, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, DecodeError};
use tokio::time::Instant;

use super::query::{PAYLOAD, Query};

/// Bytes of a header.
pub(super) const HEADER: usize = 12;
/// The type of OPT.
pub(super) const OPT: u16 = 41;
/// The type of SOA.
const SOA: u16 = 6;
/// Bytes of an OPT without options.
const OPT_LENGTH: usize = 11;
/// The longest that an answer is kept.
const LONGEST: u32 = 3600;
/// The longest that it is kept that there is none.
const LONGEST_NONE: u32 = 300;
/// Flags in the header's third and fourth byte.
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;
const AUTHENTIC_DATA: u8 = 0x20;
const CODE: u8 = 0x0f;

/// A record in a message; what its data means is left to the client.
#[derive(Debug)]
pub(super) struct Place {
    start: usize,
    pub(super) kind: u16,
    /// Of OPT the size of its sender's buffer.
    pub(super) class: u16,
    ttl_at: usize,
    pub(super) ttl: u32,
    data: Range<usize>,
}

impl Place {
    /// Reads past the next record.
    pub(super) fn read(decoder: &mut BinDecoder<'_>) -> Result<Self, DecodeError> {
        let start = decoder.index();
        Name::read(decoder)?;
        let kind = decoder.read_u16()?.unverified();
        let class = decoder.read_u16()?.unverified();
        let ttl_at = decoder.index();
        let ttl = decoder.read_u32()?.unverified();
        let length = usize::from(decoder.read_u16()?.unverified());
        let data = decoder.index();
        decoder.read_slice(length)?;
        Ok(Self { start, kind, class, ttl_at, ttl, data: data..data + length })
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// As it came, without OPT.
    bytes: Vec<u8>,
    /// Where the question ends; where it begins if there is none.
    question: usize,
    /// Where the records of the answer section end.
    ends: Vec<u16>,
    /// Where times to live are.
    ttls: Vec<u16>,
    /// All twelve bits.
    code: u16,
    /// OPT stands where it can't be taken out.
    has_opt: bool,
    /// How long it may be kept.
    lifetime: Option<Duration>,
    taken: Instant,
}

/// Whether a packet answers a query that was sent under this number.
pub(super) fn belongs(packet: &[u8], id: u16, query: &Query) -> bool {
    let mut decoder = BinDecoder::new(packet);
    let Ok(header) = Header::read(&mut decoder) else { return false };
    let metadata = header.metadata;
    if (metadata.id, metadata.message_type, metadata.op_code)
        != (id, MessageType::Response, OpCode::Query)
    {
        return false;
    }
    let asked = &query.question;
    match header.counts.queries {
        // Who does not understand the query need not repeat it.
        0 => !matches!(metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain),
        1 => Question::read(&mut decoder).is_ok_and(|question| {
            question.name == asked.name
                && question.query_type == asked.query_type
                && question.query_class == asked.query_class
                && decoder.index() == HEADER + query.wire.len()
        }),
        _ => false,
    }
}

/// Whether the answer did not fit into a datagram.
pub(super) fn is_truncated(packet: &[u8]) -> bool {
    packet.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

impl Answer {
    /// Reads a packet that [`belongs`] to a query.
    ///
    /// # Errors
    /// It is malformed.
    pub(super) fn read(packet: &[u8], query: &Query) -> Result<Self, DecodeError> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder)?;
        for _ in 0..header.counts.queries {
            Question::read(&mut decoder)?;
        }
        let question = decoder.index();
        let mut scan = Scan::new(query, header.metadata.response_code.low());
        let counts = header.counts;
        for (section, count) in
            [counts.answers, counts.authorities, counts.additionals].into_iter().enumerate()
        {
            for _ in 0..count {
                let place = Place::read(&mut decoder)?;
                scan.take(packet, section, &place);
            }
        }
        let end = decoder.index();
        // A part of an answer is passed on, and not kept.
        let lifetime = if is_truncated(packet) { None } else { scan.lifetime() };
        let opt = scan.opt.filter(|opt| opt.end == end);
        let mut bytes = packet[..opt.as_ref().map_or(end, |opt| opt.start)].to_vec();
        if opt.is_some() {
            let additionals = counts.additionals.saturating_sub(1);
            bytes[10..12].copy_from_slice(&additionals.to_be_bytes());
        }
        Ok(Self {
            bytes,
            question,
            ends: scan.ends,
            ttls: scan.ttls,
            code: scan.code,
            has_opt: scan.has_opt && opt.is_none(),
            lifetime,
            taken: Instant::now(),
        })
    }

    /// Whether it says what there is: no other server is asked.
    pub(super) fn is_final(&self) -> bool {
        matches!(named(self.code), ResponseCode::NoError | ResponseCode::NXDomain)
    }

    /// Whether the server may answer when there is no OPT in the query.
    pub(super) fn is_plain_server(&self) -> bool {
        // 16 is BADVERS.
        let code = named(self.code);
        matches!(code, ResponseCode::FormErr | ResponseCode::NotImp) || self.code == 16
    }

    /// When it is too old to be kept; none if it must not be kept at all.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.lifetime.map(|lifetime| self.taken + lifetime)
    }

    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        self.bytes.len() + 2 * (self.ends.len() + self.ttls.len())
    }

    /// The bytes for a client, `limit` at most.
    pub(super) fn reply(&self, query: &Query, limit: usize) -> Vec<u8> {
        if self.question == HEADER || self.question != HEADER + query.wire.len() {
            return query.failure(named(self.code));
        }
        let mut bytes = self.bytes.clone();
        bytes[..2].copy_from_slice(&query.id.to_be_bytes());
        bytes[2] &= !RECURSION_DESIRED;
        bytes[2] |= u8::from(query.recursion_desired);
        let dnssec_ok = query.edns.is_some_and(|edns| edns.dnssec_ok);
        let authentic = bytes[3] & AUTHENTIC_DATA != 0 && (query.authentic_data || dnssec_ok);
        bytes[3] = RECURSION_AVAILABLE
            | (bytes[3] & CODE)
            | (u8::from(authentic) << 5)
            | (u8::from(query.checking_disabled) << 4);
        bytes[HEADER..self.question].copy_from_slice(&query.wire);
        let age = u32::try_from(self.taken.elapsed().as_secs()).unwrap_or(u32::MAX);
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let ttl = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
            let ttl = u32::from_be_bytes(ttl).saturating_sub(age);
            bytes[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
        }
        let opt = query.edns.is_some() && !self.has_opt;
        let room = if opt { limit.saturating_sub(OPT_LENGTH) } else { limit };
        if bytes.len() > room {
            self.cut(&mut bytes, room);
        }
        if opt {
            self.add_opt(&mut bytes, dnssec_ok);
        }
        bytes
    }

    /// Leaves the records of the answer section that have room. For the others the client asks
    /// again by TCP.
    fn cut(&self, bytes: &mut Vec<u8>, room: usize) {
        let ends = self.ends.iter().map(|end| usize::from(*end)).take_while(|end| *end <= room);
        let (count, end) = ends.fold((0u16, self.question), |(count, _), end| (count + 1, end));
        bytes.truncate(end);
        bytes[2] |= TRUNCATED;
        bytes[6..8].copy_from_slice(&count.to_be_bytes());
        bytes[8..HEADER].fill(0);
    }

    fn add_opt(&self, bytes: &mut Vec<u8>, dnssec_ok: bool) {
        let additionals = u16::from_be_bytes([bytes[10], bytes[11]]).saturating_add(1);
        bytes[10..12].copy_from_slice(&additionals.to_be_bytes());
        bytes.push(0);
        bytes.extend(OPT.to_be_bytes());
        bytes.extend(PAYLOAD.to_be_bytes());
        let flags = u8::from(dnssec_ok) << 7;
        bytes.extend([(self.code >> 4) as u8, 0, flags, 0, 0, 0]);
    }
}

fn named(code: u16) -> ResponseCode {
    code.into()
}

/// What is found in an answer.
struct Scan {
    kind: u16,
    ends: Vec<u16>,
    ttls: Vec<u16>,
    code: u16,
    has_opt: bool,
    /// The last one.
    opt: Option<Range<usize>>,
    /// The least time to live of the answer's records.
    shortest: u32,
    /// For how long there is none.
    none: Option<u32>,
    positive: bool,
}

impl Scan {
    fn new(query: &Query, code: u8) -> Self {
        Self {
            kind: query.kind().into(),
            ends: Vec::new(),
            ttls: Vec::new(),
            code: code.into(),
            has_opt: false,
            opt: None,
            shortest: u32::MAX,
            none: None,
            positive: false,
        }
    }

    fn take(&mut self, packet: &[u8], section: usize, place: &Place) {
        if section == 0 {
            // A packet is not longer than that.
            self.ends.extend(u16::try_from(place.data.end).ok());
        }
        if place.kind == OPT {
            self.has_opt = true;
            self.opt = Some(place.start..place.data.end);
            self.code |= ((place.ttl >> 24) as u16) << 4;
            return;
        }
        self.ttls.extend(u16::try_from(place.ttl_at).ok());
        // RFC 2181: with the highest bit it counts as zero.
        let ttl = if place.ttl > i32::MAX as u32 { 0 } else { place.ttl };
        if section == 0 {
            self.shortest = self.shortest.min(ttl);
            self.positive |= place.kind == self.kind || self.kind == u16::from(RecordType::ANY);
        } else if section == 1 && place.kind == SOA && place.data.len() >= 4 {
            let minimum = &packet[place.data.end - 4..place.data.end];
            let minimum = u32::from_be_bytes([minimum[0], minimum[1], minimum[2], minimum[3]]);
            self.none = Some(ttl.min(minimum));
        }
    }

    /// RFC 2308: that there is none is kept as long as the zone says.
    fn lifetime(&self) -> Option<Duration> {
        let seconds = match named(self.code) {
            ResponseCode::NoError if self.positive => self.shortest.min(LONGEST),
            ResponseCode::NoError | ResponseCode::NXDomain => {
                self.none?.min(self.shortest).min(LONGEST_NONE)
            }
            _ => return None,
        };
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, Message};
    use hickory_proto::rr::rdata::SOA as Authority;
    use hickory_proto::rr::{RData, Record};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn query(edns: bool) -> Query {
        let mut message = Message::new(9, MessageType::Query, OpCode::Query);
        message.add_query(Question::query(name("WWW.Example."), RecordType::A));
        if edns {
            message.set_edns(Edns::new());
        }
        Query::parse(&message.to_vec().unwrap()).unwrap()
    }

    /// As a name server answers it.
    fn answered(records: u8) -> Message {
        let mut message = Message::response(77, OpCode::Query);
        message.add_query(Question::query(name("www.example."), RecordType::A));
        for last in 0..records {
            let data = RData::from(std::net::Ipv4Addr::new(10, 0, 0, last));
            message.add_answer(Record::from_rdata(name("www.example."), 100, data));
        }
        message.set_edns(Edns::new());
        message
    }

    #[test]
    fn the_answer_becomes_the_clients() {
        let packet = answered(2).to_vec().unwrap();
        let (plain, edns) = (query(false), query(true));
        assert!(belongs(&packet, 77, &plain) && !belongs(&packet, 78, &plain));
        let answer = Answer::read(&packet, &plain).unwrap();
        assert_eq!(answer.lifetime, Some(Duration::from_secs(100)));
        let bytes = answer.reply(&plain, 512);
        assert_eq!(&bytes[12..16], b"\x03WWW");
        let read = Message::from_vec(&bytes).unwrap();
        assert_eq!((read.metadata.id, read.answers.len(), read.edns), (9, 2, None));
        let read = Message::from_vec(&answer.reply(&edns, 512)).unwrap();
        assert!(read.edns.is_some() && read.metadata.recursion_available);
    }

    #[test]
    fn a_long_answer_is_cut() {
        let packet = answered(60).to_vec().unwrap();
        let answer = Answer::read(&packet, &query(true)).unwrap();
        let cut = Message::from_vec(&answer.reply(&query(true), 512)).unwrap();
        // 29 bytes in front of 16 for each record, and 11 for OPT.
        assert!(cut.metadata.truncation && cut.edns.is_some());
        assert_eq!(cut.answers[..], answered(29).answers[..]);
        let whole = Message::from_vec(&answer.reply(&query(false), 4096)).unwrap();
        assert!(!whole.metadata.truncation && whole.answers.len() == 60);
    }

    #[test]
    fn what_there_is_not_is_kept_as_the_zone_says() {
        let mut message = answered(0);
        let keep = |message: &Message| {
            Answer::read(&message.to_vec().unwrap(), &query(false)).unwrap().lifetime
        };
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(keep(&message), None);
        let soa = Authority::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, 30);
        message.add_authority(Record::from_rdata(name("example."), 60, RData::SOA(soa)));
        assert_eq!(keep(&message), Some(Duration::from_secs(30)));
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(keep(&message), None);
    }

    #[test]
    fn what_belongs_to_another_query() {
        let asked = query(false);
        let mut other = answered(1);
        other.queries[0].name = name("www.example.org.");
        assert!(!belongs(&other.to_vec().unwrap(), 77, &asked));
        let mut none = answered(0);
        none.queries.clear();
        assert!(!belongs(&none.to_vec().unwrap(), 77, &asked));
        none.metadata.response_code = ResponseCode::FormErr;
        let packet = none.to_vec().unwrap();
        assert!(belongs(&packet, 77, &asked));
        let answer = Answer::read(&packet, &asked).unwrap();
        assert!(answer.is_plain_server() && !answer.is_final());
        let reply = Message::from_vec(&answer.reply(&asked, 512)).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        let packet = answered(3).to_vec().unwrap();
        for cut in 0..packet.len() {
            assert!(Answer::read(&packet[..cut], &asked).is_err(), "{cut}");
        }
    }
}
