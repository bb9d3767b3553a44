//! Options of drivers.

use std::net::Ipv4Addr;

use gantry_core::networks::{Attachment, Driver, Network, Options};
use gantry_core::{Error, Result};

use crate::netlink::{MacvlanMode, is_interface_name};

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const HOST_BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MODE4: &str = "com.docker.network.bridge.gateway_mode_ipv4";
const MODE6: &str = "com.docker.network.bridge.gateway_mode_ipv6";
const INHIBIT: &str = "com.docker.network.bridge.inhibit_ipv4";
const TRUSTED: &str = "com.docker.network.bridge.trusted_host_interfaces";
const DEFAULT: &str = "com.docker.network.bridge.default_bridge";
const MTU: &str = "com.docker.network.driver.mtu";
/// The MTU that IPv6 needs.
const SHORTEST_IPV6: u32 = 1280;
const PREFIX: &str = "com.docker.network.container_iface_prefix";
const PARENT: &str = "parent";
const MACVLAN_MODE: &str = "macvlan_mode";

/// Options of an attachment.
const IFNAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

/// How packets get into a network and out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum GatewayMode {
    /// Published ports lead in; what leaves has the host's address.
    #[default]
    Nat,
    /// The same, and containers are reached by their own addresses as well.
    NatUnprotected,
    /// No address is translated: published ports are open at the container's own address, and
    /// pings are answered.
    Routed,
}

/// What a network's options say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Name of the bridge, where one was chosen.
    pub(super) bridge: Option<String>,
    /// Longest packet.
    pub(super) mtu: Option<u32>,
    /// Whether its containers reach each other.
    pub(super) between: bool,
    /// Whether what leaves gets the host's address.
    pub(super) masquerade: bool,
    /// Where ports are published that do not say where.
    pub(super) host_binding: Option<Ipv4Addr>,
    /// For IPv4.
    pub(super) mode4: GatewayMode,
    /// For IPv6.
    pub(super) mode6: GatewayMode,
    /// Whether the bridge goes without its IPv4 address.
    pub(super) no_address4: bool,
    /// Interfaces of the host from which containers are reached by their own addresses.
    pub(super) trusted: Vec<String>,
    /// What names of interfaces in containers begin with.
    pub(super) prefix: String,
    /// Interface of the host that macvlan stands on.
    pub(super) parent: Option<String>,
    /// What macvlan interfaces may send each other.
    pub(super) macvlan: MacvlanMode,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bridge: None,
            mtu: None,
            between: true,
            masquerade: true,
            host_binding: None,
            mode4: GatewayMode::Nat,
            mode6: GatewayMode::Nat,
            no_address4: false,
            trusted: Vec::new(),
            prefix: "eth".to_owned(),
            parent: None,
            macvlan: MacvlanMode::Bridge,
        }
    }
}

impl Settings {
    /// What the options of a network say, which were checked when it was made.
    pub(super) fn of(network: &Network) -> Self {
        parse(network.driver, &network.options).unwrap_or_default()
    }

    /// Whether ports are published by translating addresses.
    pub(super) fn translates(&self, v6: bool) -> bool {
        let mode = if v6 { self.mode6 } else { self.mode4 };
        mode != GatewayMode::Routed
    }
}

/// The options under their full names.
///
/// # Errors
/// `InvalidArgument` for an option that is given under two names.
pub(super) fn complete(driver: Driver, options: &Options) -> Result<Options> {
    let mut full = Options::new();
    for (key, value) in options {
        let (name, value) = match (driver, key.as_str()) {
            (_, "mtu") => (MTU, value.clone()),
            (Driver::Bridge, "name") => (NAME, value.clone()),
            (Driver::Bridge, "icc") => (ICC, value.clone()),
            (Driver::Bridge, "isolation") => (ICC, (!boolean(key, value)?).to_string()),
            (Driver::Bridge, "masquerade") => (MASQUERADE, value.clone()),
            (Driver::Macvlan, "mode") => (MACVLAN_MODE, value.clone()),
            (_, other) => (other, value.clone()),
        };
        if full.insert(name.to_owned(), value).is_some() {
            return Err(Error::invalid_argument(format!("the option {name} is given twice")));
        }
    }
    Ok(full)
}

