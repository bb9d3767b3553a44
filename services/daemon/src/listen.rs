//! Where the daemon listens beside its own socket, and how far those may go who come in there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use gantry_core::{LabelScope, Namespace};
use nix::unistd::Group;
use serde::Deserialize;

/// Longest path of a socket: sockaddr_un holds 108 bytes, and `.ttrpc` and the final NUL have
/// to fit.
pub(crate) const LONGEST: usize = 100;
/// Members of the socket's group may use it, nobody else.
pub(crate) const MODE: u32 = 0o660;

/// A further place where the daemon listens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// `unix:///PATH` or `tcp://IP:PORT`.
    pub(crate) address: String,
    /// Certificates of those who may sign certificates of clients, PEM.
    pub(crate) ca: Option<PathBuf>,
    /// The daemon's own certificate, with those between it and the clients' CA, PEM.
    pub(crate) cert: Option<PathBuf>,
    /// Its key, PEM.
    pub(crate) key: Option<PathBuf>,
    /// How far clients may go.
    #[serde(default)]
    pub(crate) scope: Allowed,
    /// How far they may go whose certificates have these common names, in place of `scope`.
    #[serde(default)]
    pub(crate) clients: BTreeMap<String, Allowed>,
    /// Owner of the socket.
    pub(crate) uid: Option<u32>,
    /// Group of the socket, by number.
    pub(crate) gid: Option<u32>,
    /// Group of the socket, by name.
    pub(crate) group: Option<String>,
    /// Permissions of the socket; `0o660` when unset.
    pub(crate) mode: Option<u32>,
}

/// How far clients may go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Written")]
pub(crate) enum Allowed {
    /// Everywhere.
    #[default]
    All,
    /// Nowhere: they are not let in.
    Nothing,
    /// So far.
    Within {
        /// They look, and change nothing.
        read_only: bool,
        /// Only containers with this label are there for them.
        label: Option<LabelScope>,
    },
}

/// [`Allowed`] as it is written.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a scope is \"all\", \"read-only\", \"none\" or { label = \"KEY=VALUE\" }, which may have a namespace and read_only = true"
)]
enum Written {
    Word(String),
    Label(ByLabel),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByLabel {
    label: String,
    namespace: Option<String>,
    #[serde(default)]
    read_only: bool,
}

impl TryFrom<Written> for Allowed {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let written = match written {
            Written::Word(word) => {
                return match word.as_str() {
                    "all" => Ok(Self::All),
                    "none" => Ok(Self::Nothing),
                    "read-only" => Ok(Self::Within { read_only: true, label: None }),
                    other => Err(format!("scope {other:?} is none of all, read-only, none")),
                };
            }
            Written::Label(written) => written,
        };
        let ByLabel { label, namespace, read_only } = written;
        let (key, value) = match label.split_once('=') {
            Some((key, value)) if !key.is_empty() => (key.to_owned(), value.to_owned()),
            _ => return Err(format!("label {label:?} of a scope must be KEY=VALUE")),
        };
        let namespace = namespace.as_deref().unwrap_or(gantry_engine::grpc::DEFAULT_NAMESPACE);
        let namespace = Namespace::new(namespace).map_err(|err| err.to_string())?;
        Ok(Self::Within { read_only, label: Some(LabelScope { key, value, namespace }) })
    }
}

impl Allowed {
    fn label(&self) -> Option<&LabelScope> {
        match self {
            Self::Within { label, .. } => label.as_ref(),
            Self::All | Self::Nothing => None,
        }
    }
}

/// An address that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A socket in the file system.
    Unix(PathBuf),
    /// An address and port of this machine.
    Tcp(SocketAddr),
}

/// Files of a daemon's side of TLS.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TlsFiles<'a> {
    pub(crate) ca: &'a Path,
    pub(crate) cert: &'a Path,
    pub(crate) key: &'a Path,
}

impl Listen {
    /// Where that is.
    ///
    /// # Errors
    /// When the address can't be.
    pub(crate) fn place(&self) -> Result<Place> {
        let address = &self.address;
        if let Some(path) = address.strip_prefix("unix://") {
            let path = PathBuf::from(path);
            check_socket(&path)?;
            return Ok(Place::Unix(path));
        }
        let Some(address) = address.strip_prefix("tcp://") else {
            bail!("address {address:?} must be unix:///PATH or tcp://IP:PORT");
        };
        let address = address.parse().ok().with_context(|| {
            format!(
                "address tcp://{address} must have an IP address and a port: tcp://0.0.0.0:2376"
            )
        })?;
        Ok(Place::Tcp(address))
    }

