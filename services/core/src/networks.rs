//! Networks of containers: where they get addresses, and the host's ports that lead to them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use async_trait::async_trait;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::{Context, Labels, Result, Timestamp};

/// Table of the networks. Key: ID.
pub const TABLE: &str = "networks";

/// The network of containers that ask for none.
pub const BRIDGE: &str = "bridge";
/// The host's own.
pub const HOST: &str = "host";
/// Nothing but a loopback interface.
pub const NONE: &str = "none";

/// Options of a driver.
pub type Options = BTreeMap<String, String>;

/// How a network comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// A bridge of the host's; the host routes and translates addresses.
    Bridge,
    /// Interfaces with addresses of their own on one of the host's.
    Macvlan,
    /// The host's own.
    Host,
    /// Loopback alone.
    Null,
}

impl Driver {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Host => "host",
            Self::Null => "null",
        }
    }
}

/// Addresses of a network, of one kind.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Subnet {
    /// All of them.
    pub subnet: IpNet,
    /// The host's, or for macvlan the router's; none where nothing is routed.
    pub gateway: Option<IpAddr>,
    /// Where containers get theirs from, within `subnet`.
    pub ip_range: Option<IpNet>,
    /// Addresses that no container gets, by what has them.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// A network as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Network {
    /// 64 hex digits.
    pub id: String,
    /// Its name, unique in its namespace.
    pub name: String,
    /// How it comes about.
    pub driver: Driver,
    /// Labels.
    pub labels: Labels,
    /// Options of the driver, under Docker's full names: `com.docker.network.bridge.name`,
    /// `com.docker.network.driver.mtu`, `parent`, …
    pub options: Options,
    /// Nothing leaves it.
    pub internal: bool,
    /// Its addresses: at most one subnet of each kind.
    pub subnets: Vec<Subnet>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its interface on the host: the bridge, or macvlan's parent; empty for others.
    pub interface: String,
    /// It is always there and can't be removed.
    pub predefined: bool,
}

impl Network {
    /// Its subnet of IPv4.
    pub fn ipv4(&self) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.subnet.addr().is_ipv4())
    }

    /// Its subnet of IPv6.
    pub fn ipv6(&self) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.subnet.addr().is_ipv6())
    }

    /// Whether its containers find each other by name: all but the default network.
    pub fn has_names(&self) -> bool {
        !self.predefined && matches!(self.driver, Driver::Bridge | Driver::Macvlan)
    }
}

/// A subnet to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewSubnet {
    /// Which one; one from the pools of its kind when `None`.
    pub subnet: Option<IpNet>,
    /// The host's address in it; the first one when `None`.
    pub gateway: Option<IpAddr>,
    /// Where containers get theirs from.
    pub ip_range: Option<IpNet>,
    /// Addresses that no container gets.
    pub reserved: BTreeMap<String, IpAddr>,
}

/// A network to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// `bridge` (when empty) or `macvlan`; others are refused by name.
    pub driver: String,
    /// Labels.
    pub labels: Labels,
    /// Options of the driver, under Docker's full names or in short (`mtu`, `name`, `isolation`).
    pub options: Options,
    /// Nothing leaves it.
    pub internal: bool,
    /// Whether it has IPv4; it has when `None`.
    pub ipv4: Option<bool>,
    /// Whether it has IPv6; when `None` it has unless the kernel lacks it.
    pub ipv6: Option<bool>,
    /// Its addresses; from the pools when there are none of a kind that it has.
    pub subnets: Vec<NewSubnet>,
}

/// What a container asks of one network. Stored with the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Attachment {
    /// ID of the network.
    pub network: String,
    /// Further names that it has there.
    pub aliases: Vec<String>,
    /// Its IPv4 address; a free one when `None`.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address; a free one when `None`.
    pub ipv6: Option<Ipv6Addr>,
    /// Its MAC address; one made from its address when `None`.
    pub mac: Option<[u8; 6]>,
    /// Options of the driver.
    pub options: Options,
    /// The network with the highest one has the default route; of several the first by name.
    pub gateway_priority: i32,
    /// Link-local addresses.
    pub link_local: Vec<IpAddr>,
}

/// Transport protocol of a port.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port to publish. Stored with the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PortWish {
    /// Address of the host; every one, of both kinds, when `None`.
    pub host_ip: Option<IpAddr>,
    /// First port of the host that may be taken; 0 for a free one.
    pub host_port: u16,
    /// Last one.
    pub host_port_end: u16,
    /// Port of the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// A published port, as it is.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Published {
    /// Address of the host; `0.0.0.0` and `::` for every one of their kind.
    pub host_ip: IpAddr,
    /// Port of the host.
    pub host_port: u16,
    /// Port of the container.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// Where a container is in a network.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Endpoint {
    /// 64 hex digits.
    pub id: String,
    /// ID of the network.
    pub network: String,
    /// ID of the container.
    pub container: String,
    /// Name of the interface in the container.
    pub interface: String,
    /// Name of its other end on the host; empty for macvlan.
    pub host_interface: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// With the length of the network's prefix.
    pub ipv4: Option<Ipv4Net>,
    /// With the length of the network's prefix.
    pub ipv6: Option<Ipv6Net>,
    /// Router of IPv4, if the container's default route may lead there.
    pub ipv4_gateway: Option<Ipv4Addr>,
    /// Router of IPv6.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Names by which others there find it.
    pub dns_names: Vec<String>,
}

