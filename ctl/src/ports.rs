//! Ports as Docker shows them.

use std::fmt;
use std::net::IpAddr;

use gantry_grpc::gantry::engine::v1 as api;

use crate::options::ports::name;

/// A port on an address of the host, `[::]:8080` for one of IPv6.
pub(crate) fn host(port: &api::Port) -> String {
    joined(&port.host_ip, &port.host_port.to_string())
}

/// Where a published port leads: `80/tcp -> 0.0.0.0:8080`.
pub(crate) fn mapping(port: &api::Port) -> String {
    format!("{}/{} -> {}", port.container_port, name(port.protocol()), host(port))
}

/// Whether it is published, not only exposed.
pub(crate) fn is_published(port: &api::Port) -> bool {
    port.host_port != 0
}

fn joined(address: &str, port: &str) -> String {
    match address {
        "" => format!("0.0.0.0:{port}"),
        v6 if v6.contains(':') => format!("[{v6}]:{port}"),
        v4 => format!("{v4}:{port}"),
    }
}

/// Ports one after the other that have the same number on the host, or are only exposed.
#[derive(Debug)]
struct Run {
    /// Address of the host; none unless they are published.
    address: Option<String>,
    protocol: &'static str,
    first: u32,
    last: u32,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, protocol, first, last } = self;
        let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
        if let Some(address) = address {
            write!(f, "{}->", joined(address, &range))?;
        }
        write!(f, "{range}/{protocol}")
    }
}

/// All ports of a container in one line, as `ps` shows them:
/// `0.0.0.0:8000-8001->8000-8001/tcp, 9000/tcp, 0.0.0.0:8080->80/tcp`.
pub(crate) fn listed(ports: &[api::Port]) -> String {
    let mut ports: Vec<_> = ports.iter().collect();
    ports.sort_by_key(|port| {
        let address = is_published(port).then(|| port.host_ip.parse::<IpAddr>().ok());
        (port.container_port, address, port.host_port, name(port.protocol()))
    });
    let (mut runs, mut ended, mut others) = (Vec::<Run>::new(), Vec::new(), Vec::new());
    for port in ports {
        let (number, protocol) = (port.container_port, name(port.protocol()));
        if is_published(port) && port.host_port != number {
            others.push(format!("{}->{number}/{protocol}", host(port)));
            continue;
        }
        let address = is_published(port).then(|| port.host_ip.clone());
        let begun = Run { address, protocol, first: number, last: number };
        let same = |run: &&mut Run| run.address == begun.address && run.protocol == protocol;
        match runs.iter_mut().find(same) {
            None => runs.push(begun),
            Some(run) if run.last + 1 == number => run.last = number,
            Some(run) => ended.push(std::mem::replace(run, begun).to_string()),
        }
    }
    ended.extend(runs.iter().map(ToString::to_string));
    ended.append(&mut others);
    ended.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(ip: &str, host_port: u32, container_port: u32) -> api::Port {
        let protocol = api::PortProtocol::Tcp.into();
        api::Port { host_ip: ip.to_owned(), host_port, container_port, protocol }
    }

    #[test]
    fn ports_of_both_kinds_of_addresses() {
        let ports =
            [port("::", 8080, 80), port("0.0.0.0", 8080, 80), port("127.0.0.1", 9000, 9000)];
        assert_eq!(
            listed(&ports),
            "127.0.0.1:9000->9000/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp"
        );
        assert_eq!(mapping(&ports[0]), "80/tcp -> [::]:8080");
        assert_eq!((listed(&[]).as_str(), host(&ports[2]).as_str()), ("", "127.0.0.1:9000"));
    }

    #[test]
    fn ranges_are_joined() {
        let mut ports: Vec<_> = [8002, 8000, 8001, 8004].map(|n| port("0.0.0.0", n, n)).into();
        ports.extend([90, 91, 92].map(|n| port("", 0, n)));
        let udp = api::PortProtocol::Udp.into();
        ports.push(api::Port { protocol: udp, ..port("", 0, 93) });
        assert_eq!(
            listed(&ports),
            "0.0.0.0:8000-8002->8000-8002/tcp, 90-92/tcp, 93/udp, 0.0.0.0:8004->8004/tcp"
        );
        // As Docker: those that have another number on the host stand alone.
        let others = [port("0.0.0.0", 81, 80), port("0.0.0.0", 82, 81)];
        assert_eq!(listed(&others), "0.0.0.0:81->80/tcp, 0.0.0.0:82->81/tcp");
    }
}
