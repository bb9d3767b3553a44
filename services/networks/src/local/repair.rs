//! Links that somebody else has changed are brought in order, and what nobody needs any more is
//! deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gantry_core::Result;
use gantry_core::db::blocking;
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::bridge;
use super::inner::Inner;
use super::memory::{Phase, Placed};
use super::recover::check_process;
use crate::addresses::Key;
use crate::netlink::{self, Changed, Link, Netlink};

/// How long more changes are waited for before anything is done.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing is done after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How often everything is looked at when nothing was heard.
const SELDOM: Duration = Duration::from_secs(300);

/// The host's links and addresses.
struct Seen {
    links: BTreeMap<String, Link>,
    addresses: BTreeSet<(u32, IpNet)>,
}

impl Seen {
    /// As they are now. It blocks.
    fn look() -> Result<Self> {
        let netlink = Netlink::open()?;
        let links = netlink.links()?.into_iter().map(|link| (link.name.clone(), link));
        let links = links.collect();
        Ok(Self { links, addresses: netlink.addresses()?.into_iter().collect() })
    }
}

impl Inner {
    /// Has links and rules repaired from now on.
    pub(super) fn watch(self: &Arc<Self>) {
        self.watched.call_once(|| {
            let (links, rules) = (Arc::downgrade(self), Arc::downgrade(self));
            let wake = Arc::clone(&self.wake);
            tokio::spawn(async move {
                while let Err(err) = follow_links(&links, &wake).await {
                    tracing::warn!(error = %err, "watch the host's interfaces");
                    sleep(AGAIN).await;
                }
            });
            tokio::spawn(async move {
                while let Err(err) = follow_rules(&rules).await {
                    tracing::warn!(error = %err, "watch the firewall");
                    sleep(AGAIN).await;
                }
            });
        });
    }