    /// Its certificates.
    ///
    /// # Errors
    /// Nobody may come in over TCP without a certificate, so all have to be there.
    pub(crate) fn tls(&self) -> Result<TlsFiles<'_>> {
        let (Some(ca), Some(cert), Some(key)) = (&self.ca, &self.cert, &self.key) else {
            bail!(
                "gantryd does not listen on plain TCP: give ca, cert and key (`gantry system certs` \
                 makes them)"
            );
        };
        for (what, path) in [("ca", ca), ("cert", cert), ("key", key)] {
            if !path.is_absolute() {
                bail!("{what} {} must be an absolute path", path.display());
            }
        }
        Ok(TlsFiles { ca, cert, key })
    }

    /// Number of the socket's group.
    ///
    /// # Errors
    /// When there is no group of that name.
    pub(crate) fn owner(&self) -> Result<Option<u32>> {
        let Some(name) = &self.group else { return Ok(self.gid) };
        let group = Group::from_name(name).with_context(|| format!("look for group {name:?}"))?;
        let group = group.with_context(|| {
            format!("there is no group {name:?} for the socket {}", self.address)
        })?;
        Ok(Some(group.gid.as_raw()))
    }

    fn validate(&self) -> Result<Place> {
        let place = self.place()?;
        let socket_only =
            self.uid.is_some() || self.gid.is_some() || self.group.is_some() || self.mode.is_some();
        let tls_only = self.ca.is_some() || self.cert.is_some() || self.key.is_some();
        match &place {
            Place::Tcp(_) => {
                self.tls()?;
                if socket_only {
                    bail!("uid, gid, group and mode are for unix sockets");
                }
                if let Some(name) = self.clients.keys().find(|name| name.is_empty()) {
                    bail!("clients: {name:?} is no common name");
                }
            }
            Place::Unix(_) => {
                if tls_only || !self.clients.is_empty() {
                    bail!("ca, cert, key and clients are for tcp addresses");
                }
                if self.scope == Allowed::Nothing {
                    bail!("a socket that nobody may use is none: leave it out");
                }
                if self.gid.is_some() && self.group.is_some() {
                    bail!("give either gid or group");
                }
                if self.mode.is_some_and(|mode| mode & !0o777 != 0) {
                    bail!("mode must be between 0 and 0o777");
                }
            }
        }
        Ok(place)
    }
}

/// Refuses a path that can't be a socket's.
///
/// # Errors
/// Says why.
pub(crate) fn check_socket(path: &Path) -> Result<()> {
    if path.to_str().is_some_and(|path| path.starts_with("tcp:")) {
        bail!(
            "address {} can't be the daemon's own socket: it listens on TCP as [[listen]] of its \
             configuration says, with certificates",
            path.display()
        );
    }
    if !path.is_absolute() {
        bail!("address {} must be an absolute path of a unix socket", path.display());
    }
    if path.as_os_str().len() > LONGEST {
        bail!("address {} is too long: {LONGEST} bytes at most", path.display());
    }
    Ok(())
}

/// Refuses places that can't be, or that are not apart from each other and from those that
/// are taken.
///
/// # Errors
/// Names the first such place.
pub(crate) fn validate(all: &[Listen], taken: [PathBuf; 2]) -> Result<()> {
    let mut places = BTreeSet::from(taken);
    for listen in all {
        let place = listen.validate().with_context(|| format!("listen on {}", listen.address))?;
        let name = match place {
            Place::Unix(path) => path,
            // Each asks for a free port.
            Place::Tcp(address) if address.port() == 0 => continue,
            Place::Tcp(address) => format!("tcp://{address}").into(),
        };
        if !places.insert(name) {
            bail!("listen on {}: the address is taken by the configuration itself", listen.address);
        }
    }
    Ok(())
}

