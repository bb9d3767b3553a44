//! A socket of netlink: batches with an answer for each message, dumps, multicast groups.
//!
//! The kernel works on what is sent before `send` returns, so the answers to a batch are
//! there at once and nothing here waits for another process.

use std::cell::Cell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use gantry_core::{Error, Kind, Result};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
    set_socket_send_buffer_size_force, set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname, netlink,
    recvfrom, send, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::message::{Answer, Message, Part, attributes, parts, text, u32_at};

/// Bytes that are received at once; the kernel sends no more.
const ROOM: usize = 32 << 10;
/// Bytes of answers that may wait; a bound, nothing that is allocated.
const WAITING: usize = 4 << 20;
/// Bytes that a socket may send at once without a word.
const SENDABLE: usize = 128 << 10;
/// How long a dump may hang.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a dump is done again that changed while it was read.
const DUMPS: usize = 32;

const NOOP: u16 = libc::NLMSG_NOOP as u16;
const ERROR: u16 = libc::NLMSG_ERROR as u16;
const DONE: u16 = libc::NLMSG_DONE as u16;
/// Changed while it was read.
const INTERRUPTED: u16 = 0x10;
/// Of an error: only the header of the refused message is in it.
const CAPPED: u16 = 0x100;
/// Of an error: attributes follow.
const EXPLAINED: u16 = 0x200;
/// Attribute of an error: its text.
const MESSAGE: u16 = 1;

/// A family of netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Links, addresses, routes.
    Route,
    /// nftables.
    Netfilter,
}

/// What the kernel says to one message of a batch when it refuses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Which one of the batch, from 0.
    pub(crate) index: usize,
    /// The error's number, such as `libc::EEXIST`.
    pub(crate) errno: i32,
    /// Why, in the kernel's own words, where it says that.
    pub(crate) text: Option<String>,
}

impl Refusal {
    /// As an error; `what` was tried.
    pub(crate) fn error(&self, what: impl Into<String>) -> Error {
        let cause = std::io::Error::from_raw_os_error(self.errno);
        let mut what = what.into();
        if let Some(text) = &self.text {
            what = format!("{what}: {}", text.trim_end_matches('.'));
        }
        let err = Error::io(what, cause);
        match self.errno {
            libc::ENODEV | libc::ESRCH | libc::EADDRNOTAVAIL | libc::ENXIO => {
                err.with_kind(Kind::NotFound)
            }
            libc::EOPNOTSUPP | libc::EAFNOSUPPORT => err.with_kind(Kind::Unimplemented),
            libc::EBUSY | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN => {
                err.with_kind(Kind::FailedPrecondition)
            }
            libc::ERANGE => err.with_kind(Kind::InvalidArgument),
            libc::ENOBUFS | libc::ENOSPC => err.with_kind(Kind::ResourceExhausted),
            libc::EAGAIN => err.with_kind(Kind::Unavailable),
            _ => err,
        }
    }
}

/// What came back for a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replies {
    /// The messages that were refused, in the order of the answers.
    pub(crate) refused: Vec<Refusal>,
    /// What was asked for: the replies to `GET` and to `NLM_F_ECHO`.
    pub(crate) answers: Vec<Answer>,
}

/// A socket in the network namespace of the thread that opened it, wherever it is used
/// then. One thread's at a time: opening another one takes a few microseconds.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    /// Number of the next message.
    next: Cell<u32>,
    /// Bytes that may be sent at once.
    sendable: Cell<usize>,
}

impl Socket {
    /// A socket in this thread's network namespace.
    ///
    /// # Errors
    /// The kernel lacks the family ([`Kind::Unimplemented`]).
    pub(crate) fn open(family: Family) -> Result<Self> {
        let fd = open(family, SocketFlags::CLOEXEC)?;
        let failed = |err: Errno| Error::io("set up a netlink socket", err.into());
        set_socket_timeout(&fd, Timeout::Recv, Some(PATIENCE)).map_err(failed)?;
        Ok(Self { fd, next: Cell::new(1), sendable: Cell::new(SENDABLE) })
    }