    /// Has the firewall say what it is to say as soon as it can be made to.
    pub(super) fn assert_later(self: &Arc<Self>) {
        let networks = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                sleep(AGAIN).await;
                let Some(inner) = networks.upgrade() else { return };
                match inner.assert_again().await {
                    Ok(()) => break,
                    Err(err) => tracing::warn!(error = %err, "make the firewall"),
                }
            }
            tracing::info!("the firewall is whole");
        });
    }

    /// Brings links in order.
    pub(super) async fn repair(self: &Arc<Self>) -> Result<()> {
        self.forward_again().await;
        let mut seen = blocking(Seen::look).await?;
        if self.repair_bridges(&seen).await {
            seen = blocking(Seen::look).await?;
        }
        self.repair_ends(&seen).await;
        self.sweep(&seen).await
    }

    /// Has the kernel forward packets again, where a network needs it and the daemon may: those of
    /// IPv6 if it was made to before, as a route that the host would lose by that may be away for a
    /// moment.
    async fn forward_again(&self) {
        let mut kinds = [false; 2];
        {
            let memory = self.memory();
            let made = memory.networks.values().filter(|known| known.index.is_some());
            for known in made.filter(|known| known.is_bridge()) {
                let network = &known.record.network;
                kinds[0] |= !network.internal && network.ipv4().is_some();
                kinds[1] |= !network.internal && network.ipv6().is_some();
            }
        }
        kinds[1] &= self.forwards6.load(Ordering::Relaxed);
        if !self.config.forwarding || kinds == [false; 2] {
            return;
        }
        // What it answers with was told to who made the networks.
        if let Err(err) = blocking(move || bridge::forward(&Netlink::open()?, kinds)).await {
            tracing::warn!(error = %err, "let the kernel forward packets");
        }
    }

    /// Makes bridges again that are not as they are to be; whether there were any.
    async fn repair_bridges(self: &Arc<Self>, seen: &Seen) -> bool {
        let broken: Vec<(String, String)> = {
            let memory = self.memory();
            let ready = memory.networks.values().filter(|known| known.phase == Phase::Ready);
            let made = ready.filter(|known| known.is_bridge() && known.index.is_some());
            let broken = made.filter(|known| {
                let network = &known.record.network;
                let Some(link) = seen.links.get(&network.interface) else { return true };
                let addresses = bridge::addresses(network, &known.settings);
                let mut addresses = addresses.into_iter().map(|address| (link.index, address));
                Some(link.index) != known.index
                    || !link.up
                    || !addresses.all(|address| seen.addresses.contains(&address))
            });
            broken.map(|known| (known.id().to_owned(), known.name().to_owned())).collect()
        };
        for (id, network) in &broken {
            let _held = self.networks.lock(id.clone()).await;
            // It may be about to go.
            let there = self.memory().known(id).is_ok_and(|known| known.phase == Phase::Ready);
            if !there {
                continue;
            }
            match self.make_bridge(id).await {
                Ok(made) => {
                    tracing::info!(%network, "the bridge of a network was changed, and is repaired");
                    if let Ok(known) = self.memory().known(id) {
                        known.index = Some(made.index);
                    }
                }
                Err(err) => tracing::error!(error = %err, %network, "repair a bridge"),
            }
        }
        !broken.is_empty()
    }

    /// Brings the host's ends of containers' interfaces in order.
    async fn repair_ends(self: &Arc<Self>, seen: &Seen) {
        let mut strayed = Vec::new();
        let mut missing = Vec::new();
        {
            let memory = self.memory();
            for (name, key) in &memory.ends {
                let Some(present) = memory.members.get(key).filter(|at| at.record.joined) else {
                    continue;
                };
                let endpoints = &present.record.endpoints;
                let Some(endpoint) = endpoints.iter().find(|at| at.host_interface == *name) else {
                    continue;
                };
                let Some(known) = memory.networks.get(&endpoint.network) else { continue };
                let Some(index) = known.index else { continue };
                match seen.links.get(name) {
                    None => missing.push((key.clone(), endpoint.id.clone())),
                    // What a port of a bridge may do is forgotten when it is none any more.
                    Some(link) if link.master != Some(index) && !known.settings.between => {
                        missing.push((key.clone(), endpoint.id.clone()));
                    }
                    Some(link) if link.master != Some(index) || !link.up => {
                        strayed.push((link.index, index));
                    }
                    Some(_) => {}
                }
            }
        }
        if !strayed.is_empty() {
            tracing::info!(count = strayed.len(), "interfaces of containers are put back");
            let done = blocking(move || {
                let netlink = Netlink::open()?;
                strayed.iter().try_for_each(|(link, master)| {
                    netlink.set_master(*link, Some(*master))?;
                    netlink.set_up(*link)
                })
            });
            if let Err(err) = done.await {
                tracing::warn!(error = %err, "put interfaces of containers back");
            }
        }
        for (key, endpoint) in missing {
            if let Err(err) = self.attach_again(&key, &endpoint).await
                && !err.is_not_found()
            {
                tracing::warn!(error = %err, container = %key.1, "make an interface again");
            }
        }
    }

    /// Makes an interface of a container again that has gone, unless the container has as well.
    pub(super) async fn attach_again(self: &Arc<Self>, key: &Key, endpoint: &str) -> Result<()> {
        let _held = self.members.lock(key.clone()).await;
        let (record, placed) = self.present(key)?;
        let process = self.memory().members.get(key).and_then(|present| present.process);
        let at: Vec<Placed> =
            placed.iter().filter(|at| at.endpoint.id == endpoint).cloned().collect();
        let ([place], Some((pid, namespace)), true) = (at.as_slice(), process, record.joined)
        else {
            return Ok(());
        };
        check_process(pid, namespace).await?;
        let name = place.endpoint.host_interface.clone();
        let keep = place.settings.between;
        let bridge = self.memory().known(&place.network.id)?.index;
        let there = blocking(move || {
            let netlink = Netlink::open()?;
            let Some(link) = netlink.link(&name)? else { return Ok(false) };
            // Somebody else may have made it meanwhile.
            if keep || bridge.is_some() && link.master == bridge {
                return Ok(true);
            }
            netlink.delete_link(&name)?;
            Ok(false)
        });
        if there.await? {
            return Ok(());
        }
        self.attach(&at, &placed, pid, false).await?;
        tracing::info!(container = %key.1, network = %place.network.name, "an interface is back");
        Ok(())
    }

    /// Deletes interfaces that nobody needs any more and that have not gone by themselves.
    async fn sweep(self: &Arc<Self>, seen: &Seen) -> Result<()> {
        let due: Vec<String> = {
            let memory = self.memory();
            let own = memory.networks.values().filter(|known| !known.record.adopted);
            let links = own.filter_map(|known| seen.links.get(&known.record.network.interface));
            let bridges: BTreeSet<u32> =
                links.filter(|link| bridge::is_ours(link)).map(|link| link.index).collect();
            let unknown = seen.links.values().filter(|link| {
                let ours = link.master.is_some_and(|master| bridges.contains(&master));
                ours && is_end(&link.name) && !memory.ends.contains_key(&link.name)
            });
            let mut stale = self.stale();
            for link in unknown {
                let soon = Instant::now() + Duration::from_secs(2);
                stale.entry(link.name.clone()).or_insert(soon);
            }
            let now = Instant::now();
            stale.retain(|name, _| seen.links.contains_key(name));
            let due =
                stale.iter().filter(|(name, at)| **at <= now && !memory.ends.contains_key(*name));
            due.map(|(name, _)| name.clone()).collect()
        };
        if due.is_empty() {
            return Ok(());
        }
        let names = due.clone();
        blocking(move || {
            let netlink = Netlink::open()?;
            names.iter().try_for_each(|name| netlink.delete_link(name))
        })
        .await?;
        for name in &due {
            self.gone(name);
        }
        Ok(())
    }

    /// When something is to be deleted next.
    fn next_due(&self) -> Option<Instant> {
        self.stale().values().min().copied()
    }

    /// An interface of the host's has gone.
    fn gone(&self, name: &str) {
        self.stale().remove(name);
        self.memory().gone(name);
    }

    /// Whether a change is one that has to be looked after.
    fn matters(&self, changed: &Changed) -> bool {
        if let Changed::LinkGone { name, .. } = changed {
            self.gone(name);
        }
        let memory = self.memory();
        let mut bridges = memory.networks.values().filter(|known| known.is_bridge());
        match changed {
            Changed::Lost => true,
            Changed::Address { .. } => false,
            Changed::AddressGone { index, .. } => bridges.any(|known| known.index == Some(*index)),
            Changed::LinkGone { name, .. } => {
                memory.ends.contains_key(name)
                    || bridges.any(|known| {
                        known.record.network.interface == *name && known.index.is_some()
                    })
            }
            Changed::Link(link) => {
                if let Some(known) =
                    bridges.find(|known| known.record.network.interface == link.name)
                {
                    return known.index.is_some_and(|index| index != link.index || !link.up);
                }
                let Some(key) = memory.ends.get(&link.name) else { return false };
                let Some(present) = memory.members.get(key) else { return false };
                let mut endpoints = present.record.endpoints.iter();
                let endpoint = endpoints.find(|at| at.host_interface == link.name);
                let known = endpoint.and_then(|at| memory.networks.get(&at.network));
                present.record.joined
                    && known.is_some_and(|known| known.index != link.master || !link.up)
            }
        }
    }
}

