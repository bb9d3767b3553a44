//! The two directions of a session, between a caller and a shim.

use gantry_core::tasks::Tasks;
use gantry_core::{Context, Result};

use crate::attach::{Attached, Frame, Input};
use crate::options::{Session, SessionInput, SessionOutput};
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
    pub(crate) tasks: &'a dyn Tasks,
    pub(crate) ctx: &'a Context,
    pub(crate) id: &'a str,
    pub(crate) exec_id: &'a str,
    /// Whether the caller's input goes to the process.
    pub(crate) stdin: bool,
    /// Whether its input ends with this caller: nobody else has any for it.
    pub(crate) sole: bool,
}

/// Carries input and output until the process or the caller is gone.
pub(crate) async fn carry(target: Target<'_>, attached: Attached, session: &mut Session) -> Ended {
    let Attached { mut from, mut to } = attached;
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
            if let Err(err) = forward(target, &mut to, input).await {
                tracing::debug!(id = target.id, error = %err, "input of an attached session");
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
        let Target { tasks, ctx, id, exec_id, .. } = target;
        if let Err(err) = tasks.close_stdin(ctx, id, exec_id).await {
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
        SessionInput::Resize(size) => to.resize(size).await,
        SessionInput::Signal(text) => {
            let signal = signal::parse(&text)?;
            target.tasks.kill(target.ctx, target.id, target.exec_id, signal, false).await
        }
    }
}
