//! The resolver of one container: names of its networks, and what others know.
//!
//! What is known of a name here is all that is said about it: a name of a
//! container without an IPv6 address has none, and nobody else is asked.
//!
//! | asked for | answer |
//! | --- | --- |
//! | a name of a network the container is in | its addresses, in random order; none of other types |
//! | an address there | its name |
//! | something else, in internal networks | SERVFAIL |
//! | a name without a dot, with an `ndots` of the container's own | NXDOMAIN |
//! | anything else | what name servers say |

mod answer;
mod forward;
mod namespace;
mod query;
mod server;
mod settings;
mod upstream;

use std::cell::RefCell;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::{self, Error};
use forward::Forwarder;
use query::Query;
use settings::{NameServer, Names, Settings, Watched};

pub(super) use server::{tcp, udp};

/// Seconds for which clients may keep an address: it goes with its container.
const TTL: u32 = 5;
/// Clients that wait at once for what others say.
const WAITING: usize = 512;

/// Knows names, or whom to ask.
#[derive(Debug)]
pub(super) struct Resolver {
    /// None until the daemon has told.
    settings: RefCell<Option<Rc<Watched<Settings>>>>,
    forwarder: Rc<Forwarder>,
    waiting: Arc<Semaphore>,
    closed: CancellationToken,
}

/// How a query comes, and so how long an answer may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a query.
#[derive(Debug)]
enum Reply {
    /// It is none.
    Nothing,
    /// Known at once.
    Now(Vec<u8>),
    /// These have to be asked.
    Ask(Query, Vec<NameServer>),
}

impl Resolver {
    /// A resolver that knows nothing yet; `closed` ends what it asks others.
    pub(super) fn new(closed: CancellationToken) -> Self {
        Self {
            settings: RefCell::default(),
            forwarder: Rc::new(Forwarder::new(closed.clone())),
            waiting: Arc::new(Semaphore::new(WAITING)),
            closed,
        }
    }

    /// Takes its settings from a file.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn configure(&self, path: &Path) -> Result<(), Error> {
        let settings = Watched::open(path, Settings::parse)
            .map_err(|e| error::io(format!("read {}", path.display()), e))?;
        self.settings.replace(Some(Rc::new(settings)));
        Ok(())
    }

    /// Asks the container's own name servers from the network that this socket is in.
    pub(super) fn ask_from(&self, socket: impl AsFd) {
        self.forwarder.ask_from(socket);
    }

    /// Answers a packet from what is known, or tells whom to ask.
    fn consider(&self, packet: &[u8], transport: Transport) -> Reply {
        let query = match Query::parse(packet) {
            Ok(query) => query,
            Err(Some(refusal)) => return Reply::Now(refusal),
            Err(None) => return Reply::Nothing,
        };
        let fail = |code| Reply::Now(query.failure(code));
        let transfer = matches!(query.kind(), RecordType::AXFR | RecordType::IXFR);
        if transfer || !matches!(query.question.query_class, DNSClass::IN | DNSClass::ANY) {
            return fail(ResponseCode::Refused);
        }
        let settings = self.settings.borrow().clone();
        let Some(settings) = settings.and_then(|watched| watched.get()) else {
            return fail(ResponseCode::ServFail);
        };
        if let Some(message) = known(&settings, &query) {
            return Reply::Now(query.encode(&message, query.limit(transport)));
        }
        if settings.internal {
            return fail(ResponseCode::ServFail);
        }
        let address = matches!(query.kind(), RecordType::A | RecordType::AAAA);
        if settings.ndots && address && query.question.name.iter().len() < 2 {
            return fail(ResponseCode::NXDomain);
        }
        let servers = settings.servers();
        if servers.is_empty() {
            return fail(ResponseCode::ServFail);
        }
        match self.forwarder.remembered(&query, &servers) {
            Some(answer) => Reply::Now(answer.reply(&query, query.limit(transport))),
            None => Reply::Ask(query, servers),
        }
    }

    /// Asks others.
    async fn ask(&self, query: &Query, servers: Vec<NameServer>, transport: Transport) -> Vec<u8> {
        match self.forwarder.ask(query, servers).await {
            Some(answer) => answer.reply(query, query.limit(transport)),
            None => query.failure(ResponseCode::ServFail),
        }
    }
}

/// What the container's networks tell about a name or an address.
fn known(settings: &Settings, query: &Query) -> Option<Message> {
    let networks: Vec<Rc<Names>> = settings.names.iter().filter_map(Watched::get).collect();
    if query.kind() == RecordType::PTR
        && let Some(address) = reversed(&query.question.name)
        && let Some(name) = networks.iter().find_map(|names| names.pointer(address))
        && let Ok(name) = Name::from_ascii(format!("{name}."))
    {
        let mut message = query.response(ResponseCode::NoError);
        message.add_answer(record(query, RData::PTR(PTR(name))));
        return Some(message);
    }
    let name = text(&query.question.name)?;
    let mut exists = false;
    for names in networks {
        let mut addresses = names.addresses(&name);
        exists |= !addresses.is_empty();
        addresses.retain(|address| match query.kind() {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            kind => kind == RecordType::ANY,
        });
        if !addresses.is_empty() {
            fastrand::shuffle(&mut addresses);
            let mut message = query.response(ResponseCode::NoError);
            let records = addresses.into_iter().map(|address| record(query, address.into()));
            message.add_answers(records);
            return Some(message);
        }
    }
    exists.then(|| query.response(ResponseCode::NoError))
}

fn record(query: &Query, data: RData) -> Record {
    Record::from_rdata(query.question.name.clone(), TTL, data)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for.
fn reversed(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// A name as the daemon writes it; none for one that it can't write.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if label.iter().any(|byte| *byte == b'.' || byte.is_ascii_whitespace()) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(str::from_utf8(label).ok()?);
    }
    text.make_ascii_lowercase();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests;
