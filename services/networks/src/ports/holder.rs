//! Which process of the host has a port.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_core::networks::Protocol;

/// States of sockets that take what anybody sends, in `/proc/net/tcp` and `/proc/net/udp`: of TCP
/// one that listens, of UDP one that is not connected.
const OPEN: [&str; 2] = ["0A", "07"];

/// A program of the host's that takes what comes from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// `nginx (pid 812)`.
    pub(crate) name: String,
    /// Whether it takes IPv4, and IPv6.
    pub(crate) kinds: [bool; 2],
}

/// Who has that port in this thread's network, `nginx (pid 812)`, if that can be found out. It
/// looks at every process, so it is only for saying why something is refused.
pub(crate) fn holder(protocol: Protocol, address: IpAddr, port: u16) -> Option<String> {
    let mut found = sockets(protocol);
    found.retain(|socket| socket.has(address, port));
    // A port that is only used for a connection counts when nobody listens there.
    found.sort_by_key(|socket| !socket.open);
    found.iter().find_map(|socket| process_with(&socket.inode))
}

/// Who takes what comes from elsewhere to that port in this thread's network, or anything to it at
/// this address. It looks at every process as well.
pub(crate) fn listener(protocol: Protocol, port: u16, at: Option<IpAddr>) -> Option<Listener> {
    let mut found = sockets(protocol);
    found.retain(|socket| {
        let within = socket.address.to_canonical().is_loopback();
        let is_meant = match at {
            Some(address) => socket.has(address, port) && !(address.is_unspecified() && within),
            None => !within,
        };
        socket.port == port && socket.open && is_meant
    });
    if found.is_empty() {
        return None;
    }
    let takes = |v6: bool| {
        found.iter().map(|socket| socket.address.to_canonical()).any(|own| {
            // One of IPv6 for every address takes IPv4 as well unless it says otherwise.
            own.is_ipv6() == v6 || (own.is_ipv6() && own.is_unspecified())
        })
    };
    let name = found.iter().find_map(|socket| process_with(&socket.inode));
    // It may be the kernel itself.
    let name = name.unwrap_or_else(|| "something".to_owned());
    Some(Listener { name, kinds: [takes(false), takes(true)] })
}

/// All sockets of this thread's network.
fn sockets(protocol: Protocol) -> Vec<Socket> {
    let mut all = Vec::new();
    for (file, v6) in files(protocol) {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let table = table.unwrap_or_default();
        all.extend(table.lines().skip(1).filter_map(|line| socket(line, v6)));
    }
    all
}

fn files(protocol: Protocol) -> [(&'static str, bool); 2] {
    match protocol {
        Protocol::Tcp => [("tcp", false), ("tcp6", true)],
        Protocol::Udp => [("udp", false), ("udp6", true)],
        Protocol::Sctp => [("sctp/eps", false), ("sctp/eps", true)],
    }
}

/// A socket of the host's.
#[derive(Debug, PartialEq, Eq)]
struct Socket {
    address: IpAddr,
    port: u16,
    /// Whether it takes what anybody sends.
    open: bool,
    inode: String,
}

impl Socket {
    fn has(&self, address: IpAddr, port: u16) -> bool {
        let (own, v6) = (self.address, address.is_ipv6());
        let any = own.is_unspecified() || address.is_unspecified();
        // A socket of IPv6 for every address takes IPv4 as well unless it says otherwise.
        let both = own.is_ipv6() && own.is_unspecified();
        self.port == port && (own == address || (any && own.is_ipv6() == v6) || both)
    }
}

/// A line of `/proc/net/tcp`, `tcp6`, `udp` or `udp6`.
fn socket(line: &str, v6: bool) -> Option<Socket> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?.to_owned();
    if address.len() != if v6 { 32 } else { 8 } {
        return None;
    }
    // Words of four bytes in the machine's order, whose bytes are in the network's.
    let mut bytes = [0; 16];
    for (at, word) in bytes.chunks_exact_mut(4).enumerate().take(address.len() / 8) {
        let word_text = address.get(at * 8..at * 8 + 8)?;
        word.copy_from_slice(&u32::from_str_radix(word_text, 16).ok()?.to_ne_bytes());
    }
    let [a, b, c, d, ..] = bytes;
    let address =
        if v6 { Ipv6Addr::from(bytes).into() } else { IpAddr::from(Ipv4Addr::new(a, b, c, d)) };
    Some(Socket { address, port, open: OPEN.contains(&state), inode })
}

