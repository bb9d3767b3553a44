//! Where clients come in: the daemon's own socket, further ones, and TCP with certificates.
//!
//! A connection knows how far its client may go, and each of its requests carries that. Clients
//! on this machine are known by their sockets' permissions, those on others by certificates: a
//! connection without one that the configured authority has signed ends before a byte of it is
//! taken for a request.

mod connection;
mod subject;
mod tls;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_core::{LabelScope, Scope};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::config::Config;
use crate::listen::{Allowed, Listen, MODE, Place};
use crate::socket::{self, Owner};

pub(crate) use connection::Connection;
use tls::Tls;

/// Connections that wait for the server, which takes them at once.
const QUEUE: usize = 16;
/// After a failure to take a connection, for want of descriptors for example.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections as they come in.
pub(crate) type Incoming = ReceiverStream<io::Result<Connection>>;

/// All doors, open.
pub(crate) struct Doors {
    /// Clients on this machine.
    pub(crate) local: Incoming,
    /// Clients on others; `None` when there is no way in for them.
    pub(crate) remote: Option<Incoming>,
    /// Sockets to be removed in the end.
    pub(crate) sockets: Vec<PathBuf>,
}

/// A socket that was bound, and how far those may go who come in there.
struct Bound {
    listener: UnixListener,
    door: String,
    limits: Option<Limits>,
}

/// How far somebody may go, without who it is.
#[derive(Clone, Debug)]
struct Limits {
    read_only: bool,
    label: Option<LabelScope>,
}

impl Limits {
    /// `Ok(None)` for no limits; `Err` for those who are not let in.
    fn of(allowed: &Allowed) -> Result<Option<Self>, NotLetIn> {
        match allowed {
            Allowed::All => Ok(None),
            Allowed::Nothing => Err(NotLetIn),
            Allowed::Within { read_only, label } => {
                Ok(Some(Self { read_only: *read_only, label: label.clone() }))
            }
        }
    }

    /// The same for one client.
    fn scope(&self, door: &str, peer: String) -> Arc<Scope> {
        let Self { read_only, label } = self.clone();
        Arc::new(Scope { door: door.to_owned(), peer, read_only, label })
    }
}

/// The configuration says so.
#[derive(Clone, Copy, Debug)]
struct NotLetIn;

impl Doors {
    /// Opens all doors of a configuration, the daemon's own socket last: who finds that open
    /// finds the others open as well.
    ///
    /// # Errors
    /// Names the door that can't be opened.
    pub(crate) async fn open(config: &Config) -> Result<Self> {
        let (to_server, local) = mpsc::channel(QUEUE);
        let (to_remote, remote) = mpsc::channel(QUEUE);
        let (mut bound, mut all_tls, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        for listen in &config.listen {
            let opening = || format!("listen on {}", listen.address);
            match listen.place()? {
                Place::Unix(path) => {
                    bound.push(further(listen, &path).with_context(opening)?);
                    sockets.push(path);
                }
                Place::Tcp(address) => {
                    all_tls.push(Tls::bind(listen, address).await.with_context(opening)?);
                }
            }
        }
        let (uid, gid) = (config.grpc.uid, config.grpc.gid);
        let own = &config.grpc.address;
        let listener = socket::bind(own, Owner { uid, gid, mode: MODE })?;
        bound.push(Bound { listener, door: String::new(), limits: None });
        sockets.push(own.clone());
        let has_remote = !all_tls.is_empty();
        for bound in bound {
            tokio::spawn(bound.take(to_server.clone()));
        }
        for tls in all_tls {
            tokio::spawn(tls.take(to_remote.clone()));
        }
        let remote = has_remote.then(|| ReceiverStream::new(remote));
        Ok(Self { local: ReceiverStream::new(local), remote, sockets })
    }
}

/// Binds a socket beside the daemon's own.
fn further(listen: &Listen, path: &std::path::Path) -> Result<Bound> {
    let mode = listen.mode.unwrap_or(MODE);
    let owner = Owner { uid: listen.uid, gid: listen.owner()?, mode };
    // The configuration has no socket that lets nobody in.
    let limits = Limits::of(&listen.scope).unwrap_or(None);
    let listener = socket::bind(path, owner)?;
    let door = format!("socket {}", path.display());
    tracing::info!(address = %listen.address, scope = ?listen.scope, "listening");
    Ok(Bound { listener, door, limits })
}

impl Bound {
    /// Takes connections until the server takes no more.
    async fn take(self, to: mpsc::Sender<io::Result<Connection>>) {
        let Self { listener, door, limits } = self;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = to.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(err) => {
                    tracing::warn!(door, error = %err, "take a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let scope = limits.as_ref().map(|limits| limits.scope(&door, credentials(&stream)));
            if to.send(Ok(Connection::unix(stream, scope))).await.is_err() {
                return;
            }
        }
    }
}

/// Who is at the other end of a socket, as the kernel knows it.
fn credentials(stream: &tokio::net::UnixStream) -> String {
    match stream.peer_cred() {
        Ok(peer) => {
            let pid = peer.pid().unwrap_or_default();
            format!("uid={} gid={} pid={pid}", peer.uid(), peer.gid())
        }
        Err(err) => format!("unknown ({err})"),
    }
}

#[cfg(test)]
mod tests {
    use gantry_grpc::scope::Peer;
    use tokio_stream::StreamExt;
    use tonic::transport::server::Connected;

    use super::*;

    fn config(dir: &std::path::Path, listen: &str) -> Config {
        let text = format!(
            "[grpc]\naddress = \"{0}/g.sock\"\n[[listen]]\naddress = \"unix://{0}/{listen}",
            dir.display()
        );
        toml::from_str(&text).unwrap()
    }

    #[tokio::test]
    async fn a_connection_knows_by_which_door_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "ro.sock\"\nscope = \"read-only\"\n");
        let mut doors = Doors::open(&config).await.unwrap();
        assert!(doors.remote.is_none());
        assert_eq!(doors.sockets, [dir.path().join("ro.sock"), dir.path().join("g.sock")]);
        let _limited = tokio::net::UnixStream::connect(dir.path().join("ro.sock")).await.unwrap();
        let came = doors.local.next().await.unwrap().unwrap();
        let Peer { scope: Some(scope) } = came.connect_info() else { panic!("it has no scope") };
        assert!(scope.read_only && scope.label.is_none());
        assert!(scope.door.starts_with("socket /") && scope.door.ends_with("/ro.sock"));
        let own = format!("pid={}", std::process::id());
        assert!(scope.peer.ends_with(&own), "{}", scope.peer);
        let _free = tokio::net::UnixStream::connect(dir.path().join("g.sock")).await.unwrap();
        let came = doors.local.next().await.unwrap().unwrap();
        assert!(came.connect_info().scope.is_none());
    }

    #[tokio::test]
    async fn a_door_that_can_not_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "x.sock\"\ngroup = \"no-such-group-here\"\n");
        let err = format!("{:#}", Doors::open(&config).await.err().unwrap());
        assert!(err.contains("x.sock") && err.contains("no-such-group-here"), "{err}");
    }
}
