//! The way to a daemon: a socket, TCP with certificates, or SSH.

mod address;
mod ssh;
mod tls;

use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::UnixStream;

pub(crate) use address::Address;
pub(crate) use tls::check as check_tls;

/// A daemon on another machine has answered after so long, or is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What can be written to and read from.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection to a daemon.
pub(crate) type Stream = Box<dyn Duplex>;

/// Files of a client's side of TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Certificates of those who may sign the daemon's certificate, PEM.
    pub(crate) ca: PathBuf,
    /// The client's own certificate, PEM.
    pub(crate) cert: PathBuf,
    /// Its key, PEM.
    pub(crate) key: PathBuf,
}

/// The daemon that is meant, and what it takes to get there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it is.
    pub(crate) address: Address,
    /// For TCP.
    pub(crate) tls: TlsFiles,
}

impl From<Address> for Target {
    fn from(address: Address) -> Self {
        Self { address, tls: TlsFiles::default() }
    }
}

impl Target {
    /// Whether another machine, or what lies between, can go away without a word.
    pub(crate) fn is_far(&self) -> bool {
        !matches!(self.address, Address::Unix(_))
    }

    /// Connects.
    ///
    /// # Errors
    /// Says what to do when the daemon is not there, or does not let this client in.
    pub(crate) async fn open(&self) -> anyhow::Result<Stream> {
        let address = &self.address;
        match address {
            Address::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(unreachable(address, &error)),
            },
            Address::Tcp(place) => {
                let opened = tokio::time::timeout(PATIENCE, tls::open(place, &self.tls)).await;
                let opened = opened.unwrap_or_else(|_| Err(late()));
                let stream = opened.map_err(|error| error.context(cannot(address)))?;
                Ok(Box::new(stream))
            }
            Address::Ssh(place) => {
                let stream = ssh::open(place).await;
                Ok(Box::new(stream.map_err(|error| error.context(cannot(address)))?))
            }
        }
    }
}

fn cannot(address: &Address) -> String {
    format!("Cannot connect to gantryd at {address}")
}

fn late() -> anyhow::Error {
    anyhow!("no answer within {} seconds", PATIENCE.as_secs())
}

/// Waits until the daemon has said something, which it does first: only then it has let the
/// client in. `false` when it has closed the connection instead.
async fn greeted<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> io::Result<bool> {
    Ok(!stream.fill_buf().await?.is_empty())
}

fn unreachable(address: &Address, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => anyhow!(
            "Cannot connect to gantryd at {address}. Is it running? Start it with: systemctl start gantryd"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "Permission denied for gantryd's socket at {address}. Run this as root, or as a member of the socket's group"
        ),
        _ => anyhow!("Cannot connect to gantryd at {address}: {error}"),
    }
}
