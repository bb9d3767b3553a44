//! Whole lives of networks and containers, each test in a host of its own: a network namespace
//! that goes with its thread.

mod restarts;
mod running;
mod surroundings;

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use gantry_core::db::memory::MemoryDatabase;
use gantry_core::networks::{Attachment, Driver, NewSubnet};
use gantry_core::{Kind, Namespace};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};
use tempfile::TempDir;

use super::records::MEMBERS;
use super::*;
use crate::netlink::{Netlink, in_namespace};
use crate::ports::has_ipv6;

/// A host with nothing but a loopback interface.
struct Host {
    root: Arc<TempDir>,
    db: MemoryDatabase,
    networks: LocalNetworks,
    ctx: Context,
}

/// A process in a network namespace of its own, until it is dropped.
struct Process(Child);

impl Process {
    fn new() -> Self {
        let start = || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            Command::new("sleep").arg("600").spawn().unwrap()
        };
        // What a thread starts has the thread's network namespace.
        Self(thread::spawn(start).join().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a test in a host of its own, where this process may make one.
fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Host) -> F + Send + 'static) {
    if !fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0) {
        return;
    }
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let netlink = Netlink::open().unwrap();
        let loopback = netlink.link("lo").unwrap().unwrap();
        netlink.set_up(loopback.index).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let host = Host::new();
            host.networks.recover(&[]).await.unwrap();
            // A future of a test has only the fields that the test names.
            let _root = Arc::clone(&host.root);
            test(host).await;
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

impl Host {
    fn new() -> Self {
        let root = Arc::new(tempfile::tempdir().unwrap());
        fs::write(root.path().join("resolv.conf"), "nameserver 192.0.2.53\n").unwrap();
        let db = MemoryDatabase::new();
        let networks = Self::open(&root, &db);
        let ctx = Context::new(Namespace::new("testing").unwrap());
        Self { root, db, networks, ctx }
    }

    fn open(root: &TempDir, db: &MemoryDatabase) -> LocalNetworks {
        let config = NetworkConfig {
            resolv_conf: root.path().join("resolv.conf"),
            ..NetworkConfig::new(root.path().to_owned())
        };
        LocalNetworks::open(config, db.shared()).unwrap()
    }

    /// The same after the daemon was killed and started again.
    async fn restarted(self, living: &[Living]) -> (Self, Vec<Recovered>) {
        let Self { root, db, networks, ctx } = self;
        drop(networks);
        let networks = Self::open(&root, &db);
        let recovered = networks.recover(living).await.unwrap();
        (Self { root, db, networks, ctx }, recovered)
    }

    async fn create(&self, name: &str) -> Network {
        let new = NewNetwork { name: name.to_owned(), ..NewNetwork::default() };
        self.networks.create(&self.ctx, new).await.unwrap().0
    }

    async fn network(&self, name: &str) -> Network {
        self.networks.get(&self.ctx, name).await.unwrap()
    }

    /// A container that asks for these networks.
    fn member(&self, name: &str, networks: &[&Network]) -> Member {
        let attachments = networks
            .iter()
            .map(|network| Attachment { network: network.id.clone(), ..Attachment::default() });
        Member {
            id: format!("{name}-0123456789abcdef"),
            name: name.to_owned(),
            hostname: name.to_owned(),
            attachments: attachments.collect(),
            ..Member::default()
        }
    }

    async fn start(&self, member: &Member) -> (Process, Joined) {
        self.networks.reserve(&self.ctx, member).await.unwrap();
        let process = Process::new();
        let joined = self.networks.join(&self.ctx, member, process.pid()).await.unwrap();
        (process, joined)
    }

    fn living(&self, member: &Member, process: &Process) -> Living {
        let (ctx, container) = (self.ctx.clone(), member.id.clone());
        Living { ctx, container, pid: process.pid() }
    }