/// What resolvers of a container are to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct DnsWish {
    /// Name servers; the host's when there are none.
    pub servers: Vec<IpAddr>,
    /// Domains that names are looked up in; the host's when there are none, none at all for `.`.
    pub search: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

/// A container that is to be in networks.
#[derive(Clone, Debug, Default)]
pub struct Member {
    /// Its ID.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its host name.
    pub hostname: String,
    /// Its networks.
    pub attachments: Vec<Attachment>,
    /// Its ports.
    pub ports: Vec<PortWish>,
    /// What its resolvers are to know.
    pub dns: DnsWish,
}

/// A socket that is handed to the container's shim (see [`crate::sockets`]).
#[derive(Debug)]
pub struct Handover {
    /// The message that goes with it.
    pub message: String,
    /// The socket; none where the message needs none.
    pub socket: Option<OwnedFd>,
}

/// What a container got.
#[derive(Debug, Default)]
pub struct Joined {
    /// Where it is, in the order of its interfaces.
    pub endpoints: Vec<Endpoint>,
    /// Its published ports.
    pub ports: Vec<Published>,
    /// What its shim is to be handed, in this order.
    pub handovers: Vec<Handover>,
    /// The files as they are to be from now on; none where nothing changed.
    pub files: Option<NameFiles>,
}

/// What [`Endpoints::recover`] says of a container that runs.
#[derive(Debug)]
pub struct Recovered {
    /// Namespace of the container.
    pub namespace: crate::Namespace,
    /// Its ID.
    pub container: String,
    /// The relays that its shim is to have and no others, as messages that hand them over (see
    /// [`crate::sockets`]).
    pub relays: Vec<String>,
    /// What its shim is to be handed again.
    pub handovers: Vec<Handover>,
    /// The files as they are to be.
    pub files: NameFiles,
}

/// Text of the files that name servers and hosts are found by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NameFiles {
    /// `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Lines of `/etc/hosts` for the container's own addresses: `172.17.0.2\tweb`.
    pub hosts: Vec<(IpAddr, String)>,
}

/// Networks.
///
/// Vocabulary: a *network* is a name for a set of addresses and a way to reach them; its
/// *driver* says which. A container has an *endpoint* in each of its networks while it runs: an
/// interface with addresses. What it asks for is an *attachment*, which is kept with the
/// container. The networks `bridge`, `host` and `none` are always there, in each namespace;
/// `bridge` is the same one for all of them.
///
/// A network is there if its record is, which is written before its bridge is made and deleted
/// after it has gone. Bridges, addresses and rules are made again when they are missing.
#[async_trait]
pub trait Networks: Send + Sync {
    /// Makes a network. Answers with warnings as well.
    ///
    /// # Errors
    /// `InvalidArgument` for names, addresses, options; `AlreadyExists` for its name;
    /// `FailedPrecondition` when its addresses are another network's or the host's, or a driver
    /// is wanted that the kernel lacks; `ResourceExhausted` when the pools are used up.
    async fn create(&self, ctx: &Context, new: NewNetwork) -> Result<(Network, Vec<String>)>;

    /// Finds a network by its name, its ID or a unique beginning of its ID.
    ///
    /// # Errors
    /// `NotFound`: `network NAME not found`; `InvalidArgument` when several are meant.
    async fn get(&self, ctx: &Context, text: &str) -> Result<Network>;

    /// All networks of the namespace, by name.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context) -> Result<Vec<Network>>;

    /// Removes a network.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it has endpoints, or for one that is always there.
    async fn remove(&self, ctx: &Context, id: &str) -> Result<()>;

    /// Endpoints in a network, by the IDs of their containers.
    ///
    /// # Errors
    /// The store's.
    async fn endpoints(&self, ctx: &Context, network: &str) -> Result<Vec<Endpoint>>;
}

