//! Queries of clients, and the answers that are made here.

use hickory_proto::op::{
    Edns, Header, Message, MessageType, OpCode, Query as Question, ResponseCode,
};
use hickory_proto::rr::RecordType;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable};

use super::Transport;
use super::answer::{Answer, HEADER, OPT, Place};

/// What may be sent to us in one datagram (RFC 9715).
pub(super) const PAYLOAD: u16 = 1232;
/// Longest answer for a client that says nothing of its size.
const PLAIN: usize = 512;
/// Longest answer by UDP.
const MOST: usize = 4096;
/// Bit of OPT's TTL: the client wants signatures.
pub(super) const DNSSEC_OK: u32 = 0x8000;

/// A query of a client.
#[derive(Clone, Debug)]
pub(super) struct Query {
    /// Its number, which the answer has as well.
    pub(super) id: u16,
    /// What is asked.
    pub(super) question: Question,
    /// The question as it came.
    pub(super) wire: Box<[u8]>,
    pub(super) recursion_desired: bool,
    pub(super) authentic_data: bool,
    pub(super) checking_disabled: bool,
    pub(super) edns: Option<ClientEdns>,
}

/// What a client says of itself (RFC 6891).
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientEdns {
    payload: u16,
    pub(super) dnssec_ok: bool,
}

