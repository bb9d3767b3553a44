//! Ports are taken for containers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use gantry_core::networks::{PortWish, Protocol, Published};
use gantry_core::{Error, Kind, Result};

use super::bind::{bound, has_ipv6};
use super::{Ports, holder, shown, shown_port};
use crate::addresses::Key;

/// How many free ports are tried until one is free at every address.
const ATTEMPTS: usize = 64;
/// How often a port is tried that a shim is about to let go of.
const AGAIN: Duration = Duration::from_millis(5);

/// A port that is taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// Which one.
    pub(crate) port: Published,
    /// What holds it; none for SCTP, which nobody relays.
    pub(crate) socket: Option<OwnedFd>,
}

/// Why a port is not to be had.
enum Miss {
    /// It is in use, by this container if it is one of ours.
    InUse(Published, Option<Key>),
    /// It can't be had at all.
    Failed(Error),
}

/// Takes ports of the host as they are wished, all or none. It blocks while a shim lets go of a
/// port that was given back a moment ago.
///
/// # Errors
/// `FailedPrecondition` for a port that is in use, with who has it: `name` tells the names of our
/// containers; `Unimplemented` for a protocol that the kernel lacks.
pub(crate) fn take(
    table: &Mutex<Ports>,
    wishes: &[PortWish],
    key: &Key,
    name: impl Fn(&Key) -> String,
) -> Result<Vec<Taken>> {
    let mut all: Vec<Taken> = Vec::new();
    for (at, wish) in wishes.iter().enumerate() {
        // Said twice, it is meant once.
        if wishes[..at].contains(wish) {
            continue;
        }
        match take_one(table, wish, key) {
            Ok(taken) => all.extend(taken),
            Err(miss) => {
                let err = refusal(wish, miss, &name);
                let ports: Vec<_> = all.iter().map(|taken| taken.port.clone()).collect();
                drop(all);
                give_back(table, &ports, key);
                return Err(err);
            }
        }
    }
    Ok(all)
}

/// A socket at a port whose socket is lost, or nothing when somebody has it.
///
/// # Errors
/// The kernel's.
pub(crate) fn rebind(port: &Published) -> Result<Option<OwnedFd>> {
    if port.protocol == Protocol::Sctp {
        return Ok(None);
    }
    match bound(port.protocol, SocketAddr::new(port.host_ip, port.host_port)) {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(err) => Err(Error::io(format!("bind host port {}", shown_port(port)), err)),
    }
}

fn take_one(table: &Mutex<Ports>, wish: &PortWish, key: &Key) -> Result<Vec<Taken>, Miss> {
    let addresses = addresses(wish);
    if wish.host_port == 0 {
        return take_free(table, wish, &addresses, key);
    }
    let last = wish.host_port_end.max(wish.host_port);
    let mut miss = None;
    for number in wish.host_port..=last {
        let patient = last == wish.host_port;
        match take_number(table, wish, &addresses, number, key, patient) {
            Err(in_use @ Miss::InUse(..)) => miss = miss.or(Some(in_use)),
            other => return other,
        }
    }
    // There is at least one number.
    Err(miss.unwrap_or_else(|| Miss::Failed(Error::internal("no port was tried"))))
}

/// Takes this port at each of the addresses.
fn take_number(
    table: &Mutex<Ports>,
    wish: &PortWish,
    addresses: &[IpAddr],
    number: u16,
    key: &Key,
    patient: bool,
) -> Result<Vec<Taken>, Miss> {
    let ports = ports_of(wish, addresses, number);
    claim(table, &ports, key)?;
    let mut taken = Vec::with_capacity(ports.len());
    for port in &ports {
        match bind_patiently(table, port, patient) {
            Ok(socket) => taken.push(Taken { port: port.clone(), socket: keep(wish, socket) }),
            Err(err) => {
                drop(taken);
                give_back(table, &ports, key);
                return Err(miss(port, err));
            }
        }
    }
    Ok(taken)
}