/// What options under their full names say.
///
/// # Errors
/// `InvalidArgument` for one that is not known, or whose value makes no sense.
pub(super) fn parse(driver: Driver, options: &Options) -> Result<Settings> {
    let mut settings = Settings::default();
    for (key, value) in options {
        match (driver, key.as_str()) {
            (_, MTU) => {
                let mtu = value.parse().map_err(|_| bad(key, value, "it is a number of bytes"))?;
                check_mtu(mtu)?;
                settings.mtu = (mtu > 0).then_some(mtu);
            }
            (_, PREFIX) => {
                interface(key, &format!("{value}0"))?;
                settings.prefix = value.clone();
            }
            (Driver::Bridge, NAME) => settings.bridge = Some(interface(key, value)?),
            (Driver::Bridge, ICC) => settings.between = boolean(key, value)?,
            (Driver::Bridge, MASQUERADE) => settings.masquerade = boolean(key, value)?,
            (Driver::Bridge, INHIBIT) => settings.no_address4 = boolean(key, value)?,
            (Driver::Bridge, DEFAULT) => {
                boolean(key, value)?;
            }
            (Driver::Bridge, HOST_BINDING) => {
                let address: Ipv4Addr =
                    value.parse().map_err(|_| bad(key, value, "it is an IPv4 address"))?;
                settings.host_binding = (!address.is_unspecified()).then_some(address);
            }
            (Driver::Bridge, MODE4) => settings.mode4 = mode(key, value)?,
            (Driver::Bridge, MODE6) => settings.mode6 = mode(key, value)?,
            (Driver::Bridge, TRUSTED) => {
                let names = value.split(':').filter(|name| !name.is_empty());
                settings.trusted = names.map(|name| interface(key, name)).collect::<Result<_>>()?;
            }
            (Driver::Macvlan, PARENT) => settings.parent = Some(interface(key, value)?),
            (Driver::Macvlan, MACVLAN_MODE) => {
                settings.macvlan = MacvlanMode::parse(value)
                    .ok_or_else(|| bad(key, value, "bridge, private, vepa and passthru are"))?;
            }
            _ => {
                let driver = driver.as_str();
                return Err(Error::invalid_argument(format!(
                    "the driver {driver} has no option {key}"
                )));
            }
        }
    }
    Ok(settings)
}

/// The options of the default network, as Docker's users see them.
pub(super) fn of_default(bridge: &str, mtu: Option<u32>) -> Options {
    let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    Options::from([
        of(DEFAULT, "true"),
        of(ICC, "true"),
        of(MASQUERADE, "true"),
        of(HOST_BINDING, "0.0.0.0"),
        of(NAME, bridge),
        of(MTU, &mtu.unwrap_or(1500).to_string()),
    ])
}

/// What the options of an attachment say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Name of the interface in the container.
    pub(super) interface: Option<String>,
    /// Files below `/proc/sys`, in which `IFNAME` stands for the interface, and what they are
    /// to say.
    pub(super) sysctls: Vec<(String, String)>,
}

/// Reads the options of an attachment.
///
/// # Errors
/// `InvalidArgument` for one that is not known, or whose value makes no sense.
pub(super) fn wanted(attachment: &Attachment) -> Result<Wanted> {
    let mut wanted = Wanted::default();
    for (key, value) in &attachment.options {
        match key.as_str() {
            IFNAME => wanted.interface = Some(interface(key, value)?),
            SYSCTLS => {
                for setting in value.split(',') {
                    wanted.sysctls.push(sysctl(key, setting)?);
                }
            }
            _ => {
                return Err(Error::invalid_argument(format!(
                    "an endpoint has no driver option {key}"
                )));
            }
        }
    }
    Ok(wanted)
}

/// `net.ipv4.conf.IFNAME.log_martians=1`.
fn sysctl(key: &str, setting: &str) -> Result<(String, String)> {
    let refuse = || bad(key, setting, "settings are as net.ipv4.conf.IFNAME.log_martians=1");
    let (name, value) = setting.trim().split_once('=').ok_or_else(refuse)?;
    let parts: Vec<_> = name.split('.').collect();
    let word = |part: &&str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    match parts.as_slice() {
        ["net", "ipv4" | "ipv6" | "mpls", "conf" | "neigh", "IFNAME", what] if word(what) => {
            Ok((parts.join("/"), value.to_owned()))
        }
        _ => Err(refuse()),
    }
}