    /// Its port, which is in the messages that tell others what it changed.
    pub(crate) fn port(&self) -> u32 {
        let own = getsockname(&self.fd).ok().and_then(|own| SocketAddrNetlink::try_from(own).ok());
        own.map_or(0, |own| own.pid())
    }

    /// Sends these messages at once and collects the answers to those with `NLM_F_ACK`,
    /// and every failure.
    ///
    /// Of the family `Route` each message takes effect on its own. Of `Netfilter` they do
    /// together, between the messages that begin and end a batch.
    ///
    /// # Errors
    /// Nothing is known of what was done: [`Kind::Unavailable`] when answers were lost.
    /// That a message was refused is no error here.
    pub(crate) fn batch(&self, messages: &mut [Message]) -> Result<Replies> {
        let first = self.next.get();
        let mut bytes = Vec::with_capacity(messages.iter().map(Message::len).sum());
        for message in messages.iter_mut() {
            let number = self.next.get();
            self.next.set(number.wrapping_add(1));
            bytes.extend_from_slice(message.seal(number)?);
        }
        self.send(&bytes)?;
        let awaited = messages.iter().filter(|message| message.wants_answer()).count();
        self.collect(first, messages.len(), awaited)
    }

    /// Asks for the whole of a list: every answer to this message. It is asked again when
    /// the list changed while it was read.
    ///
    /// # Errors
    /// The message is refused, or the list does not stand still ([`Kind::Unavailable`]).
    pub(crate) fn dump(&self, message: &mut Message) -> Result<Vec<Answer>> {
        message.add_flags(libc::NLM_F_DUMP as u16);
        for _ in 0..DUMPS {
            if let Some(answers) = self.dump_once(message)? {
                return Ok(answers);
            }
        }
        Err(Error::unavailable("a list of the kernel's changed each time it was read; try again"))
    }

