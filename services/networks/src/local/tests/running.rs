//! Containers change while they run, and something goes wrong.

use std::sync::atomic::{AtomicBool, Ordering};

use gantry_core::db::{Durability, Transaction, Visit};
use gantry_core::networks::Options;

use super::*;

/// A database that refuses to write when it is told to.
#[derive(Clone, Default)]
struct Failing {
    rows: MemoryDatabase,
    fails: Arc<AtomicBool>,
}

impl Database for Failing {
    fn get(&self, table: &str, namespace: &str, key: &str) -> Result<Option<Vec<u8>>> {
        self.rows.get(table, namespace, key)
    }

    fn scan(&self, table: &str, namespace: &str, prefix: &str, visit: Visit<'_>) -> Result<()> {
        self.rows.scan(table, namespace, prefix, visit)
    }

    fn namespaces(&self, table: &str) -> Result<Vec<String>> {
        self.rows.namespaces(table)
    }

    fn transact(
        &self,
        durability: Durability,
        body: &mut dyn FnMut(&mut dyn Transaction) -> Result<()>,
    ) -> Result<()> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the disk is full"));
        }
        self.rows.transact(durability, body)
    }
}

impl Host {
    fn config(&self) -> NetworkConfig {
        NetworkConfig {
            resolv_conf: self.root.path().join("resolv.conf"),
            ..NetworkConfig::new(self.root.path().to_owned())
        }
    }

    /// The same with other networks, before there are any.
    async fn with(self, networks: LocalNetworks) -> Self {
        let host = Self { networks, ..self };
        host.networks.recover(&[]).await.unwrap();
        host
    }
}

#[test]
fn what_a_shim_was_not_handed_is_handed_over_with_the_next_network() {
    on_host(|host| async move {
        let bridge = host.network("bridge").await;
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&bridge]);
        let (process, _) = host.start(&web).await;
        let without = web.clone();
        web.attachments.push(Attachment { network: network.id.clone(), ..Attachment::default() });
        let pid = process.pid();
        let connect = || host.networks.connect(&host.ctx, &web, pid);
        let disconnect = || host.networks.disconnect(&host.ctx, &without, &network.id, pid);
        drop(connect().await.unwrap());
        disconnect().await.unwrap();
        let shim = connect().await.unwrap();
        assert_eq!(messages(&shim)[1..], ["names udp", "names tcp"]);
        disconnect().await.unwrap();
        assert!(connect().await.unwrap().handovers.is_empty());
    });
}

#[test]
fn ports_that_nobody_wishes_any_more_wait_for_no_network() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&network]);
        let without = Member { attachments: Vec::new(), ..web.clone() };
        let closed = web.clone();
        web.ports.push(port(80));
        let (process, _shim) = host.start(&web).await;
        let pid = process.pid();
        let disconnect = || host.networks.disconnect(&host.ctx, &without, &network.id, pid);
        disconnect().await.unwrap();
        let joined = host.networks.connect(&host.ctx, &closed, pid).await.unwrap();
        assert!(joined.ports.is_empty(), "{:?}", joined.ports);
        disconnect().await.unwrap();
        let joined = host.networks.connect(&host.ctx, &web, pid).await.unwrap();
        assert_eq!(joined.ports.len(), if has_ipv6() { 2 } else { 1 });
    });
}

#[test]
fn only_the_process_that_joined_gets_into_networks() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[]);
        let (process, _) = host.start(&web).await;
        web.attachments.push(Attachment { network: network.id.clone(), ..Attachment::default() });
        let other = Process::new();
        let near = Process(Command::new("sleep").arg("600").spawn().unwrap());
        let connect = |process: &Process| host.networks.connect(&host.ctx, &web, process.pid());
        refused(connect(&other).await, Kind::NotFound);
        refused(connect(&near).await, Kind::FailedPrecondition);
        let links = || Netlink::open()?.links();
        let links = in_namespace(other.pid(), links).await.unwrap();
        assert!(links.iter().all(|link| link.kind != "veth"), "{links:?}");

        connect(&process).await.unwrap();
        let pid = other.pid();
        let left = host.networks.disconnect(&host.ctx, &web, &network.id, pid).await;
        refused(left, Kind::NotFound);
        // It is known although it had no network at first.
        let endpoints = host.networks.of(&host.ctx, &web.id).0;
        let end = endpoints[0].host_interface.clone();
        Netlink::open().unwrap().delete_link(&end).unwrap();
        let is_there = || Netlink::open().unwrap().link(&end).unwrap().is_some();
        until("the interface is there again", is_there).await;
    });
}

#[test]
fn what_is_whole_is_not_made_again() {
    on_host(|host| async move {
        let options = Options::from([("isolation".to_owned(), "true".to_owned())]);
        let new = NewNetwork { name: "apart".to_owned(), options, ..NewNetwork::default() };
        let network = host.networks.create(&host.ctx, new).await.unwrap().0;
        let web = host.member("web", &[&network]);
        let (_process, joined) = host.start(&web).await;
        let endpoint = &joined.endpoints[0];
        let index = || {
            let link = Netlink::open().unwrap().link(&endpoint.host_interface).unwrap();
            link.unwrap().index
        };
        let before = index();
        let key = key(&host.ctx, &web.id);
        host.networks.inner.attach_again(&key, &endpoint.id).await.unwrap();
        assert_eq!(index(), before);
        Netlink::open().unwrap().set_master(before, None).unwrap();
        host.networks.inner.attach_again(&key, &endpoint.id).await.unwrap();
        assert_ne!(index(), before);
    });
}

#[test]
fn ports_stay_whose_end_can_t_be_stored() {
    on_host(|host| async move {
        let db = Failing::default();
        let networks = LocalNetworks::open(host.config(), Arc::new(db.clone())).unwrap();
        let host = host.with(networks).await;
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&network]);
        web.ports.push(port(80));
        let (process, shim) = host.start(&web).await;
        let (ports, number) = (shim.ports.clone(), shim.ports[0].host_port);
        let to = SocketAddr::from(([127, 0, 0, 1], number));
        drop(shim);
        db.fails.store(true, Ordering::SeqCst);
        let gone = host.networks.unpublish(&host.ctx, &web.id, &ports).await;
        refused(gone, Kind::Unavailable);
        assert_eq!(host.networks.of(&host.ctx, &web.id).1, ports);
        let served = serve(&process, 80).await;
        assert!(reaches(&served, to));

        db.fails.store(false, Ordering::SeqCst);
        host.networks.unpublish(&host.ctx, &web.id, &ports).await.unwrap();
        until("nobody is there", || !connects(to)).await;
        let again = [PortWish { host_port: number, ..port(80) }];
        host.networks.publish(&host.ctx, &web.id, &again).await.unwrap();
    });
}

#[test]
fn interfaces_have_the_configured_mtu() {
    on_host(|host| async move {
        let config = NetworkConfig { mtu: Some(1400), ..host.config() };
        let networks = LocalNetworks::open(config, host.db.shared()).unwrap();
        let host = host.with(networks).await;
        let network = host.create("app-net").await;
        let web = host.member("web", &[&network]);
        let (process, joined) = host.start(&web).await;
        let endpoint = joined.endpoints[0].clone();
        let end = Netlink::open().unwrap().link(&endpoint.host_interface).unwrap();
        let inside = move || Netlink::open()?.link(&endpoint.interface);
        let inside = in_namespace(process.pid(), inside).await.unwrap();
        assert_eq!([end, inside].map(|link| link.unwrap().mtu), [1400, 1400]);
    });
}
