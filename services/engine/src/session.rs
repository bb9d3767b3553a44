//! The two directions of a session, between a caller and a shim.

use gantry_core::{Context, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;

use crate::Engine;
use crate::attach::{Attached, Frame, Input};
use crate::options::{Session, SessionInput, SessionOutput, Size};
use crate::signal;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With the process.
    Exit(u32),
    /// With the connection to the shim, which may have died.
    Lost,
    /// With the caller; the process runs on.
    CallerGone,
}

/// The process of a session.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) ctx: &'a Context,
    pub(crate) id: &'a str,
    pub(crate) exec_id: &'a str,
    /// Whether the caller's input goes to the process.
    pub(crate) stdin: bool,
    /// Whether its input ends with this caller: nobody else has any for it.
    pub(crate) sole: bool,
}

impl Target<'_> {
    /// Tells of the terminal's size, as Docker does: not of a further process'.
    async fn tell_resized(&self, size: Size) {
        if self.exec_id.is_empty() {
            let (height, width) = (size.rows.to_string(), size.columns.to_string());
            let told = [("height", height.as_str()), ("width", width.as_str())];
            self.engine.tell_of_id(self.ctx, Action::Resized, self.id, &told).await;
        }
    }

    /// Tells that the user left.
    async fn tell_detached(&self) {
        let Self { engine, ctx, id, exec_id, .. } = *self;
        if exec_id.is_empty() {
            engine.tell_of_id(ctx, Action::Detached, id, &[]).await;
        } else {
            engine.tell_of_id(ctx, Action::ExecDetached, id, &[("exec_id", exec_id)]).await;
        }
    }
}

/// Carries input and output until the process or the caller is gone.
pub(crate) async fn carry(target: Target<'_>, attached: Attached, session: &mut Session) -> Ended {
    let Attached { mut from, mut to } = attached;
    if let Some(size) = to.size() {
        target.tell_resized(size).await;
    }
    let output = session.output.clone();
    let outputs = async {
        loop {
            let message = match from.next().await {
                Ok(Some(Frame::Stdout(bytes))) => SessionOutput::Stdout(bytes),
                Ok(Some(Frame::Stderr(bytes))) => SessionOutput::Stderr(bytes),
                Ok(Some(Frame::Exit(status))) => return Ended::Exit(status),
                Ok(None) => return Ended::Lost,
                Err(err) => {
                    tracing::warn!(id = target.id, error = %err, "attached session");
                    return Ended::Lost;
                }
            };
            if output.send(message).await.is_err() {
                return Ended::CallerGone;
            }
        }
    };
    let inputs = async {
        while let Some(input) = session.input.recv().await {
            let leaves = matches!(input, SessionInput::Detach);
            if let Err(err) = forward(target, &mut to, input).await {
                tracing::debug!(id = target.id, error = %err, "input of an attached session");
            }
            if leaves {
                return;
            }
        }
        // The caller has said all: what remains is to listen.
        std::future::pending::<()>().await;
    };
    let ended = tokio::select! {
        ended = outputs => ended,
        () = inputs => Ended::CallerGone,
        () = session.output.closed() => Ended::CallerGone,
    };
    if ended == Ended::CallerGone && target.stdin && target.sole {
        let Target { engine, ctx, id, exec_id, .. } = target;
        if let Err(err) = engine.parts.tasks.close_stdin(ctx, id, exec_id).await {
            tracing::debug!(id, error = %err, "end the input of a caller who is gone");
        }
    }
    ended
}

async fn forward(target: Target<'_>, to: &mut Input, input: SessionInput) -> Result<()> {
    match input {
        SessionInput::Stdin(bytes) if target.stdin => to.stdin(&bytes).await,
        SessionInput::StdinEnd if target.stdin => to.stdin_end().await,
        SessionInput::Stdin(_) | SessionInput::StdinEnd => Ok(()),
        SessionInput::Resize(size) => {
            to.resize(size).await?;
            target.tell_resized(size).await;
            Ok(())
        }
        SessionInput::Signal(text) => {
            let signal = signal::parse(&text)?;
            let Target { engine, ctx, id, exec_id, .. } = target;
            engine.parts.tasks.kill(ctx, id, exec_id, signal, false).await
        }
        SessionInput::Detach => {
            target.tell_detached().await;
            Ok(())
        }
    }
}
