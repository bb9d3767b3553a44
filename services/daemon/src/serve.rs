//! From start to end: open, recover, listen, serve, stop.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_core::faults;
use gantry_events::ttrpc::Forwarder;
use gantry_grpc::containerd::services::{
    containers::v1::containers_server::ContainersServer,
    content::v1::content_server::ContentServer, diff::v1::diff_server::DiffServer,
    events::v1::events_server::EventsServer, images::v1::images_server::ImagesServer,
    introspection::v1::introspection_server::IntrospectionServer,
    leases::v1::leases_server::LeasesServer, mounts::v1::mounts_server::MountsServer,
    namespaces::v1::namespaces_server::NamespacesServer,
    sandbox::v1::controller_server::ControllerServer, sandbox::v1::store_server::StoreServer,
    snapshots::v1::snapshots_server::SnapshotsServer,
    streaming::v1::streaming_server::StreamingServer, tasks::v1::tasks_server::TasksServer,
    transfer::v1::transfer_server::TransferServer, version::v1::version_server::VersionServer,
};
use gantry_grpc::gantry::engine::v1 as engine;
use gantry_grpc::layer::RequestLayer;
use gantry_grpc::{FILE_DESCRIPTOR_SET, MAX_MESSAGE};
use gantry_ttrpc::containerd::services::events::ttrpc::v1 as shim_events;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::Environment;
use crate::config::Config;
use crate::doors::{Doors, Incoming};
use crate::introspection::Introspection;
use crate::notify::Notify;
use crate::socket::{self, Owner};
use crate::wiring::{self, Services};

/// How long clients get to finish their calls once the daemon is to stop.
const GRACE: Duration = Duration::from_secs(2);
/// A client on another machine that says nothing for so long is asked, and given up when it says
/// nothing for so long again.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes that a peer may send on one stream before it waits for us.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Runs the daemon until it is told to stop.
pub(crate) async fn run(config: Config, environment: Environment) -> Result<()> {
    let notify = Notify::new(environment.notify_socket.as_deref());
    let mut stop = Stop::new()?;
    let services = wiring::open(&config, &environment).await?;
    // Shims that waited for a daemon speak as soon as this listens.
    let events = socket::bind(&config.ttrpc_address(), Owner::default())?;
    let (stopping, stopped) = watch::channel(false);
    let forwarding = tokio::spawn(take_events(events, forwarder(&services), stopped.clone()));
    services.volumes.recover().await.context("recover volumes")?;
    services.tasks.recover().await.context("recover tasks")?;
    services.engine.recover().await.context("recover containers")?;
    let collecting = {
        let (collector, stopped) = (Arc::clone(&services.collector), stopped.clone());
        tokio::spawn(async move { collector.run(stopped).await })
    };

    let address = &config.grpc.address;
    let doors = Doors::open(&config).await?;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let routes = routes(&config, &services)?.add_service(health_service);
    services.journal.open_to_clients();
    let mut serving = tokio::spawn(serve(routes, doors.local, doors.remote, stopped));
    tracing::info!(address = %address.display(), root = %config.root.display(), "serving");
    notify.send("READY=1");

    tokio::select! {
        () = stop.wait() => {}
        result = &mut serving => {
            result.context("the gRPC server failed")?.context("the gRPC server failed")?;
            anyhow::bail!("the gRPC server ended by itself");
        }
    }
    tracing::info!("stopping; containers run on");
    notify.send("STOPPING=1");
    stopping.send_replace(true);
    // Streams such as event subscriptions never end by themselves.
    if tokio::time::timeout(GRACE, &mut serving).await.is_err() {
        serving.abort();
    }
    forwarding.abort();
    // The last events are to be stored; failing that, nobody would have seen them.
    let _ = tokio::time::timeout(GRACE, services.history.cursor()).await;
    // One that has removed records lets their files go.
    let _ = tokio::time::timeout(GRACE, collecting).await;
    for path in doors.sockets.iter().chain([&config.ttrpc_address()]) {
        let _ = faults::around("remove a socket", || std::fs::remove_file(path));
    }
    Ok(())
}

/// Serves clients on this machine, and those on others, who are asked for a sign of life when
/// they are silent: a cable that was cut says nothing.
async fn serve(
    routes: Routes,
    local: Incoming,
    remote: Option<Incoming>,
    stopped: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let server = || {
        Server::builder()
            .layer(RequestLayer)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
    };
    let far = remote.map(|incoming| {
        server()
            .http2_keepalive_interval(Some(SILENCE))
            .http2_keepalive_timeout(Some(SILENCE))
            .add_routes(routes.clone())
            .serve_with_incoming_shutdown(incoming, ended(stopped.clone()))
    });
    let near =
        server().add_routes(routes).serve_with_incoming_shutdown(local, ended(stopped.clone()));
    let far = async {
        match far {
            Some(far) => far.await,
            None => Ok(()),
        }
    };
    tokio::try_join!(near, far).map(|((), ())| ())
}

