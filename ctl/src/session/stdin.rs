//! Standard input, read by a thread of its own: a read from a terminal or a
//! pipe can't be taken back, and the process must be able to end during one.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::fd::AsFd;

use anyhow::Context;
use bytes::Bytes;
use gantry_grpc::gantry::engine::v1::session_input::Input;
use gantry_grpc::gantry::engine::v1::{SessionInput, StdinEnd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::{mpsc, oneshot};

use super::keys::Matcher;

/// Bytes of a read.
const PIECE: usize = 32 << 10;

/// Reads standard input into a session until it ends, the session ends, or
/// the user types the keys to leave, which the receiver tells.
///
/// # Errors
/// When there is no standard input, or no thread can be started.
pub(crate) fn pump(
    session: mpsc::Sender<SessionInput>,
    keys: Option<Matcher>,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let input = io::stdin().as_fd().try_clone_to_owned().context("open standard input")?;
    let (left, leaves) = oneshot::channel();
    std::thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(move || {
            if read(&mut File::from(input), &session, keys) {
                // The session may have ended by itself.
                let _ = left.send(());
            }
        })
        .context("start a thread for standard input")?;
    Ok(leaves)
}

/// Reads until the end; whether the user leaves.
fn read(input: &mut File, session: &mpsc::Sender<SessionInput>, mut keys: Option<Matcher>) -> bool {
    let mut piece = vec![0; PIECE];
    loop {
        let bytes = match input.read(&mut piece) {
            // A terminal that hung up answers with an error; either is the end.
            Ok(0) => break,
            Ok(n) => &piece[..n],
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait(input);
                continue;
            }
            Err(_) => break,
        };
        let (bytes, leaves) = match &mut keys {
            Some(keys) => {
                let typed = keys.take(bytes);
                (Bytes::from(typed.forward), typed.leaves)
            }
            None => (Bytes::copy_from_slice(bytes), false),
        };
        if !bytes.is_empty() && !send(session, Input::Stdin(bytes)) {
            return false;
        }
        if leaves {
            return true;
        }
    }
    send(session, Input::StdinEnd(StdinEnd {}));
    false
}

/// Waits until the session takes an input; false when it has ended.
fn send(session: &mpsc::Sender<SessionInput>, input: Input) -> bool {
    session.blocking_send(SessionInput { input: Some(input) }).is_ok()
}

/// Waits for input on a descriptor that somebody made non-blocking.
fn wait(input: &File) {
    let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
    // Whatever it says, the next read tells more.
    let _ = poll(&mut fds, PollTimeout::NONE);
}
