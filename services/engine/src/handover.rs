//! Sockets for a container's shim, which keeps them while the daemon is away
//! ([`gantry_core::sockets`]).

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use gantry_core::networks::Handover;
use gantry_core::sockets::{MAX_ANSWER, MAX_MESSAGE};
use gantry_core::{Error, Kind, Result, faults};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg,
    socket,
};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// How long the shim may take for each answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages that may wait for their answers.
const WINDOW: usize = 32;

/// Hands all of it over, in this order. What the shim has taken before an error it keeps.
///
/// # Errors
/// `Unavailable` when the shim is not there, `DeadlineExceeded` when it does not answer;
/// `Internal` with its own words for what it refuses.
pub(crate) async fn hand_over(shim: &Path, handovers: Vec<Handover>) -> Result<()> {
    if handovers.is_empty() {
        return Ok(());
    }
    if let Some(long) = handovers.iter().find(|handover| handover.message.len() > MAX_MESSAGE) {
        let text: String = long.message.chars().take(80).collect();
        return Err(Error::invalid_argument(format!("message {text:?}… to the shim is too long")));
    }
    let handed = async { tell(&connected(shim)?, handovers).await };
    faults::around_async("hand a shim what it serves", handed).await.map(drop)
}

/// Brings a shim's relays to these, which are told as they are handed over: those that lead
/// elsewhere are led there, and others go. Those that it lacks take sockets, and stay away.
///
/// # Errors
/// As [`hand_over`]; a shim that is to have none may not be there.
pub(crate) async fn bring_relays(shim: &Path, wanted: &[String]) -> Result<()> {
    let stream = match connected(shim) {
        Err(_) if wanted.is_empty() => return Ok(()),
        other => other?,
    };
    let has = relays(&stream).await?;
    tell(&stream, corrections(&has, wanted)).await.map(drop)
}

/// The relays of a shim.
async fn relays(stream: &UnixStream) -> Result<Vec<String>> {
    let mut all = Vec::new();
    loop {
        let list = Handover { message: format!("list {}", all.len()), socket: None };
        let told = tell(stream, vec![list]).await?;
        let before = all.len();
        all.extend(told.iter().flat_map(|text| text.lines()).map(str::to_owned));
        if all.len() == before {
            return Ok(all);
        }
    }
}

/// What brings relays from what they are to what they are to be.
fn corrections(has: &[String], wanted: &[String]) -> Vec<Handover> {
    // `relay PROTOCOL HOST:PORT`, and behind it the target.
    let wanted: HashMap<&str, &str> =
        wanted.iter().filter_map(|relay| relay.rsplit_once(' ')).collect();
    let correct = |relay: &String| {
        let (key, target) = relay.rsplit_once(' ')?;
        let message = match wanted.get(key) {
            Some(wanted) if *wanted == target => return None,
            Some(wanted) => format!("{key} {wanted}"),
            None => format!("drop {}", key.strip_prefix("relay ")?),
        };
        Some(Handover { message, socket: None })
    };
    has.iter().filter_map(correct).collect()
}

/// Sends messages, and waits for the answers; gives what they say behind `ok`.
async fn tell(stream: &UnixStream, handovers: Vec<Handover>) -> Result<Vec<String>> {
    let mut answers = Vec::with_capacity(handovers.len());
    let mut waiting = VecDeque::with_capacity(WINDOW.min(handovers.len()));
    for Handover { message, socket } in handovers {
        if waiting.len() == WINDOW {
            answers.push(answered(stream, waiting.pop_front()).await?);
        }
        let sent = tokio::time::timeout(PATIENCE, send(stream, &message, socket.as_ref())).await;
        sent.map_err(|_| silent(&message))?
            .map_err(|err| Error::io(format!("hand {message:?} to the shim"), err))?;
        // The shim has it, or has it waiting.
        drop(socket);
        waiting.push_back(message);
    }
    while !waiting.is_empty() {
        answers.push(answered(stream, waiting.pop_front()).await?);
    }
    Ok(answers)
}

fn connected(shim: &Path) -> Result<UnixStream> {
    let open = || -> io::Result<UnixStream> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(shim)?)?;
        UnixStream::from_std(std::os::unix::net::UnixStream::from(fd))
    };
    open().map_err(|err| {
        Error::io(format!("connect to the shim at {}", shim.display()), err)
            .with_kind(Kind::Unavailable)
    })
}

async fn send(stream: &UnixStream, message: &str, fd: Option<&OwnedFd>) -> io::Result<()> {
    let write = || {
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let text = [IoSlice::new(message.as_bytes())];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(stream.as_raw_fd(), &text, control, flags, None)
            .map(drop)
            .map_err(io::Error::from)
    };
    stream.async_io(Interest::WRITABLE, write).await
}

/// Waits for the answer to the message that waits longest; gives what it says behind `ok`.
async fn answered(stream: &UnixStream, message: Option<String>) -> Result<String> {
    let message = message.unwrap_or_default();
    let mut answer = vec![0; MAX_ANSWER];
    let read = || recv(stream.as_raw_fd(), &mut answer, MsgFlags::empty()).map_err(io::Error::from);
    let received = stream.async_io(Interest::READABLE, read);
    let length = tokio::time::timeout(PATIENCE, received)
        .await
        .map_err(|_| silent(&message))?
        .map_err(|err| Error::io(format!("read the shim's answer to {message:?}"), err))?;
    match &*String::from_utf8_lossy(&answer[..length]) {
        "" => Err(Error::unavailable(format!("the shim left before it answered {message:?}"))),
        "ok" => Ok(String::new()),
        text => match text.strip_prefix("ok ") {
            Some(said) => Ok(said.to_owned()),
            None => {
                let why = text.strip_prefix("error ").unwrap_or(text);
                Err(Error::internal(format!("the shim refused {message:?}: {why}")))
            }
        },
    }
}

