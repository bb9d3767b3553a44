//! What all calls share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gantry_core::db::{Database, Durability, blocking, write_blocking};
use gantry_core::locks::KeyLocks;
use gantry_core::networks::{Explanation, Protocol, names_directory};
use gantry_core::{Error, Namespace, Result, faults};
use tokio::sync::{Notify, OnceCell};

use super::bridge;
use super::config::NetworkConfig;
use super::memory::{Known, Memory, Phase};
use super::plan::bridge_rules;
use super::predefined;
use super::records::{MEMBERS, MemberRecord, NETWORKS, NetworkRecord};
use crate::addresses::Key;
use crate::names::NameDirectory;
use crate::nft::{Change, Explained, Firewall, Rules};
use crate::ports::{Ports, listener};

/// How long an interface may take to go with its namespace.
const GRACE: Duration = Duration::from_secs(2);

/// What all calls share.
pub(super) struct Inner {
    pub(super) config: NetworkConfig,
    pub(super) db: Arc<dyn Database>,
    pub(super) names: NameDirectory,
    /// The firewall, or why there are no networks with interfaces.
    pub(super) firewall: Result<Firewall, String>,
    /// What is known. Held only to look or change, never while anything blocks.
    memory: Mutex<Memory>,
    /// Whose the host's ports are. The same; both are never held at a time.
    pub(super) ports: Mutex<Ports>,
    /// Held by whoever changes a container's networks.
    pub(super) members: KeyLocks<Key>,
    /// Held by whoever makes or removes a network's bridge, by its ID.
    pub(super) networks: KeyLocks<String>,
    /// Wakes what repairs links.
    pub(super) wake: Arc<Notify>,
    /// Interfaces of the host's that nobody needs any more, and when they are deleted if they
    /// have not gone with their namespace until then.
    stale: Mutex<BTreeMap<String, Instant>>,
    /// Set once the firewall says all that it is to say; changes are for then.
    pub(super) asserted: OnceCell<()>,
    /// Set once what repairs runs.
    pub(super) watched: std::sync::Once,
    /// Set once the kernel was made to forward IPv6.
    pub(super) forwards6: AtomicBool,
}

impl Inner {
    pub(super) fn open(config: NetworkConfig, db: Arc<dyn Database>) -> Result<Self> {
        config.validate()?;
        let names = NameDirectory::open(names_directory(&config.state))?;
        let firewall = firewall(&config);
        if let Err(why) = &firewall {
            tracing::info!("containers get no networks but host and none: {why}");
        }
        let mut memory = Memory::default();
        for network in predefined::installation(&config, &*db)?.predefined {
            let record =
                NetworkRecord { network, adopted: false, added: Vec::new(), localnet: false };
            let known = Known::new(None, record, Phase::Ready);
            memory.networks.insert(known.id().to_owned(), known);
        }
        for namespace in db.namespaces(NETWORKS.name())? {
            let owner = Namespace::new(namespace.clone())?;
            NETWORKS.each(&*db, &namespace, |record| {
                let known = Known::new(Some(owner.clone()), record, Phase::Ready);
                memory.networks.insert(known.id().to_owned(), known);
            })?;
        }
        Ok(Self {
            config,
            db,
            names,
            firewall,
            memory: Mutex::new(memory),
            ports: Mutex::default(),
            members: KeyLocks::default(),
            networks: KeyLocks::default(),
            wake: Arc::default(),
            stale: Mutex::default(),
            asserted: OnceCell::new(),
            watched: std::sync::Once::new(),
            forwards6: AtomicBool::new(false),
        })
    }

    pub(super) fn memory(&self) -> MutexGuard<'_, Memory> {
        // Who panicked while it was held has left a number too few or too many at worst.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ports(&self) -> MutexGuard<'_, Ports> {
        // The table is whole at any time.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The firewall.
    ///
    /// # Errors
    /// `FailedPrecondition` with why there is none.
    pub(super) fn firewall(&self) -> Result<&Firewall> {
        self.firewall.as_ref().map_err(|why| {
            Error::failed_precondition(format!("there are no networks but host and none: {why}"))
        })
    }

    /// Makes the firewall say these rules, once; all else are changes.
    pub(super) async fn assert_rules(&self, rules: Rules) -> Result<()> {
        let firewall = self.firewall()?;
        let rules = Rules { accept_elsewhere: self.config.accept_elsewhere, ..rules };
        let assert = || faults::around_async("make the firewall", firewall.assert(&rules));
        self.asserted.get_or_try_init(assert).await?;
        Ok(())
    }

    /// Makes the firewall say what is known, unless it does.
    async fn assert_known(&self) -> Result<()> {
        if self.asserted.initialized() {
            return Ok(());
        }
        self.assert_rules(self.known_rules()).await
    }

    /// The rules for the bridges that are there or used, and for all that is published.
    fn known_rules(&self) -> Rules {
        let bridges: Vec<String> = {
            let memory = self.memory();
            let bridges = memory.networks.values().filter(|known| {
                let there = known.index.is_some() || !known.members.is_empty();
                known.is_bridge() && there && known.phase != Phase::Removing
            });
            bridges.map(|known| known.id().to_owned()).collect()
        };
        self.all_rules(&bridges)
    }

    /// Changes the firewall.
    pub(super) async fn change_rules(&self, changes: &[Change]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.assert_known().await?;
        let firewall = self.firewall()?;
        faults::around_async("change the firewall", firewall.apply(changes)).await
    }

