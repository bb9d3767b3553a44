//! DNS as tests need it: questions, and a server that answers them (RFC 1035).

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::Namespace;

/// How long a client waits for an answer, as the C library's do.
const PATIENCE: Duration = Duration::from_secs(5);
const HEADER: usize = 12;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// IPv4 addresses.
    A = 1,
    /// The name of an address.
    Ptr = 12,
    /// IPv6 addresses.
    Aaaa = 28,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// 0 is good, 2 the server's failure, 3 says that there is no such name, 5 refuses.
    pub code: u8,
    /// There is more on TCP.
    pub truncated: bool,
    /// Addresses in the order of the answer.
    pub addresses: Vec<IpAddr>,
    /// Names of an address, without the last dot.
    pub names: Vec<String>,
}

/// The name under which names of an address are found.
pub fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let digits = octets.iter().rev().flat_map(|octet| [octet & 15, octet >> 4]);
            digits.map(|digit| format!("{digit:x}.")).collect::<String>() + "ip6.arpa"
        }
    }
}

/// Asks a server by UDP, from where this thread is.
///
/// # Errors
/// When there is no answer, or none that can be read.
pub fn ask(server: SocketAddr, name: &str, record: Record) -> io::Result<Answer> {
    let own: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((own, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let query = query(name, record);
    socket.send(&query)?;
    let mut message = [0; 4096];
    let length = socket.recv(&mut message)?;
    answer(&query, &message[..length])
}

/// Asks a server by TCP, from where this thread is.
///
/// # Errors
/// When there is no answer, or none that can be read.
pub fn ask_by_tcp(server: SocketAddr, name: &str, record: Record) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let query = query(name, record);
    send(&mut stream, &query)?;
    answer(&query, &receive(&mut stream)?)
}

fn send(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).expect("it is short");
    stream.write_all(&[&length.to_be_bytes()[..], message].concat())
}

fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn query(name: &str, record: Record) -> Vec<u8> {
    static ID: AtomicU16 = AtomicU16::new(1);
    let id = ID.fetch_add(1, Ordering::Relaxed);
    // One question, recursion desired.
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend(word.to_be_bytes());
    }
    put_name(&mut message, name);
    for word in [record as u16, 1] {
        message.extend(word.to_be_bytes());
    }
    message
}

fn put_name(message: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("labels are short"));
        message.extend(label.as_bytes());
    }
    message.push(0);
}

fn answer(query: &[u8], message: &[u8]) -> io::Result<Answer> {
    parse(query, message).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("no answer of DNS: {message:02x?}"))
    })
}

fn parse(query: &[u8], message: &[u8]) -> Option<Answer> {
    let is_answer = message.get(2)? & 0x80 != 0;
    if message[..2] != query[..2] || !is_answer {
        return None;
    }
    let mut answer =
        Answer { code: *message.get(3)? & 15, truncated: message[2] & 2 != 0, ..Answer::default() };
    let mut at = HEADER;
    for _ in 0..word(message, 4)? {
        at = name_at(message, at)?.1 + 4;
    }
    for _ in 0..word(message, 6)? {
        let fields = name_at(message, at)?.1;
        let (kind, length) = (word(message, fields)?, usize::from(word(message, fields + 8)?));
        let start = fields + 10;
        let data = message.get(start..start + length)?;
        match kind {
            1 => answer.addresses.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            28 => answer.addresses.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            12 => answer.names.push(name_at(message, start)?.0),
            _ => {}
        }
        at = start + length;
    }
    Some(answer)
}

