//! The daemon's handle of the firewall.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, Sender};
use std::thread;

use gantry_core::networks::Protocol;
use gantry_core::{Error, Result};
use tokio::sync::oneshot;

use super::explain::Explained;
use super::rules::{Change, Rules};
use super::watch::Watch;
use super::worker::{Reply, Request, Worker};
use crate::netlink::socket::{Family, Socket};

/// Bytes of the stack of the thread that writes.
const STACK: usize = 512 << 10;

/// The firewall of one network namespace.
///
/// One thread writes. What others ask for while it does is written together, in one batch of
/// the kernel's, when it is done: many containers that start at once wait for one or two
/// batches and not for one each. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub(crate) struct Firewall {
    requests: Sender<Request>,
    table: Arc<str>,
    /// Port of the socket that writes.
    port: u32,
    /// Whether other tables matter as well.
    elsewhere: Arc<AtomicBool>,
}

impl Firewall {
    /// The firewall of this thread's network namespace, in the table of this name. Nothing is
    /// written before [`Firewall::assert`].
    ///
    /// # Errors
    /// `InvalidArgument` for a name that nft(8) could not write; `Unimplemented` when the kernel
    /// lacks nf_tables.
    pub(crate) fn open(table: &str) -> Result<Self> {
        check_name(table)?;
        let socket = Socket::open(Family::Netfilter)?;
        let port = socket.port();
        let table: Arc<str> = Arc::from(table);
        let elsewhere = Arc::new(AtomicBool::new(false));
        let (requests, received) = mpsc::channel();
        let worker = Worker::new(socket, &table, Arc::clone(&elsewhere));
        thread::Builder::new()
            .name("firewall".to_owned())
            .stack_size(STACK)
            .spawn(move || worker.run(&received))
            .map_err(|err| Error::io("start a thread for the firewall", err))?;
        Ok(Self { requests, table, port, elsewhere })
    }

    /// Makes the table say these rules and nothing else, in one batch. They are kept: changes
    /// are applied to them.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; the kernel's. Then the table is as it was.
    pub(crate) async fn assert(&self, rules: &Rules) -> Result<()> {
        let rules = rules.clone();
        self.ask(|reply| Request::Assert(rules, reply)).await
    }

    /// Applies changes, all or none. A table that is not there, or not as it was left, is made
    /// again with them.
    ///
    /// # Errors
    /// As [`Firewall::assert`].
    pub(crate) async fn apply(&self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = changes.to_vec();
        self.ask(|reply| Request::Apply(changes, reply)).await
    }

    /// Makes the table say the kept rules again unless it does, and what was added to others;
    /// answers whether it did not. Nothing is done before rules were asserted.
    ///
    /// # Errors
    /// As [`Firewall::assert`].
    pub(crate) async fn repair(&self) -> Result<bool> {
        self.ask(Request::Repair).await
    }

