//! resolv.conf(5): what the host's says, and what containers' are to say.

use std::fmt::Write;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use gantry_core::networks::DnsWish;
use gantry_core::sockets::RESOLVER;
use gantry_core::{Error, Result};

/// Where systemd-resolved keeps the servers that it asks itself.
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// Where systemd-resolved listens on the host.
const STUB: &str = "127.0.0.53";

/// What the host's file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostResolver {
    /// Name servers, as they are written.
    pub(crate) servers: Vec<String>,
    /// Search domains.
    pub(crate) search: Vec<String>,
    /// Options.
    pub(crate) options: Vec<String>,
}

/// Whom a container asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Servers {
    /// Its shim.
    Shim,
    /// These, itself.
    These(Vec<String>),
}

impl HostResolver {
    /// Reads the host's file; there may be none.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let read = |path: &Path| match fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(err) => Err(Error::io(format!("read {}", path.display()), err)),
        };
        let own = read(path)?;
        if own.servers == [STUB] {
            // Its servers are reached from containers, unlike the stub.
            let behind = read(Path::new(BEHIND_STUB)).unwrap_or_default();
            if !behind.servers.is_empty() {
                return Ok(Self { servers: behind.servers, ..own });
            }
        }
        Ok(own)
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let key = words.next();
            let rest = words.map(str::to_owned);
            match key {
                Some("nameserver") => parsed.servers.extend(rest.take(1)),
                // The last one counts.
                Some("search") => parsed.search = rest.collect(),
                Some("domain") => parsed.search = rest.take(1).collect(),
                Some("options") => parsed.options.extend(rest),
                _ => {}
            }
        }
        parsed
    }

    /// The servers that a container can ask itself: none on the host's loopback, none of IPv6
    /// for a container that has no such address.
    pub(crate) fn for_containers(&self, v6: bool) -> Vec<String> {
        let reached = |server: &&String| match server.parse::<IpAddr>() {
            Ok(address) => !address.is_loopback() && (address.is_ipv4() || v6),
            // With an interface of the host's behind it, or no address at all.
            Err(_) => false,
        };
        self.servers.iter().filter(reached).cloned().collect()
    }
}

/// A container's file.
pub(crate) fn resolv_conf(host: &HostResolver, dns: &DnsWish, servers: &Servers) -> String {
    let mut text =
        "# Written by gantry when the container started. What is changed here stays.\n\n"
            .to_owned();
    let mut line = |key: &str, words: &[String]| {
        if !words.is_empty() {
            // Writing to a text does not fail.
            let _ = writeln!(text, "{key} {}", words.join(" "));
        }
    };
    let shim = [RESOLVER.to_string()];
    let asked: &[String] = match servers {
        Servers::Shim => &shim,
        Servers::These(servers) => servers,
    };
    for server in asked {
        line("nameserver", std::slice::from_ref(server));
    }
    let search = match dns.search.as_slice() {
        [] => host.search.clone(),
        [dot] if dot == "." => Vec::new(),
        wished => wished.iter().filter(|domain| *domain != ".").cloned().collect(),
    };
    line("search", &search);
    let mut options =
        if dns.options.is_empty() { host.options.clone() } else { dns.options.clone() };
    // Names of containers have no dots; they are not to be sought in search domains first.
    if *servers == Servers::Shim && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    line("options", &options);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# comment\nnameserver 192.0.2.1 # the first\n nameserver\t127.0.0.1\n\
                        nameserver 2001:db8::1\nnameserver fe80::1%eth0\ndomain old.example\n\
                        search a.example b.example\noptions edns0 ndots:2\noptions rotate\n";

    fn lines(host: &HostResolver, dns: &DnsWish, servers: &Servers) -> Vec<String> {
        let text = resolv_conf(host, dns, servers);
        text.lines().skip(2).map(str::to_owned).collect()
    }

    #[test]
    fn the_hosts_file_is_read() {
        let host = HostResolver::parse(HOST);
        assert_eq!(host.servers.len(), 4);
        assert_eq!(host.search, ["a.example", "b.example"]);
        assert_eq!(host.options, ["edns0", "ndots:2", "rotate"]);
        assert_eq!(host.for_containers(false), ["192.0.2.1"]);
        assert_eq!(host.for_containers(true), ["192.0.2.1", "2001:db8::1"]);
        let missing = HostResolver::read(Path::new("/nowhere/resolv.conf")).unwrap();
        assert_eq!(missing, HostResolver::default());
    }

    #[test]
    fn containers_ask_their_shim_or_the_hosts_servers() {
        let host = HostResolver::parse(HOST);
        let none = DnsWish::default();
        assert_eq!(
            lines(&host, &none, &Servers::Shim),
            ["nameserver 127.0.0.11", "search a.example b.example", "options edns0 ndots:2 rotate"]
        );
        let plain = HostResolver { options: Vec::new(), ..host.clone() };
        let options = lines(&plain, &none, &Servers::Shim).pop();
        assert_eq!(options.as_deref(), Some("options ndots:0"));
        let these = Servers::These(host.for_containers(false));
        assert_eq!(
            lines(&plain, &none, &these),
            ["nameserver 192.0.2.1", "search a.example b.example"]
        );
    }

    #[test]
    fn wishes_stand_in_for_the_hosts() {
        let host = HostResolver::parse(HOST);
        let wish = |search: &[&str], options: &[&str]| DnsWish {
            servers: Vec::new(),
            search: search.iter().map(|text| (*text).to_owned()).collect(),
            options: options.iter().map(|text| (*text).to_owned()).collect(),
        };
        let these = Servers::These(vec!["192.0.2.9".into()]);
        assert_eq!(
            lines(&host, &wish(&["c.example"], &["timeout:1"]), &these),
            ["nameserver 192.0.2.9", "search c.example", "options timeout:1"]
        );
        assert_eq!(
            lines(&host, &wish(&["."], &["ndots:5"]), &Servers::Shim),
            ["nameserver 127.0.0.11", "options ndots:5"]
        );
    }
}