/// All services but health, each with room for large messages.
fn routes(config: &Config, services: &Services) -> Result<Routes> {
    macro_rules! server {
        ($server:ty, $service:expr) => {
            <$server>::new($service)
                .max_decoding_message_size(MAX_MESSAGE)
                .max_encoding_message_size(MAX_MESSAGE)
        };
    }
    let introspection = Introspection::new(
        services.uuid.clone(),
        wiring::parts(config),
        Arc::clone(&services.tasks),
    );
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let s = services;
    Ok(Routes::default()
        .add_service(server!(
            ContentServer<_>,
            gantry_content::grpc::ContentServer::new(Arc::clone(&s.content))
        ))
        .add_service(server!(
            SnapshotsServer<_>,
            gantry_snapshots::grpc::Service::new(s.snapshotters.clone())
        ))
        .add_service(server!(
            MountsServer<_>,
            gantry_mounts::grpc::Service::new(Arc::clone(&s.mounts))
        ))
        .add_service(server!(
            DiffServer<_>,
            gantry_diff::grpc::Service::new(
                Arc::clone(&s.applier),
                Arc::clone(&s.content),
                Arc::clone(&s.differ)
            )
        ))
        .add_service(server!(
            EventsServer<_>,
            gantry_events::grpc::EventsServer::new(Arc::clone(&s.events))
        ))
        .add_service(server!(
            ImagesServer<_>,
            gantry_metadata::grpc::ImagesServer::new(
                Arc::clone(&s.images),
                Arc::clone(&s.collector) as _
            )
        ))
        .add_service(server!(
            ContainersServer<_>,
            gantry_metadata::grpc::ContainersServer::new(Arc::clone(&s.containers))
        ))
        .add_service(server!(
            NamespacesServer<_>,
            gantry_metadata::grpc::NamespacesServer::new(Arc::clone(&s.namespaces))
        ))
        .add_service(server!(
            StreamingServer<_>,
            gantry_images::grpc::StreamingServer::new(s.streams.clone())
        ))
        .add_service(server!(
            TransferServer<_>,
            gantry_images::grpc::TransferServer::new(Arc::clone(&s.transfer))
        ))
        .add_service(server!(
            StoreServer<_>,
            gantry_metadata::grpc::SandboxStoreServer::new(Arc::clone(&s.sandboxes))
        ))
        .add_service(server!(
            ControllerServer<_>,
            gantry_tasks::sandbox::grpc::ControllerService::new(Arc::clone(&s.tasks) as _)
        ))
        .add_service(server!(
            LeasesServer<_>,
            gantry_metadata::grpc::LeasesServer::new(
                Arc::clone(&s.leases),
                Arc::clone(&s.collector) as _
            )
        ))
        .add_service(server!(
            TasksServer<_>,
            gantry_tasks::grpc::TasksService::new(Arc::clone(&s.tasks) as _)
        ))
        .add_service(server!(IntrospectionServer<_>, introspection.clone()))
        .add_service(server!(VersionServer<_>, introspection))
        .add_service(server!(
            engine::events_server::EventsServer<_>,
            gantry_events::grpc::engine::HistoryServer::new(
                Arc::clone(&s.history),
                gantry_core::Namespace::new(gantry_engine::grpc::DEFAULT_NAMESPACE)?
            )
        ))
        .add_service(server!(
            engine::containers_server::ContainersServer<_>,
            gantry_engine::grpc::Containers::new(Arc::clone(&s.engine))
        ))
        .add_service(server!(
            engine::images_server::ImagesServer<_>,
            gantry_engine::grpc::Images::new(Arc::clone(&s.engine))
        ))
        .add_service(server!(
            engine::system_server::SystemServer<_>,
            gantry_engine::grpc::System::new(Arc::clone(&s.engine))
        ))
        .add_service(server!(
            engine::networks_server::NetworksServer<_>,
            gantry_engine::grpc::Networks::new(Arc::clone(&s.engine))
        ))
        .add_service(server!(
            engine::volumes_server::VolumesServer<_>,
            gantry_engine::grpc::Volumes::new(Arc::clone(&s.engine))
        ))
        .add_service(reflection().build_v1().context("gRPC reflection")?)
        .add_service(reflection().build_v1alpha().context("gRPC reflection")?))
}

fn forwarder(services: &Services) -> Forwarder {
    Forwarder::new(Arc::clone(&services.events), Arc::clone(&services.history))
}

/// Takes events of shims until the daemon stops.
async fn take_events(listener: UnixListener, forwarder: Forwarder, stopped: watch::Receiver<bool>) {
    let server = shim_events::EventsServer(Arc::new(forwarder));
    if let Err(err) = gantry_ttrpc::serve(listener, server, ended(stopped)).await {
        tracing::error!(%err, "events of shims are no longer taken");
    }
}

async fn ended(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone: that is an end as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// The signals that end the daemon.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("listen for SIGINT")?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