    /// Makes sure that a network's bridge is there, and its rules. Answers with warnings.
    pub(super) async fn ensure(self: &Arc<Self>, id: &str) -> Result<Vec<String>> {
        if !self.needs_bridge(id)? {
            return Ok(Vec::new());
        }
        let _held = self.networks.lock(id.to_owned()).await;
        if !self.needs_bridge(id)? {
            // Somebody else made it meanwhile.
            return Ok(Vec::new());
        }
        self.ensure_held(id).await
    }

    /// [`Inner::ensure`] for who holds the network, whatever was known of the bridge.
    pub(super) async fn ensure_held(self: &Arc<Self>, id: &str) -> Result<Vec<String>> {
        self.assert_known().await?;
        self.settle_default(id).await?;
        let made = self.make_bridge(id).await?;
        let rules = {
            let mut memory = self.memory();
            let known = memory.known(id)?;
            Change::AddBridge(id.to_owned(), bridge_rules(&known.record.network, &known.settings))
        };
        self.change_rules(&[rules]).await?;
        if let Ok(known) = self.memory().known(id) {
            known.index = Some(made.index);
        }
        Ok(made.warnings)
    }

    /// Makes a network's bridge as it is to be.
    pub(super) async fn make_bridge(self: &Arc<Self>, id: &str) -> Result<bridge::Made> {
        let (network, settings) = {
            let mut memory = self.memory();
            let known = memory.known(id)?;
            (known.record.network.clone(), known.settings.clone())
        };
        let this = Arc::clone(self);
        blocking(move || {
            let make = || bridge::make(&this.config, &network, &settings);
            let made = faults::around("make a bridge", make)?;
            this.forwards6.fetch_or(made.forwards6, Ordering::Relaxed);
            Ok(made)
        })
        .await
    }

    fn needs_bridge(&self, id: &str) -> Result<bool> {
        let mut memory = self.memory();
        let known = memory.known(id)?;
        // A bridge is of no use without rules.
        Ok(known.is_bridge() && (known.index.is_none() || !self.asserted.initialized()))
    }

    /// Writes what is known of a container. It blocks.
    pub(super) fn put(&self, (namespace, id): &Key, record: &MemberRecord) -> Result<()> {
        write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
            MEMBERS.put(tx, namespace.as_str(), id, record)
        })
    }

    /// Forgets a container. It blocks.
    pub(super) fn forget(&self, (namespace, id): &Key) -> Result<()> {
        write_blocking(&*self.db, Durability::Buffered, &mut |tx| {
            MEMBERS.delete(tx, namespace.as_str(), id)
        })
    }

    /// Writes the names of these networks, which have these versions at least. It blocks.
    pub(super) fn write_names(&self, touched: &[(String, u64)]) -> Result<()> {
        faults::around("write names", || {
            touched.iter().try_for_each(|(network, version)| {
                self.names.write_names(network, *version, || self.memory().names(network))
            })
        })
    }

    /// An interface of the host's is to go with its namespace, which the kernel takes away when
    /// it has time.
    pub(super) fn throw_away(&self, interface: &str) {
        if !interface.is_empty() {
            self.stale().insert(interface.to_owned(), Instant::now() + GRACE);
            self.wake.notify_one();
        }
    }

    pub(super) fn stale(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.stale.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of packets to a port of the host, at this address if there is one.
    pub(super) async fn explain(
        &self,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Explanation> {
        let is_meant = |host: IpAddr| {
            address.is_none_or(|at| {
                let any = host.is_unspecified() || at.is_unspecified();
                host == at || any && host.is_ipv6() == at.is_ipv6()
            })
        };
        let published: Vec<_> = {
            let ports = self.ports();
            let of_number = ports.of(protocol, port).iter();
            let of_number = of_number.filter(|(port, _)| is_meant(port.host_ip));
            of_number.map(|(port, (_, container))| (port.clone(), container.clone())).collect()
        };
        let listener = match published.is_empty() {
            true => blocking(move || Ok(listener(protocol, port, address))).await?,
            false => None,
        };
        let explained = match &self.firewall {
            Ok(firewall) => firewall.explain(address, port, protocol).await?,
            Err(_) => Explained { chains: Vec::new(), passes: [true; 2] },
        };
        let awaited = |v6: bool| {
            let mut hosts = published.iter().map(|(port, _)| port.host_ip);
            hosts.any(|host| host.is_ipv6() == v6 && !host.is_loopback())
                || listener.as_ref().is_some_and(|listener| listener.kinds[usize::from(v6)])
        };
        let mut kinds = [false, true].into_iter();
        let local = address.is_some_and(|at| at.is_loopback());
        let reachable = !local && kinds.any(|v6| awaited(v6) && explained.passes[usize::from(v6)]);
        let listener = listener.map(|listener| listener.name).unwrap_or_default();
        Ok(Explanation { published, chains: explained.chains, reachable, listener })
    }
}

/// The firewall, or why it may not be used.
fn firewall(config: &NetworkConfig) -> Result<Firewall, String> {
    if !config.enabled {
        return Err("they are switched off in the daemon's configuration".to_owned());
    }
    if !bridge::is_allowed() {
        return Err("the daemon needs the capability CAP_NET_ADMIN for more".to_owned());
    }
    Firewall::open(&config.table).map_err(|err| err.to_string())
}
