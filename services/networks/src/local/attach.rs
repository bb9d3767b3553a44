//! Interfaces of containers.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use gantry_core::db::blocking;
use gantry_core::networks::Driver;
use gantry_core::{Error, Result, faults};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::inner::Inner;
use super::memory::Placed;
use super::options::{self, wanted};
use super::plan;
use super::resolver::ResolverSockets;
use crate::netlink::{
    Inside, Interface, Macvlan, Netlink, Veth, in_namespace, namespace_of, sysctl,
};
use crate::nft::redirect_resolver;

/// Lengths of the prefixes of link-local addresses.
const LINK_LOCAL: (u8, u8) = (16, 64);

/// An interface to make.
#[derive(Clone, Debug)]
struct Making {
    placed: Placed,
    /// Number of its bridge.
    master: Option<u32>,
    /// The name that it gets at first.
    made_as: String,
    /// Longest packet; the kernel's default when `None`.
    mtu: Option<u32>,
}

impl Inner {
    /// Makes the interfaces of these places of a container, which has all of those, at the
    /// process `pid`. With `resolver` also the sockets for its shim's answers.
    ///
    /// # Errors
    /// The kernel's. Then nothing of it is there.
    pub(super) async fn attach(
        self: &Arc<Self>,
        new: &[Placed],
        all: &[Placed],
        pid: u32,
        resolver: bool,
    ) -> Result<Option<ResolverSockets>> {
        let settings = settings(new)?;
        let making = self.make_links(new, pid).await?;
        let inside = inside(&making, all);
        let work = move || {
            Netlink::open()?.configure(&inside)?;
            for (path, value) in settings {
                sysctl::set_sysctl(&path, &value)?;
            }
            if !resolver {
                return Ok(None);
            }
            let sockets = ResolverSockets::open()?;
            redirect_resolver(sockets.ports.udp, sockets.ports.tcp)?;
            Ok(Some(sockets))
        };
        let done = faults::around_async("set interfaces up", in_namespace(pid, work)).await;
        if done.is_err() {
            // Before or after they got their names.
            let first = making.into_iter().filter(|making| making.master.is_none());
            delete_all(new, first.map(|making| making.made_as).collect(), pid).await;
        }
        done
    }

    /// Makes links; once more when a bridge is not what it was.
    async fn make_links(self: &Arc<Self>, new: &[Placed], pid: u32) -> Result<Vec<Making>> {
        let making = self.making(new)?;
        let err = match try_links(making.clone(), pid).await {
            Ok(()) => return Ok(making),
            Err(err) => err,
        };
        // Without the process there is nothing to try again.
        namespace_of(pid)?;
        for at in new.iter().filter(|at| at.network.driver == Driver::Bridge) {
            let id = &at.network.id;
            let _held = self.networks.lock(id.clone()).await;
            if let Err(left) = self.ensure_held(id).await {
                tracing::warn!(error = %left, network = %at.network.name, "repair a network");
                return Err(err);
            }
        }
        let making = self.making(new)?;
        try_links(making.clone(), pid).await?;
        Ok(making)
    }

    fn making(&self, new: &[Placed]) -> Result<Vec<Making>> {
        let mut memory = self.memory();
        let with_interface = new.iter().filter(|at| !at.endpoint.interface.is_empty());
        let making = with_interface.map(|at| {
            let bridge = at.network.driver == Driver::Bridge;
            let master = memory.known(&at.network.id)?.index.filter(|_| bridge);
            // The kernel makes macvlan interfaces here first, where there is an eth0 already.
            let made_as = match bridge {
                true => at.endpoint.interface.clone(),
                false => format!("mv{:07x}", rand::random::<u32>() >> 4),
            };
            // The parent of macvlan interfaces says how long their packets may be.
            let usual = self.config.mtu.filter(|_| bridge);
            let mtu = options::mtu(&at.network, &at.settings, usual);
            Ok(Making { placed: at.clone(), master, made_as, mtu })
        });
        making.collect()
    }

    /// Takes interfaces away again; what is not there is no error.
    pub(super) async fn detach(&self, places: &[Placed], pid: u32) {
        delete_all(places, Vec::new(), pid).await;
    }
}

/// Deletes the interfaces of these places, and others of the container's.
async fn delete_all(places: &[Placed], mut own: Vec<String>, pid: u32) {
    let ends = places.iter().map(|at| at.endpoint.host_interface.clone());
    let ends: Vec<_> = ends.filter(|name| !name.is_empty()).collect();
    let macvlan = places.iter().filter(|at| at.network.driver == Driver::Macvlan);
    own.extend(macvlan.map(|at| at.endpoint.interface.clone()));
    let deleted = blocking(move || delete(&ends)).await;
    let inside = async {
        if own.is_empty() {
            return Ok(());
        }
        blocking(move || namespace_number(pid)).await?;
        in_namespace(pid, move || delete(&own)).await
    };
    // A process that has ended has taken its interfaces along.
    match deleted.and(inside.await) {
        Err(err) if !err.is_not_found() => {
            tracing::warn!(error = %err, "take interfaces of a container away");
        }
        _ => {}
    }
}

