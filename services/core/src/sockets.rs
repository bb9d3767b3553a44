//! What the daemon and its shims agree on for the sockets of containers' networks, and for names.
//!
//! A shim whose task's `stdout` URI has the parameter `network=SOCKET` listens there (UNIX,
//! `SOCK_SEQPACKET`, 0600) for as long as its first process lives. Each packet is one message of
//! text, with at most one descriptor (`SCM_RIGHTS`); each is answered by one packet, `ok`,
//! `ok LINES` or `error TEXT`. The shim serves the sockets itself, so that they answer while the
//! daemon is away.
//!
//! | message | descriptor | what the shim does |
//! | --- | --- | --- |
//! | `resolver PATH` | – | reads the resolver's settings there, at once and when the file changes |
//! | `names udp` | a bound UDP socket in the container's network namespace | answers DNS queries on it |
//! | `names tcp` | a listening socket there | the same, RFC 7766 |
//! | `relay tcp HOST:PORT TARGET:PORT` | a listening socket of the host | accepts and carries bytes to and from the target |
//! | `relay udp HOST:PORT TARGET:PORT` | a bound UDP socket of the host | carries datagrams, one socket for each client |
//! | `relay PROTOCOL HOST:PORT TARGET:PORT` | – | a relay that is there has another target from now on |
//! | `drop PROTOCOL HOST:PORT` | – | closes that relay's socket; connections that it carries stay |
//! | `list`, `list N` | – | answers with the relays, one a line as they were handed over, from the Nth on: as many as one packet has room for |
//!
//! A message that hands over again what is there replaces it; dropping what is not there is no error.
//!
//! IPv6 addresses stand in brackets: `[::]:8080`.
//!
//! The resolver's settings are lines, each file is replaced as a whole (rename):
//!
//! ```text
//! names PATH          names of a network that the container is in, in their order
//! upstream ADDRESS    a name server for everything else, in their order; asked from the network
//!                     namespace of the socket of `names udp`, at port 53 unless it is said
//!                     behind the address
//! upstreams PATH      the servers of that resolv.conf(5), asked from the host, read again when it
//!                     changes, without those on loopback unless there are no others
//! internal            nobody else is asked: the container has no network that leads out
//! ndots               names without a dot are not asked for elsewhere: with the container's own
//!                     option `ndots` it looks for them in its search domains
//! ```
//!
//! Names of a network are lines, names in lower case without the last dot:
//!
//! ```text
//! host NAME ADDRESS   an address; several lines of one name are several addresses
//! pointer ADDRESS NAME the name of an address, for reverse lookups
//! ```

/// The parameter of the URI.
pub const PARAMETER: &str = "network";
/// Longest message, in bytes.
pub const MAX_MESSAGE: usize = 4096;
/// Longest answer, in bytes.
pub const MAX_ANSWER: usize = 32 * 1024;
/// Where resolv.conf of a container with names sends its queries.
pub const RESOLVER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 11);