    /// Lines of the file of a network's names.
    fn names(&self, network: &Network) -> Vec<String> {
        let path = self.root.path().join("networks/names").join(&network.id);
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    fn is_named(&self, network: &Network, name: &str) -> bool {
        self.names(network).iter().any(|line| line.starts_with(&format!("host {name} ")))
    }
}

fn port(container_port: u16) -> PortWish {
    PortWish { container_port, ..PortWish::default() }
}

fn messages(joined: &Joined) -> Vec<String> {
    joined.handovers.iter().map(|handover| handover.message.clone()).collect()
}

fn ipv4(joined: &Joined, at: usize) -> IpAddr {
    joined.endpoints[at].ipv4.unwrap().addr().into()
}

/// Listens in a container.
async fn serve(process: &Process, port: u16) -> TcpListener {
    let listen = move || Ok(TcpListener::bind(("0.0.0.0", port)).unwrap());
    let listener = in_namespace(process.pid(), listen).await.unwrap();
    setsockopt(&listener, ReceiveTimeout, &TimeVal::seconds(5)).unwrap();
    listener
}

/// Whether a connection to an address is one to this listener.
fn reaches(served: &TcpListener, address: SocketAddr) -> bool {
    connects(address) && served.accept().is_ok()
}

fn connects(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok()
}

/// Waits for something that comes by itself.
async fn until(what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, kind: Kind) -> String {
    let err = result.unwrap_err();
    assert_eq!(err.kind(), kind, "{err}");
    err.to_string()
}

#[test]
fn a_container_has_an_address_a_name_and_a_port() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        assert_eq!(network.driver, Driver::Bridge);
        let mut web = host.member("web", &[&network]);
        web.attachments[0].aliases.push("www".to_owned());
        web.ports.push(port(80));
        let files = host.networks.reserve(&host.ctx, &web).await.unwrap();
        assert!(files.resolv_conf.contains("nameserver 127.0.0.11\n"), "{}", files.resolv_conf);
        assert!(!host.is_named(&network, "web"));
        let process = Process::new();
        let joined = host.networks.join(&host.ctx, &web, process.pid()).await.unwrap();
        assert_eq!(joined.endpoints[0].interface, "eth0");
        let told = messages(&joined);
        assert!(told[0].starts_with("resolver /"), "{told:?}");
        assert_eq!(told[1..3], ["names udp", "names tcp"]);
        assert!(told[3].starts_with("relay tcp 0.0.0.0:"), "{told:?}");
        assert!(told[3].ends_with(&format!(" {}:80", ipv4(&joined, 0))), "{told:?}");
        for name in ["web", "www", "web-01234567", "web.app-net"] {
            assert!(host.is_named(&network, name), "{name}: {:?}", host.names(&network));
        }
        let served = serve(&process, 80).await;
        assert!(reaches(&served, (ipv4(&joined, 0), 80).into()));
        let number = joined.ports[0].host_port;
        let published = ([127, 0, 0, 1], number).into();
        assert!(reaches(&served, published), "through the published port");

        let busy =
            refused(host.networks.remove(&host.ctx, "app-net").await, Kind::FailedPrecondition);
        assert!(busy.contains("has active endpoints (name:\"web\""), "{busy}");
        host.networks.leave(&host.ctx, &web.id).await.unwrap();
        host.networks.leave(&host.ctx, &web.id).await.unwrap();
        assert!(!host.is_named(&network, "web"));
        assert_eq!(host.networks.of(&host.ctx, &web.id), (Vec::new(), Vec::new()));
        host.networks.remove(&host.ctx, "app-net").await.unwrap();
        assert!(Netlink::open().unwrap().link(&network.interface).unwrap().is_none());
        refused(host.networks.get(&host.ctx, "app-net").await, Kind::NotFound);
    });
}

