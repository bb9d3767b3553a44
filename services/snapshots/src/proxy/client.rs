//! Calls of the program that keeps the snapshots.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use gantry_core::snapshots::{Info, Kind, Usage};
use gantry_core::{Error, Labels, Mount, Namespace, Result, faults};
use gantry_grpc::containerd::services::snapshots::v1 as api;
use gantry_grpc::containerd::types;
use gantry_grpc::context::Headers;
use gantry_grpc::{MAX_MESSAGE, convert, status};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use api::snapshots_client::SnapshotsClient;

/// A program that does not take a connection by then is not there.
const CONNECT: Duration = Duration::from_secs(5);
/// For what a program knows or changes at once.
const SHORT: Duration = Duration::from_secs(30);
/// For what may copy files or ask a registry.
const LONG: Duration = Duration::from_secs(300);
/// The most snapshots of one list.
const MAX_LIST: usize = 1 << 20;

/// Speaks to one program. Connects when it is first needed, and again after the program
/// was away.
///
/// A request carries the namespace, and never the lease: that is a record of this
/// daemon, of which no other program knows.
pub(crate) struct Client {
    /// As this daemon calls it.
    name: String,
    /// As the program calls it.
    theirs: String,
    address: PathBuf,
    channel: Channel,
}

type Connection = SnapshotsClient<InterceptedService<Channel, Headers>>;

impl Client {
    pub(crate) fn new(name: String, theirs: String, address: PathBuf) -> Self {
        let path = address.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://snapshotter")
            .connect_timeout(CONNECT)
            .connect_with_connector_lazy(connector);
        Self { name, theirs, address, channel }
    }

    fn to(&self, namespace: &Namespace) -> Connection {
        let service = InterceptedService::new(self.channel.clone(), Headers::new(namespace));
        SnapshotsClient::new(service)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    async fn within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T> {
        let who = || format!("snapshotter {} at {}", self.name, self.address.display());
        let call = faults::around_async("ask a snapshotter elsewhere", call);
        match tokio::time::timeout(limit, call).await {
            Ok(answer) => answer.map_err(|status| {
                // What the connection failed by is in the source; the program's own
                // answers have none.
                let lost = std::error::Error::source(&status).is_some();
                let err = status::from_wire(status).context(who());
                if lost { err.with_kind(gantry_core::Kind::Unavailable) } else { err }
            }),
            Err(_) => Err(Error::unavailable(format!("{} did not answer in {limit:?}", who()))),
        }
    }

    pub(crate) async fn stat(&self, namespace: &Namespace, key: &str) -> Result<Info> {
        let request =
            api::StatSnapshotRequest { snapshotter: self.theirs.clone(), key: key.to_owned() };
        let mut to = self.to(namespace);
        let answer = self.within(SHORT, to.stat(request)).await?.into_inner();
        Ok(info(answer.info.unwrap_or_default()))
    }

    /// Changes the labels that the paths name.
    pub(crate) async fn update(
        &self,
        namespace: &Namespace,
        key: &str,
        labels: Labels,
        paths: Vec<String>,
    ) -> Result<()> {
        let info = api::Info { name: key.to_owned(), labels, ..api::Info::default() };
        let request = api::UpdateSnapshotRequest {
            snapshotter: self.theirs.clone(),
            info: Some(info),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let mut to = self.to(namespace);
        self.within(SHORT, to.update(request)).await.map(drop)
    }

    pub(crate) async fn usage(&self, namespace: &Namespace, key: &str) -> Result<Usage> {
        let request = api::UsageRequest { snapshotter: self.theirs.clone(), key: key.to_owned() };
        let mut to = self.to(namespace);
        let answer = self.within(SHORT, to.usage(request)).await?.into_inner();
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Usage { inodes: number(answer.inodes), size: number(answer.size) })
    }

    pub(crate) async fn mounts(&self, namespace: &Namespace, key: &str) -> Result<Vec<Mount>> {
        let request = api::MountsRequest { snapshotter: self.theirs.clone(), key: key.to_owned() };
        let mut to = self.to(namespace);
        Ok(mounts(self.within(SHORT, to.mounts(request)).await?.into_inner().mounts))
    }

    /// Prepares an active snapshot, or a view.
    pub(crate) async fn make(
        &self,
        namespace: &Namespace,
        kind: Kind,
        (key, parent): (&str, &str),
        labels: Labels,
    ) -> Result<Vec<Mount>> {
        let (snapshotter, key, parent) = (self.theirs.clone(), key.to_owned(), parent.to_owned());
        let mut to = self.to(namespace);
        let made = if kind == Kind::View {
            let request = api::ViewSnapshotRequest { snapshotter, key, parent, labels };
            let made = async { to.view(request).await.map(|answer| answer.into_inner().mounts) };
            self.within(LONG, made).await?
        } else {
            let request = api::PrepareSnapshotRequest { snapshotter, key, parent, labels };
            let made = async { to.prepare(request).await.map(|answer| answer.into_inner().mounts) };
            self.within(LONG, made).await?
        };
        Ok(mounts(made))
    }

    /// Commits; `parent` only for a snapshot that was prepared without one.
    pub(crate) async fn commit(
        &self,
        namespace: &Namespace,
        (name, key): (&str, &str),
        labels: Labels,
        parent: Option<String>,
    ) -> Result<()> {
        let request = api::CommitSnapshotRequest {
            snapshotter: self.theirs.clone(),
            name: name.to_owned(),
            key: key.to_owned(),
            labels,
            parent: parent.unwrap_or_default(),
        };
        let mut to = self.to(namespace);
        self.within(LONG, to.commit(request)).await.map(drop)
    }

    pub(crate) async fn remove(&self, namespace: &Namespace, key: &str) -> Result<()> {
        let request =
            api::RemoveSnapshotRequest { snapshotter: self.theirs.clone(), key: key.to_owned() };
        let mut to = self.to(namespace);
        self.within(SHORT, to.remove(request)).await.map(drop)
    }

    pub(crate) async fn list(
        &self,
        namespace: &Namespace,
        filters: Vec<String>,
    ) -> Result<Vec<Info>> {
        let request = api::ListSnapshotsRequest { snapshotter: self.theirs.clone(), filters };
        let mut to = self.to(namespace);
        let all = async {
            let mut stream = to.list(request).await.map(Response::into_inner)?;
            let mut all = Vec::new();
            while let Some(some) = stream.message().await? {
                all.extend(some.info.into_iter().map(info));
                if all.len() > MAX_LIST {
                    return Err(Status::resource_exhausted("it lists too many snapshots"));
                }
            }
            Ok(all)
        };
        self.within(SHORT, all).await
    }

    pub(crate) async fn cleanup(&self, namespace: &Namespace) -> Result<()> {
        let request = api::CleanupRequest { snapshotter: self.theirs.clone() };
        let mut to = self.to(namespace);
        self.within(LONG, to.cleanup(request)).await.map(drop)
    }
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(Into::into).collect()
}

fn info(info: api::Info) -> Info {
    let kind = match info.kind() {
        api::Kind::Committed => Kind::Committed,
        api::Kind::View => Kind::View,
        api::Kind::Active | api::Kind::Unknown => Kind::Active,
    };
    Info {
        kind,
        parent: Some(info.parent).filter(|parent| !parent.is_empty()),
        name: info.name,
        created_at: convert::from_timestamp(info.created_at.as_ref()),
        updated_at: convert::from_timestamp(info.updated_at.as_ref()),
        labels: info.labels,
    }
}