/// Whether this is a name that we give the host's end of a pair.
fn is_end(name: &str) -> bool {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    name.strip_prefix("veth").is_some_and(|rest| rest.len() == 7 && rest.bytes().all(hex))
}

/// Repairs links until the networks have gone.
async fn follow_links(networks: &Weak<Inner>, wake: &Notify) -> Result<()> {
    let mut watch = netlink::watch()?;
    let mut look = true;
    loop {
        if look {
            sleep(PAUSE).await;
            while let Ok(changed) = timeout(Duration::ZERO, watch.next()).await {
                let changed = changed?;
                let Some(inner) = networks.upgrade() else { return Ok(()) };
                inner.matters(&changed);
            }
            let Some(inner) = networks.upgrade() else { return Ok(()) };
            inner.repair().await?;
        }
        let due = {
            let Some(inner) = networks.upgrade() else { return Ok(()) };
            inner.next_due()
        };
        let pause = due.map_or(SELDOM, |at| at.saturating_duration_since(Instant::now()));
        look = tokio::select! {
            changed = watch.next() => {
                let changed = changed?;
                networks.upgrade().is_some_and(|inner| inner.matters(&changed))
            }
            () = wake.notified() => false,
            () = sleep(pause) => true,
        };
    }
}

/// Makes the firewall whole again whenever somebody else has changed it.
async fn follow_rules(networks: &Weak<Inner>) -> Result<()> {
    let mut watch = {
        let Some(inner) = networks.upgrade() else { return Ok(()) };
        inner.firewall()?.watch()?
    };
    loop {
        {
            let Some(inner) = networks.upgrade() else { return Ok(()) };
            if inner.asserted.initialized() && inner.firewall()?.repair().await? {
                tracing::info!("somebody else changed the firewall: it is whole again");
                // Who did that may have stopped forwarding as well.
                inner.forward_again().await;
            }
        }
        watch.changed().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_by_their_names() {
        assert!(is_end("veth0123abc"));
        for other in ["veth0", "veth0123abcd", "veth0123xyz", "eth0"] {
            assert!(!is_end(other), "{other}");
        }
    }
}