fn delete(names: &[String]) -> Result<()> {
    let netlink = Netlink::open()?;
    names.iter().try_for_each(|name| netlink.delete_link(name))
}

/// Makes links, all or none.
async fn try_links(making: Vec<Making>, pid: u32) -> Result<()> {
    let made = blocking(move || {
        // Whoever has that number by now may be in the host's network.
        namespace_number(pid)?;
        let netlink = Netlink::open()?;
        let hairpin = sysctl::sysctl("net/bridge/bridge-nf-call-iptables")?;
        let hairpin = hairpin.as_deref() == Some("1");
        for (at, link) in making.iter().enumerate() {
            let add = || make_link(&netlink, link, pid, hairpin);
            if let Err(err) = faults::around("make an interface", add) {
                for made in &making[..at] {
                    let end = &made.placed.endpoint.host_interface;
                    if !end.is_empty() {
                        let _ = netlink.delete_link(end);
                    }
                }
                let own = making[..at].iter().filter(|made| made.master.is_none());
                let own: Vec<String> = own.map(|made| made.made_as.clone()).collect();
                return Ok(Err((err, own)));
            }
        }
        Ok(Ok(()))
    });
    match made.await? {
        Ok(()) => Ok(()),
        Err((err, own)) => {
            if !own.is_empty()
                && let Err(left) = in_namespace(pid, move || delete(&own)).await
            {
                tracing::debug!(error = %left, "take interfaces of a container away");
            }
            Err(err)
        }
    }
}

fn make_link(netlink: &Netlink, making: &Making, pid: u32, hairpin: bool) -> Result<()> {
    let Placed { endpoint, network, settings, .. } = &making.placed;
    if network.driver == Driver::Bridge {
        let master = making.master.ok_or_else(|| {
            Error::internal(format!("network {} has no bridge yet", network.name))
        })?;
        return netlink.add_veth(&Veth {
            name: &endpoint.host_interface,
            master,
            mtu: making.mtu,
            peer: &making.made_as,
            mac: endpoint.mac,
            pid,
            isolated: !settings.between,
            hairpin,
        });
    }
    let parent = netlink.link(&network.interface)?.ok_or_else(|| {
        Error::failed_precondition(format!(
            "the host's interface {} of network {} is not there",
            network.interface, network.name
        ))
    })?;
    netlink.add_macvlan(&Macvlan {
        parent: parent.index,
        mode: settings.macvlan,
        name: &making.made_as,
        mac: endpoint.mac,
        mtu: making.mtu,
        pid,
    })
}

/// What the container's namespace is to have.
fn inside(making: &[Making], all: &[Placed]) -> Inside {
    let interface = |making: &Making| {
        let endpoint = &making.placed.endpoint;
        let mut addresses: Vec<IpNet> = Vec::new();
        addresses.extend(endpoint.ipv4.map(IpNet::V4));
        addresses.extend(endpoint.ipv6.map(IpNet::V6));
        for address in &making.placed.attachment.link_local {
            let net = match *address {
                std::net::IpAddr::V4(at) => Ipv4Net::new(at, LINK_LOCAL.0).map(IpNet::V4),
                std::net::IpAddr::V6(at) => Ipv6Net::new(at, LINK_LOCAL.1).map(IpNet::V6),
            };
            addresses.extend(net);
        }
        Interface {
            made_as: making.made_as.clone(),
            name: endpoint.interface.clone(),
            ipv6: addresses.iter().any(|address| address.addr().is_ipv6()),
            addresses,
            router_advertisements: false,
        }
    };
    Inside { interfaces: making.iter().map(interface).collect(), routes: plan::routes(all) }
}

/// Files below `/proc/sys` of the container's, and what they are to say.
fn settings(new: &[Placed]) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for at in new {
        for (path, value) in wanted(&at.attachment)?.sysctls {
            all.push((path.replace("IFNAME", &at.endpoint.interface), value));
        }
    }
    Ok(all)
}

/// The number of the file that is the network namespace of a process, which must not be this
/// process' own. It blocks.
///
/// # Errors
/// `NotFound` when the process has ended; `FailedPrecondition` when it is in the daemon's network.
pub(super) fn namespace_number(pid: u32) -> Result<u64> {
    let failed = |err| Error::io(format!("look at the network namespace of process {pid}"), err);
    let theirs = namespace_of(pid)?.metadata().map_err(failed)?.ino();
    let own = std::fs::metadata("/proc/thread-self/ns/net").map_err(failed)?.ino();
    if theirs == own {
        return Err(Error::failed_precondition(format!(
            "process {pid} has no network of its own, but the host's"
        )));
    }
    Ok(theirs)
}