fn silent(message: &str) -> Error {
    Error::new(Kind::DeadlineExceeded, format!("the shim does not answer {message:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};
    use std::io::IoSliceMut;
    use std::path::PathBuf;
    use std::thread::JoinHandle;

    /// A shim that takes so many messages, answers them, and tells what came: the messages,
    /// and whether a descriptor came along.
    fn shim(
        answer: impl Fn(&str) -> String + Send + 'static,
        messages: usize,
    ) -> (tempfile::TempDir, PathBuf, JoinHandle<Vec<(String, bool)>>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.sock");
        let kind = SockType::SeqPacket;
        let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(fd.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&fd, Backlog::new(4).unwrap()).unwrap();
        let listener = std::os::unix::net::UnixListener::from(fd);
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut seen = Vec::new();
            for _ in 0..messages {
                let mut buffer = vec![0; MAX_MESSAGE];
                let mut control = nix::cmsg_space!([i32; 1]);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let fd = stream.as_raw_fd();
                let flags = MsgFlags::empty();
                let got =
                    nix::sys::socket::recvmsg::<()>(fd, &mut parts, Some(&mut control), flags)
                        .unwrap();
                let (length, with) = (got.bytes, got.cmsgs().unwrap().next().is_some());
                let text = String::from_utf8(buffer[..length].to_vec()).unwrap();
                nix::sys::socket::send(fd, answer(&text).as_bytes(), flags).unwrap();
                seen.push((text, with));
            }
            seen
        });
        (dir, path, thread)
    }

    fn handover(n: usize) -> Handover {
        let socket = (n % 2 == 1).then(|| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            OwnedFd::from(socket)
        });
        Handover { message: format!("message {n}"), socket }
    }

    #[tokio::test]
    async fn everything_in_its_order() {
        let (_dir, path, thread) = shim(|_| "ok".to_owned(), 100);
        hand_over(&path, (0..100).map(handover).collect()).await.unwrap();
        let want: Vec<_> = (0..100).map(|n| (format!("message {n}"), n % 2 == 1)).collect();
        assert_eq!(thread.join().unwrap(), want);
        hand_over(Path::new("/nonexistent"), Vec::new()).await.unwrap();
    }

    #[tokio::test]
    async fn relays_become_those_that_are_wanted() {
        let has = [
            "relay tcp 0.0.0.0:80 10.0.0.2:80",
            "relay tcp [::]:80 10.0.0.2:80",
            "relay udp [::]:53 10.0.0.2:53",
        ];
        // Two of them have room in the first answer.
        let answer = move |text: &str| match text {
            "list 0" => format!("ok {}", has[..2].join("\n")),
            "list 2" => format!("ok {}", has[2]),
            _ => "ok".to_owned(),
        };
        let (_dir, path, thread) = shim(answer, 5);
        let wanted = ["relay tcp [::]:80 10.0.1.2:80", has[2], "relay tcp [::]:81 10.0.1.2:80"];
        let wanted = wanted.map(str::to_owned);
        bring_relays(&path, &wanted).await.unwrap();
        let told: Vec<_> = thread.join().unwrap().into_iter().map(|(text, _)| text).collect();
        assert_eq!(told[..3], ["list 0", "list 2", "list 3"]);
        assert_eq!(told[3..], ["drop tcp 0.0.0.0:80", "relay tcp [::]:80 10.0.1.2:80"]);
        // One that serves nothing may have no socket.
        let nowhere = path.with_extension("x");
        bring_relays(&nowhere, &[]).await.unwrap();
        let err = bring_relays(&nowhere, &wanted).await.unwrap_err();
        assert_eq!(err.kind(), Kind::Unavailable);
    }

    #[tokio::test]
    async fn refusals() {
        let answer = |text: &str| match text {
            "message 1" => "error it is bound to another port".to_owned(),
            _ => "ok".to_owned(),
        };
        let (_dir, path, _thread) = shim(answer, 3);
        let err = hand_over(&path, (0..3).map(handover).collect()).await.unwrap_err();
        assert_eq!(err.kind(), Kind::Internal);
        assert!(err.to_string().ends_with("it is bound to another port"), "{err}");

        let (_dir, path, _thread) = shim(|_| "ok".to_owned(), 0);
        let err = hand_over(&path, vec![handover(0)]).await.unwrap_err();
        assert!(matches!(err.kind(), Kind::Unavailable | Kind::Internal), "{err}");

        let err = hand_over(&path.with_extension("x"), vec![handover(0)]).await.unwrap_err();
        assert_eq!(err.kind(), Kind::Unavailable);
        let long = Handover { message: "x".repeat(MAX_MESSAGE + 1), socket: None };
        let err = hand_over(&path, vec![long]).await.unwrap_err();
        assert_eq!(err.kind(), Kind::InvalidArgument);
    }
}
