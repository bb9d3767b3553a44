//! Links, addresses and routes of a network namespace, by netlink and without a helper
//! program.
//!
//! | module | what it does |
//! | --- | --- |
//! | `message` | messages and attributes, of every family of netlink |
//! | `socket` | sends batches, reads lists, hears what changes; the firewall uses it too |
//! | `create` | makes bridges, veth pairs and macvlan |
//! | `links` | what has a name: lists, looks up, changes and deletes it |
//! | `routes` | addresses and routes |
//! | `inside` | a container's own side: one batch that makes its interfaces work |
//! | `namespace` | work in the network namespace of a process |
//! | `sysctl` | settings below `/proc/sys/net` |
//! | `watch` | what changes at the host |
//!
//! A network namespace is a thread's: what is opened here acts on the namespace of the thread
//! that opened it. Nothing waits for another process, but the kernel makes one change of links
//! at a time for the whole machine, so that a call may take milliseconds when many are made at
//! once.
//!
//! A call that fails names what was tried on what, the kernel's own words and its error.

mod create;
mod inside;
mod links;
pub(crate) mod message;
mod namespace;
mod routes;
pub(crate) mod socket;
pub(crate) mod sysctl;
mod watch;

use gantry_core::{Error, Result};

pub(crate) use self::create::{Macvlan, MacvlanMode, Veth};
pub(crate) use self::inside::{Inside, Interface};
pub(crate) use self::links::{Link, is_interface_name};
pub(crate) use self::namespace::{in_namespace, namespace_of};
pub(crate) use self::routes::Route;
pub(crate) use self::watch::{Changed, watch};

use self::message::{Answer, Message};
use self::socket::{Family, Socket};

/// A MAC address.
pub(crate) type Mac = [u8; 6];

/// A MAC address as ip(8) writes it.
pub(crate) fn shown_mac(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Links, addresses and routes of the network namespace of the thread that opened this.
///
/// Opening one takes a few microseconds, so that there is no need to share one: it can be sent
/// to another thread, but not be used by two at once.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
}

impl Netlink {
    /// Acts on this thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open() -> Result<Self> {
        Ok(Self { socket: Socket::open(Family::Route)? })
    }

    /// Sends one message that is to succeed.
    fn one(&self, message: Message, what: impl FnOnce() -> String) -> Result<()> {
        self.all(&mut [message], |_| what()).map(drop)
    }

    /// Sends one message; whether it found what it is about, where one of these errors says
    /// that it did not.
    fn one_or(
        &self,
        message: Message,
        missing: &[i32],
        what: impl FnOnce() -> String,
    ) -> Result<bool> {
        let replies = self.socket.batch(&mut [message])?;
        match replies.refused.first() {
            None => Ok(true),
            Some(refusal) if missing.contains(&refusal.errno) => Ok(false),
            Some(refusal) => Err(refusal.error(what())),
        }
    }

    /// Sends messages that are all to succeed; `what` says what one of them is for, by its
    /// number. Returns what was answered.
    fn all(
        &self,
        messages: &mut [Message],
        what: impl FnOnce(usize) -> String,
    ) -> Result<Vec<Answer>> {
        let replies = self.socket.batch(messages)?;
        match replies.refused.first() {
            None => Ok(replies.answers),
            Some(refusal) => Err(refusal.error(what(refusal.index))),
        }
    }
}

/// That an answer of the kernel's is not what it has to be.
fn unexpected(what: &str) -> Error {
    Error::internal(format!("the kernel's answer about {what} is not whole"))
}

#[cfg(test)]
mod testing {
    use std::os::unix::fs::MetadataExt;
    use std::thread;

    use nix::sched::{CloneFlags, unshare};

    /// Does this in a network namespace that goes with it, if this process may make one.
    pub(super) fn elsewhere(work: impl FnOnce() + Send + 'static) {
        if !std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
            return;
        }
        let thread = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            work();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// A process in a network namespace of its own, until it is dropped.
    pub(super) struct Process(std::process::Child);

    impl Process {
        pub(super) fn new() -> Self {
            // The thread's new namespace is inherited by what it starts.
            let start = || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                std::process::Command::new("sleep").arg("60").spawn().unwrap()
            };
            Self(thread::spawn(start).join().unwrap())
        }

        pub(super) fn id(&self) -> u32 {
            self.0.id()
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