/// Takes a port that is free at each of the addresses: one that the kernel finds at the first.
fn take_free(
    table: &Mutex<Ports>,
    wish: &PortWish,
    addresses: &[IpAddr],
    key: &Key,
) -> Result<Vec<Taken>, Miss> {
    let mut not_again = Vec::new();
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let any = ports_of(wish, &addresses[..1], 0);
        let (socket, number) = bound(wish.protocol, SocketAddr::new(addresses[0], 0))
            .map_err(|err| miss(&any[0], err))?;
        let ports = ports_of(wish, addresses, number);
        if let Err(in_use) = claim(table, &ports, key) {
            last = Some(in_use);
            not_again.push(socket);
            continue;
        }
        let rest: io::Result<Vec<_>> = ports[1..]
            .iter()
            .map(|port| bound(wish.protocol, SocketAddr::new(port.host_ip, number)))
            .collect();
        match rest {
            Ok(rest) => {
                let sockets = std::iter::once(socket).chain(rest.into_iter().map(|(fd, _)| fd));
                let taken = ports.into_iter().zip(sockets);
                let taken = taken.map(|(port, socket)| Taken { port, socket: keep(wish, socket) });
                return Ok(taken.collect());
            }
            Err(err) => {
                give_back(table, &ports, key);
                match miss(&ports[0], err) {
                    in_use @ Miss::InUse(..) => last = Some(in_use),
                    failed @ Miss::Failed(_) => return Err(failed),
                }
                not_again.push(socket);
            }
        }
    }
    Err(last.unwrap_or_else(|| Miss::Failed(Error::internal("no port was tried"))))
}

/// Gives ports back that no shim has.
fn give_back(table: &Mutex<Ports>, ports: &[Published], key: &Key) {
    let mut table = lock(table);
    for port in ports {
        table.unclaim(port, key);
    }
}

fn claim(table: &Mutex<Ports>, ports: &[Published], key: &Key) -> Result<(), Miss> {
    lock(table).claim(ports, key).map_err(|(port, whose)| Miss::InUse(port, Some(whose)))
}

/// Binds a socket; one that a shim is about to let go of is waited for.
fn bind_patiently(table: &Mutex<Ports>, port: &Published, patient: bool) -> io::Result<OwnedFd> {
    let until = lock(table).letting_go(port.protocol, port.host_port).filter(|_| patient);
    loop {
        match bound(port.protocol, SocketAddr::new(port.host_ip, port.host_port)) {
            Err(err)
                if err.kind() == io::ErrorKind::AddrInUse
                    && until.is_some_and(|until| Instant::now() < until) =>
            {
                sleep(AGAIN);
            }
            other => return other.map(|(socket, _)| socket),
        }
    }
}

/// What of a socket is kept.
fn keep(wish: &PortWish, socket: OwnedFd) -> Option<OwnedFd> {
    (wish.protocol != Protocol::Sctp).then_some(socket)
}

/// The addresses that a port is published on.
fn addresses(wish: &PortWish) -> Vec<IpAddr> {
    match wish.host_ip {
        Some(address) => vec![address],
        None if has_ipv6() => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
    }
}

fn ports_of(wish: &PortWish, addresses: &[IpAddr], number: u16) -> Vec<Published> {
    let port = |host_ip: &IpAddr| Published {
        host_ip: *host_ip,
        host_port: number,
        container_port: wish.container_port,
        protocol: wish.protocol,
    };
    addresses.iter().map(port).collect()
}

fn miss(port: &Published, err: io::Error) -> Miss {
    if err.kind() == io::ErrorKind::AddrInUse {
        return Miss::InUse(port.clone(), None);
    }
    let protocol = port.protocol.as_str();
    if err.raw_os_error() == Some(libc::EPROTONOSUPPORT) {
        return Miss::Failed(Error::unimplemented(format!(
            "this kernel does not support {protocol}"
        )));
    }
    let what = format!("failed to bind host port {}/{protocol}", shown_port(port));
    let kind = match err.kind() {
        io::ErrorKind::AddrNotAvailable => {
            let why = format!("{what}: the host has no address {}", port.host_ip);
            return Miss::Failed(Error::failed_precondition(why));
        }
        io::ErrorKind::PermissionDenied => Kind::PermissionDenied,
        _ => Kind::Internal,
    };
    Miss::Failed(Error::io(what, err).with_kind(kind))
}

fn refusal(wish: &PortWish, miss: Miss, name: impl Fn(&Key) -> String) -> Error {
    let (port, whose) = match miss {
        Miss::Failed(err) => return err,
        Miss::InUse(port, whose) => (port, whose),
    };
    let shown_wish = match wish.host_ip {
        Some(address) => shown(address, port.host_port),
        None => shown_port(&port),
    };
    let ours = whose.is_some();
    let who = match whose {
        Some(key) => Some(format!("container {}", name(&key))),
        None => holder(port.protocol, port.host_ip, port.host_port),
    };
    let has =
        |what: &str| who.as_ref().map_or_else(String::new, |who| format!(": {who} has {what}"));
    let what = if wish.host_port_end > wish.host_port {
        format!(
            "Bind for {}-{} failed: all ports are allocated{}",
            shown(wish.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), wish.host_port),
            wish.host_port_end,
            has(&port.host_port.to_string())
        )
    } else if ours {
        format!("Bind for {shown_wish} failed: port is already allocated{}", has("it"))
    } else {
        let (protocol, who) = (port.protocol.as_str(), has("it"));
        format!("failed to bind host port {shown_wish}/{protocol}: address already in use{who}")
    };
    Error::failed_precondition(what)
}

