//! Files that the daemon replaces: the resolver's settings, and names. They are
//! looked at with every query, which costs less than to watch them while there
//! are none.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use gantry_core::sockets::RESOLVER;
use nix::net::if_::if_nametoindex;

/// Of a file no more is read.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// A file that was changed so recently may be changed again without looking different.
const SETTLED: Duration = Duration::from_millis(100);
/// Name servers that are asked at most.
const SERVERS: usize = 6;
/// Port of DNS.
const PORT: u16 = 53;

/// What a file says, read again when it is another one.
pub(super) struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    /// Nothing until it could be read once.
    last: RefCell<Option<Last<T>>>,
}

struct Last<T> {
    /// Stays open, so that no other file gets its number.
    _file: File,
    stamp: Stamp,
    value: Rc<T>,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    settled: bool,
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let age = metadata.modified().ok().and_then(|t| SystemTime::now().duration_since(t).ok());
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            settled: age.is_none_or(|age| age > SETTLED),
        }
    }
}

impl<T> fmt::Debug for Watched<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watched").field(&self.path).finish()
    }
}

impl<T> Watched<T> {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn open(path: &Path, parse: fn(&str) -> T) -> io::Result<Self> {
        let watched = Self::new(path, parse);
        watched.read()?;
        Ok(watched)
    }

    /// A file that need not be there yet.
    pub(super) fn new(path: &Path, parse: fn(&str) -> T) -> Self {
        Self { path: path.to_owned(), parse, last: RefCell::new(None) }
    }

    /// What it says now; what it said before while it can't be read.
    pub(super) fn get(&self) -> Option<Rc<T>> {
        let stamp = fs::metadata(&self.path).map(|metadata| Stamp::of(&metadata));
        let known = self.last.borrow().as_ref().map(|last| (last.stamp, last.value.clone()));
        match (stamp, known) {
            (Err(_), known) => known.map(|(_, value)| value),
            (Ok(now), Some((then, value))) if then.settled && now == then => Some(value),
            (Ok(_), known) => self.read().ok().or(known.map(|(_, value)| value)),
        }
    }

    fn read(&self) -> io::Result<Rc<T>> {
        let file = File::open(&self.path)?;
        // Before the text: a change meanwhile is noticed the next time.
        let stamp = Stamp::of(&file.metadata()?);
        let mut bytes = Vec::new();
        (&file).take(MAX_FILE).read_to_end(&mut bytes)?;
        let value = Rc::new((self.parse)(&String::from_utf8_lossy(&bytes)));
        self.last.replace(Some(Last { _file: file, stamp, value: value.clone() }));
        Ok(value)
    }
}

/// The resolver's settings.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// The names of networks, in their order.
    pub(super) names: Vec<Watched<Names>>,
    upstreams: Vec<Upstream>,
    /// Nobody else is asked.
    pub(super) internal: bool,
    /// Names without a dot are not asked for elsewhere.
    pub(super) ndots: bool,
}

#[derive(Debug)]
enum Upstream {
    One(SocketAddr),
    Listed(Watched<Vec<SocketAddr>>),
}

/// A name server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NameServer {
    pub(super) address: SocketAddr,
    /// Given to the container, and asked from its network; otherwise it is the host's.
    pub(super) inside: bool,
}

impl Settings {
    /// Reads them; what is not known is of another version, and left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut settings = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let rest = rest.trim();
            match word {
                "names" => settings.names.push(Watched::new(Path::new(rest), Names::parse)),
                "upstream" => {
                    // There the resolver would ask itself.
                    let own = SocketAddr::from((RESOLVER, PORT));
                    let told = server(rest).filter(|server| *server != own);
                    settings.upstreams.extend(told.map(Upstream::One));
                }
                "upstreams" => {
                    let listed = Watched::new(Path::new(rest), name_servers);
                    settings.upstreams.push(Upstream::Listed(listed));
                }
                "internal" => settings.internal = true,
                "ndots" => settings.ndots = true,
                _ => {}
            }
        }
        settings
    }

    /// The name servers of now.
    pub(super) fn servers(&self) -> Vec<NameServer> {
        let mut servers = Vec::new();
        let mut add = |address, inside| {
            let server = NameServer { address, inside };
            if servers.len() < SERVERS && !servers.contains(&server) {
                servers.push(server);
            }
        };
        for upstream in &self.upstreams {
            match upstream {
                Upstream::One(server) => add(*server, true),
                Upstream::Listed(listed) => {
                    let all = listed.get();
                    all.iter().flat_map(|all| all.iter()).for_each(|server| add(*server, false));
                }
            }
        }
        servers
    }
}

