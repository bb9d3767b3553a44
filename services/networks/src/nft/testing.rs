//! What tests of the firewall have in common: a network namespace of their own.

use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::batch::Batch;
use super::wire::{self, Layer};
use crate::netlink::message::Message;
use crate::netlink::socket::{Family, Socket};
use crate::netlink::sysctl::set_sysctl;

/// Runs this in a thread with a new network namespace, with `lo` up, that forwards packets; not at
/// all without the rights for it.
pub(super) fn in_a_namespace(work: impl FnOnce() + Send + 'static) {
    let done = thread::spawn(move || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        up(1);
        for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            // There may be no IPv6.
            let _ = set_sysctl(path, "1");
        }
        work();
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Sets the link of this index up.
fn up(index: u32) {
    let mut message = Message::new(libc::RTM_NEWLINK, libc::NLM_F_ACK as u16);
    let mut header = vec![libc::AF_UNSPEC as u8, 0, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    header.extend_from_slice(&(libc::IFF_UP as u32).to_ne_bytes());
    message.fixed(&header);
    let replies = Socket::open(Family::Route).unwrap().batch(&mut [message]).unwrap();
    assert!(replies.refused.is_empty(), "{replies:?}");
}

/// What nft(8) says in this thread's namespace, where it is there.
pub(super) fn nft(arguments: &[&str]) -> Option<String> {
    let output = Command::new("nft").args(arguments).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Somebody else's chain that packets come to, and its table.
pub(super) fn foreign_chain(
    layer: Layer,
    (table, chain): (&str, &str),
    hook: libc::c_int,
    drops: bool,
) {
    let create = libc::NLM_F_CREATE as u16 | libc::NLM_F_ACK as u16;
    let mut message = wire::message(wire::NEW_CHAIN, create, layer, table);
    message
        .put_text(wire::CHAIN_NAME, chain)
        .nest(wire::CHAIN_HOOK, |inner| {
            inner.put_be32(wire::HOOK_NUMBER, hook as u32);
            inner.put_be32(wire::HOOK_PRIORITY, 10);
        })
        .put_be32(wire::CHAIN_POLICY, if drops { 0 } else { 1 })
        .put_text(wire::CHAIN_TYPE, "filter");
    send(vec![wire::new_table(layer, table), message]);
}

/// What somebody else does, in one batch.
pub(super) fn send(messages: Vec<Message>) {
    let mut batch = Batch::new();
    batch.extend("test", messages);
    let socket = Socket::open(Family::Netfilter).unwrap();
    if let Some(refused) = batch.send(&socket).unwrap() {
        panic!("{}", refused.error());
    }
}

/// Runs asynchronous work in this thread.
pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
