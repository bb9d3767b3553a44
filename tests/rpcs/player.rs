//! A client that calls any rpc with any bytes, and notes what comes of it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gantry_tests::endpoint;
use prost::Message;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const FACTS: &str = include_str!("../wire/containerd.tsv");
/// An answer that takes longer does not come by itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// Not a name, digest, key or ID of anything.
pub(super) const BAD: &str = "in valid/..";
pub(super) const NONE: &str = "none";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// A call as clients make it.
    Valid,
    /// The same without a namespace.
    Nowhere,
    /// For something that is not there.
    Unknown,
    /// With something that can't be.
    Bad,
}

impl What {
    /// The kind of the answer where nobody else is to be asked.
    pub(super) fn code(self) -> Code {
        match self {
            What::Valid => Code::Ok,
            What::Nowhere => Code::FailedPrecondition,
            What::Unknown => Code::NotFound,
            What::Bad => Code::InvalidArgument,
        }
    }
}

/// Full paths by `Service/Method`.
pub(super) fn paths() -> BTreeMap<String, String> {
    let rpcs = FACTS.lines().filter_map(|l| l.strip_prefix("rpc\t"));
    let path = |line: &str| {
        let mut fields = line.split('\t');
        let (service, method) = (fields.next()?, fields.next()?);
        let short = service.rsplit('.').next()?;
        Some((format!("{short}/{method}"), format!("/{service}/{method}")))
    };
    rpcs.filter_map(path).collect()
}

/// Messages as bytes.
#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        prost::bytes::BufMut::put(to, item.as_slice());
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;
    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let all = prost::bytes::Buf::remaining(from);
        Ok(Some(prost::bytes::Buf::copy_to_bytes(from, all).to_vec()))
    }
}

pub(super) type Seen = BTreeMap<(String, What), Vec<(Code, String)>>;

pub(super) struct Player {
    channel: Channel,
    pub(super) namespace: String,
    paths: BTreeMap<String, String>,
    pub(super) seen: Seen,
}

impl Player {
    pub(super) async fn connect(address: PathBuf, namespace: &str) -> Self {
        let channel = endpoint(&address).connect().await.expect("connect");
        Self { channel, namespace: namespace.into(), paths: paths(), seen: Seen::new() }
    }

    /// Calls, and returns the messages of the answer.
    pub(super) async fn call(
        &self,
        rpc: &str,
        messages: Vec<Vec<u8>>,
        namespace: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, Status> {
        let path = self.paths.get(rpc).unwrap_or_else(|| panic!("{rpc} is no rpc"));
        let mut request = Request::new(tokio_stream::iter(messages));
        if let Some(namespace) = namespace {
            let value = namespace.parse().expect("a header");
            request.metadata_mut().insert("containerd-namespace", value);
        }
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the server is there");
        let path = PathAndQuery::try_from(path.as_str()).expect("a path");
        let work = async {
            let mut answers = grpc.streaming(request, path, Bytes).await?.into_inner();
            let mut all = Vec::new();
            while let Some(message) = answers.message().await? {
                all.push(message);
            }
            Ok(all)
        };
        // What goes on was accepted.
        tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    pub(super) async fn note(
        &mut self,
        rpc: &str,
        what: What,
        messages: Vec<Vec<u8>>,
        namespace: Option<&str>,
    ) -> Vec<Vec<u8>> {
        let answer = self.call(rpc, messages, namespace).await;
        let (code, text, messages) = match answer {
            Ok(messages) => (Code::Ok, String::new(), messages),
            Err(status) => (status.code(), status.message().to_owned(), Vec::new()),
        };
        self.seen.entry((rpc.to_owned(), what)).or_default().push((code, text));
        messages
    }

    pub(super) async fn valid_all(&mut self, rpc: &str, messages: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        self.note(rpc, What::Nowhere, messages.clone(), None).await;
        let namespace = self.namespace.clone();
        self.note(rpc, What::Valid, messages, Some(&namespace)).await
    }

    pub(super) async fn valid<R: Message + Default>(
        &mut self,
        rpc: &str,
        request: impl Message,
    ) -> R {
        let answers = self.valid_all(rpc, vec![request.encode_to_vec()]).await;
        let first = answers.into_iter().next().unwrap_or_default();
        R::decode(first.as_slice()).expect("an answer of this type")
    }

    pub(super) async fn wrong(&mut self, rpc: &str, what: What, request: impl Message) {
        let namespace = self.namespace.clone();
        self.note(rpc, what, vec![request.encode_to_vec()], Some(&namespace)).await;
    }

    /// For what is not there, and for what can't be.
    pub(super) async fn missing<M: Message>(&mut self, rpc: &str, request: impl Fn(&str) -> M) {
        self.wrong(rpc, What::Unknown, request(NONE)).await;
        self.wrong(rpc, What::Bad, request(BAD)).await;
    }
}
