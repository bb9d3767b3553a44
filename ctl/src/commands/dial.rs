use std::io;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::cli::Context;
use crate::connect::Address;
use crate::exit::{Outcome, SUCCESS};
use crate::printer::write_all;

/// Bytes that are carried at a time.
const PIECE: usize = 64 << 10;
/// Once the other side has said all, the daemon gets so long for its last words.
const LAST: Duration = Duration::from_secs(10);

/// Connect standard input and output with gantryd's socket, for ssh://
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Which direction has come to its end.
enum Ended {
    Input,
    Output,
}

impl Args {
    pub(crate) fn execute(self, context: Context<'_>) -> Outcome {
        let address = context.global.target()?.address;
        let Address::Unix(path) = &address else {
            bail!("dial-stdio connects with a socket of this machine, not with {address}");
        };
        let socket = UnixStream::connect(path)
            .with_context(|| format!("Cannot connect to gantryd at {address}"))?;
        let (ended, ends) = mpsc::channel();
        let pairs = [Ended::Input, Ended::Output].map(|way| (way, ended.clone()));
        for (way, ended) in pairs {
            let socket = socket.try_clone().context("share the connection")?;
            let work = move || {
                // Either is over with an error as well: there is nobody to tell it to.
                let _ = match way {
                    Ended::Input => carry(io::stdin(), &socket),
                    Ended::Output => carry(&socket, io::stdout()),
                };
                if matches!(way, Ended::Input) {
                    let _ = socket.shutdown(Shutdown::Write);
                }
                // The main thread may have gone.
                let _ = ended.send(way);
            };
            let started = thread::Builder::new().name("dial".to_owned()).spawn(work);
            started.context("start a thread for the connection")?;
        }
        // A read from standard input can't be taken back: the process ends during one.
        if matches!(ends.recv(), Ok(Ended::Input)) {
            let _ = ends.recv_timeout(LAST);
        }
        Ok(SUCCESS)
    }
}

/// Carries bytes until one side ends.
fn carry(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match unistd::read(&from, &mut piece) {
            Ok(0) => return Ok(()),
            Ok(n) => write_all(&to, &piece[..n])?,
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                // Whatever it says, the next read tells more.
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn bytes_are_carried_to_the_end() {
        let (mut far, from) = UnixStream::pair().unwrap();
        let (to, mut near) = UnixStream::pair().unwrap();
        let carrying = thread::spawn(move || carry(&from, &to));
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        let writing = {
            let bytes = bytes.clone();
            thread::spawn(move || far.write_all(&bytes))
        };
        let mut read = Vec::new();
        near.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        writing.join().unwrap().unwrap();
        carrying.join().unwrap().unwrap();
    }
}
