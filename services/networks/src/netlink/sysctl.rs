//! Settings below `/proc/sys/net`, of this thread's network namespace.

use std::io::ErrorKind;
use std::path::Path;

use gantry_core::{Error, Kind, Result};

use super::Netlink;

/// Where they are.
const ROOT: &str = "/proc/sys";

/// The value of a setting, such as `net/ipv4/ip_forward`; `None` when the kernel lacks it.
///
/// # Errors
/// It can't be read.
pub(crate) fn sysctl(path: &str) -> Result<Option<String>> {
    match std::fs::read_to_string(Path::new(ROOT).join(path)) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(format!("read the setting {path}"), err)),
    }
}

/// Gives a setting a value, unless it has it.
///
/// # Errors
/// [`NotFound`](Kind::NotFound) when the kernel lacks it;
/// [`FailedPrecondition`](Kind::FailedPrecondition) where settings can't be written.
pub(crate) fn set_sysctl(path: &str, value: &str) -> Result<()> {
    if sysctl(path)?.as_deref() == Some(value) {
        return Ok(());
    }
    let written = std::fs::write(Path::new(ROOT).join(path), value);
    written.map_err(|err| {
        let name = path.replace('/', ".");
        let read_only = err.kind() == ErrorKind::ReadOnlyFilesystem;
        let failed = Error::io(format!("set {name} to {value}"), err);
        if !read_only {
            return failed;
        }
        failed
            .with_kind(Kind::FailedPrecondition)
            .context(format!("{ROOT} is read-only here; set it with `sysctl -w {name}={value}`"))
    })
}

/// Whether the kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    Path::new(ROOT).join("net/ipv6").exists()
}

/// Lets packets of IPv4 through the host.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn forward_ipv4() -> Result<()> {
    set_sysctl("net/ipv4/ip_forward", "1")
}

/// Lets packets of IPv6 through the host, unless it has a default route by interfaces that
/// would lose it: a host that forwards is a router, and does not listen any more to others that
/// announce themselves unless `accept_ra` is 2 there. Then nothing is changed, and these
/// interfaces are returned.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn forward_ipv6(netlink: &Netlink) -> Result<Vec<String>> {
    let all = "net/ipv6/conf/all/forwarding";
    if sysctl(all)?.as_deref() == Some("1") {
        return Ok(Vec::new());
    }
    let learned = netlink.learned_gateways()?;
    let mut deaf = Vec::new();
    for link in netlink.links()?.into_iter().filter(|link| learned.contains(&link.index)) {
        let believes = sysctl(&format!("net/ipv6/conf/{}/accept_ra", link.name))?;
        if believes.as_deref() == Some("1") {
            deaf.push(link.name);
        }
    }
    if deaf.is_empty() {
        set_sysctl(all, "1")?;
    }
    Ok(deaf)
}

/// Takes IPv6 from an interface, link-local addresses included. One whose packets are too short
/// for it has neither IPv6 nor its settings.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn disable_ipv6(name: &str) -> Result<()> {
    match set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(err) if err.is_not_found() => Ok(()),
        done => done,
    }
}

/// Settings of a bridge of ours: 127.0.0.1 of the host may lead to its containers, and its
/// containers are no routers of the host's. Without IPv6 it has not even a link-local address.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn prepare_bridge(name: &str, ipv4: bool, ipv6: bool) -> Result<()> {
    if ipv4 {
        set_localnet(name, true)?;
    }
    if !has_ipv6() {
        return Ok(());
    }
    if !ipv6 {
        return disable_ipv6(name);
    }
    let of = |setting: &str| format!("net/ipv6/conf/{name}/{setting}");
    set_sysctl(&of("accept_ra"), "0")?;
    // Until its link-local address is sure to be nobody else's the bridge would ask for no
    // container: for two seconds nothing would be forwarded to the first ones.
    set_sysctl(&of("accept_dad"), "0")?;
    set_sysctl(&of("disable_ipv6"), "0")
}

/// Settings of somebody else's bridge: as little as [`prepare_bridge`]'s containers can do with.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn prepare_foreign_bridge(name: &str, ipv4: bool, ipv6: bool) -> Result<()> {
    if ipv4 {
        set_localnet(name, true)?;
    }
    match ipv6 {
        true => set_sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0"),
        false => Ok(()),
    }
}

/// Whether 127.0.0.1 may lead out by an interface.
///
/// # Errors
/// As [`sysctl`].
pub(crate) fn has_localnet(name: &str) -> Result<bool> {
    Ok(sysctl(&localnet(name))?.as_deref() == Some("1"))
}

/// Says whether 127.0.0.1 may lead out by an interface.
///
/// # Errors
/// As [`set_sysctl`].
pub(crate) fn set_localnet(name: &str, may: bool) -> Result<()> {
    set_sysctl(&localnet(name), if may { "1" } else { "0" })
}

fn localnet(name: &str) -> String {
    format!("net/ipv4/conf/{name}/route_localnet")
}

#[cfg(test)]
mod tests {
    use super::super::testing::elsewhere;
    use super::*;

    #[test]
    fn settings_are_those_of_the_threads_namespace() {
        elsewhere(|| {
            let path = "net/ipv4/ip_forward";
            set_sysctl(path, "0").unwrap();
            assert_eq!(sysctl(path).unwrap().as_deref(), Some("0"));
            forward_ipv4().unwrap();
            assert_eq!(sysctl(path).unwrap().as_deref(), Some("1"));
            assert_eq!(sysctl("net/ipv4/no_such_setting").unwrap(), None);
            let err = set_sysctl("net/ipv4/no_such_setting", "1").unwrap_err();
            assert!(err.to_string().contains("set net.ipv4.no_such_setting to 1"), "{err}");
        });
    }

    #[test]
    fn a_bridge_is_prepared() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            netlink.add_bridge("br0", None, [2, 0, 0, 0, 0, 1]).unwrap();
            prepare_bridge("br0", true, true).unwrap();
            let value = |path: &str| sysctl(path).unwrap();
            assert_eq!(value("net/ipv4/conf/br0/route_localnet").as_deref(), Some("1"));
            if has_ipv6() {
                assert_eq!(value("net/ipv6/conf/br0/accept_ra").as_deref(), Some("0"));
                assert_eq!(value("net/ipv6/conf/br0/accept_dad").as_deref(), Some("0"));
                prepare_bridge("br0", true, false).unwrap();
                assert_eq!(value("net/ipv6/conf/br0/disable_ipv6").as_deref(), Some("1"));
                assert_eq!(forward_ipv6(&netlink).unwrap(), Vec::<String>::new());
                assert_eq!(value("net/ipv6/conf/all/forwarding").as_deref(), Some("1"));
            }
        });
    }

    #[test]
    fn a_bridge_of_short_packets_has_no_ipv6() {
        elsewhere(|| {
            let netlink = Netlink::open().unwrap();
            netlink.add_bridge("br0", Some(1200), [2, 0, 0, 0, 0, 1]).unwrap();
            prepare_bridge("br0", true, false).unwrap();
            let localnet = sysctl("net/ipv4/conf/br0/route_localnet").unwrap();
            assert_eq!(localnet.as_deref(), Some("1"));
        });
    }
}
