//! The way into a process: the write end of its pipe, or the master of its
//! terminal, which is there only once the process exists.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::error::{self, Error};

nix::ioctl_write_ptr_bad!(set_window_size, libc::TIOCSWINSZ, libc::winsize);

/// The input of one process.
#[derive(Debug)]
pub struct Input {
    state: watch::Sender<State>,
    /// Size asked for before the terminal was there; held for moments only.
    early_size: Mutex<Option<(u16, u16)>>,
}

#[derive(Debug, Clone)]
enum State {
    /// The terminal is not there yet.
    Expected,
    Pipe(Arc<AsyncFd<OwnedFd>>),
    Terminal(Arc<AsyncFd<OwnedFd>>),
    Closed,
}

impl Input {
    fn new(state: State) -> Self {
        Self { state: watch::Sender::new(state), early_size: Mutex::new(None) }
    }

    /// No input: what is written is dropped.
    pub fn none() -> Self {
        Self::new(State::Closed)
    }

    /// A terminal that [`Input::set_terminal`] brings.
    pub fn terminal() -> Self {
        Self::new(State::Expected)
    }

    /// The write end of a pipe.
    ///
    /// # Errors
    /// The descriptor cannot be watched.
    pub fn pipe(fd: OwnedFd) -> Result<Self, Error> {
        Ok(Self::new(State::Pipe(Arc::new(watched(fd)?))))
    }

    /// The terminal is there.
    pub fn set_terminal(&self, master: Arc<AsyncFd<OwnedFd>>) {
        self.state.send_replace(State::Terminal(master));
        let size = self.early_size.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((width, height)) = size {
            self.resize(width, height);
        }
    }

    /// Writes all of `bytes`, waiting while the process does not read. Ends
    /// early, dropping the rest, when the input is closed or the process gone.
    pub async fn write(&self, mut bytes: &[u8]) {
        let mut changes = self.state.subscribe();
        while !bytes.is_empty() {
            let state = changes.borrow_and_update().clone();
            let fd = match &state {
                State::Pipe(fd) | State::Terminal(fd) => fd,
                State::Closed => return,
                State::Expected => {
                    // The sender is in self, so this is a change.
                    let _ = changes.changed().await;
                    continue;
                }
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                n = write_some(fd, bytes) => match n {
                    Ok(n) => bytes = &bytes[n..],
                    Err(_) => return,
                }
            }
        }
    }

    /// Closes a pipe. A terminal has no end of input; it stays open.
    pub fn close(&self) {
        self.state.send_if_modified(|state| {
            let pipe = matches!(state, State::Pipe(_));
            if pipe {
                *state = State::Closed;
            }
            pipe
        });
    }

    /// Ends the input whatever it is, once the process is gone.
    pub fn shut(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Sets the window size of a terminal; nothing for a pipe.
    pub fn resize(&self, width: u16, height: u16) {
        match &*self.state.borrow() {
            State::Terminal(fd) => {
                let size =
                    libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
                // SAFETY: the descriptor is open while `fd` lives, and
                // TIOCSWINSZ reads one winsize, which `size` is.
                let _ = unsafe { set_window_size(fd.as_raw_fd(), &raw const size) };
            }
            State::Expected => {
                *self.early_size.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((width, height));
            }
            State::Pipe(_) | State::Closed => {}
        }
    }
}

/// Makes a descriptor non-blocking and watches it.
///
/// # Errors
/// It is of a kind that cannot be watched, such as a regular file.
pub(super) fn watched(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    let tried = || fcntl(fd.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    tried()
        .and_then(|flags| fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)))
        .map_err(|e| error::io("make a stream of the process non-blocking", e))?;
    // SAFETY: an OwnedFd names the same open descriptor until it is dropped,
    // and the AsyncFd owns it.
    unsafe { AsyncFd::register(fd) }.map_err(|e| error::io("watch a stream of the process", e))
}

/// Writes some of `bytes` as soon as there is room.
///
/// # Errors
/// The reader is gone, or the device failed.
pub(super) async fn write_some(fd: &AsyncFd<OwnedFd>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        let mut ready = fd.writable().await?;
        if let Ok(done) =
            ready.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from))
        {
            return done;
        }
    }
}
