//! What a check asks over the network, as users write it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gantry_core::{Error, Result};

/// The port of HTTP.
const HTTP_PORT: u16 = 80;

/// Something to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Host and port as they were written.
    pub(crate) authority: String,
    /// Where it is: the first one that takes the connection counts.
    pub(crate) addresses: Vec<SocketAddr>,
    /// What is asked there.
    pub(crate) question: Question,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// `GET` of this path: an answer of 200 to 399 is good.
    Http(String),
    /// Whether somebody takes the connection.
    Tcp,
    /// grpc.health.v1 about this service; about the server when empty.
    Grpc(String),
}

fn invalid(text: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("invalid health check {text:?}: {why}"))
}

/// Refuses what would end a line of a request, or can't be part of one.
fn printable(text: &str) -> Result<()> {
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(invalid(text, "blanks and characters beyond ASCII must be percent-encoded"))
}

impl Target {
    /// `http://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong.
    pub(crate) fn http(url: &str) -> Result<Self> {
        printable(url)?;
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| invalid(url, "a URL is like http://localhost:8080/health"))?;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(invalid(url, format_args!("{scheme} is not supported: use http")));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(invalid(url, "a user and a password are not supported"));
        }
        let addresses = addresses(authority, Some(HTTP_PORT)).map_err(|why| invalid(url, why))?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { authority: authority.to_owned(), addresses, question: Question::Http(path) })
    }

    /// `HOST:PORT`.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong.
    pub(crate) fn tcp(text: &str) -> Result<Self> {
        let addresses = addresses(text, None).map_err(|why| invalid(text, why))?;
        Ok(Self { authority: text.to_owned(), addresses, question: Question::Tcp })
    }

    /// `HOST:PORT[/SERVICE]`.
    ///
    /// # Errors
    /// `InvalidArgument`, saying what is wrong.
    pub(crate) fn grpc(text: &str) -> Result<Self> {
        printable(text)?;
        let (authority, service) = text.split_once('/').unwrap_or((text, ""));
        let addresses = addresses(authority, None).map_err(|why| invalid(text, why))?;
        let question = Question::Grpc(service.to_owned());
        Ok(Self { authority: authority.to_owned(), addresses, question })
    }
}

/// The addresses of `HOST:PORT`. Names are not looked up: whose they are in the container
/// only its own programs can tell.
fn addresses(authority: &str, usual: Option<u16>) -> std::result::Result<Vec<SocketAddr>, String> {
    let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, rest))) => (host, rest),
        Some(None) => return Err("there is no ']' behind the address".to_owned()),
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let bracketed = authority.starts_with('[');
    let port = match (port.strip_prefix(':'), usual) {
        (Some(port), _) if port.contains(':') => {
            return Err("an IPv6 address is written in brackets: [::1]:80".to_owned());
        }
        (Some(port), _) => number(port).ok_or_else(|| format!("{port:?} is not a port"))?,
        (None, Some(usual)) if port.is_empty() => usual,
        (None, _) => return Err("it must be like HOST:PORT".to_owned()),
    };
    let hosts: Vec<IpAddr> = if bracketed {
        host.parse::<Ipv6Addr>().map(|host| vec![host.into()]).unwrap_or_default()
    } else if host.eq_ignore_ascii_case("localhost") {
        vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]
    } else {
        host.parse::<Ipv4Addr>().map(|host| vec![host.into()]).unwrap_or_default()
    };
    if hosts.is_empty() {
        return Err(format!(
            "host {host:?} is not an IP address: names other than localhost are not looked up"
        ));
    }
    Ok(hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect())
}

/// A port, without a sign.
fn number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn urls() {
        let target = Target::http("http://localhost:8080/health?deep=1#x").unwrap();
        assert_eq!(target.authority, "localhost:8080");
        assert_eq!(target.addresses, [address("[::1]:8080"), address("127.0.0.1:8080")]);
        assert_eq!(target.question, Question::Http("/health?deep=1".into()));
        let target = Target::http("HTTP://10.0.0.7").unwrap();
        assert_eq!(target.addresses, [address("10.0.0.7:80")]);
        assert_eq!(target.question, Question::Http("/".into()));
        let target = Target::http("http://[fe80::1]?x").unwrap();
        assert_eq!(target.addresses, [address("[fe80::1]:80")]);
        assert_eq!(target.question, Question::Http("/?x".into()));
    }

    #[test]
    fn hosts_and_ports() {
        assert_eq!(Target::tcp("[::1]:5432").unwrap().addresses, [address("[::1]:5432")]);
        assert_eq!(Target::tcp("LOCALHOST:1").unwrap().addresses.len(), 2);
        let target = Target::grpc("127.0.0.1:50051/my.Service").unwrap();
        assert_eq!(target.question, Question::Grpc("my.Service".into()));
        assert_eq!(target.authority, "127.0.0.1:50051");
        let target = Target::grpc("127.0.0.1:50051").unwrap();
        assert_eq!(target.question, Question::Grpc(String::new()));
    }

    #[test]
    fn refusals_say_why() {
        let why = |made: Result<Target>| made.unwrap_err().to_string();
        for (url, words) in [
            ("localhost:80/", "like http://"),
            ("https://localhost/", "https is not supported"),
            ("http://example.com/", "names other than localhost are not looked up"),
            ("http://user@localhost/", "a user and a password"),
            ("http://localhost:0/", "\"0\" is not a port"),
            ("http://localhost:+80/", "is not a port"),
            ("http://localhost:/", "\"\" is not a port"),
            ("http://::1/", "in brackets"),
            ("http://[::1/", "no ']'"),
            ("http://[::1]80/", "HOST:PORT"),
            ("http://[127.0.0.1]/", "not an IP address"),
            ("http:///x", "not an IP address"),
            ("http://localhost/a b", "percent-encoded"),
            ("http://localhost/\r\nX: y", "percent-encoded"),
        ] {
            let said = why(Target::http(url));
            assert!(said.contains(words), "{url:?}: {said}");
        }
        assert!(why(Target::tcp("localhost")).contains("HOST:PORT"));
        assert!(why(Target::tcp("localhost:80/")).contains("is not a port"));
        assert!(why(Target::grpc("db:5432")).contains("not looked up"));
        assert!(why(Target::grpc("localhost:1/a\nb")).contains("percent-encoded"));
    }
}