#[test]
fn what_is_taken_is_refused_with_who_has_it() {
    on_host(|host| async move {
        let new = NewNetwork {
            name: "small".to_owned(),
            ipv6: Some(false),
            subnets: vec![NewSubnet {
                subnet: Some("10.9.0.0/30".parse().unwrap()),
                ..NewSubnet::default()
            }],
            ..NewNetwork::default()
        };
        let small = host.networks.create(&host.ctx, new.clone()).await.unwrap().0;
        refused(host.networks.create(&host.ctx, new.clone()).await, Kind::AlreadyExists);
        let other = NewNetwork { name: "other".to_owned(), ..new };
        let why = refused(host.networks.create(&host.ctx, other).await, Kind::FailedPrecondition);
        assert!(why.contains("Pool overlaps with other one on this address space"), "{why}");

        let mut first = host.member("first", &[&small]);
        first.attachments[0].ipv4 = Some("10.9.0.2".parse().unwrap());
        first.ports.push(PortWish { host_port: 20_080, ..port(80) });
        let (_process, joined) = host.start(&first).await;
        assert_eq!(joined.endpoints[0].mac, [0x02, 0x42, 10, 9, 0, 2]);
        let mut second = host.member("second", &[&small]);
        let reserve = |member: Member| {
            let (networks, ctx) = (&host.networks, &host.ctx);
            async move { networks.reserve(ctx, &member).await }
        };
        refused(reserve(second.clone()).await, Kind::ResourceExhausted);
        second.attachments = first.attachments.clone();
        let why = refused(reserve(second.clone()).await, Kind::FailedPrecondition);
        assert!(why.ends_with("container first has it"), "{why}");
        second.attachments[0].ipv4 = Some("10.8.0.2".parse().unwrap());
        refused(reserve(second.clone()).await, Kind::InvalidArgument);

        let bridge = host.network("bridge").await;
        second.attachments = vec![Attachment { network: bridge.id, ..Attachment::default() }];
        second.ports = first.ports.clone();
        let why = refused(reserve(second.clone()).await, Kind::FailedPrecondition);
        assert_eq!(
            why,
            "Bind for 0.0.0.0:20080 failed: port is already allocated: container first has it"
        );
        second.ports.clear();
        let files = reserve(second.clone()).await.unwrap();
        assert!(files.resolv_conf.contains("nameserver 192.0.2.53\n"), "{}", files.resolv_conf);
        second.attachments[0].aliases.push("alias".to_owned());
        refused(reserve(second).await, Kind::InvalidArgument);
    });
}

#[test]
fn a_daemon_that_was_killed_finds_what_it_left() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&network]);
        web.ports.push(port(80));
        let (process, joined) = host.start(&web).await;
        let gone = host.member("gone", &[&network]);
        let (_, _left) = host.start(&gone).await;
        let address = ipv4(&joined, 0);
        // Not handed over: the sockets are lost with the daemon.
        let (ports, endpoints) = (joined.ports.clone(), joined.endpoints.clone());
        drop(joined);
        // What another test starts has them too, until it is another program.
        let number = ports[0].host_port;
        until("the port is free", || TcpListener::bind(("0.0.0.0", number)).is_ok()).await;
        Netlink::open().unwrap().delete_link(&network.interface).unwrap();

        let living = host.living(&web, &process);
        let (host, recovered) = host.restarted(std::slice::from_ref(&living)).await;
        assert_eq!(host.networks.of(&host.ctx, &web.id), (endpoints.clone(), ports));
        assert!(host.is_named(&network, "web") && !host.is_named(&network, "gone"));
        let bridge = Netlink::open().unwrap().link(&network.interface).unwrap().unwrap();
        let end = Netlink::open().unwrap().link(&endpoints[0].host_interface).unwrap().unwrap();
        assert_eq!(end.master, Some(bridge.index));
        assert_eq!(recovered.len(), 1);
        let told: Vec<_> = recovered[0].handovers.iter().map(|h| h.message.as_str()).collect();
        assert_eq!(told[1..3], ["names udp", "names tcp"]);
        assert!(told[3].starts_with("relay tcp "), "{told:?}");
        // Now that somebody has the sockets, nothing is missing.
        let (host, missing) = host.restarted(&[living]).await;
        assert!(missing[0].handovers.is_empty(), "{missing:?}");
        let served = serve(&process, 80).await;
        assert!(reaches(&served, (address, 80).into()));

        drop((served, process));
        let (host, _) = host.restarted(&[]).await;
        assert!(MEMBERS.list(&host.db, "testing").unwrap().is_empty());
        assert!(host.names(&network).is_empty());
        let end = endpoints[0].host_interface.clone();
        until("the interface goes", || Netlink::open().unwrap().link(&end).unwrap().is_none())
            .await;
    });
}