/// A process that has this socket.
fn process_with(inode: &str) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit()))
        else {
            continue;
        };
        // It may have ended meanwhile, or be nobody that we may look at.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let has = descriptors.flatten().any(|descriptor| {
            fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
        });
        if has {
            let comm = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let comm = comm.trim_end();
            let comm = if comm.is_empty() { "a process" } else { comm };
            return Some(format!("{comm} (pid {pid})"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::{Duration, Instant};

    use super::*;

    /// Waits for what other tests may change for a moment: the kernel's list leaves sockets out
    /// while others come and go, and what a test starts has all sockets until it is another program.
    fn soon<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn lines_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 \
                    1000        0 31337 1 0000000000000000 100 0 0 10 0";
        let read = socket(line, false).unwrap();
        let address: IpAddr = Ipv4Addr::LOCALHOST.into();
        let inode = "31337".to_owned();
        assert_eq!(read, Socket { address, port: 8080, open: true, inode });
        assert!(read.has(address, 8080) && read.has(Ipv4Addr::UNSPECIFIED.into(), 8080));
        assert!(!read.has(address, 80) && !read.has(Ipv4Addr::new(10, 0, 0, 1).into(), 8080));
        assert!(!read.has(Ipv6Addr::UNSPECIFIED.into(), 8080));
        let line = "   0: 00000000000000000000000001000000:0050 00000000000000000000000000000000:\
                    0000 0A 00000000:00000000 00:00000000 00000000 0 0 7 1 0 100 0 0 10 0";
        let read = socket(line, true).unwrap();
        assert_eq!((read.address, read.port), (Ipv6Addr::LOCALHOST.into(), 80));
        assert_eq!(socket("nonsense", false), None);
    }

    #[test]
    fn a_process_is_named() {
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("[::1]:0").unwrap();
        let own = format!("(pid {})", std::process::id());
        for (protocol, at) in
            [(Protocol::Tcp, tcp.local_addr().unwrap()), (Protocol::Udp, udp.local_addr().unwrap())]
        {
            let found = soon("the holder", || holder(protocol, at.ip(), at.port()));
            assert!(found.ends_with(&own), "{found}");
            // Nobody else can send anything there.
            assert_eq!(listener(protocol, at.port(), None), None);
            for every in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
                assert_eq!(listener(protocol, at.port(), Some(every)), None);
            }
        }
        let at = tcp.local_addr().unwrap();
        drop(tcp);
        soon("nobody", || holder(Protocol::Tcp, at.ip(), at.port()).is_none().then_some(()));
    }

    #[test]
    fn who_listens_to_others_is_told() {
        let own = format!("(pid {})", std::process::id());
        let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let found = soon("a listener", || listener(Protocol::Tcp, port, None));
        assert!(found.name.ends_with(&own), "{found:?}");
        assert_eq!(found.kinds, [true, false]);
        // A connection from that port takes nothing from others.
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let used = client.local_addr().unwrap().port();
        assert_eq!(listener(Protocol::Tcp, used, None), None);
        let udp = UdpSocket::bind("[::]:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        let found = soon("a listener", || listener(Protocol::Udp, port, None));
        assert_eq!(found.kinds, [true, true]);
        udp.connect("[::1]:9").unwrap();
        assert_eq!(listener(Protocol::Udp, port, None), None);
    }
}
