use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use gantry_core::{Error, Result as CoreResult};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::containers_server::Containers as Service;
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::status::to_detailed as to_wire;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{Answer, Answers, Containers, context_of, convert, files, look};
use crate::options::{Created, Session, SessionInput};
use crate::{ContainerFilter, Engine, Summary};

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
    type ExportStream = Answers<api::FileChunk>;
    type CopyFromStream = Answers<api::CopyFromResponse>;
    type LogsStream = Answers<api::LogEntry>;
    type StatsStream = Answers<api::StatsResponse>;

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
        let wanted = convert::attach(wire);
        serve(inbound, |session| async move { engine.attach(&ctx, wanted, session).await })
    }

    async fn create(
        &self,
        request: Request<api::CreateContainerRequest>,
    ) -> Answer<api::CreateContainerResponse> {
        let ctx = context_of(&request)?;
        let (options, pull, platform) = convert::create(request.into_inner())?;
        let engine = Arc::clone(&self.engine);
        // Goes with this call when its caller does.
        let (_caller, gone) = oneshot::channel::<()>();
        let gone = async move { drop(gone.await) };
        let made = finish(async move { engine.create(&ctx, options, pull, platform, gone).await });
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
        let wire = request.into_inner();
        let size = wire.size;
        let which = convert::listing(wire)?;
        let (found, cursor) = self.engine.list_at(&ctx, &which).await.map_err(to_wire)?;
        let sizes = match size {
            true => self.engine.container_sizes(&ctx, &found).await.map_err(to_wire)?,
            false => HashMap::new(),
        };
        let container = |summary: Summary| {
            let size = sizes.get(&summary.id).copied();
            look::sized(convert::container(summary), size)
        };
        let containers = found.into_iter().map(container).collect();
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
        let wire = request.into_inner();
        let (summary, json) = self.engine.inspect(&ctx, &wire.container).await.map_err(to_wire)?;
        if !wire.size {
            let container = Some(convert::container(summary));
            return Ok(Response::new(api::InspectContainerResponse { container, json }));
        }
        let one = std::slice::from_ref(&summary);
        let sizes = self.engine.container_sizes(&ctx, one).await.map_err(to_wire)?;
        let size = sizes.get(&summary.id).copied();
        let json = match size {
            Some(size) => look::sized_json(json, size),
            None => json,
        };
        let container = Some(look::sized(convert::container(summary), size));
        Ok(Response::new(api::InspectContainerResponse { container, json }))
    }

    async fn stats(&self, request: Request<api::StatsRequest>) -> Answer<Self::StatsStream> {
        let ctx = context_of(&request)?;
        let wanted = look::stats_request(request.into_inner())?;
        let stats = self.engine.stats(&ctx, wanted).await.map_err(to_wire)?;
        let stats = stats.map(|stats| stats.map(look::stats).map_err(to_wire));
        Ok(Response::new(Box::pin(stats)))
    }

    async fn logs(&self, request: Request<api::LogsRequest>) -> Answer<Self::LogsStream> {
        let ctx = context_of(&request)?;
        let (text, wanted) = convert::logs(request.into_inner())?;
        let (output, entries) = mpsc::channel(QUEUE);
        let engine = Arc::clone(&self.engine);
        let work = tokio::spawn(async move { engine.logs(&ctx, &text, wanted, output).await });
        let failure = stream::once(async move {
            let err = match work.await {
                Ok(Ok(())) => return None,
                Ok(Err(err)) => err,
                Err(err) if err.is_cancelled() => Error::unavailable("the daemon ends"),
                Err(_) => Error::internal("reading the log failed unexpectedly"),
            };
            Some(Err(to_wire(err)))
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
        let timeout = grace(wire.timeout);
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
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.kill(&ctx, &wire.container, &wire.signal).await }).await?;
        Ok(Response::new(api::KillContainerResponse {}))
    }

    async fn remove(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Answer<api::RemoveContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let engine = Arc::clone(&self.engine);
        let api::RemoveContainerRequest { container, force, volumes } = wire;
        // Goes with this call when its caller does.
        let (caller, _here) = oneshot::channel::<()>();
        finish(async move {
            let wanted = || !caller.is_closed();
            engine.remove_while(&ctx, &container, force, volumes, &wanted).await
        })
        .await?;
        Ok(Response::new(api::RemoveContainerResponse {}))
    }

    async fn wait(
        &self,
        request: Request<api::WaitContainerRequest>,
    ) -> Answer<api::WaitContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let until = convert::until(wire.condition)?;
        let status = self.engine.wait(&ctx, &wire.container, until).await.map_err(to_wire)?;
        Ok(Response::new(api::WaitContainerResponse { status }))
    }

    async fn restart(
        &self,
        request: Request<api::RestartContainerRequest>,
    ) -> Answer<api::RestartContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let timeout = grace(wire.timeout);
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.restart(&ctx, &wire.container, &wire.signal, timeout).await })
            .await?;
        Ok(Response::new(api::RestartContainerResponse {}))
    }

    async fn pause(
        &self,
        request: Request<api::PauseContainerRequest>,
    ) -> Answer<api::PauseContainerResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        self.engine.pause(&ctx, &text).await.map_err(to_wire)?;
        Ok(Response::new(api::PauseContainerResponse {}))
    }

    async fn unpause(
        &self,
        request: Request<api::UnpauseContainerRequest>,
    ) -> Answer<api::UnpauseContainerResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        self.engine.unpause(&ctx, &text).await.map_err(to_wire)?;
        Ok(Response::new(api::UnpauseContainerResponse {}))
    }

    async fn rename(
        &self,
        request: Request<api::RenameContainerRequest>,
    ) -> Answer<api::RenameContainerResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        self.engine.rename(&ctx, &wire.container, &wire.name).await.map_err(to_wire)?;
        Ok(Response::new(api::RenameContainerResponse {}))
    }

    async fn update(
        &self,
        request: Request<api::UpdateContainerRequest>,
    ) -> Answer<api::UpdateContainerResponse> {
        let ctx = context_of(&request)?;
        let (text, change) = convert::update(request.into_inner())?;
        let engine = Arc::clone(&self.engine);
        let warnings = finish(async move { engine.update(&ctx, &text, change).await }).await?;
        Ok(Response::new(api::UpdateContainerResponse { warnings }))
    }

    async fn top(&self, request: Request<api::TopRequest>) -> Answer<api::TopResponse> {
        let ctx = context_of(&request)?;
        let wire = request.into_inner();
        let found = self.engine.top(&ctx, &wire.container, &wire.ps_args).await.map_err(to_wire)?;
        let row = |values| api::top_response::Process { values };
        let processes = found.rows.into_iter().map(row).collect();
        Ok(Response::new(api::TopResponse { titles: found.titles, processes }))
    }

    async fn prune(
        &self,
        request: Request<api::PruneContainersRequest>,
    ) -> Answer<api::PruneContainersResponse> {
        let ctx = context_of(&request)?;
        let filter = ContainerFilter::prune(&request.into_inner().filters).map_err(to_wire)?;
        let engine = Arc::clone(&self.engine);
        let pruned = finish(async move { engine.prune(&ctx, &filter).await }).await?;
        let (removed, reclaimed) = pruned;
        Ok(Response::new(api::PruneContainersResponse { removed, reclaimed }))
    }

    async fn changes(
        &self,
        request: Request<api::FileChangesRequest>,
    ) -> Answer<api::FileChangesResponse> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        let engine = Arc::clone(&self.engine);
        let changes = finish(async move { engine.file_changes(&ctx, &text).await }).await?;
        Ok(Response::new(files::changes(changes)))
    }

    async fn export(
        &self,
        request: Request<api::ExportContainerRequest>,
    ) -> Answer<Self::ExportStream> {
        let ctx = context_of(&request)?;
        let text = request.into_inner().container;
        let archive = self.engine.export(&ctx, &text).await.map_err(to_wire)?;
        Ok(Response::new(files::chunks(archive)))
    }

    async fn stat(&self, request: Request<api::StatPathRequest>) -> Answer<api::StatPathResponse> {
        let ctx = context_of(&request)?;
        let api::StatPathRequest { container, path } = request.into_inner();
        let stat = self.engine.stat_path(&ctx, &container, &path).await.map_err(to_wire)?;
        Ok(Response::new(api::StatPathResponse { stat: Some(files::path_stat(stat)) }))
    }

    async fn copy_from(
        &self,
        request: Request<api::CopyFromRequest>,
    ) -> Answer<Self::CopyFromStream> {
        let ctx = context_of(&request)?;
        let wanted = files::copy_from(request.into_inner());
        let (stat, archive) = self.engine.copy_from(&ctx, wanted).await.map_err(to_wire)?;
        Ok(Response::new(files::sent(stat, archive)))
    }

    async fn copy_to(
        &self,
        request: Request<Streaming<api::CopyToRequest>>,
    ) -> Answer<api::CopyToResponse> {
        let ctx = context_of(&request)?;
        let (target, archive) = files::taken(request.into_inner()).await?;
        let engine = Arc::clone(&self.engine);
        finish(async move { engine.copy_to(&ctx, target, archive).await }).await?;
        Ok(Response::new(api::CopyToResponse {}))
    }
}

/// How long a container may take to stop: never killed when the number is negative.
fn grace(seconds: Option<i32>) -> Option<Option<Duration>> {
    seconds.map(|seconds| u64::try_from(seconds).ok().map(Duration::from_secs))
}

/// Runs what must not stop half-way, even when the caller goes away.
pub(super) async fn finish<F, R>(work: F) -> Result<R, Status>
where
    F: Future<Output = CoreResult<R>> + Send + 'static,
    R: Send + 'static,
{
    match tokio::spawn(work.in_current_span()).await {
        Ok(done) => done.map_err(to_wire),
        Err(_) => Err(to_wire(Error::internal("the operation failed unexpectedly"))),
    }
}
