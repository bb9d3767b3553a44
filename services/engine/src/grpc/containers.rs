use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use gantry_core::{Error, Result as CoreResult};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::containers_server::Containers as Service;
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::status::to_detailed as to_wire;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{Answer, Answers, Containers, context_of, convert};
use crate::Engine;
use crate::options::{Created, Session, SessionInput};

/// Messages on their way in either direction of a session: enough to keep
/// both ends busy, few enough to slow down whoever is ahead.
const QUEUE: usize = 32;

/// The first message of a session, and the session behind it.
async fn open(inbound: &mut Streaming<api::SessionInput>, rpc: &str) -> Result<Input, Status> {
    let first = inbound.message().await?.and_then(|message| message.input);
    first.ok_or_else(|| convert::invalid(format!("{rpc}: the first message says nothing")))
}

fn unexpected(rpc: &str) -> Status {
    convert::invalid(format!("{rpc}: the first message belongs to another method"))
}

/// Runs a session: `work` in a task of its own, which outlives a caller that
/// goes away. Its failure is the stream's last item.
fn serve<F>(
    mut inbound: Streaming<api::SessionInput>,
    work: impl FnOnce(Session) -> F,
) -> Answer<Answers<api::SessionOutput>>
where
    F: Future<Output = CoreResult<()>> + Send + 'static,
{
    let (to_engine, input) = mpsc::channel::<SessionInput>(QUEUE);
    let (output, from_engine) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        // An error is the caller's end.
        while let Ok(Some(message)) = inbound.message().await {
            let Some(input) = convert::input(message) else { continue };
            if to_engine.send(input).await.is_err() {
                return;
            }
        }
    });
    let work = tokio::spawn(work(Session { input, output }).in_current_span());
    let failure = stream::once(async move {
        match work.await {
            Ok(Ok(())) => None,
            Ok(Err(err)) => Some(Err(to_wire(err))),
            Err(_) => Some(Err(to_wire(Error::internal("the session failed unexpectedly")))),
        }
    });
    let outputs = ReceiverStream::new(from_engine).map(|output| Ok(convert::output(output)));
    let all = outputs.chain(failure.filter_map(futures::future::ready));
    Ok(Response::new(Box::pin(all)))
}

#[tonic::async_trait]
impl Service for Containers {
    type RunStream = Answers<api::SessionOutput>;
    type ExecStream = Answers<api::SessionOutput>;
    type AttachStream = Answers<api::SessionOutput>;
    type WatchStream = Answers<api::ContainerChange>;
    type LogsStream = Answers<api::LogEntry>;

    async fn run(&self, request: Request<Streaming<api::SessionInput>>) -> Answer<Self::RunStream> {
        let ctx = context_of(&request)?;
        let mut inbound = request.into_inner();
        let Input::Run(wire) = open(&mut inbound, "Run").await? else {
            return Err(unexpected("Run"));
        };
        let wanted = convert::run(wire)?;
        let engine = Arc::clone(&self.engine);
        serve(inbound, |session| async move { engine.run(&ctx, wanted, session).await })
    }

    async fn exec(
        &self,
        request: Request<Streaming<api::SessionInput>>,
    ) -> Answer<Self::ExecStream> {
        let ctx = context_of(&request)?;
        let mut inbound = request.into_inner();
        let Input::Exec(wire) = open(&mut inbound, "Exec").await? else {
            return Err(unexpected("Exec"));
        };
        let wanted = convert::exec(wire);
        let engine = Arc::clone(&self.engine);
        serve(inbound, |session| async move { engine.exec(&ctx, wanted, session).await })
    }

    async fn attach(
        &self,
        request: Request<Streaming<api::SessionInput>>,
    ) -> Answer<Self::AttachStream> {
        let ctx = context_of(&request)?;
        let mut inbound = request.into_inner();
        let Input::Attach(wire) = open(&mut inbound, "Attach").await? else {
            return Err(unexpected("Attach"));
        };
        let engine = Arc::clone(&self.engine);
        let size = convert::size(wire.size);
        serve(inbound, |session| async move {
            engine.attach(&ctx, &wire.container, wire.attach_stdin, size, session).await
        })
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Answer<api::CreateContainerResponse> {
        let ctx = context_of(&request)?;
        let (options, pull, platform) = convert::create(request.into_inner())?;
        let engine = Arc::clone(&self.engine);
        let made = finish(async move { engine.create(&ctx, options, pull, platform).await });
        let Created { id, warnings, existing } = made.await?;
        Ok(Response::new(api::CreateContainerResponse { id, warnings, existing }))
    }

    async fn start(
        &self,
        request: Request<api::StartContainerRequest>,
    ) -> Answer<api::StartContainerResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        let engine = Arc::clone(&self.engine);
        finish(async move { Engine::start(&engine, &ctx, &text).await }).await?;
        Ok(Response::new(api::StartContainerResponse {}))
    }