    /// The answers, unless they are not of one moment.
    fn dump_once(&self, message: &mut Message) -> Result<Option<Vec<Answer>>> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.send(message.seal(number)?)?;
        let mut buffer = vec![0; ROOM];
        let (mut answers, mut whole) = (Vec::new(), true);
        loop {
            let length = receive(&self.fd, &mut buffer, RecvFlags::empty()).map_err(failed)?;
            for part in parts(&buffer[..length]).filter(|part| part.number == number) {
                whole &= part.flags & INTERRUPTED == 0;
                match part.kind {
                    NOOP => {}
                    DONE | ERROR => match refusal(&part, 0) {
                        None => return Ok(whole.then_some(answers)),
                        Some(refusal) if refusal.errno == libc::EINTR => return Ok(None),
                        Some(refusal) => return Err(refusal.error("read a list of the kernel's")),
                    },
                    _ => answers.push(part.keep()),
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        if bytes.len() > self.sendable.get() {
            // The kernel counts its own overhead too. The bound of the machine may be lower:
            // then sending says that the message is too long.
            let room = bytes.len() * 2;
            if set_socket_send_buffer_size_force(&self.fd, room).is_err() {
                let _ = set_socket_send_buffer_size(&self.fd, room);
            }
            self.sendable.set(bytes.len());
        }
        loop {
            match send(&self.fd, bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(err) => {
                    let what = format!("send {} bytes to the kernel by netlink", bytes.len());
                    return Err(Error::io(what, err.into()));
                }
            }
        }
    }

    /// Takes what is there for the `count` messages from number `first` on.
    fn collect(&self, first: u32, count: usize, awaited: usize) -> Result<Replies> {
        let mut buffer = vec![0; ROOM];
        let (mut replies, mut succeeded) = (Replies::default(), 0);
        loop {
            let length = match receive(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(length) => length,
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(failed(err)),
            };
            for part in parts(&buffer[..length]) {
                // What is left of an earlier exchange that failed is not for this one.
                let index = part.number.wrapping_sub(first) as usize;
                match part.kind {
                    _ if index >= count => {}
                    NOOP | DONE => {}
                    ERROR => match refusal(&part, index) {
                        Some(refusal) => replies.refused.push(refusal),
                        None => succeeded += 1,
                    },
                    _ => replies.answers.push(part.keep()),
                }
            }
        }
        if replies.refused.is_empty() && succeeded < awaited {
            return Err(Error::unavailable(format!(
                "the kernel answered {succeeded} of {awaited} netlink messages"
            )));
        }
        Ok(replies)
    }
}

/// What was heard of multicast groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// These messages.
    Messages(Vec<Answer>),
    /// Some were lost: whoever keeps a copy of something has to read it again.
    Lost,
}

/// A socket that hears what changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Multicast {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Multicast {
    /// Joins these groups (their numbers, such as `RTNLGRP_LINK`), in this thread's network
    /// namespace. What happens from now on is heard.
    ///
    /// # Errors
    /// The kernel lacks the family or a group.
    ///
    /// # Panics
    /// When no runtime of tokio runs.
    pub(crate) fn join(family: Family, groups: &[u32]) -> Result<Self> {
        let fd = open(family, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        for group in groups {
            let what = || format!("listen to group {group} of netlink");
            set(&fd, libc::NETLINK_ADD_MEMBERSHIP, *group).map_err(|err| Error::io(what(), err))?;
        }
        // SAFETY: the socket is open, and stays so while the AsyncFd, which owns it, is there.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
            .map_err(|err| Error::io("wait for a netlink socket", err.into()))?;
        Ok(Self { fd, buffer: vec![0; ROOM] })
    }

    /// What is heard next. Nothing is lost when this is given up.
    ///
    /// # Errors
    /// The socket failed.
    pub(crate) async fn next(&mut self) -> Result<Heard> {
        loop {
            let mut ready = self
                .fd
                .readable()
                .await
                .map_err(|err| Error::io("wait for a netlink socket", err))?;
            let buffer = &mut self.buffer;
            let received = ready.try_io(|fd| {
                receive(fd.get_ref(), buffer, RecvFlags::DONTWAIT).map_err(std::io::Error::from)
            });
            match received {
                Ok(Ok(length)) => {
                    let heard = parts(&self.buffer[..length]).map(|part| part.keep()).collect();
                    return Ok(Heard::Messages(heard));
                }
                Ok(Err(err)) if err.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Ok(Heard::Lost);
                }
                Ok(Err(err)) => return Err(Error::io("listen to the kernel by netlink", err)),
                // It was not ready after all.
                Err(_) => {}
            }
        }
    }
}

/// A bound socket whose errors are explained.
fn open(family: Family, flags: SocketFlags) -> Result<OwnedFd> {
    let protocol = match family {
        Family::Route => None,
        Family::Netfilter => Some(netlink::NETFILTER),
    };
    let fd =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol).map_err(|err| {
            match err {
                Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT => {
                    let lacking = match family {
                        Family::Route => "the kernel has no networks",
                        Family::Netfilter => "the kernel has no nftables (nf_tables, nfnetlink)",
                    };
                    Error::io(lacking, err.into()).with_kind(Kind::Unimplemented)
                }
                _ => Error::io("open a netlink socket", err.into()),
            }
        })?;
    bind(&fd, &SocketAddrNetlink::new(0, 0))
        .map_err(|err| Error::io("bind a netlink socket", err.into()))?;
    // Kernels without these say less of why they refuse something.
    let _ = set(&fd, libc::NETLINK_EXT_ACK, 1);
    let _ = set(&fd, libc::NETLINK_CAP_ACK, 1);
    // Who may not set it has room for some hundred answers.
    let _ = set_socket_recv_buffer_size_force(&fd, WAITING);
    Ok(fd)
}

/// Sets an option of netlink.
fn set(fd: &OwnedFd, option: libc::c_int, value: u32) -> std::io::Result<()> {
    // The type of every option of netlink that is set here.
    let value = value as libc::c_int;
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    let pointer = std::ptr::from_ref(&value).cast();
    // SAFETY: the pointer is to `value`, which has `size` bytes and outlives the call; the
    // kernel reads it and keeps nothing.
    let done =
        unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, pointer, size) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Receives from the kernel and from nobody else.
