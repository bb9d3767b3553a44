//! A service behind the request layer, called through a real connection.

use std::time::Duration;

use gantry_core::{Kind, Namespace};
use gantry_grpc::containerd::services::version::v1::VersionResponse;
use gantry_grpc::containerd::services::version::v1::version_client::VersionClient;
use gantry_grpc::containerd::services::version::v1::version_server::{Version, VersionServer};
use gantry_grpc::context::{self, Headers};
use gantry_grpc::layer::RequestLayer;
use gantry_grpc::{MAX_MESSAGE, status};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

/// Answers with the context it was called in; the lease says how.
struct Echo;

#[tonic::async_trait]
impl Version for Echo {
    async fn version(&self, request: Request<()>) -> Result<Response<VersionResponse>, Status> {
        let context = context::of(&request)?;
        let revision = match context.lease.as_deref() {
            Some("never") => std::future::pending().await,
            Some(size) => "x".repeat(size.parse().unwrap_or(0)),
            None => context.request_id,
        };
        Ok(Response::new(VersionResponse { version: context.namespace.to_string(), revision }))
    }
}

type Client = VersionClient<InterceptedService<Channel, Headers>>;

/// A server of its own, and a way to it.
async fn channel() -> Channel {
    let socket = std::env::temp_dir().join(format!("gantry-grpc-{}", uuid::Uuid::new_v4()));
    let listener = UnixListener::bind(&socket).unwrap();
    let version = VersionServer::new(Echo)
        .max_encoding_message_size(MAX_MESSAGE)
        .max_decoding_message_size(MAX_MESSAGE);
    tokio::spawn(
        Server::builder()
            .layer(RequestLayer)
            .add_service(version)
            .serve_with_incoming(UnixListenerStream::new(listener)),
    );
    let path = socket.clone();
    let connector = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    std::fs::remove_file(socket).unwrap();
    channel
}

async fn client(lease: Option<&str>) -> Client {
    let mut headers = Headers::new(&Namespace::new("moby").unwrap());
    if let Some(lease) = lease {
        headers = headers.with_lease(lease).unwrap();
    }
    VersionClient::with_interceptor(channel().await, headers).max_decoding_message_size(MAX_MESSAGE)
}

#[tokio::test]
async fn namespace_and_request_id_reach_the_handler() {
    let answer = client(None).await.version(()).await.unwrap().into_inner();
    assert_eq!(answer.version, "moby");
    assert_eq!(answer.revision.len(), 36);
}

#[tokio::test]
async fn without_a_namespace_containerds_words_come_back() {
    let mut client = VersionClient::new(channel().await);
    let error = status::from_wire(client.version(()).await.unwrap_err());
    assert_eq!(error.kind(), Kind::FailedPrecondition);
    assert_eq!(error.to_string(), "namespace is required: failed precondition");
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let mut request = Request::new(());
    request.set_timeout(Duration::from_millis(50));
    let error = client(Some("never")).await.version(request).await.unwrap_err();
    assert_eq!(status::from_wire(error).kind(), Kind::DeadlineExceeded);
}

#[tokio::test]
async fn messages_of_up_to_16_mib_pass() {
    let size = (MAX_MESSAGE - 100).to_string();
    let answer = client(Some(&size)).await.version(()).await.unwrap().into_inner();
    assert_eq!(answer.revision.len(), MAX_MESSAGE - 100);
    let error = client(Some(&MAX_MESSAGE.to_string())).await.version(()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::OutOfRange);
}