    /// What hears of changes by others from now on, in this thread's network namespace.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn watch(&self) -> Result<Watch> {
        Watch::open(&self.table, self.port, Arc::clone(&self.elsewhere))
    }

    /// What the chains of all tables do with new connections from outside to a port of the
    /// host, at this address if there is one.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) async fn explain(
        &self,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Explained> {
        self.ask(|reply| Request::Explain((address, port, protocol), reply)).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::internal("the thread of the firewall has ended");
        self.requests.send(request(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A name as nft(8) takes it.
fn check_name(table: &str) -> Result<()> {
    let mut bytes = table.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic());
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if first && rest && table.len() < 64 {
        return Ok(());
    }
    Err(Error::invalid_argument(format!(
        "invalid name of an nftables table {table:?}: it is a letter and up to 62 letters, \
         digits, `_`, `-` and `.`"
    )))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::elsewhere::FORWARD;
    use super::super::layout::{POLICY_CHAIN, equal, payload, verdict};
    use super::super::rules::tests::{port, sample};
    use super::super::testing::{self, in_a_namespace, nft, run};
    use super::super::{dump, wire};
    use super::*;
    use crate::netlink::sysctl::set_sysctl;
    use crate::nft::expression::{NETWORK, Verdict};
    use crate::nft::wire::{Layer, Position};

    const TABLE: &str = "gantry";

    /// All rules of a table, as others see them.
    fn rules(layer: Layer, table: &str) -> Vec<dump::Rule> {
        dump::rules(&Socket::open(Family::Netfilter).unwrap(), layer, table).unwrap()
    }

    #[test]
    fn the_table_says_the_rules() {
        in_a_namespace(|| {
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                assert!(!firewall.repair().await.unwrap(), "nothing is wanted yet");
                firewall.assert(&sample()).await.unwrap();
                assert!(!firewall.repair().await.unwrap());
                // Again, with what is there.
                firewall.assert(&sample()).await.unwrap();
                assert!(!firewall.repair().await.unwrap());
                let changes = [
                    Change::AddPort(port("0.0.0.0", 9000, "172.18.0.9", "b")),
                    Change::RemovePort(port("::", 8080, "fd00:1::2", "a")),
                    Change::RemoveBridge("c".to_owned()),
                ];
                firewall.apply(&changes).await.unwrap();
                assert!(!firewall.repair().await.unwrap());
            });
            if let Some(text) = nft(&["list", "table", "inet", TABLE]) {
                assert!(text.contains("tcp . 9000 : 172.18.0.9 . 80"), "{text}");
                assert!(text.contains("tcp . 8080 : 172.17.0.2 . 80"), "{text}");
                assert!(text.contains("127.0.0.1 . tcp . 8081 : 172.18.0.2 . 80"), "{text}");
                assert!(!text.contains("fd00:1::2"), "{text}");
                assert!(!text.contains("br-c"), "{text}");
                assert!(text.contains("172.17.0.0/16 . \"gantry0\""), "{text}");
                assert!(text.contains("fib daddr type local jump published"), "{text}");
            }
        });
    }

    #[test]
    fn what_somebody_flushed_is_made_again() {
        in_a_namespace(|| {
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                let mut watch = firewall.watch().unwrap();
                firewall.assert(&sample()).await.unwrap();
                // Our own changes are not heard.
                let none = tokio::time::timeout(Duration::from_millis(100), watch.changed()).await;
                assert!(none.is_err());
                testing::send(vec![wire::delete_table(Layer::Inet, TABLE)]);
                watch.changed().await.unwrap();
                assert!(firewall.repair().await.unwrap());
                assert!(!firewall.repair().await.unwrap());
                // Emptied chains and sets, a table that sleeps, are seen as well.
                testing::send(vec![wire::delete_rule(Layer::Inet, (TABLE, "forward"), None)]);
                assert!(firewall.repair().await.unwrap());
                testing::send(vec![wire::flush_set(Layer::Inet, TABLE, "ports4")]);
                assert!(firewall.repair().await.unwrap());
                assert!(!firewall.repair().await.unwrap());
                // Changes make it whole as well.
                testing::send(vec![wire::delete_table(Layer::Inet, TABLE)]);
                let change = Change::RemovePort(port("0.0.0.0", 8080, "172.17.0.2", "a"));
                firewall.apply(&[change]).await.unwrap();
                assert!(!firewall.repair().await.unwrap());
            });
        });
    }

    #[test]
    fn the_administrators_chain_is_kept() {
        in_a_namespace(|| {
            let place = (TABLE, POLICY_CHAIN);
            let drops = verdict(Verdict::Drop);
            let rule = wire::new_rule(Layer::Inet, place, Position::Last, &drops, "mine");
            // It may be there before we are.
            testing::send(vec![
                wire::new_table(Layer::Inet, TABLE),
                wire::new_chain(Layer::Inet, TABLE, POLICY_CHAIN, None),
                rule,
            ]);
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                firewall.assert(&sample()).await.unwrap();
                testing::send(vec![wire::delete_rule(Layer::Inet, (TABLE, "into"), None)]);
                assert!(firewall.repair().await.unwrap());
                let explained = firewall.explain(None, 8080, Protocol::Tcp).await.unwrap();
                assert_eq!(explained.passes, [false, false]);
                let mut chains = explained.chains.iter();
                let ours = chains.find(|chain| chain.chain == "forward").unwrap();
                assert_eq!(ours.verdict, "drop", "{ours:?}");
                assert!(ours.reason.contains("mine"), "{ours:?}");
                assert!(ours.remedy.contains(POLICY_CHAIN), "{ours:?}");
            });
            assert!(rules(Layer::Inet, TABLE).iter().any(|rule| rule.comment == "mine"));
        });
    }

    #[test]
    fn others_are_told_only_when_that_is_asked_for() {
        in_a_namespace(|| {
            testing::foreign_chain(Layer::Ip, ("filter", "FORWARD"), FORWARD as i32, true);
            testing::foreign_chain(Layer::Inet, ("other", "forward"), FORWARD as i32, false);
            let source = vec![payload(NETWORK, 12, 4, 0), equal(0, &[192, 0, 2, 9])];
            let theirs = [source, verdict(Verdict::Drop)].concat();
            let forward = ("filter", "FORWARD");
            let block = || wire::new_rule(Layer::Ip, forward, Position::Last, &theirs, "theirs");
            testing::send(vec![block()]);
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                let mut wanted = sample();
                firewall.assert(&wanted).await.unwrap();
                assert_eq!(rules(Layer::Ip, "filter").len(), 1);
                let explained = firewall.explain(None, 8080, Protocol::Tcp).await.unwrap();
                assert_eq!(explained.passes, [false, true]);
                let mut chains = explained.chains.iter();
                let other = chains.find(|chain| chain.chain == "FORWARD").unwrap();
                assert_eq!((other.verdict.as_str(), other.priority), ("drop", 10));
                assert_eq!(other.reason, "policy drop");
                assert_eq!(
                    other.remedy,
                    "iptables -I FORWARD -o gantry0 -j ACCEPT && \
                     iptables -I FORWARD -i gantry0 -j ACCEPT"
                );
                wanted.accept_elsewhere = true;
                firewall.assert(&wanted).await.unwrap();
                // Ours come last.
                let all = rules(Layer::Ip, "filter");
                assert_eq!((all.len(), all[0].comment.as_str()), (5, "theirs"));
                assert!(rules(Layer::Inet, "other").is_empty());
                let explained = firewall.explain(None, 8080, Protocol::Tcp).await.unwrap();
                assert_eq!(explained.passes, [true, true]);
                testing::send(vec![wire::delete_rule(Layer::Ip, forward, None), block()]);
                assert!(firewall.repair().await.unwrap());
                assert_eq!(rules(Layer::Ip, "filter").len(), 5);
                firewall.apply(&[Change::RemoveBridge("b".to_owned())]).await.unwrap();
                assert_eq!(rules(Layer::Ip, "filter").len(), 3);
                wanted.accept_elsewhere = false;
                firewall.assert(&wanted).await.unwrap();
                assert_eq!(rules(Layer::Ip, "filter").len(), 1);
                // Before what drops all the rest, and not before anything else.
                let drops = verdict(Verdict::Drop);
                let end = wire::new_rule(Layer::Ip, forward, Position::Last, &drops, "end");
                testing::send(vec![end]);
                wanted.accept_elsewhere = true;
                firewall.assert(&wanted).await.unwrap();
                let all = rules(Layer::Ip, "filter");
                let comments: Vec<_> = all.iter().map(|rule| rule.comment.as_str()).collect();
                assert_eq!(comments.len(), 6);
                assert_eq!((comments[0], comments[5]), ("theirs", "end"));
            });
        });
    }

    #[test]
    fn ipv4_and_ipv6_are_told_apart() {
        in_a_namespace(|| {
            testing::foreign_chain(Layer::Inet, ("other", "forward"), FORWARD as i32, true);
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                let mut wanted = sample();
                // A shim carries IPv6 to a container that has none.
                wanted.ports.insert(port("0.0.0.0", 9090, "172.17.0.2", "a"));
                wanted.ports.insert(port("::", 9090, "172.17.0.2", "a"));
                firewall.assert(&wanted).await.unwrap();
                let explained = firewall.explain(None, 9090, Protocol::Tcp).await.unwrap();
                assert_eq!(explained.passes, [false, true]);
                let reason = |table: &str, chain: &str| {
                    let mut chains = explained.chains.iter();
                    let found = chains.find(|one| (&*one.table, &*one.chain) == (table, chain));
                    found.unwrap_or_else(|| panic!("{chain}: {explained:#?}")).reason.clone()
                };
                assert_eq!(reason("other", "forward"), "IPv4: policy drop");
                assert_eq!(reason(TABLE, "input"), "IPv6: policy accept");
                assert_eq!(reason(TABLE, "raw"), "policy accept");
                let both = firewall.explain(None, 8080, Protocol::Tcp).await.unwrap();
                assert_eq!(both.passes, [false, false]);
                assert!(both.chains.iter().all(|chain| chain.hook != "input"), "{both:#?}");
                let place = (TABLE, POLICY_CHAIN);
                let drops = verdict(Verdict::Drop);
                let rule = wire::new_rule(Layer::Inet, place, Position::Last, &drops, "mine");
                testing::send(vec![rule]);
                let explained = firewall.explain(None, 9090, Protocol::Tcp).await.unwrap();
                assert_eq!(explained.passes, [false, false]);
                let mut chains = explained.chains.iter();
                let asked = chains.find(|chain| chain.chain == "input").unwrap();
                assert!(asked.reason.contains("mine"), "{asked:?}");
            });
        });
    }

    #[test]
    fn a_host_that_does_not_forward_lets_nothing_in() {
        in_a_namespace(|| {
            set_sysctl("net/ipv4/ip_forward", "0").unwrap();
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                firewall.assert(&sample()).await.unwrap();
                let explained = firewall.explain(None, 8080, Protocol::Tcp).await.unwrap();
                assert!(!explained.passes[0], "{explained:#?}");
                let mut chains = explained.chains.iter();
                let kernel = chains.find(|chain| chain.table == "kernel").unwrap();
                assert_eq!((kernel.family.as_str(), kernel.verdict.as_str()), ("ip", "drop"));
                assert_eq!(kernel.remedy, "sysctl -w net.ipv4.ip_forward=1");
            });
        });
    }

    #[test]
    fn one_address_is_asked_for() {
        in_a_namespace(|| {
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                firewall.assert(&sample()).await.unwrap();
                let at = |text: &str| firewall.explain(text.parse().ok(), 8080, Protocol::Tcp);
                assert_eq!(at("192.0.2.1").await.unwrap().passes, [true, false]);
                assert_eq!(at("2001:db8::1").await.unwrap().passes, [false, true]);
                assert_eq!(at("127.0.0.1").await.unwrap().passes, [false, false]);
            });
        });
    }

    #[test]
    fn a_port_of_127_0_0_1_is_for_the_host_alone() {
        in_a_namespace(|| {
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                firewall.assert(&sample()).await.unwrap();
                let explained = firewall.explain(None, 8081, Protocol::Tcp).await.unwrap();
                let last = explained.chains.last().unwrap();
                assert_eq!(last.verdict, "drop", "{explained:#?}");
                assert!(last.remedy.contains("gantry port add"));
            });
        });
    }

    #[test]
    fn many_at_once_are_written_together() {
        in_a_namespace(|| {
            let firewall = Firewall::open(TABLE).unwrap();
            run(async {
                firewall.assert(&sample()).await.unwrap();
                let tasks: Vec<_> = (0..64u16)
                    .map(|number| {
                        let firewall = firewall.clone();
                        tokio::spawn(async move {
                            let rule = port("0.0.0.0", 10_000 + number, "172.17.0.3", "a");
                            firewall.apply(&[Change::AddPort(rule)]).await
                        })
                    })
                    .collect();
                for task in tasks {
                    task.await.unwrap().unwrap();
                }
                assert!(!firewall.repair().await.unwrap());
            });
        });
    }

    #[test]
    fn names_of_tables_are_checked() {
        for name in ["", "1st", "a b", "a;b", "ü", "x".repeat(64).as_str()] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("gantry-2").unwrap();
    }
}