fn word(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// A name, and where what follows it begins.
fn name_at(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let (mut name, mut end) = (String::new(), None);
    // Of those that lead in a circle there is no end.
    for _ in 0..128 {
        match *message.get(at)? {
            0 => return Some((name, end.unwrap_or(at + 1))),
            length @ ..64 => {
                let label = message.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                name += &String::from_utf8_lossy(label);
                at += 1 + usize::from(length);
            }
            _ => {
                end = end.or(Some(at + 2));
                at = usize::from(word(message, at)? & 0x3fff);
            }
        }
    }
    None
}

/// A server of names on UDP and TCP, port 53 of an address in a namespace. A name with more than
/// four addresses is truncated on UDP. It ends when it is dropped.
pub struct Nameserver {
    over: Arc<AtomicBool>,
    listener: Option<OwnedFd>,
    shared: Arc<Shared>,
}

struct Shared {
    zone: BTreeMap<String, Vec<IpAddr>>,
    /// Questions by name and transport.
    asked: Mutex<Vec<(String, &'static str)>>,
}

impl Nameserver {
    /// Starts one with these names.
    pub fn start(at: &Namespace, address: IpAddr, zone: &[(&str, &[IpAddr])]) -> Self {
        let zone = zone.iter().map(|(name, all)| ((*name).to_owned(), all.to_vec())).collect();
        let shared = Arc::new(Shared { zone, asked: Mutex::default() });
        let (socket, listener) = at.inside(|| {
            let socket = UdpSocket::bind((address, 53)).expect("bind port 53");
            (socket, TcpListener::bind((address, 53)).expect("listen on port 53"))
        });
        let twin = OwnedFd::from(listener.try_clone().expect("share a listener"));
        let over = Arc::new(AtomicBool::new(false));
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
        let (ended, names) = (Arc::clone(&over), Arc::clone(&shared));
        thread::spawn(move || {
            let mut message = [0; 4096];
            while !ended.load(Ordering::SeqCst) {
                if let Ok((length, peer)) = socket.recv_from(&mut message)
                    && let Some(reply) = names.reply(&message[..length], "udp")
                {
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        let names = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let names = Arc::clone(&names);
                thread::spawn(move || {
                    while let Ok(message) = receive(&mut client)
                        && let Some(reply) = names.reply(&message, "tcp")
                        && send(&mut client, &reply).is_ok()
                    {}
                });
            }
        });
        Self { over, listener: Some(twin), shared }
    }

    /// How often it was asked for a name, by `udp` or `tcp`.
    pub fn asked(&self, name: &str, transport: &str) -> usize {
        let asked = self.shared.asked.lock().expect("no panic while held");
        asked.iter().filter(|(other, by)| other == name && *by == transport).count()
    }

    /// How often it was asked for anything.
    pub fn asked_at_all(&self) -> usize {
        self.shared.asked.lock().expect("no panic while held").len()
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(listener) = self.listener.take() {
            // Who waits for a client of a socket that is shut down gets an error.
            let _ = TcpStream::from(listener).shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn reply(&self, query: &[u8], transport: &'static str) -> Option<Vec<u8>> {
        let (name, end) = name_at(query, HEADER)?;
        let name = name.to_ascii_lowercase();
        let kind = word(query, end)?;
        self.asked.lock().expect("no panic while held").push((name.clone(), transport));
        let known = self.zone.get(&name);
        let mut addresses: Vec<_> = known.into_iter().flatten().collect();
        addresses.retain(|address| kind == if address.is_ipv4() { 1 } else { 28 });
        let truncated = transport == "udp" && addresses.len() > 4;
        if truncated {
            addresses.clear();
        }
        let code: u16 = if known.is_some() { 0 } else { 3 };
        // An answer, with recursion; what is cut off on UDP says so.
        let flags = 0x8180 | (u16::from(truncated) << 9) | code;
        let mut reply = query.get(..2)?.to_vec();
        for word in [flags, 1, u16::try_from(addresses.len()).ok()?, 0, 0] {
            reply.extend(word.to_be_bytes());
        }
        reply.extend(query.get(HEADER..end + 4)?);
        for address in addresses {
            let data = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            // The name of the question, kind, class, a minute, the data.
            for word in [0xc00c, kind, 1, 0, 60, u16::try_from(data.len()).ok()?] {
                reply.extend(word.to_be_bytes());
            }
            reply.extend(data);
        }
        Some(reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_addresses() {
        assert_eq!(reverse(IpAddr::from([10, 1, 2, 3])), "3.2.1.10.in-addr.arpa");
        let v6 = reverse("2001:db8::1".parse().unwrap());
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }

    #[test]
    fn questions_are_answered() {
        let at = Namespace::new();
        let server = IpAddr::from(Ipv4Addr::LOCALHOST);
        let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from(Ipv6Addr::LOCALHOST));
        let many: Vec<_> = (0..40).map(|n| IpAddr::from([10, 0, 1, n])).collect();
        let names = Nameserver::start(&at, server, &[("a.b", &[v4, v6][..]), ("many", &many)]);
        let to = SocketAddr::from((server, 53));
        at.inside(|| {
            assert_eq!(ask(to, "a.b", Record::A).unwrap().addresses, [v4]);
            assert_eq!(ask_by_tcp(to, "A.b", Record::Aaaa).unwrap().addresses, [v6]);
            let nothing = ask(to, "nothing", Record::A).unwrap();
            assert_eq!((nothing.code, nothing.addresses.len()), (3, 0));
            assert!(ask(to, "many", Record::A).unwrap().truncated);
            assert_eq!(ask_by_tcp(to, "many", Record::A).unwrap().addresses, many);
        });
        assert_eq!((names.asked("many", "udp"), names.asked("many", "tcp")), (1, 1));
        assert_eq!(names.asked_at_all(), 5);
    }
}
