//! Whom a container asks for names, and its files.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_core::networks::{Handover, NameFiles};
use gantry_core::sockets::RESOLVER;
use gantry_core::{Error, Result};

use super::inner::Inner;
use super::memory::{Placed, addresses};
use super::plan;
use super::records::{MemberRecord, ResolverPorts};
use crate::addresses::Key;
use crate::names::{HostResolver, Servers, Upstream, hosts_name, resolv_conf, settings_text};

/// The sockets that a container's shim answers names on.
#[derive(Debug)]
pub(super) struct ResolverSockets {
    pub(super) ports: ResolverPorts,
    /// Those that nobody has.
    udp: Option<OwnedFd>,
    tcp: Option<OwnedFd>,
}

impl ResolverSockets {
    /// Sockets at free ports of the loopback interface of this thread's network namespace, which
    /// is up.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> Result<Self> {
        let (udp, udp_port) = udp(0).map_err(failed)?;
        let (tcp, tcp_port) = tcp(0).map_err(failed)?;
        let ports = ResolverPorts { udp: udp_port, tcp: tcp_port };
        Ok(Self { ports, udp: Some(udp), tcp: Some(tcp) })
    }

    /// Sockets at those of these ports that nobody has; nothing when there are none.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open_again(ports: ResolverPorts) -> Result<Option<Self>> {
        let (udp, tcp) = (unless_taken(udp(ports.udp))?, unless_taken(tcp(ports.tcp))?);
        let any = udp.is_some() || tcp.is_some();
        Ok(any.then_some(Self { ports, udp, tcp }))
    }

    /// The messages for the shim, whose settings lie there.
    pub(super) fn handovers(self, settings: &Path) -> Vec<Handover> {
        let resolver = format!("resolver {}", settings.display());
        let mut handovers = vec![Handover { message: resolver, socket: None }];
        for (name, socket) in [("names udp", self.udp), ("names tcp", self.tcp)] {
            let message = name.to_owned();
            handovers.extend(socket.map(|socket| Handover { message, socket: Some(socket) }));
        }
        handovers
    }
}

/// A socket at that port, or at a free one for port 0, and the port.
fn udp(port: u16) -> io::Result<(OwnedFd, u16)> {
    let socket = UdpSocket::bind(SocketAddr::from((RESOLVER, port)))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok((socket.into(), port))
}

/// The same for TCP.
fn tcp(port: u16) -> io::Result<(OwnedFd, u16)> {
    let socket = TcpListener::bind(SocketAddr::from((RESOLVER, port)))?;
    socket.set_nonblocking(true)?;
    let port = socket.local_addr()?.port();
    Ok((socket.into(), port))
}

fn unless_taken(opened: io::Result<(OwnedFd, u16)>) -> Result<Option<OwnedFd>> {
    match opened {
        Ok((socket, _)) => Ok(Some(socket)),
        Err(err) if err.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(err) => Err(failed(err)),
    }
}

fn failed(err: io::Error) -> Error {
    Error::io(format!("listen for names at {RESOLVER}"), err)
}

impl Inner {
    /// What the host says about names. It blocks.
    pub(super) fn host_resolver(&self) -> HostResolver {
        // Containers start also on a host whose file can't be read.
        HostResolver::read(&self.config.resolv_conf).unwrap_or_else(|err| {
            tracing::warn!(error = %err, "containers do not know the host's name servers");
            HostResolver::default()
        })
    }

    /// The settings of a container's resolver.
    pub(super) fn settings(&self, record: &MemberRecord, placed: &[Placed]) -> String {
        let upstream = if !plan::leads_out(placed) {
            Upstream::Nobody
        } else if record.dns.servers.is_empty() {
            Upstream::File(self.config.resolv_conf.clone())
        } else {
            Upstream::Servers(record.dns.servers.clone())
        };
        let named = placed.iter().filter(|at| at.network.has_names());
        let paths: Vec<PathBuf> = named.map(|at| self.names.names(&at.network.id)).collect();
        settings_text(paths.iter().map(PathBuf::as_path), &upstream, &record.dns.options)
    }

    /// Writes them. It blocks.
    pub(super) fn write_settings(
        &self,
        key: &Key,
        record: &MemberRecord,
        placed: &[Placed],
    ) -> Result<()> {
        self.names.write_resolver(key, &self.settings(record, placed))
    }
}

/// Whom a container asks itself.
pub(super) fn servers(host: &HostResolver, record: &MemberRecord, placed: &[Placed]) -> Servers {
    if plan::has_names(placed) {
        return Servers::Shim;
    }
    let wished: Vec<_> = record.dns.servers.iter().map(ToString::to_string).collect();
    if !wished.is_empty() {
        return Servers::These(wished);
    }
    if !plan::has_interfaces(placed) {
        // The host's network is its own, and without any network it does not matter.
        return Servers::These(host.servers.clone());
    }
    let v6 = placed.iter().any(|at| at.endpoint.ipv6.is_some());
    let reached = host.for_containers(v6);
    // The host's are on its loopback interface: the shim reaches them.
    if reached.is_empty() && !host.servers.is_empty() {
        return Servers::Shim;
    }
    Servers::These(reached)
}

/// The files of a container.
pub(super) fn files(host: &HostResolver, record: &MemberRecord, placed: &[Placed]) -> NameFiles {
    let servers = servers(host, record, placed);
    let hostname = if record.hostname.is_empty() { &record.name } else { &record.hostname };
    let name = hosts_name(hostname);
    let own = placed.iter().flat_map(|at| addresses(&at.endpoint));
    NameFiles {
        resolv_conf: resolv_conf(host, &record.dns, &servers),
        hosts: own.map(|address| (address, name.clone())).collect(),
    }
}

/// The names by which others find a container.
pub(super) fn dns_names(record: &MemberRecord, id: &str, aliases: &[String]) -> Vec<String> {
    let mut names = vec![record.name.clone()];
    let further = aliases.iter().map(String::as_str);
    for name in further.chain([super::create::short(id), &record.hostname]) {
        if !name.is_empty() && !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shim_lacks_is_opened_again() {
        let sockets = ResolverSockets::open().unwrap();
        let ports = sockets.ports;
        let told = |sockets: ResolverSockets| -> Vec<String> {
            let handovers = sockets.handovers(Path::new("/s"));
            handovers.into_iter().map(|handover| handover.message).collect()
        };
        let ResolverSockets { udp, tcp, .. } = sockets;
        assert!(ResolverSockets::open_again(ports).unwrap().is_none());
        // The shim got the first of them before the daemon ended.
        drop(tcp);
        let again = ResolverSockets::open_again(ports).unwrap().unwrap();
        assert_eq!(told(again), ["resolver /s", "names tcp"]);
        drop(udp);
        let again = ResolverSockets::open_again(ports).unwrap().unwrap();
        assert_eq!(again.ports, ports);
        assert_eq!(told(again), ["resolver /s", "names udp", "names tcp"]);
    }

    #[test]
    fn names_are_told_once() {
        let record = MemberRecord {
            name: "web".into(),
            hostname: "0123456789ab".into(),
            ..MemberRecord::default()
        };
        let names = dns_names(&record, "0123456789abcdef", &["www".into(), "WEB".into()]);
        assert_eq!(names, ["web", "www", "0123456789ab"]);
    }
}
