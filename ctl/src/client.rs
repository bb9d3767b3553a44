//! The connection to the daemon.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{anyhow, bail};
use gantry_core::{Error, Kind, Namespace};
use gantry_grpc::context::Headers;
use gantry_grpc::gantry::engine::v1::containers_client::ContainersClient;
use gantry_grpc::gantry::engine::v1::events_client::EventsClient;
use gantry_grpc::gantry::engine::v1::images_client::ImagesClient;
use gantry_grpc::gantry::engine::v1::networks_client::NetworksClient;
use gantry_grpc::gantry::engine::v1::system_client::SystemClient;
use gantry_grpc::gantry::engine::v1::volumes_client::VolumesClient;
use gantry_grpc::unknown::Named;
use gantry_grpc::{MAX_MESSAGE, status};
use hyper_util::rt::TokioIo;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::connect::{Address, Target};

/// What a stream may send before it has been read.
const WINDOW: u32 = 1 << 20;
/// A daemon on another machine that says nothing for so long is asked, and given up when it says
/// nothing for so long again.
const SILENCE: Duration = Duration::from_secs(15);

/// What carries requests, with the namespace in each.
pub(crate) type Service = InterceptedService<Named<Channel>, Headers>;

/// A connection to the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    service: Service,
    target: Target,
    namespace: Namespace,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Says what to do when the daemon is not there.
    pub(crate) async fn connect(target: &Target, namespace: &Namespace) -> anyhow::Result<Self> {
        let stream = target.open().await?;
        // The channel takes the one connection; it must not make others, for
        // they might reach another daemon in the middle of a command.
        let stream = Mutex::new(Some(TokioIo::new(stream)));
        let connector = tower::service_fn(move |_| {
            let stream = stream.lock().ok().and_then(|mut slot| slot.take());
            async move { stream.ok_or_else(|| std::io::Error::from(ErrorKind::NotConnected)) }
        });
        let mut endpoint = Endpoint::from_static("http://gantryd")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(2 * WINDOW);
        if target.is_far() {
            endpoint = endpoint
                .http2_keep_alive_interval(SILENCE)
                .keep_alive_timeout(SILENCE)
                .keep_alive_while_idle(true);
        }
        let channel = endpoint.connect_with_connector(connector).await.map_err(|error| {
            let address = &target.address;
            anyhow!(error).context(format!("speak gRPC with gantryd at {address}"))
        })?;
        let service = InterceptedService::new(Named(channel), Headers::new(namespace));
        Ok(Self { service, target: target.clone(), namespace: namespace.clone() })
    }

    /// A second connection to the same daemon, which the first can't hold up.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn again(&self) -> anyhow::Result<Self> {
        Self::connect(&self.target, &self.namespace).await
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
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Calls about what happens.
    pub(crate) fn events(&self) -> EventsClient<Service> {
        EventsClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Calls about networks.
    pub(crate) fn networks(&self) -> NetworksClient<Service> {
        NetworksClient::new(self.service.clone()).max_decoding_message_size(MAX_MESSAGE)
    }

    /// Calls of the service `Volumes`.
    pub(crate) fn volumes(&self) -> VolumesClient<Service> {
        VolumesClient::new(self.service.clone())
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
                return error.context(Lost(self.target.address.clone()));
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

/// The name that was probably meant in place of one that does not exist.
pub(crate) fn meant(error: &anyhow::Error) -> Option<&str> {
    error.downcast_ref::<Error>().and_then(Error::meant)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemons_words_are_handed_on() {
        let client = |status| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _entered = runtime.enter();
            let channel = Endpoint::from_static("http://x").connect_lazy();
            let namespace = Namespace::new("default").unwrap();
            let client = Client {
                service: InterceptedService::new(Named(channel), Headers::new(&namespace)),
                target: Target::from("/s".parse::<Address>().unwrap()),
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
