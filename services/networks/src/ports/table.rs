//! The ports that containers have.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use gantry_core::networks::{Protocol, Published};

use super::bind::is_any;
use crate::addresses::Key;

/// How long a shim may take to let go of a socket when its container has ended.
const LETTING_GO: Duration = Duration::from_secs(2);

/// The published ports of all containers.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    by_number: BTreeMap<(Protocol, u16), Vec<(Published, Key)>>,
    /// Ports that were given back a moment ago.
    released: HashMap<(Protocol, u16), Instant>,
}

impl Ports {
    /// Gives ports to a container, all or none; else says which one is whose.
    pub(crate) fn claim(&mut self, ports: &[Published], key: &Key) -> Result<(), (Published, Key)> {
        for port in ports {
            let taken = self.of(port.protocol, port.host_port);
            if let Some((taken, whose)) = taken.iter().find(|(at, _)| meet(at.host_ip, port)) {
                return Err((taken.clone(), whose.clone()));
            }
        }
        for port in ports {
            let number = (port.protocol, port.host_port);
            self.by_number.entry(number).or_default().push((port.clone(), key.clone()));
        }
        Ok(())
    }

    /// Takes a port back from a container whose shim may have it a little longer; those of
    /// others stay.
    pub(crate) fn release(&mut self, port: &Published, key: &Key) {
        if self.unclaim(port, key) {
            let now = Instant::now();
            self.released.retain(|_, at| now.duration_since(*at) < LETTING_GO);
            self.released.insert((port.protocol, port.host_port), now);
        }
    }

    /// Takes a port back that no shim has. Whether the container had it.
    pub(super) fn unclaim(&mut self, port: &Published, key: &Key) -> bool {
        let number = (port.protocol, port.host_port);
        let Some(entries) = self.by_number.get_mut(&number) else { return false };
        let before = entries.len();
        entries.retain(|(has, whose)| (has, whose) != (port, key));
        let had = entries.len() < before;
        if entries.is_empty() {
            self.by_number.remove(&number);
        }
        had
    }

    /// All ports with their containers.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &(Published, Key)> {
        self.by_number.values().flatten()
    }

    /// Who has ports of this number.
    pub(crate) fn of(&self, protocol: Protocol, number: u16) -> &[(Published, Key)] {
        self.by_number.get(&(protocol, number)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Until when a port that is in use may be so because a shim has not let go of it yet.
    pub(super) fn letting_go(&self, protocol: Protocol, number: u16) -> Option<Instant> {
        let until = *self.released.get(&(protocol, number))? + LETTING_GO;
        (until > Instant::now()).then_some(until)
    }
}

/// Whether the same packets reach both.
fn meet(address: IpAddr, port: &Published) -> bool {
    let other = port.host_ip;
    address == other || (address.is_ipv6() == other.is_ipv6() && (is_any(address) || is_any(other)))
}

#[cfg(test)]
mod tests {
    use gantry_core::Namespace;

    use super::*;

    fn port(ip: &str, number: u16, protocol: Protocol) -> Published {
        let host_ip = ip.parse().unwrap();
        Published { host_ip, host_port: number, container_port: 80, protocol }
    }

    #[test]
    fn a_port_of_every_address_is_one_of_each() {
        let key = |id: &str| (Namespace::new("default").unwrap(), id.to_owned());
        let mut ports = Ports::default();
        let any = port("0.0.0.0", 80, Protocol::Tcp);
        let local = port("127.0.0.1", 81, Protocol::Tcp);
        ports.claim(&[any.clone(), local.clone()], &key("a")).unwrap();
        let mut claim = |port: Published| ports.claim(&[port], &key("b"));
        assert_eq!(claim(port("127.0.0.1", 80, Protocol::Tcp)), Err((any.clone(), key("a"))),);
        assert_eq!(claim(port("0.0.0.0", 81, Protocol::Tcp)), Err((local.clone(), key("a"))));
        claim(port("127.0.0.2", 81, Protocol::Tcp)).unwrap();
        claim(port("::", 80, Protocol::Tcp)).unwrap();
        claim(port("0.0.0.0", 80, Protocol::Udp)).unwrap();

        ports.release(&any, &key("b"));
        assert!(ports.claim(std::slice::from_ref(&any), &key("c")).is_err());
        assert!(ports.letting_go(Protocol::Tcp, 80).is_none());
        ports.release(&any, &key("a"));
        assert!(ports.letting_go(Protocol::Tcp, 80).is_some());
        // All or none.
        assert!(ports.claim(&[any.clone(), local], &key("c")).is_err());
        ports.claim(&[any], &key("c")).unwrap();
        assert_eq!(ports.of(Protocol::Tcp, 81).len(), 2);
    }
}
