//! The stream of a write: STAT, WRITE and COMMIT of one ingest.

use std::sync::Arc;

use futures::{Stream, stream};
use gantry_core::content::{ContentStore, Writer};
use gantry_core::{Context, Digest, Error, Result};
use gantry_grpc::containerd::services::content::v1 as api;
use gantry_grpc::{convert, status};
use tonic::{Status, Streaming};

use super::size;

/// One client's stream. Each message gets one reply; the stream ends with
/// the reply to COMMIT, with an error, or with the client's side of it.
pub(super) struct Session {
    store: Arc<dyn ContentStore>,
    ctx: Context,
    requests: Streaming<api::WriteContentRequest>,
    open: Option<Open>,
    committed: bool,
}

/// What the messages so far have said.
struct Open {
    reference: String,
    writer: Box<dyn Writer>,
    /// The latest word on it; 0 means none.
    total: u64,
    expected: Option<Digest>,
}

impl Session {
    pub(super) fn new(
        store: Arc<dyn ContentStore>,
        ctx: Context,
        requests: Streaming<api::WriteContentRequest>,
    ) -> Self {
        Self { store, ctx, requests, open: None, committed: false }
    }

    /// Replies as the requests come in.
    pub(super) fn replies(
        self,
    ) -> impl Stream<Item = Result<api::WriteContentResponse, Status>> + Send {
        stream::try_unfold(self, |mut session| async move {
            if session.committed {
                return Ok(None);
            }
            let request = session.requests.message().await.map_err(status::inbound)?;
            let Some(request) = request else { return Ok(None) };
            let reply = session.step(request).await.map_err(status::to_wire)?;
            Ok(Some((reply, session)))
        })
    }

    async fn step(
        &mut self,
        request: api::WriteContentRequest,
    ) -> Result<api::WriteContentResponse> {
        let action = api::WriteAction::try_from(request.action).map_err(|_| {
            Error::invalid_argument(format!("unknown action {}: invalid argument", request.action))
        })?;
        let total = unsigned(request.total, "total")?;
        let offset = unsigned(request.offset, "offset")?;
        let expected = match request.expected.as_str() {
            "" => None,
            text => Some(Digest::parse(text).map_err(|err| err.context("expected digest"))?),
        };
        self.open(&request.r#ref, total, expected).await?;
        // It is there once the message before succeeded.
        let open = self.open.as_mut().ok_or_else(|| Error::internal("no ingest is open"))?;
        if action == api::WriteAction::Stat {
            return Ok(open.reply(action));
        }
        // A COMMIT without data and offset speaks of what is there.
        if offset > 0 || !request.data.is_empty() {
            open.seek(offset).await?;
        }
        open.writer.write(request.data).await?;
        if action == api::WriteAction::Commit {
            let size = (open.total > 0).then_some(open.total);
            open.writer.commit(size, open.expected.as_ref(), request.labels).await?;
            self.committed = true;
        }
        Ok(open.reply(action))
    }

    /// Opens the ingest at the first message, and takes in what later ones
    /// say of it.
    async fn open(&mut self, reference: &str, total: u64, expected: Option<Digest>) -> Result<()> {
        let Some(open) = &mut self.open else {
            if reference.is_empty() {
                return Err(Error::invalid_argument(
                    "first message must have a reference: invalid argument",
                ));
            }
            let writer = self.store.writer(&self.ctx, reference, total, expected.as_ref()).await?;
            let reference = reference.to_owned();
            self.open = Some(Open { reference, writer, total, expected });
            return Ok(());
        };
        if !reference.is_empty() && reference != open.reference {
            return Err(Error::invalid_argument(format!(
                "a stream writes one ref, {}, not also {reference}: invalid argument",
                open.reference
            )));
        }
        if total > 0 {
            open.total = total;
        }
        if let Some(expected) = expected.filter(|e| open.expected.as_ref() != Some(e)) {
            // Told only now: the blob may be here already.
            if self.store.info(&self.ctx, &expected).await.is_ok() {
                let reference = open.reference.clone();
                self.open = None;
                self.store.abort(&self.ctx, &reference).await?;
                return Err(Error::already_exists(format!("content {expected}: already exists")));
            }
            open.expected = Some(expected);
        }
        Ok(())
    }
}

impl Open {
    /// Makes sure that data goes where the client means it to: at the end, or
    /// at the beginning once more.
    async fn seek(&mut self, offset: u64) -> Result<()> {
        let current = self.writer.status().offset;
        if offset == current {
            return Ok(());
        }
        if offset == 0 {
            return self.writer.truncate(0).await;
        }
        Err(Error::out_of_range(format!(
            "write @{offset} must occur at current offset {current}: out of range"
        )))
    }

    fn reply(&self, action: api::WriteAction) -> api::WriteContentResponse {
        let status = self.writer.status();
        api::WriteContentResponse {
            action: action.into(),
            started_at: Some(convert::timestamp(status.started_at)),
            updated_at: Some(convert::timestamp(status.updated_at)),
            offset: size(status.offset),
            total: size(if self.total > 0 { self.total } else { status.total }),
            digest: self.writer.digest().to_string(),
        }
    }
}

fn unsigned(value: i64, what: &str) -> Result<u64> {
    u64::try_from(value).map_err(|_| {
        Error::invalid_argument(format!("{what} {value} is negative: invalid argument"))
    })
}
