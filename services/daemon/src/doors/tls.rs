//! TCP, for clients with certificates alone.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use super::subject::common_name;
use super::{Connection, Limits, PAUSE};
use crate::listen::{Listen, TlsFiles};

/// A client has shown its certificate after so long, or is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// So many clients may be about to show theirs at a time: each takes a descriptor.
const HANDSHAKES: usize = 256;

/// A listener, and who may come in there.
pub(super) struct Tls {
    listener: TcpListener,
    entrance: Arc<Entrance>,
}

/// Who may come in, and how far.
struct Entrance {
    acceptor: TlsAcceptor,
    /// The address as it was configured.
    door: String,
    /// How far clients may go; not at all when `Err`.
    others: Result<Option<Limits>, super::NotLetIn>,
    /// The same by common names.
    named: BTreeMap<String, Result<Option<Limits>, super::NotLetIn>>,
}

/// Why somebody was not let in.
#[derive(Debug)]
enum Refusal {
    Slow,
    Handshake(io::Error),
    NoCertificate,
    Subject,
    NotLetIn(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slow => write!(f, "no handshake within {HANDSHAKE:?}"),
            Self::Handshake(err) => write!(f, "{err}"),
            Self::NoCertificate => f.write_str("no certificate"),
            Self::Subject => f.write_str("the certificate's subject has no single common name"),
            Self::NotLetIn(name) => write!(f, "certificate {name:?} is not let in"),
        }
    }
}

impl Tls {
    /// Reads the certificates and binds the address.
    ///
    /// # Errors
    /// Names what is wrong.
    pub(super) async fn bind(listen: &Listen, address: SocketAddr) -> Result<Self> {
        let config = server(listen.tls()?)?;
        let listener = TcpListener::bind(address).await.context("bind the address")?;
        let bound = listener.local_addr().context("look at the address")?;
        tracing::info!(address = %format_args!("tcp://{bound}"), scope = ?listen.scope, "listening");
        let limits = listen.clients.iter();
        let named = limits.map(|(name, allowed)| (name.clone(), Limits::of(allowed))).collect();
        let entrance = Entrance {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            door: listen.address.clone(),
            others: Limits::of(&listen.scope),
            named,
        };
        Ok(Self { listener, entrance: Arc::new(entrance) })
    }

    /// Takes connections until the server takes no more.
    pub(super) async fn take(self, to: mpsc::Sender<io::Result<Connection>>) {
        let Self { listener, entrance } = self;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            // It is never closed.
            let Ok(permit) = Arc::clone(&handshakes).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = to.closed() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(err) => {
                    tracing::warn!(door = entrance.door, error = %err, "take a connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let (entrance, to) = (Arc::clone(&entrance), to.clone());
            tokio::spawn(async move {
                let admitted = entrance.admit(stream, from).await;
                drop(permit);
                match admitted {
                    // An error means that the daemon stops.
                    Ok(connection) => drop(to.send(Ok(connection)).await),
                    Err(why) => {
                        let door = &entrance.door;
                        tracing::warn!(peer = %from, door, "refused: {why}");
                    }
                }
            });
        }
    }
}

impl Entrance {
    /// Lets a client in that has a certificate.
    async fn admit(&self, stream: TcpStream, from: SocketAddr) -> Result<Connection, Refusal> {
        // Small messages go at once; without it they only come later.
        let _ = stream.set_nodelay(true);
        let shaken = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream)).await;
        let stream = shaken.map_err(|_| Refusal::Slow)?.map_err(Refusal::Handshake)?;
        let chain = stream.get_ref().1.peer_certificates();
        let own = chain.and_then(<[_]>::first).ok_or(Refusal::NoCertificate)?;
        let own = webpki::EndEntityCert::try_from(own).map_err(|_| Refusal::Subject)?;
        let name = common_name(own.subject()).map_err(|_| Refusal::Subject)?;
        let (limits, door) = match self.named.get(&name) {
            Some(limits) => (limits, format!("certificate {name:?}")),
            None => (&self.others, self.door.clone()),
        };
        let limits = limits.as_ref().map_err(|_| Refusal::NotLetIn(name.clone()))?;
        let peer = format!("certificate {name:?} from {from}");
        tracing::debug!(peer = %peer, door = self.door, "connected");
        let scope = limits.as_ref().map(|limits| limits.scope(&door, peer));
        Ok(Connection::tls(stream, scope))
    }
}

/// TLS 1.2 or newer, HTTP/2, and no client without a certificate.
fn server(files: TlsFiles<'_>) -> Result<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(files.ca)? {
        roots
            .add(certificate)
            .with_context(|| format!("{} as an authority", files.ca.display()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider))
        .build()
        .context("verify certificates of clients")?;
    let key = PrivateKeyDer::from_pem_file(files.key)
        .with_context(|| format!("read the key {}", files.key.display()))?;
    let mode = std::fs::metadata(files.key).map_or(0, |about| about.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!(key = %files.key.display(), "others than its owner can get at the key");
    }
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(files.cert)?, key)
        .with_context(|| format!("use the certificate {}", files.cert.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each connection shows its certificate: none goes on where another left off.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// All certificates of a file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(|certificates| certificates.collect());
    let all = all.with_context(|| format!("read the certificates {}", path.display()))?;
    if all.is_empty() {
        bail!("{} has no certificate", path.display());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["ca", "cert", "key"] {
            std::fs::write(path(name), "").unwrap();
        }
        change(dir.path());
        let (ca, cert, key) = (path("ca"), path("cert"), path("key"));
        let files = TlsFiles { ca: &ca, cert: &cert, key: &key };
        format!("{:#}", server(files).unwrap_err())
    }

    #[test]
    fn files_that_are_none_are_named() {
        let gone = refused(|dir| std::fs::remove_file(dir.join("ca")).unwrap());
        assert!(gone.contains("read the certificates") && gone.contains("/ca"), "{gone}");
        assert!(refused(|_| {}).contains("has no certificate"));
        let damaged = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let damaged = refused(|dir| std::fs::write(dir.join("ca"), damaged).unwrap());
        assert!(damaged.contains("as an authority"), "{damaged}");
    }
}
