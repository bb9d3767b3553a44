//! The daemon's messages.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use gantry_core::networks::Protocol;

use crate::error::{self, Error};

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// The resolver's settings are there.
    Resolver(&'a Path),
    /// A socket in the container, for DNS.
    Names(Protocol),
    /// A socket of the host, or another target of one.
    Relay(Key, SocketAddr),
    /// One of them goes.
    Drop(Key),
    /// All of them from so many on.
    List(usize),
}

/// A relay's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// `Tcp` or `Udp`.
    pub(super) protocol: Protocol,
    /// Address and port of the host.
    pub(super) host: SocketAddr,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.as_str(), self.host)
    }
}

impl<'a> Request<'a> {
    /// Reads a message.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is none.
    pub(super) fn parse(text: &'a str) -> Result<Self, Error> {
        let bad = || error::invalid(format!("{text:?} is no message"));
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let mut words = rest.split(' ').filter(|word| !word.is_empty());
        let request = match verb {
            // A path may have spaces in it.
            "resolver" if rest.starts_with('/') => return Ok(Self::Resolver(Path::new(rest))),
            "names" => Self::Names(protocol(words.next()).ok_or_else(bad)?),
            "relay" => {
                let key = key(&mut words).ok_or_else(bad)?;
                Self::Relay(key, address(words.next()).ok_or_else(bad)?)
            }
            "drop" => Self::Drop(key(&mut words).ok_or_else(bad)?),
            "list" => match words.next() {
                None => Self::List(0),
                Some(from) => Self::List(from.parse().map_err(|_| bad())?),
            },
            _ => return Err(bad()),
        };
        if words.next().is_some() { Err(bad()) } else { Ok(request) }
    }
}

fn key<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Key> {
    Some(Key { protocol: protocol(words.next())?, host: address(words.next())? })
}

fn protocol(word: Option<&str>) -> Option<Protocol> {
    match word? {
        "tcp" => Some(Protocol::Tcp),
        "udp" => Some(Protocol::Udp),
        _ => None,
    }
}

fn address(word: Option<&str>) -> Option<SocketAddr> {
    word?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let host = "[::]:8080".parse().unwrap();
        let key = Key { protocol: Protocol::Tcp, host };
        assert_eq!(key.to_string(), "tcp [::]:8080");
        for (text, request) in [
            ("resolver /run/a b/r", Request::Resolver(Path::new("/run/a b/r"))),
            ("names udp", Request::Names(Protocol::Udp)),
            ("relay tcp [::]:8080 10.0.0.2:80", Request::Relay(key, ([10, 0, 0, 2], 80).into())),
            ("drop tcp [::]:8080", Request::Drop(key)),
            ("list", Request::List(0)),
            ("list 30", Request::List(30)),
        ] {
            assert_eq!(Request::parse(text).unwrap(), request);
        }
        for text in [
            "",
            "resolver",
            "resolver run/r",
            "names",
            "names sctp",
            "names udp tcp",
            "relay tcp [::]:8080",
            "relay tcp localhost:1 10.0.0.2:80",
            "relay sctp [::]:8080 10.0.0.2:80",
            "drop tcp",
            "list -1",
            "quit",
        ] {
            assert!(Request::parse(text).is_err(), "{text}");
        }
    }
}
