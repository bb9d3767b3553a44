//! The connection to the daemon.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Mutex;

use anyhow::{anyhow, bail};
use gantry_core::{Error, Kind, Namespace};
use gantry_grpc::context::Headers;
use gantry_grpc::gantry::engine::v1::containers_client::ContainersClient;
use gantry_grpc::gantry::engine::v1::images_client::ImagesClient;
use gantry_grpc::gantry::engine::v1::system_client::SystemClient;
use gantry_grpc::{MAX_MESSAGE, status};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// What a stream may send before it has been read.
const WINDOW: u32 = 1 << 20;

/// Where the daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(PathBuf);

impl Address {
    /// Path of the socket.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = match text.split_once("://") {
            None => text.strip_prefix("unix:").unwrap_or(text),
            Some(("unix", path)) => path,
            Some((scheme, _)) => {
                return Err(format!("can't connect by {scheme}: give the path of a Unix socket"));
            }
        };
        if path.is_empty() {
            return Err("the path of the socket is empty".to_owned());
        }
        Ok(Self(path.into()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// What carries requests, with the namespace in each.
pub(crate) type Service = InterceptedService<Channel, Headers>;

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    service: Service,
    address: Address,
    namespace: Namespace,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Says what to do when the daemon is not there.
    pub(crate) async fn connect(address: &Address, namespace: &Namespace) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(address.path())
            .await
            .map_err(|error| unreachable(address, &error))?;
        // The channel takes the one connection; it must not make others, for
        // they might reach another daemon in the middle of a command.
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().ok().and_then(|mut slot| slot.take());
            async move { stream.ok_or_else(|| std::io::Error::from(ErrorKind::NotConnected)) }
        });
        let channel = Endpoint::from_static("http://gantryd")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW)
            .connect_with_connector(connector)
            .await
            .map_err(|error| {
                anyhow!(error).context(format!("speak gRPC with gantryd at {address}"))
            })?;
        let service = InterceptedService::new(channel, Headers::new(namespace));
        Ok(Self { service, address: address.clone(), namespace: namespace.clone() })
    }

    /// A second connection to the same daemon, which the first can't hold up.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn again(&self) -> anyhow::Result<Self> {
        Self::connect(&self.address, &self.namespace).await
    }

    /// Calls about containers.
    pub(crate) fn containers(&self) -> ContainersClient<Service> {
        ContainersClient::new(self.service.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Calls about images.
    pub(crate) fn images(&self) -> ImagesClient<Service> {
        ImagesClient::new(self.service.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Calls about the daemon.
    pub(crate) fn system(&self) -> SystemClient<Service> {
        SystemClient::new(self.service.clone())
    }

    /// Takes the answer out of a call.
    ///
    /// # Errors
    /// The daemon's, as [`gantry_core::Error`] below, or that it is gone.
    pub(crate) fn answer<T>(&self, result: Result<Response<T>, Status>) -> anyhow::Result<T> {
        self.taken(result.map(Response::into_inner))
    }

    /// The same for what comes out of a stream.
    ///
    /// # Errors
    /// The daemon's, as [`gantry_core::Error`] below, or that it is gone.
    pub(crate) fn taken<T>(&self, result: Result<T, Status>) -> anyhow::Result<T> {
        result.map_err(|status| {
            // What the daemon said has no source on this side.
            let lost = std::error::Error::source(&status).is_some();
            let error = anyhow!(status::from_wire(status));
            if lost {
                return error.context(Lost(self.address.clone()));
            }
            error
        })
    }
}

/// The connection ended in the middle of a call.
#[derive(Debug)]
pub(crate) struct Lost(Address);

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lost the connection to gantryd at {}", self.0)
    }
}

/// Whether the daemon said that something does not exist.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == Kind::NotFound)
}

/// The part of an answer that the daemon must fill in.
///
/// # Errors
/// When it is not there.
pub(crate) fn filled<T>(part: Option<T>, what: &str) -> anyhow::Result<T> {
    match part {
        Some(part) => Ok(part),
        None => bail!("gantryd's answer lacks the {what}: is it of another version?"),
    }
}

fn unreachable(address: &Address, error: &std::io::Error) -> anyhow::Error {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_paths_or_uris() {
        for text in ["/run/g.sock", "unix:///run/g.sock", "unix:/run/g.sock"] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.path(), Path::new("/run/g.sock"));
            assert_eq!(address.to_string(), "unix:///run/g.sock");
        }
        assert_eq!("a b.sock".parse::<Address>().unwrap().path(), Path::new("a b.sock"));
        for bad in ["", "unix://", "tcp://localhost:2375"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_daemons_words_are_handed_on() {
        let client = |status| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let channel = Endpoint::from_static("http://x").connect_lazy();
            let namespace = Namespace::new("default").unwrap();
            let client = Client {
                service: InterceptedService::new(channel, Headers::new(&namespace)),
                address: "/s".parse().unwrap(),
                namespace,
            };
            client.taken::<()>(Err(status)).unwrap_err()
        };
        let error = client(Status::not_found("No such container: x"));
        assert!(is_not_found(&error));
        assert_eq!(crate::exit::describe(&error), "No such container: x");
        let gone =
            client(Status::from_error(Box::new(std::io::Error::from(ErrorKind::NotConnected))));
        assert!(
            crate::exit::describe(&gone).starts_with("lost the connection to gantryd at unix:///s")
        );
        assert!(!is_not_found(&gone));
    }
}
