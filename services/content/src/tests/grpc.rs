//! The service as a client on the wire sees it.

use gantry_grpc::containerd::services::content::v1 as api;
use gantry_grpc::context::Headers;
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Server, server::TcpIncoming};
use tonic::{Code, Status, Streaming};

use super::*;
use crate::grpc::ContentServer;

type Client = api::content_client::ContentClient<InterceptedService<Channel, Headers>>;

/// Serves the host's store on loopback.
async fn serve(host: &Host, namespace: &str) -> Client {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let service = ContentServer::new(Arc::new(host.store.clone()));
    let service = api::content_server::ContentServer::new(service);
    let server = Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let channel = Channel::from_shared(address).unwrap().connect().await.unwrap();
    let headers = Headers::new(&Namespace::new(namespace).unwrap());
    api::content_client::ContentClient::with_interceptor(channel, headers)
}

struct Stream {
    requests: mpsc::Sender<api::WriteContentRequest>,
    replies: Streaming<api::WriteContentResponse>,
}

impl Stream {
    async fn open(client: &mut Client) -> Self {
        let (requests, mut receiver) = mpsc::channel(1);
        let outgoing = futures::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let replies = client.write(outgoing).await.unwrap().into_inner();
        Self { requests, replies }
    }

    /// Sends a message and waits for its reply.
    async fn ask(
        &mut self,
        request: api::WriteContentRequest,
    ) -> Result<api::WriteContentResponse, Status> {
        self.requests.send(request).await.unwrap();
        self.replies.message().await.map(|reply| reply.expect("a reply before the end"))
    }
}

fn stat(reference: &str, total: i64, expected: &str) -> api::WriteContentRequest {
    api::WriteContentRequest {
        action: api::WriteAction::Stat.into(),
        r#ref: reference.into(),
        total,
        expected: expected.into(),
        ..Default::default()
    }
}

fn write(offset: i64, data: &'static [u8]) -> api::WriteContentRequest {
    api::WriteContentRequest {
        action: api::WriteAction::Write.into(),
        offset,
        data: data.into(),
        ..Default::default()
    }
}

