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
    udp: OwnedFd,
    tcp: OwnedFd,
}

impl ResolverSockets {
    /// Sockets at free ports of the loopback interface of this thread's network namespace, which
    /// is up.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open() -> Result<Self> {
        Self::at(ResolverPorts { udp: 0, tcp: 0 }).map_err(failed)
    }

    /// Sockets at these ports, unless somebody has them.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn open_again(ports: ResolverPorts) -> Result<Option<Self>> {
        match Self::at(ports) {
            Ok(sockets) => Ok(Some(sockets)),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => Ok(None),
            Err(err) => Err(failed(err)),
        }
    }

    fn at(ports: ResolverPorts) -> io::Result<Self> {
        let udp = UdpSocket::bind(SocketAddr::from((RESOLVER, ports.udp)))?;
        let tcp = TcpListener::bind(SocketAddr::from((RESOLVER, ports.tcp)))?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        let ports = ResolverPorts { udp: udp.local_addr()?.port(), tcp: tcp.local_addr()?.port() };
        Ok(Self { ports, udp: udp.into(), tcp: tcp.into() })
    }

    /// The messages for the shim, whose settings lie there.
    pub(super) fn handovers(self, settings: &Path) -> [Handover; 3] {
        let message = |text: &str, socket| Handover { message: text.to_owned(), socket };
        [
            message(&format!("resolver {}", settings.display()), None),
            message("names udp", Some(self.udp)),
            message("names tcp", Some(self.tcp)),
        ]
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
        settings_text(paths.iter().map(PathBuf::as_path), &upstream)
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