/// Whether an interface with packets of that length can't have IPv6 (RFC 8200, section 5).
pub(super) fn is_short(mtu: u32) -> bool {
    mtu > 0 && mtu < SHORTEST_IPV6
}

/// The length of packets on a network's interfaces: what the network says, else the usual one,
/// which may be too short for the IPv6 that the network has; `None` is for the kernel to choose.
pub(super) fn mtu(network: &Network, settings: &Settings, usual: Option<u32>) -> Option<u32> {
    let enough = |mtu: u32| match network.ipv6() {
        Some(_) if is_short(mtu) => SHORTEST_IPV6,
        _ => mtu,
    };
    settings.mtu.or(usual.map(enough))
}

/// Refuses a length of packets that no interface has; 0 is for the default.
pub(super) fn check_mtu(mtu: u32) -> Result<()> {
    // The least that IPv4 works with, and the most that an interface has.
    if mtu == 0 || (68..=65_535).contains(&mtu) {
        return Ok(());
    }
    Err(Error::invalid_argument(format!("invalid MTU {mtu}: it is from 68 to 65535")))
}

fn mode(key: &str, value: &str) -> Result<GatewayMode> {
    match value {
        "nat" | "" => Ok(GatewayMode::Nat),
        "nat-unprotected" => Ok(GatewayMode::NatUnprotected),
        "routed" => Ok(GatewayMode::Routed),
        _ => Err(bad(key, value, "nat, nat-unprotected and routed are")),
    }
}

fn interface(key: &str, value: &str) -> Result<String> {
    if !is_interface_name(value) {
        return Err(bad(key, value, "it is the name of an interface, of at most 15 bytes"));
    }
    Ok(value.to_owned())
}

/// As Go reads it.
fn boolean(key: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(bad(key, value, "it is true or false")),
    }
}

fn bad(key: &str, value: &str, what: &str) -> Error {
    Error::invalid_argument(format!("invalid value {value:?} of the option {key}: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn short_names_stand_for_full_ones() {
        let short = options(&[("mtu", "1400"), ("name", "br9"), ("isolation", "true")]);
        let full = complete(Driver::Bridge, &short).unwrap();
        assert_eq!(full, options(&[(MTU, "1400"), (NAME, "br9"), (ICC, "false")]));
        let settings = parse(Driver::Bridge, &full).unwrap();
        assert_eq!(settings.mtu, Some(1400));
        assert_eq!(settings.bridge.as_deref(), Some("br9"));
        assert!(!settings.between && settings.masquerade);
        let twice = options(&[("mtu", "1400"), (MTU, "1400")]);
        assert!(complete(Driver::Bridge, &twice).is_err());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (key, value) in [
            (MTU, "67"),
            (MTU, "x"),
            (NAME, "a name"),
            (NAME, "more-than-15-bytes"),
            (ICC, "yes"),
            (HOST_BINDING, "::1"),
            (MODE4, "isolated"),
            (PREFIX, "longer-prefix-0"),
            (PARENT, "eth0"),
            ("com.docker.network.bridge.other", "1"),
        ] {
            let refused = parse(Driver::Bridge, &options(&[(key, value)]));
            assert!(refused.is_err(), "{key}={value}");
        }
        let macvlan = options(&[(PARENT, "eth0"), (MACVLAN_MODE, "private")]);
        let settings = parse(Driver::Macvlan, &macvlan).unwrap();
        assert_eq!(settings.macvlan, MacvlanMode::Private);
        parse(Driver::Bridge, &of_default("gantry0", None)).unwrap();
    }

    #[test]
    fn endpoints_have_names_and_settings() {
        let attachment = |key: &str, value: &str| Attachment {
            options: options(&[(key, value)]),
            ..Attachment::default()
        };
        let named = wanted(&attachment(IFNAME, "wan0")).unwrap();
        assert_eq!(named.interface.as_deref(), Some("wan0"));
        let text = "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2";
        let settings = wanted(&attachment(SYSCTLS, text)).unwrap().sysctls;
        assert_eq!(settings[0], ("net/ipv4/conf/IFNAME/log_martians".into(), "1".into()));
        assert_eq!(settings[1].1, "2");
        for bad in ["kernel.panic=1", "net.ipv4.conf.eth0.x=1", "net.ipv4.conf.IFNAME.../x=1"] {
            assert!(wanted(&attachment(SYSCTLS, bad)).is_err(), "{bad}");
        }
    }
}
