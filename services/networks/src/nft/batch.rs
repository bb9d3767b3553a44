//! Batches: messages that take effect together, or not at all.

use std::borrow::Cow;

use gantry_core::{Error, Kind, Result};

use super::wire;
use crate::netlink::message::Message;
use crate::netlink::socket::{Refusal, Socket};

/// Messages of one batch, each with what it does.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Vec<Message>,
    notes: Vec<Cow<'static, str>>,
    sets: u32,
}

/// The first message that the kernel refused.
#[derive(Debug)]
pub(super) struct Refused {
    note: Cow<'static, str>,
    refusal: Refusal,
}

impl Refused {
    /// The kernel's number of the error.
    pub(super) fn errno(&self) -> i32 {
        self.refusal.errno
    }

    /// As an error.
    pub(super) fn error(&self) -> Error {
        let err = self.refusal.error(format!("change the firewall: {}", self.note));
        match self.refusal.errno {
            libc::EPERM => Error::permission_denied(
                "no permission to change the firewall: the daemon needs CAP_NET_ADMIN",
            )
            .with_source(err),
            // None of these is about what a client asked for.
            libc::ENOENT | libc::EEXIST | libc::EINVAL | libc::EBUSY => {
                err.with_kind(Kind::Internal)
            }
            libc::EOPNOTSUPP => err.with_kind(Kind::Unimplemented),
            _ => err,
        }
    }
}

impl Batch {
    pub(super) fn new() -> Self {
        let begin = wire::bound(libc::NFNL_MSG_BATCH_BEGIN);
        Self { messages: vec![begin], notes: vec!["begin".into()], sets: 0 }
    }

    /// Appends a message.
    pub(super) fn push(&mut self, note: impl Into<Cow<'static, str>>, message: Message) {
        self.messages.push(message);
        self.notes.push(note.into());
    }

    /// Appends messages that do the same.
    pub(super) fn extend(&mut self, note: impl Into<Cow<'static, str>>, messages: Vec<Message>) {
        let note = note.into();
        for message in messages {
            self.push(note.clone(), message);
        }
    }

    /// A number for a set, unique in this batch.
    pub(super) fn set_id(&mut self) -> u32 {
        self.sets += 1;
        self.sets
    }

    /// Whether it does nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.len() == 1
    }

    /// Sends it. When one message is refused nothing of it takes effect.
    ///
    /// # Errors
    /// The socket failed, and nothing is known.
    pub(super) fn send(mut self, socket: &Socket) -> Result<Option<Refused>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.push("commit", wire::bound(libc::NFNL_MSG_BATCH_END));
        let replies = socket.batch(&mut self.messages)?;
        Ok(replies.refused.into_iter().next().map(|refusal| {
            let note = self.notes.get(refusal.index).cloned().unwrap_or_default();
            Refused { note, refusal }
        }))
    }
}