fn lock(table: &Mutex<Ports>) -> MutexGuard<'_, Ports> {
    // The table is whole at any time.
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use gantry_core::Namespace;

    use super::*;

    fn key(id: &str) -> Key {
        (Namespace::new("default").unwrap(), id.to_owned())
    }

    fn local(first: u16, last: u16) -> PortWish {
        PortWish {
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            host_port: first,
            host_port_end: last,
            container_port: 80,
            protocol: Protocol::Tcp,
        }
    }

    fn name(key: &Key) -> String {
        format!("c-{}", key.1)
    }

    #[test]
    fn a_free_port_is_one_at_every_address() {
        let table = Mutex::default();
        let wish = PortWish { host_ip: None, ..local(0, 0) };
        let taken = take(&table, &[wish.clone(), wish], &key("a"), name).unwrap();
        let numbers: Vec<_> = taken.iter().map(|taken| taken.port.host_port).collect();
        assert_eq!(taken.len(), if has_ipv6() { 2 } else { 1 });
        assert!(numbers.iter().all(|number| *number == numbers[0] && *number != 0));
        TcpStream::connect(("127.0.0.1", numbers[0])).unwrap();
    }

    #[test]
    fn who_has_a_port_is_said() {
        let table = Mutex::default();
        let taken = take(&table, &[local(0, 0)], &key("a"), name).unwrap();
        let number = taken[0].port.host_port;
        let err = take(&table, &[local(number, number)], &key("b"), name).unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition);
        assert_eq!(
            err.to_string(),
            format!(
                "Bind for 127.0.0.1:{number} failed: port is already allocated: container c-a \
                 has it"
            )
        );
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let theirs = other.local_addr().unwrap().port();
        let err = take(&table, &[local(0, 0), local(theirs, theirs)], &key("b"), name);
        let err = err.unwrap_err().to_string();
        let start =
            format!("failed to bind host port 127.0.0.1:{theirs}/tcp: address already in use: ");
        assert!(err.starts_with(&start), "{err}");
        assert!(err.ends_with(&format!("(pid {}) has it", std::process::id())), "{err}");
        // What was taken before the refusal is given back.
        assert_eq!(lock(&table).all().count(), 1);
    }

    #[test]
    fn a_port_of_another_host_is_refused() {
        let wish = PortWish { host_ip: Some([192, 0, 2, 77].into()), ..local(8080, 8080) };
        let err = take(&Mutex::default(), &[wish], &key("a"), name).unwrap_err();
        assert_eq!(err.kind(), Kind::FailedPrecondition);
        assert_eq!(
            err.to_string(),
            "failed to bind host port 192.0.2.77:8080/tcp: the host has no address 192.0.2.77"
        );
    }

    #[test]
    fn a_range_is_tried_to_its_end() {
        let table = Mutex::default();
        // Somewhere with two numbers side by side that nobody has.
        let (first, taken) = (20_000..30_000)
            .step_by(2)
            .find_map(|first| {
                let taken = take(&table, &[local(first, first + 1)], &key("a"), name).ok()?;
                (taken[0].port.host_port == first).then_some((first, taken))
            })
            .unwrap();
        let range = local(first, first + 1);
        let second = take(&table, std::slice::from_ref(&range), &key("b"), name).unwrap();
        assert_eq!(second[0].port.host_port, first + 1);
        let err = take(&table, &[range], &key("c"), name).unwrap_err().to_string();
        let first_of_all = format!("failed: all ports are allocated: container c-a has {first}");
        assert!(err.ends_with(&first_of_all), "{err}");
        assert_eq!(taken[0].port.host_port, first);
    }

    #[test]
    fn a_port_that_is_let_go_of_is_waited_for() {
        let table = Mutex::default();
        let mut taken = take(&table, &[local(0, 0)], &key("a"), name).unwrap();
        let Taken { port, socket } = taken.remove(0);
        assert!(rebind(&port).unwrap().is_none());
        lock(&table).release(&port, &key("a"));
        let shim = std::thread::spawn(move || {
            sleep(Duration::from_millis(50));
            drop(socket);
        });
        let again = local(port.host_port, port.host_port);
        take(&table, &[again], &key("a"), name).unwrap();
        shim.join().unwrap();
        // What another test starts has it too, until it is another program.
        let start = std::time::Instant::now();
        while rebind(&port).unwrap().is_none() {
            assert!(start.elapsed() < Duration::from_secs(5));
            sleep(Duration::from_millis(5));
        }
    }
}
