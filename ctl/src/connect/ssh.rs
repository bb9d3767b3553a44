//! A daemon behind SSH: one ssh process a connection, which runs `gantry system dial-stdio` on
//! the other machine.

use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::address::Ssh;
use super::{PATIENCE, greeted, late};

/// The program, found in `PATH`.
const PROGRAM: &str = "ssh";
/// So long ssh may take to reach the machine.
const CONNECT: &str = "ConnectTimeout=25";
/// An ssh that has closed its output ends after so long.
const END: Duration = Duration::from_secs(2);
/// Bytes that are kept of what ssh says.
const SAID: usize = 2048;

/// Input and output of an ssh process, which is killed with this.
pub(super) struct Pipe {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// What it said on standard error.
    said: Arc<Mutex<Vec<u8>>>,
    saying: JoinHandle<()>,
}

/// Starts ssh, and waits until the daemon has said something.
///
/// # Errors
/// What ssh said.
pub(super) async fn open(place: &Ssh) -> anyhow::Result<BufReader<Pipe>> {
    let mut stream = BufReader::new(start(place)?);
    let why = match tokio::time::timeout(PATIENCE, greeted(&mut stream)).await {
        Ok(Ok(true)) => return Ok(stream),
        Ok(Ok(false)) => None,
        Ok(Err(error)) => Some(error.into()),
        Err(_) => Some(late()),
    };
    Err(stream.into_inner().failed(why).await)
}

fn start(place: &Ssh) -> anyhow::Result<Pipe> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments(place));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Signals of the terminal are for the container, not for the way to it.
    command.process_group(0).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("start {PROGRAM}"))?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(anyhow!("{PROGRAM} has no input or output"));
    };
    let said = Arc::default();
    let saying = tokio::spawn(listen(stderr, Arc::clone(&said)));
    Ok(Pipe { child, stdin, stdout, said, saying })
}

/// What ssh is called with. Nobody can type a password: it runs apart from the terminal.
fn arguments(place: &Ssh) -> Vec<String> {
    let mut all: Vec<String> =
        ["-o", CONNECT, "-o", "BatchMode=yes", "-T"].map(str::to_owned).into();
    if let Some(user) = &place.user {
        all.extend(["-l".to_owned(), user.clone()]);
    }
    if let Some(port) = place.port {
        all.extend(["-p".to_owned(), port.to_string()]);
    }
    all.extend(["--".to_owned(), place.host.clone(), "gantry".to_owned()]);
    if let Some(socket) = &place.socket {
        all.extend(["--address".to_owned(), quoted(socket)]);
    }
    all.extend(["system", "dial-stdio"].map(str::to_owned));
    all
}

/// A word for the shell of the other machine.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Keeps the last of what ssh says.
async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut piece = [0; SAID];
    while let Ok(n) = stderr.read(&mut piece).await
        && n > 0
    {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&piece[..n]);
        let surplus = said.len().saturating_sub(SAID);
        said.drain(..surplus);
    }
}

impl Pipe {
    /// Why there is no connection: what ssh said, how it ended, what else is known.
    async fn failed(self, why: Option<anyhow::Error>) -> anyhow::Error {
        let Self { mut child, stdin, stdout, said, saying } = self;
        drop((stdin, stdout));
        let ended = tokio::time::timeout(END, child.wait()).await;
        // It has said all, or is hung.
        let _ = tokio::time::timeout(END, saying).await;
        let said = {
            let said = said.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&said).trim().to_owned()
        };
        let ended = match ended {
            Ok(Ok(status)) => format!("{PROGRAM} ended with {status}"),
            _ => format!("{PROGRAM} does not answer"),
        };
        let hint = "is gantry installed there?";
        match (why, said.as_str()) {
            (Some(why), "") => why.context(ended),
            (Some(why), said) => why.context(format!("{ended}: {said}")),
            (None, "") => anyhow!("{ended}: {hint}"),
            (None, said) => anyhow!("{ended}: {said}"),
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stdout).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stdin).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stdin).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stdin).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Address;

    fn line(text: &str) -> String {
        let Ok(Address::Ssh(place)) = text.parse() else { panic!("{text} is another way") };
        arguments(&place).join(" ")
    }

    #[test]
    fn ssh_is_told_where_and_what() {
        let options = "-o ConnectTimeout=25 -o BatchMode=yes -T";
        assert_eq!(line("ssh://db"), format!("{options} -- db gantry system dial-stdio"));
        assert_eq!(
            line("ssh://me@db:2222/run/my gantry/it's.sock"),
            format!(
                "{options} -l me -p 2222 -- db gantry --address '/run/my gantry/it'\\''s.sock' \
                 system dial-stdio"
            )
        );
        assert!(line("ssh://db/run/g.sock").contains("--address /run/g.sock system"));
    }

    #[tokio::test]
    async fn what_ssh_says_is_kept_but_not_all_of_it() {
        let mut command = Command::new("sh");
        let script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo end >&2";
        let mut child = command.args(["-c", script]).stderr(Stdio::piped()).spawn().unwrap();
        let said = Arc::default();
        listen(child.stderr.take().unwrap(), Arc::clone(&said)).await;
        child.wait().await.unwrap();
        let said = said.lock().unwrap();
        assert!(said.len() == SAID && said.ends_with(b"xend\n"));
    }
}
