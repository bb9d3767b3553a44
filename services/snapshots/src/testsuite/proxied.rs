//! A proxy before our own native snapshotter, behind a socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::db::{Database, Durability, write_blocking};
use gantry_core::filter::Filters;
use gantry_core::snapshots::{Info, Kind, Snapshotter, Snapshotters};
use gantry_core::{Context, Kind as ErrorKind, Labels, Namespace};
use gantry_grpc::containerd::services::snapshots::v1 as api;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::{Fixture, Recorder, with_mounted};
use crate::store::{Backing, Committing, Store};
use crate::{Proxy, ProxyOptions, SNAPSHOT_REF};

type Service = crate::grpc::Service;

/// The program behind the socket.
pub(super) struct Program {
    /// What it keeps, past the wire. Keys of all namespaces are in one: `*`.
    native: Arc<dyn Snapshotter>,
    /// Targets that it has without being given them, with their parents.
    remote: Arc<Mutex<Vec<String>>>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    root: PathBuf,
}

/// As plain plugins are: without namespaces. Knows remote snapshots.
struct Plugin {
    inner: Service,
    remote: Arc<Mutex<Vec<String>>>,
    native: Arc<dyn Snapshotter>,
}

fn inside() -> Context {
    Context::new(Namespace::new("plugin").unwrap())
}

fn moved<T>(mut request: Request<T>) -> Request<T> {
    assert!(request.metadata().contains_key("containerd-namespace"));
    assert!(!request.metadata().contains_key("containerd-lease"));
    request.metadata_mut().insert("containerd-namespace", "plugin".parse().unwrap());
    request
}

#[tonic::async_trait]
impl api::snapshots_server::Snapshots for Plugin {
    async fn prepare(
        &self,
        request: Request<api::PrepareSnapshotRequest>,
    ) -> Result<Response<api::PrepareSnapshotResponse>, Status> {
        let asked = request.get_ref();
        let target = asked.labels.get(SNAPSHOT_REF).cloned().unwrap_or_default();
        if !self.remote.lock().unwrap().contains(&target) {
            return self.inner.prepare(moved(request)).await;
        }
        let parent = Some(asked.parent.clone()).filter(|parent| !parent.is_empty());
        let (key, labels) = (asked.key.clone(), asked.labels.clone());
        let made = async {
            let (ctx, parent) = (inside(), parent.as_deref());
            // Its own snapshotter knows labels of targets as well; it is not asked so.
            self.native.prepare(&ctx, &key, parent, Labels::new()).await?;
            self.native.commit(&ctx, &target, &key, labels, None).await
        };
        match made.await {
            // The prepared one stays then.
            Err(err) if !err.is_already_exists() => return Err(gantry_grpc::status::to_wire(err)),
            _ => {}
        }
        Err(Status::already_exists("it is there: already exists"))
    }

    async fn view(
        &self,
        request: Request<api::ViewSnapshotRequest>,
    ) -> Result<Response<api::ViewSnapshotResponse>, Status> {
        self.inner.view(moved(request)).await
    }

    async fn mounts(
        &self,
        request: Request<api::MountsRequest>,
    ) -> Result<Response<api::MountsResponse>, Status> {
        self.inner.mounts(moved(request)).await
    }

    async fn commit(
        &self,
        request: Request<api::CommitSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        self.inner.commit(moved(request)).await
    }

    async fn remove(
        &self,
        request: Request<api::RemoveSnapshotRequest>,
    ) -> Result<Response<()>, Status> {
        self.inner.remove(moved(request)).await
    }

    async fn stat(
        &self,
        request: Request<api::StatSnapshotRequest>,
    ) -> Result<Response<api::StatSnapshotResponse>, Status> {
        self.inner.stat(moved(request)).await
    }

    async fn update(
        &self,
        request: Request<api::UpdateSnapshotRequest>,
    ) -> Result<Response<api::UpdateSnapshotResponse>, Status> {
        self.inner.update(moved(request)).await
    }

    type ListStream = <Service as api::snapshots_server::Snapshots>::ListStream;

    async fn list(
        &self,
        request: Request<api::ListSnapshotsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        self.inner.list(moved(request)).await
    }

    async fn usage(
        &self,
        request: Request<api::UsageRequest>,
    ) -> Result<Response<api::UsageResponse>, Status> {
        self.inner.usage(moved(request)).await
    }

    async fn cleanup(&self, request: Request<api::CleanupRequest>) -> Result<Response<()>, Status> {
        self.inner.cleanup(moved(request)).await
    }
}

impl Program {
    pub(super) async fn start(root: &Path) -> Self {
        let db = Arc::new(MemoryDatabase::new());
        let events = Arc::new(Recorder::default());
        let options = crate::Options { root: root.to_owned(), db, events };
        let native = crate::open("native", options).await.unwrap();
        let mut program =
            Self { native, remote: Arc::default(), server: None, root: root.to_owned() };
        program.restart();
        program
    }

