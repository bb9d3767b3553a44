//! Where a daemon is, as users write it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use rustls::pki_types::ServerName;

/// Port of a daemon that listens on TCP, unless one says otherwise.
const PORT: u16 = 2376;

/// Where a daemon is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// At a socket of this machine.
    Unix(PathBuf),
    /// At a port, with certificates on either side.
    Tcp(Tcp),
    /// At a socket of another machine, behind SSH.
    Ssh(Ssh),
}

/// A port of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tcp {
    /// Name or IP address.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
}

/// A machine that ssh(1) gets to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ssh {
    /// Who logs in there; up to ssh when `None`.
    pub(crate) user: Option<String>,
    /// Name as ssh knows it, or IP address.
    pub(crate) host: String,
    /// Port; up to ssh when `None`.
    pub(crate) port: Option<u16>,
    /// Path of the socket; up to `gantry` there when `None`.
    pub(crate) socket: Option<String>,
}

impl Address {
    /// A socket of this machine: its path, or `unix://PATH`.
    ///
    /// # Errors
    /// For anything else.
    pub(crate) fn socket(text: &str) -> Result<Self, String> {
        match text.split_once("://") {
            Some((scheme, _)) if scheme != "unix" => {
                Err(format!("this is the path of a socket: for {scheme} use --host"))
            }
            _ => text.parse(),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = match text.split_once("://") {
            None => text.strip_prefix("unix:").unwrap_or(text),
            Some(("unix", path)) => path,
            Some(("tcp", rest)) => return Ok(Self::Tcp(tcp(rest)?)),
            Some(("ssh", rest)) => return Ok(Self::Ssh(ssh(rest)?)),
            Some((scheme, _)) => {
                return Err(format!("can't connect by {scheme}: use unix, tcp or ssh"));
            }
        };
        if path.is_empty() {
            return Err("the path of the socket is empty".to_owned());
        }
        Ok(Self::Unix(path.into()))
    }
}

fn tcp(rest: &str) -> Result<Tcp, String> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.contains(['/', '@']) {
        return Err(format!("tcp://{rest} is not tcp://HOST:PORT"));
    }
    let (host, port) = authority(rest)?;
    if ServerName::try_from(host).is_err() {
        return Err(format!("{host:?} is neither the name of a machine nor an IP address"));
    }
    Ok(Tcp { host: host.to_owned(), port: port.unwrap_or(PORT) })
}

fn ssh(rest: &str) -> Result<Ssh, String> {
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (user, place) = match place.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, place),
    };
    let (host, port) = authority(place)?;
    // What begins with a dash would be taken for an option.
    let is_word = |text: &str| {
        !text.is_empty() && !text.starts_with('-') && !text.contains(|c: char| c <= ' ')
    };
    if let Some(user) = user {
        if user.contains(':') {
            return Err("plain-text password is not supported: use keys".to_owned());
        }
        if !is_word(user) {
            return Err(format!("{user:?} is no name of a user"));
        }
    }
    if !is_word(host) {
        return Err(format!("{host:?} is no name of a machine"));
    }
    Ok(Ssh {
        user: user.map(str::to_owned),
        host: host.to_owned(),
        port,
        socket: (path.len() > 1).then(|| path.to_owned()),
    })
}

/// `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`.
fn authority(text: &str) -> Result<(&str, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
            _ => return Err(format!("{text:?} is not [ADDRESS]:PORT")),
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if host.is_empty() {
        return Err("the name of the machine is empty".to_owned());
    }
    let number = |port: &str| port.parse().ok().filter(|port| *port != 0);
    let port = port.map(|port| number(port).ok_or_else(|| format!("{port:?} is no port")));
    Ok((host, port.transpose()?))
}

impl fmt::Display for Tcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl fmt::Display for Ssh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port, socket } = self;
        if let Some(user) = user {
            write!(f, "{user}@")?;
        }
        match host.contains(':') {
            true => write!(f, "[{host}]")?,
            false => f.write_str(host)?,
        }
        if let Some(port) = port {
            write!(f, ":{port}")?;
        }
        f.write_str(socket.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(tcp) => write!(f, "tcp://{tcp}"),
            Self::Ssh(ssh) => write!(f, "ssh://{ssh}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<Address>().unwrap().to_string()
    }

    #[test]
    fn sockets_are_paths_or_uris() {
        for text in ["/run/g.sock", "unix:///run/g.sock", "unix:/run/g.sock"] {
            assert_eq!(text.parse(), Ok(Address::Unix("/run/g.sock".into())));
            assert_eq!(Address::socket(text), text.parse());
            assert_eq!(shown(text), "unix:///run/g.sock");
        }
        assert_eq!("a b.sock".parse(), Ok(Address::Unix("a b.sock".into())));
        assert!(Address::socket("tcp://localhost:2376").unwrap_err().contains("--host"));
        for bad in ["", "unix://", "unix:", "http://localhost", "npipe:////./pipe/x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_of_machines() {
        for (text, same) in [
            ("tcp://db.example:1", "tcp://db.example:1"),
            ("tcp://db", "tcp://db:2376"),
            ("tcp://192.0.2.1:2376/", "tcp://192.0.2.1:2376"),
            ("tcp://[2001:db8::1]", "tcp://[2001:db8::1]:2376"),
            ("tcp://[::1]:99", "tcp://[::1]:99"),
        ] {
            assert_eq!(shown(text), same);
        }
        for bad in [
            "tcp://",
            "tcp://:2376",
            "tcp://db:",
            "tcp://db:0",
            "tcp://db:70000",
            "tcp://db:1/x",
            "tcp://me@db:1",
            "tcp://::1",
            "tcp://[::1",
            "tcp://[::1]1",
            "tcp://a b",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn machines_behind_ssh() {
        for text in ["ssh://me@db:22/run/g.sock", "ssh://db", "ssh://[::1]:22", "ssh://a@b"] {
            assert_eq!(shown(text), text);
        }
        assert_eq!(shown("ssh://db/"), "ssh://db");
        for bad in [
            "ssh://",
            "ssh://me@",
            "ssh://@db",
            "ssh://me:secret@db",
            "ssh://-oProxyCommand=x",
            "ssh://-l@db",
            "ssh://a b",
            "ssh://db:x",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }
}