#[test]
fn what_somebody_changed_is_repaired() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let web = host.member("web", &[&network]);
        let (process, joined) = host.start(&web).await;
        let address = ipv4(&joined, 0);
        let netlink = Netlink::open().unwrap();
        let end = joined.endpoints[0].host_interface.clone();
        let is_whole = || {
            let netlink = Netlink::open().unwrap();
            let bridge = netlink.link(&network.interface).unwrap().filter(|bridge| bridge.up);
            let end = netlink.link(&end).unwrap();
            let index = bridge.map(|bridge| bridge.index);
            let subnets = &network.subnets;
            let has = netlink.addresses().unwrap();
            let gateways = subnets.iter().all(|subnet| {
                has.iter().any(|(at, net)| Some(*at) == index && Some(net.addr()) == subnet.gateway)
            });
            index.is_some() && gateways && end.is_some_and(|end| end.up && end.master == index)
        };
        assert!(is_whole());
        // The watch has begun by the time that a container is there.
        let mut down = Command::new("ip");
        down.args(["link", "set", &network.interface, "down"]);
        assert!(down.status().unwrap().success());
        until("the bridge is up again", is_whole).await;
        netlink.delete_link(&network.interface).unwrap();
        until("the bridge is there again", is_whole).await;
        netlink.delete_link(&end).unwrap();
        until("the interface is there again", is_whole).await;
        let served = serve(&process, 80).await;
        // The other end of it comes a moment later.
        until("it leads somewhere", || reaches(&served, (address, 80).into())).await;
    });
}

#[test]
fn networks_and_ports_of_a_running_container_change() {
    on_host(|host| async move {
        let (first, second) = (host.create("first").await, host.create("second").await);
        let mut web = host.member("web", &[&first]);
        web.hostname = "box".to_owned();
        let (process, _) = host.start(&web).await;
        web.attachments.push(Attachment {
            network: second.id.clone(),
            gateway_priority: 1,
            ..Attachment::default()
        });
        let joined = host.networks.connect(&host.ctx, &web, process.pid()).await.unwrap();
        assert_eq!(joined.endpoints.len(), 2);
        assert_eq!(joined.endpoints[1].interface, "eth1");
        assert_eq!(joined.files.as_ref().unwrap().hosts.len(), if has_ipv6() { 4 } else { 2 });
        assert!(host.is_named(&first, "web") && host.is_named(&second, "web"));
        let again = host.networks.connect(&host.ctx, &web, process.pid()).await;
        refused(again, Kind::AlreadyExists);

        let wishes = [port(80)];
        let joined = host.networks.publish(&host.ctx, &web.id, &wishes).await.unwrap();
        let ports = joined.ports.clone();
        let through_second = host.networks.of(&host.ctx, &web.id).0[1].ipv4.unwrap().addr();
        assert!(messages(&joined)[0].ends_with(&format!(" {through_second}:80")));
        let served = serve(&process, 80).await;
        let published = ([127, 0, 0, 1], ports[0].host_port).into();
        assert!(reaches(&served, published));

        host.networks.rename(&host.ctx, &web.id, "shop").await.unwrap();
        assert!(host.is_named(&first, "shop") && !host.is_named(&first, "web"));
        assert!(host.is_named(&first, "box"), "its host name is its own still");
        web.attachments.pop();
        let pid = process.pid();
        let joined = host.networks.disconnect(&host.ctx, &web, &second.id, pid).await.unwrap();
        assert_eq!(joined.endpoints.len(), 1);
        assert!(!host.is_named(&second, "shop"));
        // The same relay leads to the other network now, with no other socket.
        let through_first = ipv4(&joined, 0);
        assert!(messages(&joined)[0].ends_with(&format!(" {through_first}:80")));
        assert!(joined.handovers.iter().all(|handover| handover.socket.is_none()));
        assert!(reaches(&served, published));
        host.networks.remove(&host.ctx, &second.id).await.unwrap();

        let joined = host.networks.unpublish(&host.ctx, &web.id, &ports).await.unwrap();
        assert_eq!(joined.ports, ports);
        assert!(messages(&joined)[0].starts_with("drop tcp 0.0.0.0:"));
        assert!(host.networks.of(&host.ctx, &web.id).1.is_empty());
        let gone = host.networks.disconnect(&host.ctx, &web, &second.id, pid).await;
        refused(gone, Kind::FailedPrecondition);
    });
}