    fn restart(&mut self) {
        let by_name = [("theirs".to_owned(), Arc::clone(&self.native))].into();
        let inner = Service::new(Snapshotters { by_name, default: "theirs".into() });
        let (remote, native) = (Arc::clone(&self.remote), Arc::clone(&self.native));
        let service = api::snapshots_server::SnapshotsServer::new(Plugin { inner, remote, native });
        let _ = std::fs::remove_file(socket(&self.root));
        let listener = UnixListener::bind(socket(&self.root)).unwrap();
        let (stop, stopped) = oneshot::channel();
        let incoming = UnixListenerStream::new(listener);
        let serving = tokio::spawn(async move {
            let server = tonic::transport::Server::builder().add_service(service);
            let stopped = async { drop(stopped.await) };
            server.serve_with_incoming_shutdown(incoming, stopped).await.unwrap();
        });
        self.server = Some((stop, serving));
    }

    /// Ends it, with its connections.
    async fn kill(&mut self) {
        if let Some((stop, serving)) = self.server.take() {
            drop(stop);
            serving.await.unwrap();
        }
        let _ = std::fs::remove_file(socket(&self.root));
    }

    async fn names(&self) -> Vec<String> {
        let all = self.native.list(&inside(), &Filters::all()).await.unwrap();
        all.into_iter().map(|info| info.name).collect()
    }
}

fn socket(root: &Path) -> PathBuf {
    root.join("plugin.sock")
}

fn options(root: &Path, db: Arc<dyn Database>, events: Arc<Recorder>) -> ProxyOptions {
    let (name, theirs) = ("proxy".to_owned(), "theirs".to_owned());
    ProxyOptions { name, theirs, address: socket(root), late_parent: false, db, events }
}

pub(super) async fn open(root: &Path, db: Arc<dyn Database>, events: Arc<Recorder>) -> Proxy {
    Proxy::open(options(root, db, events)).await.unwrap()
}

fn target(name: &str) -> Labels {
    Labels::from([(SNAPSHOT_REF.to_owned(), name.to_owned())])
}

pub(super) async fn a_dead_program_is_named(mut f: Fixture) {
    f.layer("base", None, |_| ()).await;
    f.prepare("c", Some("base")).await.unwrap();
    let program = f.program.as_mut().unwrap();
    program.kill().await;
    for err in [
        f.snapshotter.mounts(&f.ctx, "c").await.unwrap_err(),
        f.snapshotter.stat(&f.ctx, "base").await.unwrap_err(),
        f.snapshotter.prepare(&f.ctx, "d", Some("base"), Labels::new()).await.unwrap_err(),
        f.snapshotter.commit(&f.ctx, "top", "c", Labels::new(), None).await.unwrap_err(),
        f.snapshotter.cleanup().await.unwrap_err(),
    ] {
        assert_eq!(err.kind(), ErrorKind::Unavailable, "{err}");
        assert!(err.to_string().contains("snapshotter proxy at /"), "{err}");
    }
    assert_eq!(f.names().await, ["base", "c"]);
    f.snapshotter.remove(&f.ctx, "c").await.unwrap();
    f.program.as_mut().unwrap().restart();
    f.snapshotter.stat(&f.ctx, "base").await.unwrap();
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(f.program.as_ref().unwrap().names().await.len(), 1);
}

/// A crash between the program's answer and the record, and one between the removal of
/// the record and the program's, look the same.
pub(super) async fn what_has_no_record_goes(mut f: Fixture) {
    f.layer("base", None, |_| ()).await;
    let native = Arc::clone(&f.program.as_ref().unwrap().native);
    let ctx = inside();
    native.prepare(&ctx, "testing/900/low", None, Labels::new()).await.unwrap();
    native.commit(&ctx, "testing/901/low", "testing/900/low", Labels::new(), None).await.unwrap();
    for key in ["testing/902/high", "elsewhere/1/x", "somebody's"] {
        native.prepare(&ctx, key, Some("testing/901/low"), Labels::new()).await.unwrap();
    }
    for key in ["elsewhere/1/x", "somebody's"] {
        native.remove(&ctx, key).await.unwrap();
        native.prepare(&ctx, key, None, Labels::new()).await.unwrap();
    }
    f.reopen().await;
    f.snapshotter.cleanup().await.unwrap();
    let left = f.program.as_ref().unwrap().names().await;
    assert_eq!(left.len(), 3, "{left:?}");
    assert_eq!(left[0], "elsewhere/1/x");
    assert!(left[2].starts_with("testing/") && left[2].ends_with("/base"), "{left:?}");
}