/// Keys of all labels that limit somebody.
pub(crate) fn labels(all: &[Listen]) -> Vec<String> {
    let clients = all.iter().flat_map(|listen| listen.clients.values());
    let allowed = all.iter().map(|listen| &listen.scope).chain(clients);
    let keys: BTreeSet<&str> =
        allowed.filter_map(|allowed| Some(allowed.label()?.key.as_str())).collect();
    keys.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        listen: Vec<Listen>,
    }

    fn read(text: &str) -> Result<Vec<Listen>> {
        let file: File = toml::from_str(text)?;
        let taken = ["/run/gantry/gantry.sock", "/run/gantry/gantry.sock.ttrpc"];
        validate(&file.listen, taken.map(PathBuf::from))?;
        Ok(file.listen)
    }

    const TLS: &str = "ca = \"/c/ca.pem\"\ncert = \"/c/cert.pem\"\nkey = \"/c/key.pem\"\n";

    #[test]
    fn places_and_scopes() {
        let text = format!(
            "[[listen]]\naddress = \"tcp://0.0.0.0:2376\"\n{TLS}\
             clients = {{ ci = {{ label = \"ci=true\", namespace = \"ci\" }}, lost = \"none\" }}\n\
             [[listen]]\naddress = \"unix:///run/gantry/ro.sock\"\nscope = \"read-only\"\nmode = 0o666\n\
             [[listen]]\naddress = \"unix:///run/gantry/ci.sock\"\n\
             scope = {{ label = \"ci=a=b\", read_only = true }}\n"
        );
        let read = read(&text).unwrap();
        assert_eq!(read[0].place().unwrap(), Place::Tcp("0.0.0.0:2376".parse().unwrap()));
        assert_eq!(read[0].scope, Allowed::All);
        assert_eq!(read[0].clients["lost"], Allowed::Nothing);
        assert_eq!(read[0].clients["ci"].label().unwrap().namespace.as_str(), "ci");
        assert_eq!(read[1].scope, Allowed::Within { read_only: true, label: None });
        assert_eq!(read[1].mode, Some(0o666));
        let label = read[2].scope.label().unwrap();
        assert_eq!((label.key.as_str(), label.value.as_str()), ("ci", "a=b"));
        assert_eq!(label.namespace.as_str(), "default");
        assert_eq!(labels(&read), ["ci"]);
    }

    #[test]
    fn nobody_listens_on_plain_tcp() {
        let said = |text: &str| format!("{:#}", read(text).unwrap_err());
        for part in ["", "ca = \"/c/ca.pem\"\n", "cert = \"/c/cert.pem\"\nkey = \"/c/key.pem\"\n"] {
            let text = format!("[[listen]]\naddress = \"tcp://127.0.0.1:2375\"\n{part}");
            assert!(said(&text).contains("does not listen on plain TCP"), "{}", said(&text));
        }
    }

    #[test]
    fn what_can_not_be_is_named() {
        let unix = "address = \"unix:///s\"\n";
        let tcp = format!("address = \"tcp://127.0.0.1:1\"\n{TLS}");
        let cases = [
            ("address = \"/run/x.sock\"".to_owned(), "unix:///PATH"),
            ("address = \"unix://x.sock\"".to_owned(), "absolute"),
            ("address = \"tcp://localhost:2376\"".to_owned(), "IP address"),
            ("address = \"tcp://127.0.0.1\"".to_owned(), "IP address"),
            (format!("{tcp}mode = 0o600"), "unix sockets"),
            (format!("{unix}{TLS}"), "tcp addresses"),
            (format!("{unix}clients = {{ a = \"all\" }}"), "tcp addresses"),
            (format!("{unix}scope = \"none\""), "leave it out"),
            (format!("{unix}scope = \"some\""), "some"),
            (format!("{unix}scope = {{ label = \"ci\" }}"), "KEY=VALUE"),
            (format!("{unix}scope = {{ labels = \"a=b\" }}"), "a scope is"),
            (format!("{unix}scope = {{ label = \"a=b\", namespace = \"/\" }}"), "/"),
            ("address = \"unix:///run/gantry/gantry.sock\"".to_owned(), "taken"),
            (format!("{unix}[[listen]]\n{unix}"), "taken"),
        ];
        for (text, what) in cases {
            let err = format!("{:#}", read(&format!("[[listen]]\n{text}\n")).unwrap_err());
            assert!(err.contains(what), "{text}: {err}");
        }
    }

    #[test]
    fn groups_have_names() {
        let mut listen = read("[[listen]]\naddress = \"unix:///s\"\ngroup = \"root\"\n").unwrap();
        assert_eq!(listen[0].owner().unwrap(), Some(0));
        listen[0].group = Some("no-such-group-here".into());
        assert!(listen[0].owner().unwrap_err().to_string().contains("no-such-group-here"));
    }
}