#[test]
fn many_come_at_once_and_nothing_stays() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let networks = Arc::new(host.networks);
        let mut tasks = Vec::new();
        for number in 0..16 {
            let mut member = Member {
                id: format!("c{number}"),
                name: format!("c{number}"),
                ..Member::default()
            };
            let attachment = Attachment { network: network.id.clone(), ..Attachment::default() };
            member.attachments.push(attachment);
            member.ports.push(port(80));
            let (networks, ctx) = (Arc::clone(&networks), host.ctx.clone());
            tasks.push(tokio::spawn(async move {
                networks.reserve(&ctx, &member).await.unwrap();
                let process = Process::new();
                let joined = networks.join(&ctx, &member, process.pid()).await.unwrap();
                drop(process);
                networks.leave(&ctx, &member.id).await.unwrap();
                ipv4(&joined, 0)
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert!(MEMBERS.list(&host.db, "testing").unwrap().is_empty());
        networks.remove(&host.ctx, "app-net").await.unwrap();
        until("all interfaces go", || {
            let links = Netlink::open().unwrap().links().unwrap();
            !links.iter().any(|link| link.name.starts_with("veth"))
        })
        .await;
    });
}

#[test]
fn a_daemon_without_networks_has_none_and_host() {
    let root = tempfile::tempdir().unwrap();
    let db = MemoryDatabase::new();
    let config = NetworkConfig { enabled: false, ..NetworkConfig::new(root.path().to_owned()) };
    let networks = LocalNetworks::open(config, db.shared()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let ctx = Context::new(Namespace::new("testing").unwrap());
        assert!(networks.recover(&[]).await.unwrap().is_empty());
        let all = networks.list(&ctx).await.unwrap();
        let names: Vec<_> = all.iter().map(|network| network.name.as_str()).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        let new = NewNetwork { name: "app-net".to_owned(), ..NewNetwork::default() };
        let why = refused(networks.create(&ctx, new).await, Kind::FailedPrecondition);
        assert!(why.contains("switched off"), "{why}");
        let on = |network: &Network| Member {
            id: "c".to_owned(),
            attachments: vec![Attachment { network: network.id.clone(), ..Attachment::default() }],
            ..Member::default()
        };
        refused(networks.reserve(&ctx, &on(&all[0])).await, Kind::FailedPrecondition);
        networks.reserve(&ctx, &on(&all[1])).await.unwrap();
        let joined = networks.join(&ctx, &on(&all[1]), 1).await.unwrap();
        assert!(joined.handovers.is_empty());
        assert_eq!(networks.endpoints(&ctx, "host").await.unwrap().len(), 1);
        refused(networks.remove(&ctx, "none").await, Kind::FailedPrecondition);
        networks.leave(&ctx, "c").await.unwrap();
    });
}