pub(super) async fn a_commit_is_finished_after_a_crash(mut f: Fixture) {
    let mounts = f.prepare("a", None).await.unwrap();
    with_mounted(&mounts, |root| std::fs::write(root.join("x"), "1").unwrap());
    let native = Arc::clone(&f.program.as_ref().unwrap().native);
    let active = f.program.as_ref().unwrap().names().await.remove(0);
    let committing = Committing {
        backing: "testing/950/top".into(),
        name: "top".into(),
        parent: None,
        labels: Labels::from([("k".to_owned(), "v".to_owned())]),
        restores: false,
    };
    native.commit(&inside(), &committing.backing, &active, Labels::new(), None).await.unwrap();
    write_blocking(&f.db, Durability::Sync, &mut |tx| {
        let backing = Backing { name: active.clone(), committing: Some(committing.clone()) };
        Store { snapshotter: "proxy" }.back(tx, &f.ctx, "a", &backing)
    })
    .unwrap();
    f.reopen().await;
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(f.names().await, ["top"]);
    let info = f.snapshotter.stat(&f.ctx, "top").await.unwrap();
    assert_eq!((info.kind, info.labels["k"].as_str()), (Kind::Committed, "v"));
    let mounts = f.prepare("c", Some("top")).await.unwrap();
    with_mounted(&mounts, |root| assert!(root.join("x").exists()));
}

pub(super) async fn remote_snapshots_are_adopted(f: Fixture) {
    let program = f.program.as_ref().unwrap();
    program.remote.lock().unwrap().extend(["low".to_owned(), "top".to_owned()]);
    for (name, parent) in [("low", None), ("top", Some("low"))] {
        let mut labels = target(name);
        labels.insert("mine".into(), "1".into());
        let told = f.snapshotter.prepare(&f.ctx, "extract", parent, labels).await.unwrap_err();
        assert_eq!(told.kind(), ErrorKind::AlreadyExists, "{told}");
        assert!(told.to_string().contains(&format!("target snapshot {name:?}")), "{told}");
        let Info { kind, parent: of, labels, .. } = f.snapshotter.stat(&f.ctx, name).await.unwrap();
        assert_eq!((kind, of.as_deref(), labels["mine"].as_str()), (Kind::Committed, parent, "1"));
    }
    assert_eq!(f.names().await, ["low", "top"]);
    f.snapshotter.cleanup().await.unwrap();
    let mounts = f.prepare("c", Some("top")).await.unwrap();
    with_mounted(&mounts, |root| std::fs::write(root.join("x"), "1").unwrap());
    for name in ["c", "top", "low"] {
        f.snapshotter.remove(&f.ctx, name).await.unwrap();
    }
    f.snapshotter.cleanup().await.unwrap();
    assert_eq!(program.names().await, Vec::<String>::new());
}

/// What two namespaces have recorded goes with the later of them.
pub(super) async fn remote_snapshots_are_shared(f: Fixture) {
    f.prepare("a", None).await.unwrap();
    f.snapshotter.commit(&f.ctx, "low", "a", target("low"), None).await.unwrap();
    let program = f.program.as_ref().unwrap();
    let native = Arc::clone(&program.native);
    program.remote.lock().unwrap().push("low".to_owned());
    let other = Context::new(Namespace::new("other").unwrap());
    let told = f.snapshotter.prepare(&other, "b", None, target("low")).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::AlreadyExists, "{told}");
    f.snapshotter.remove(&f.ctx, "low").await.unwrap();
    f.snapshotter.cleanup().await.unwrap();
    f.snapshotter.view(&other, "v", Some("low"), Labels::new()).await.unwrap();
    for key in ["v", "low"] {
        f.snapshotter.remove(&other, key).await.unwrap();
    }
    f.snapshotter.cleanup().await.unwrap();
    assert!(native.list(&inside(), &Filters::all()).await.unwrap().is_empty());
}

/// The program has lost all that it kept; clients make it again from the bottom.
pub(super) async fn lost_files_are_healed(f: Fixture) {
    f.layer("base", None, |_| ()).await;
    f.layer("top", Some("base"), |_| ()).await;
    let program = f.program.as_ref().unwrap();
    let there = program.names().await;
    for name in there.iter().rev() {
        program.native.remove(&inside(), name).await.unwrap();
    }
    for name in ["base", "top"] {
        let err = f.snapshotter.stat(&f.ctx, name).await.unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound, "{err}");
    }
    program.remote.lock().unwrap().push("top".to_owned());
    f.snapshotter.prepare(&f.ctx, "a", None, target("base")).await.unwrap();
    f.commit("base", "a").await.unwrap();
    let told = f.snapshotter.prepare(&f.ctx, "b", Some("base"), target("top")).await.unwrap_err();
    assert_eq!(told.kind(), ErrorKind::AlreadyExists, "{told}");
    assert_eq!(f.names().await, ["base", "top"]);
    f.snapshotter.cleanup().await.unwrap();
    f.prepare("c", Some("top")).await.unwrap();
    f.prepare("d", Some("base")).await.unwrap();
    let again = f.commit("base", "d").await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists, "what is there is not replaced");
}

pub(super) async fn names_do_not_clash(f: Fixture) {
    for name in ["overlayfs", "native", "", "a/b", "a\x01b"] {
        let mut options = options(f.root.path(), f.db.shared(), Arc::clone(&f.events));
        options.name = name.to_owned();
        let err = Proxy::open(options).await.err().unwrap();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument, "{err}");
    }
}