/// A name server: an address, with a port or without.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    // A link-local one, with its interface.
    let (address, interface) = text.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| if_nametoindex(interface).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope).into())
}

/// The name servers of a resolv.conf(5), without those on loopback unless there are no others.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "nameserver" {
            return None;
        }
        server(words.next()?)
    });
    let (here, others): (Vec<_>, Vec<_>) = servers.partition(|server| server.ip().is_loopback());
    if others.is_empty() { here } else { others }
}

/// The names of a network. Kept as they came: they are few, and most are never asked for.
#[derive(Debug)]
pub(super) struct Names(Box<str>);

impl Names {
    /// Keeps the text.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.into())
    }

    /// The addresses of a name.
    pub(super) fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let lines = self.0.lines().filter_map(|line| {
            let (found, address) = line.strip_prefix("host ")?.split_once(' ')?;
            if found == name { address.trim().parse::<IpAddr>().ok() } else { None }
        });
        lines.collect()
    }

    /// The name of an address.
    pub(super) fn pointer(&self, wanted: IpAddr) -> Option<&str> {
        self.0.lines().find_map(|line| {
            let (address, name) = line.strip_prefix("pointer ")?.split_once(' ')?;
            (address.parse::<IpAddr>() == Ok(wanted)).then(|| name.trim())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_file_that_was_replaced_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        assert!(Watched::open(&path, Names::parse).is_err());
        replace(&path, "host web 10.0.0.2\n");
        let watched = Watched::open(&path, Names::parse).unwrap();
        for last in [3, 4, 5] {
            replace(&path, &format!("host web 10.0.0.{last}\n"));
            let found = watched.get().unwrap().addresses("web");
            assert_eq!(found, [IpAddr::from([10, 0, 0, last])]);
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.get().unwrap().addresses("web").len(), 1);
    }

    #[test]
    fn names_and_addresses() {
        let names = Names::parse(
            "host web 10.0.0.2\nhost web fd00::2\nhost api.v1 10.0.0.3\nnonsense\nhost bad x\n\
             pointer 10.0.0.2 web.app-net\npointer fd00::2 web.app-net\n",
        );
        let web: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        assert_eq!(names.addresses("web"), web);
        assert_eq!(names.addresses("api.v1").len(), 1);
        assert!(names.addresses("bad").is_empty() && names.addresses("we").is_empty());
        assert_eq!(names.pointer(web[1]), Some("web.app-net"));
        assert_eq!(names.pointer("10.0.0.9".parse().unwrap()), None);
    }

    #[test]
    fn settings() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("resolv.conf");
        fs::write(&conf, "# x\nsearch a\nnameserver 127.0.0.53\n").unwrap();
        let text = format!(
            "names /n/a\nnames /n/b c\nupstream 9.9.9.9\nupstream [::1]:5353\nupstream what\n\
             upstream 127.0.0.11\nupstreams {}\nndots\nsomething new\n",
            conf.display()
        );
        let settings = Settings::parse(&text);
        assert_eq!(settings.names[1].path, Path::new("/n/b c"));
        assert!(settings.ndots && !settings.internal);
        let server = |at: &str, inside| NameServer { address: at.parse().unwrap(), inside };
        let asked = |inside: &[&str], outside: &[&str]| -> Vec<NameServer> {
            let inside = inside.iter().map(|at| server(at, true));
            inside.chain(outside.iter().map(|at| server(at, false))).collect()
        };
        let own = ["9.9.9.9:53", "[::1]:5353"];
        assert_eq!(settings.servers(), asked(&own, &["127.0.0.53:53"]));
        fs::write(&conf, "nameserver 127.0.0.53\nnameserver\t10.0.0.1\nnameserver fe80::1%1\n")
            .unwrap();
        assert_eq!(settings.servers(), asked(&own, &["10.0.0.1:53", "[fe80::1%1]:53"]));
        assert!(Settings::parse("internal\n").internal);
    }
}