fn receive(fd: impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> Result<usize, Errno> {
    loop {
        let received = recvfrom(fd.as_fd(), &mut *buffer, flags | RecvFlags::TRUNC);
        let (length, whole, from) = match received {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if whole > length {
            return Err(Errno::MSGSIZE);
        }
        let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
        if from.is_some_and(|from| from.pid() == 0) {
            return Ok(length);
        }
    }
}

/// That answers could not be read.
fn failed(err: Errno) -> Error {
    let kind = match err {
        // Lost, or not there in time.
        Errno::NOBUFS | Errno::AGAIN | Errno::MSGSIZE => Kind::Unavailable,
        _ => Kind::Internal,
    };
    Error::io("read the kernel's answer by netlink", err.into()).with_kind(kind)
}

/// What an `NLMSG_ERROR` or `NLMSG_DONE` says; nothing is success.
fn refusal(part: &Part<'_>, index: usize) -> Option<Refusal> {
    let code = u32_at(part.body, 0).unwrap_or(0).cast_signed();
    if code == 0 {
        return None;
    }
    let rest = part.body.get(4..).unwrap_or_default();
    // Behind the message that was refused, or its header.
    let skip = match (part.kind, part.flags & CAPPED != 0) {
        (DONE, _) => 0,
        (_, true) => 16,
        (_, false) => (u32_at(rest, 0).unwrap_or(0) as usize).next_multiple_of(4),
    };
    let explained = if part.flags & EXPLAINED != 0 { rest.get(skip..) } else { None };
    let text = attributes(explained.unwrap_or_default())
        .find(|(kind, _)| *kind == MESSAGE)
        .map(|(_, value)| text(value))
        .filter(|text| !text.is_empty());
    Some(Refusal { index, errno: code.wrapping_neg(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request for the link of this name.
    fn link(name: &str, flags: libc::c_int) -> Message {
        let mut message = Message::new(libc::RTM_GETLINK, flags as u16);
        message.fixed(&[0; 16]).put_text(libc::IFLA_IFNAME, name);
        message
    }

    #[test]
    fn each_message_of_a_batch_is_answered() {
        let socket = Socket::open(Family::Route).unwrap();
        let mut batch =
            [link("lo", libc::NLM_F_ACK), link("gone0", libc::NLM_F_ACK), link("lo", 0)];
        let replies = socket.batch(&mut batch).unwrap();
        assert_eq!(replies.answers.len(), 2);
        assert_eq!(replies.refused.len(), 1);
        assert_eq!((replies.refused[0].index, replies.refused[0].errno), (1, libc::ENODEV));
        let err = replies.refused[0].error("look for the link gone0");
        assert_eq!(err.kind(), Kind::NotFound, "{err}");
        // Numbers go on; nothing is left of the first batch.
        let replies = socket.batch(&mut batch[..1]).unwrap();
        assert_eq!((replies.answers.len(), replies.refused.len()), (1, 0));
    }

    #[test]
    fn a_list_is_read_to_its_end() {
        let socket = Socket::open(Family::Route).unwrap();
        let mut message = Message::new(libc::RTM_GETLINK, 0);
        message.fixed(&[0; 16]);
        let links = socket.dump(&mut message).unwrap();
        let names: Vec<_> = links
            .iter()
            .filter_map(|link| link.attributes(16).find(|(kind, _)| *kind == libc::IFLA_IFNAME))
            .map(|(_, name)| text(name))
            .collect();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
    }

    #[test]
    fn the_kernel_says_why() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend_from_slice(&[0; 16]);
        let mut message = Message::new(0, 0);
        message.put_text(MESSAGE, "Device is enslaved");
        body.extend_from_slice(&message.seal(1).unwrap()[16..]);
        let part = Part { kind: ERROR, flags: CAPPED | EXPLAINED, number: 1, port: 0, body: &body };
        let refusal = refusal(&part, 3).unwrap();
        assert_eq!(refusal.index, 3);
        let err = refusal.error("set up eth0");
        assert_eq!(err.kind(), Kind::InvalidArgument);
        assert!(err.to_string().starts_with("set up eth0: Device is enslaved: "), "{err}");
    }
}