/// What becomes of containers in networks.
///
/// A container gets there in two steps, so that addresses and ports are known, and refused,
/// before there is a process:
/// ```text
/// let files = e.reserve(ctx, &member).await?;         // addresses and ports, durably
/// // … the shim makes the process, in a network namespace of its own …
/// let joined = e.join(ctx, &member, pid).await?;      // links, routes, rules, names
/// // … the shim takes what is handed over; the process is started …
/// e.leave(ctx, &member.id).await?;                    // once it has ended
/// ```
/// Interfaces go with the namespace that they are in; `leave` takes rules, names, addresses and
/// ports away. What a daemon that died has left is taken away by `recover`.
#[async_trait]
pub trait Endpoints: Send + Sync {
    /// Reserves addresses and ports. A second call for the same container replaces the first.
    ///
    /// # Errors
    /// `NotFound` for a network; `InvalidArgument` for an address that is none of the network's;
    /// `FailedPrecondition` for an address or a port that is in use, with who has it;
    /// `ResourceExhausted` when a network is full.
    async fn reserve(&self, ctx: &Context, member: &Member) -> Result<NameFiles>;

    /// Puts the container whose first process is `pid` into its networks.
    ///
    /// # Errors
    /// The kernel's. Then nothing of it is there, and the reservation stays.
    async fn join(&self, ctx: &Context, member: &Member, pid: u32) -> Result<Joined>;

    /// Takes a container out of its networks and gives its addresses and ports free. It is no
    /// error that it is in none.
    ///
    /// # Errors
    /// The store's, the kernel's.
    async fn leave(&self, ctx: &Context, container: &str) -> Result<()>;

    /// Adds a running container to one more network, which is the last of `member.attachments`.
    /// If it has no ports so far, those are published that it wishes.
    ///
    /// # Errors
    /// As [`Endpoints::reserve`] and [`Endpoints::join`].
    async fn connect(&self, ctx: &Context, member: &Member, pid: u32) -> Result<Joined>;

    /// Takes a running container out of one network, which is no attachment of `member` any more.
    ///
    /// # Errors
    /// The store's, the kernel's.
    async fn disconnect(
        &self,
        ctx: &Context,
        member: &Member,
        network: &str,
        pid: u32,
    ) -> Result<Joined>;

    /// Publishes ports of a running container beside those that it has. Answers with the new ones.
    ///
    /// # Errors
    /// As [`Endpoints::reserve`].
    async fn publish(&self, ctx: &Context, container: &str, ports: &[PortWish]) -> Result<Joined>;

    /// Takes published ports away, those of them that are there. Answers with these.
    ///
    /// # Errors
    /// The store's, the kernel's.
    async fn unpublish(
        &self,
        ctx: &Context,
        container: &str,
        ports: &[Published],
    ) -> Result<Joined>;

    /// Where a container is and which ports it has, by its ID. From memory.
    fn of(&self, ctx: &Context, container: &str) -> (Vec<Endpoint>, Vec<Published>);

    /// Another name of a running container, for those who look it up.
    ///
    /// # Errors
    /// The store's.
    async fn rename(&self, ctx: &Context, container: &str, name: &str) -> Result<()>;

    /// Brings the kernel's state and what is stored together after a restart: what belongs to
    /// containers that do not live goes, what is missing is made again. Answers with what those
    /// that live, and their shims, are to have; what the daemon had not handed to a shim any more
    /// is made anew.
    ///
    /// # Errors
    /// The store's.
    async fn recover(&self, living: &[Living]) -> Result<Vec<Recovered>>;

    /// What becomes of packets to a port of the host, at this address if there is one.
    ///
    /// # Errors
    /// The kernel's.
    async fn explain(
        &self,
        address: Option<IpAddr>,
        port: u16,
        protocol: Protocol,
    ) -> Result<Explanation>;
}

/// A container that runs.
#[derive(Clone, Debug)]
pub struct Living {
    /// Its namespace, and who asks.
    pub ctx: Context,
    /// Its ID.
    pub container: String,
    /// Its first process.
    pub pid: u32,
}

/// What a chain of the firewall does to packets. A kernel that forwards none is told like one, as
/// the chain `forwarding` of the table `kernel`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedChain {
    /// `inet`, `ip` or `ip6`.
    pub family: String,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Hook.
    pub hook: String,
    /// Where it stands among the chains of its hook.
    pub priority: i32,
    /// `accept`, `drop` or `unknown`.
    pub verdict: String,
    /// What decides.
    pub reason: String,
    /// What makes it let these packets pass; empty when it does.
    pub remedy: String,
}

/// What becomes of packets to a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Published ports of that number, with the IDs of their containers.
    pub published: Vec<(Published, String)>,
    /// Chains in the order in which packets from outside meet them.
    pub chains: Vec<ExplainedChain>,
    /// Whether packets from outside get in, as far as it is known: something waits for them, and no
    /// chain drops them for certain.
    pub reachable: bool,
    /// A process of the host that listens there.
    pub listener: String,
}

/// Where the daemon and the shims find names: the directory below the state directory.
pub fn names_directory(state: &std::path::Path) -> PathBuf {
    state.join("networks")
}