fn commit(offset: i64, total: i64, expected: &str) -> api::WriteContentRequest {
    api::WriteContentRequest {
        action: api::WriteAction::Commit.into(),
        offset,
        total,
        expected: expected.into(),
        labels: labels(&[("k", "v")]),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_stream_as_clients_write_it() {
    let host = Host::new();
    let mut client = serve(&host, "a").await;
    let digest = Digest::of(b"hello world").to_string();
    let mut stream = Stream::open(&mut client).await;
    let reply = stream.ask(stat("r", 11, &digest)).await.unwrap();
    assert_eq!((reply.offset, reply.total), (0, 11));
    for _ in 0..3 {
        // Empty ones follow in any number.
        assert_eq!(stream.ask(Default::default()).await.unwrap().offset, 0);
    }
    assert_eq!(stream.ask(write(0, b"hello")).await.unwrap().offset, 5);
    // Back to the beginning is fine, anywhere else is not the end.
    assert_eq!(stream.ask(write(0, b"hello")).await.unwrap().offset, 5);
    let reply = stream.ask(write(5, b" world")).await.unwrap();
    assert_eq!((reply.offset, reply.digest), (11, digest.clone()));
    let reply = stream.ask(commit(11, 11, &digest)).await.unwrap();
    assert_eq!((reply.offset, reply.digest), (11, digest.clone()));
    assert!(stream.replies.message().await.unwrap().is_none());
    let info = client.info(api::InfoRequest { digest: digest.clone() }).await.unwrap();
    assert_eq!(info.into_inner().info.unwrap().labels, labels(&[("k", "v")]));

    let mut stream = Stream::open(&mut client).await;
    let err = stream.ask(stat("again", 11, &digest)).await.unwrap_err();
    assert_eq!(err.code(), Code::AlreadyExists);
}

#[tokio::test]
async fn other_content_under_the_same_name_begins_anew() {
    let host = Host::new();
    let mut client = serve(&host, "a").await;
    for (total, before) in [(11, 0), (11, 5), (12, 0), (0, 5)] {
        let (mut stream, reply) = loop {
            let mut stream = Stream::open(&mut client).await;
            match stream.ask(stat("r", total, "")).await {
                // The writer before is still leaving.
                Err(err) if err.code() == Code::Unavailable => tokio::task::yield_now().await,
                reply => break (stream, reply.unwrap()),
            }
        };
        assert_eq!(reply.offset, before, "with a total of {total}");
        if before == 0 {
            assert_eq!(stream.ask(write(0, b"hello")).await.unwrap().offset, 5);
        }
    }
}

#[tokio::test]
async fn refused_steps_leave_the_ingest() {
    let host = Host::new();
    let mut client = serve(&host, "a").await;
    let (right, wrong) = (Digest::of(b"abc").to_string(), Digest::of(b"x").to_string());
    let mut stream = Stream::open(&mut client).await;
    let err = stream.ask(stat("", 0, "")).await.unwrap_err();
    assert_eq!(err.code(), Code::InvalidArgument);
    let cases = [
        (write(2, b"x"), Code::OutOfRange),
        (commit(3, 3, &wrong), Code::FailedPrecondition),
        (commit(3, 4, &right), Code::FailedPrecondition),
        (commit(3, 3, "sha256:zz"), Code::InvalidArgument),
        (commit(-3, 3, ""), Code::InvalidArgument),
        (stat("other", 0, ""), Code::InvalidArgument),
    ];
    for (request, code) in cases {
        let mut stream = Stream::open(&mut client).await;
        stream.ask(stat("r", 0, "")).await.unwrap();
        stream.ask(write(0, b"abc")).await.unwrap();
        let err = stream.ask(request).await.unwrap_err();
        assert_eq!(err.code(), code, "{err}");
        drop(stream);
        let status = client.status(api::StatusRequest { r#ref: "r".into() }).await.unwrap();
        assert_eq!(status.into_inner().status.unwrap().offset, 3);
    }
    let mut stream = Stream::open(&mut client).await;
    assert_eq!(stream.ask(stat("r", 0, "")).await.unwrap().offset, 3);
    // Told only at the end what it was to be, and without an offset.
    assert_eq!(stream.ask(commit(0, 3, &right)).await.unwrap().digest, right);
}

#[tokio::test]
async fn a_reference_is_free_when_its_stream_ends() {
    let host = Host::new();
    let mut client = serve(&host, "a").await;
    let mut first = Stream::open(&mut client).await;
    first.ask(stat("r", 0, "")).await.unwrap();
    first.ask(write(0, b"abc")).await.unwrap();
    let mut second = Stream::open(&mut client).await;
    let err = second.ask(stat("r", 0, "")).await.unwrap_err();
    assert_eq!((err.code(), err.message()), (Code::Unavailable, "ref r locked: unavailable"));
    drop(first.requests);
    assert!(first.replies.message().await.unwrap().is_none());
    let abort = api::AbortRequest { r#ref: "r".into() };
    client.abort(abort.clone()).await.unwrap();
    assert_eq!(client.abort(abort).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reads_lists_and_updates() {
    let host = Host::new();
    let mut client = serve(&host, "a").await;
    let ctx = context("a");
    let digest = host.put(&ctx, b"0123456789").await.to_string();
    for (offset, size, expected) in [(0, 0, "0123456789"), (4, 3, "456"), (8, 100, "89")] {
        let request = api::ReadContentRequest { digest: digest.clone(), offset, size };
        let mut pieces = client.read(request).await.unwrap().into_inner();
        let piece = pieces.message().await.unwrap().unwrap();
        assert_eq!((piece.offset, &piece.data[..]), (offset, expected.as_bytes()));
        assert!(pieces.message().await.unwrap().is_none());
    }
    let request = api::ReadContentRequest { digest: digest.clone(), offset: 11, size: 0 };
    assert_eq!(client.read(request).await.unwrap_err().code(), Code::OutOfRange);

    let info = api::Info {
        digest: digest.clone(),
        labels: labels(&[("containerd.io/gc.ref.content.l.0", "x"), ("ignored", "y")]),
        ..Default::default()
    };
    let mask = FieldMask { paths: vec!["labels.containerd.io/gc.ref.content.l.0".into()] };
    let request = api::UpdateRequest { info: Some(info), update_mask: Some(mask) };
    let updated = client.update(request.clone()).await.unwrap().into_inner().info.unwrap();
    assert_eq!(updated.labels, labels(&[("containerd.io/gc.ref.content.l.0", "x")]));
    let mask = Some(FieldMask { paths: vec!["size".into()] });
    let request = api::UpdateRequest { update_mask: mask, ..request };
    assert_eq!(client.update(request).await.unwrap_err().code(), Code::InvalidArgument);

    let list = api::ListContentRequest { filters: vec![format!("digest=={digest}")] };
    let mut found = client.list(list).await.unwrap().into_inner();
    assert_eq!(found.message().await.unwrap().unwrap().info.len(), 1);
    client.delete(api::DeleteContentRequest { digest: digest.clone() }).await.unwrap();
    let err = client.info(api::InfoRequest { digest: digest.clone() }).await.unwrap_err();
    assert_eq!(err.message(), format!("content digest {digest}: not found"));
}