    async fn list(
        &self,
        request: Request<api::ListContainersRequest>,
    ) -> Answer<api::ListContainersResponse> {
        let ctx = context_of(&request)?;
        let all = request.into_inner().all;
        let (found, cursor) = self.engine.list_at(&ctx, all).await.map_err(to_wire)?;
        let containers = found.into_iter().map(convert::container).collect();
        let cursor = cursor.map(|cursor| cursor.to_string()).unwrap_or_default();
        Ok(Response::new(api::ListContainersResponse { containers, cursor }))
    }

    async fn watch(
        &self,
        request: Request<api::WatchContainersRequest>,
    ) -> Answer<Self::WatchStream> {
        let ctx = context_of(&request)?;
        let cursor = request.into_inner().cursor;
        let cursor = if cursor.is_empty() { None } else { Some(cursor.parse().map_err(to_wire)?) };
        let changes = self.engine.changes(&ctx, cursor).await.map_err(to_wire)?;
        let changes = changes.map(|change| change.map(convert::change).map_err(to_wire));
        Ok(Response::new(Box::pin(changes)))
    }

    async fn inspect(
        &self,
        request: Request<api::InspectContainerRequest>,
    ) -> Answer<api::InspectContainerResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        let (summary, json) = self.engine.inspect(&ctx, &text).await.map_err(to_wire)?;
        let container = Some(convert::container(summary));
        Ok(Response::new(api::InspectContainerResponse { container, json }))
    }

    async fn logs(&self, request: Request<api::LogsRequest>) -> Answer<Self::LogsStream> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let tail = u64::try_from(wire.tail).ok();
        let (output, entries) = mpsc::channel(QUEUE);
        let engine = Arc::clone(&self.engine);
        let work = tokio::spawn(async move {
            engine.logs(&ctx, &wire.container, wire.follow, tail, output).await
        });
        let failure = stream::once(async move {
            match work.await {
                Ok(Ok(())) => None,
                Ok(Err(err)) => Some(Err(to_wire(err))),
                Err(_) => {
                    Some(Err(to_wire(Error::internal("reading the log failed unexpectedly"))))
                }
            }
        });
        let entries = ReceiverStream::new(entries).map(|entry| Ok(convert::log_entry(entry)));
        let all = entries.chain(failure.filter_map(futures::future::ready));
        Ok(Response::new(Box::pin(all)))
    }

    async fn stop(
        &self,
        request: Request<api::StopContainerRequest>,
    ) -> Answer<api::StopContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        // A negative number means: never.
        let timeout = wire.timeout.map(|t| u64::try_from(t).ok().map(Duration::from_secs));
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.stop(&ctx, &wire.container, &wire.signal, timeout).await })
            .await?;
        Ok(Response::new(api::StopContainerResponse {}))
    }

    async fn kill(
        &self,
        request: Request<api::KillContainerRequest>,
    ) -> Answer<api::KillContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        self.engine.kill(&ctx, &wire.container, &wire.signal).await.map_err(to_wire)?;
        Ok(Response::new(api::KillContainerResponse {}))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Answer<api::RemoveContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.remove(&ctx, &wire.container, wire.force).await }).await?;
        Ok(Response::new(api::RemoveContainerResponse {}))
    }

    async fn wait(
        &self,
        request: Request<api::WaitContainerRequest>,
    ) -> Answer<api::WaitContainerResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        let status = self.engine.wait(&ctx, &text).await.map_err(to_wire)?;
        Ok(Response::new(api::WaitContainerResponse { status }))
    }
}

/// Runs what must not stop half-way, even when the caller goes away.
async fn finish<F, R>(work: F) -> Result<R, Status>
where
    F: Future<Output = CoreResult<R>> + Send + 'static,
    R: Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done.map_err(to_wire),
        Err(_) => Err(to_wire(Error::internal("the operation failed unexpectedly"))),
    }
}