impl Query {
    /// Reads a packet. What is no query gets the answer that tells so, or none.
    pub(super) fn parse(packet: &[u8]) -> Result<Self, Option<Vec<u8>>> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).map_err(|_| None)?;
        if header.metadata.message_type == MessageType::Response {
            // Two resolvers would never stop to answer each other.
            return Err(None);
        }
        let refuse = |code| {
            let (id, op_code) = (header.metadata.id, header.metadata.op_code);
            Some(Message::error_msg(id, op_code, code).to_vec().unwrap_or_default())
        };
        if header.metadata.op_code != OpCode::Query {
            return Err(refuse(ResponseCode::NotImp));
        }
        if header.counts.queries != 1 {
            return Err(refuse(ResponseCode::FormErr));
        }
        let malformed = || refuse(ResponseCode::FormErr);
        let question = Question::read(&mut decoder).map_err(|_| malformed())?;
        let wire: Box<[u8]> = packet[HEADER..decoder.index()].into();
        // Answers of others get these bytes: they must be whole.
        if !question.to_bytes().is_ok_and(|bytes| bytes.len() == wire.len()) {
            return Err(malformed());
        }
        let mut query = Self {
            id: header.metadata.id,
            question,
            wire,
            recursion_desired: header.metadata.recursion_desired,
            authentic_data: header.metadata.authentic_data,
            checking_disabled: header.metadata.checking_disabled,
            edns: None,
        };
        let counts = header.counts;
        let records = [counts.answers, counts.authorities, counts.additionals];
        for _ in 0..records.into_iter().map(usize::from).sum::<usize>() {
            let place = Place::read(&mut decoder).map_err(|_| malformed())?;
            if place.kind != OPT {
                continue;
            }
            if query.edns.is_some() {
                return Err(malformed());
            }
            let dnssec_ok = place.ttl & DNSSEC_OK != 0;
            query.edns = Some(ClientEdns { payload: place.class, dnssec_ok });
            if (place.ttl >> 16) & 0xff != 0 {
                return Err(Some(query.failure(ResponseCode::BADVERS)));
            }
        }
        Ok(query)
    }

    /// The type that is asked for.
    pub(super) fn kind(&self) -> RecordType {
        self.question.query_type
    }

    /// How long an answer may be.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match (transport, self.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => PLAIN,
            (Transport::Udp, Some(edns)) => usize::from(edns.payload).clamp(PLAIN, MOST),
        }
    }

    /// An answer without records.
    pub(super) fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::response(self.id, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.response_code = code;
        message.add_query(self.question.clone());
        if let Some(client) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_dnssec_ok(client.dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// The bytes of an answer; a long one is cut, and says so.
    pub(super) fn encode(&self, message: &Message, limit: usize) -> Vec<u8> {
        // There is nothing in an answer of ours that has no bytes.
        let bytes = message.to_vec().unwrap_or_default();
        if bytes.len() <= limit {
            return bytes;
        }
        Answer::read(&bytes, self).map(|answer| answer.reply(self, limit)).unwrap_or_default()
    }

    /// The bytes of an answer without records.
    pub(super) fn failure(&self, code: ResponseCode) -> Vec<u8> {
        self.encode(&self.response(code), PLAIN)
    }

    /// What tells it from queries that have other answers.
    pub(super) fn key(&self) -> Box<[u8]> {
        let mut key = self.wire.to_vec();
        // Type and class follow the name.
        let name = key.len().saturating_sub(4);
        key[..name].make_ascii_lowercase();
        key.push(
            u8::from(self.recursion_desired)
                | (u8::from(self.authentic_data) << 1)
                | (u8::from(self.checking_disabled) << 2)
                | (u8::from(self.edns.is_some_and(|edns| edns.dnssec_ok)) << 3),
        );
        key.into()
    }

    /// The query as name servers are asked, under another number.
    pub(super) fn onward(&self, id: u16, edns: bool) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.authentic_data = self.authentic_data;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(self.question.clone());
        if edns {
            let dnssec_ok = self.edns.is_some_and(|edns| edns.dnssec_ok);
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD).set_dnssec_ok(dnssec_ok);
            message.set_edns(edns);
        }
        message.to_vec().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Name;

    fn asked(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn code(answer: Result<Query, Option<Vec<u8>>>) -> ResponseCode {
        let bytes = answer.unwrap_err().expect("an answer");
        Message::from_vec(&bytes).unwrap().metadata.response_code
    }

    #[test]
    fn what_is_a_query() {
        let mut message = asked("Web.Example.", RecordType::AAAA);
        let query = Query::parse(&message.to_vec().unwrap()).unwrap();
        assert_eq!((query.id, query.kind()), (7, RecordType::AAAA));
        assert_eq!(query.limit(Transport::Udp), 512);
        assert_eq!(&query.wire[..5], b"\x03Web\x07");
        let lower = asked("web.example.", RecordType::AAAA).to_vec().unwrap();
        assert_eq!(Query::parse(&lower).unwrap().key(), query.key());
        let mut edns = Edns::new();
        edns.set_max_payload(60_000).set_dnssec_ok(true);
        message.set_edns(edns);
        let with = Query::parse(&message.to_vec().unwrap()).unwrap();
        assert_eq!(with.limit(Transport::Udp), MOST);
        assert_ne!(with.key(), query.key());
        // HTTPS is 65, which is no letter.
        let https = asked("a.", RecordType::HTTPS).to_vec().unwrap();
        assert_eq!(Query::parse(&https).unwrap().key()[3..7], [0, 65, 0, 1]);
    }

    #[test]
    fn what_is_none() {
        let packet = asked("a.", RecordType::A).to_vec().unwrap();
        assert!(matches!(Query::parse(b""), Err(None)));
        assert!(matches!(Query::parse(&packet[..11]), Err(None)));
        let mut response = packet.clone();
        response[2] |= 0x80;
        assert!(matches!(Query::parse(&response), Err(None)));
        let mut update = packet.clone();
        update[2] = 5 << 3;
        assert_eq!(code(Query::parse(&update)), ResponseCode::NotImp);
        for cut in 12..packet.len() {
            assert_eq!(code(Query::parse(&packet[..cut])), ResponseCode::FormErr, "{cut}");
        }
        let mut two = packet.clone();
        two[5] = 2;
        assert_eq!(code(Query::parse(&two)), ResponseCode::FormErr);
        let mut claims = packet.clone();
        claims[6..12].fill(0xff);
        assert_eq!(code(Query::parse(&claims)), ResponseCode::FormErr);
        // A name that points into the header.
        let mut pointer = packet[..12].to_vec();
        pointer.extend([0xc0, 2, 0, 1, 0, 1]);
        assert!(Query::parse(&pointer).is_err());
        let mut version = asked("a.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_version(1);
        version.set_edns(edns);
        let refused = Query::parse(&version.to_vec().unwrap());
        // Which has two names.
        assert_eq!(u16::from(code(refused)), u16::from(ResponseCode::BADVERS));
    }

    #[test]
    fn long_answers_are_cut() {
        let packet = asked("a.", RecordType::A).to_vec().unwrap();
        let query = Query::parse(&packet).unwrap();
        let mut message = query.response(ResponseCode::NoError);
        for last in 0..=255u8 {
            let data = std::net::Ipv4Addr::new(10, 0, 0, last).into();
            let name = query.question.name.clone();
            message.add_answer(hickory_proto::rr::Record::from_rdata(name, 5, data));
        }
        let whole = query.encode(&message, query.limit(Transport::Tcp));
        assert_eq!(Message::from_vec(&whole).unwrap().answers.len(), 256);
        let cut = Message::from_vec(&query.encode(&message, 512)).unwrap();
        // 19 bytes in front of 16 for each record.
        assert!(cut.metadata.truncation && cut.queries.len() == 1);
        assert_eq!(cut.answers[..], message.answers[..30]);
    }
}
