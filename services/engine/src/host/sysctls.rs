//! Settings of the kernel: which belong to a namespace, and so can be a container's own.

use gantry_core::{Error, Labels, Result};

use crate::model::{Namespaces, Network};

/// Those of System V IPC.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];
/// Those of POSIX message queues begin so.
const QUEUES: &str = "fs.mqueue.";
/// Those of networks begin so.
const NET: &str = "net.";
/// Those of host names.
const HOST_NAME: &str = "kernel.hostname";
const DOMAIN_NAME: &str = "kernel.domainname";

/// Puts the names into one form, with dots, and refuses settings that are not the
/// container's own.
///
/// # Errors
/// `InvalidArgument`, naming the setting.
pub(crate) fn check(sysctls: &mut Labels, namespaces: &Namespaces, network: Network) -> Result<()> {
    let given = std::mem::take(sysctls);
    for (name, value) in given {
        let name = dotted(&name)?;
        if value.contains('\0') {
            return Err(Error::invalid_argument(format!("sysctl {name:?}: bad value")));
        }
        allowed(&name, namespaces, network)?;
        if sysctls.insert(name.clone(), value).is_some() {
            return Err(Error::invalid_argument(format!("sysctl {name:?} is given twice")));
        }
    }
    Ok(())
}

fn allowed(name: &str, namespaces: &Namespaces, network: Network) -> Result<()> {
    let refused = |why: &str| Err(Error::invalid_argument(format!("sysctl {name:?} {why}")));
    if IPC.contains(&name) || name.starts_with(QUEUES) {
        return match namespaces.ipc.as_str() {
            "host" => refused("is not allowed in the hosts ipc namespace"),
            mode if mode.starts_with("container:") => {
                refused("is not allowed in the ipc namespace of another container")
            }
            _ => Ok(()),
        };
    }
    if name.starts_with(NET) {
        return match network {
            Network::Host => refused("not allowed in host network namespace"),
            Network::Container => {
                refused("is not allowed in the network namespace of another container")
            }
            Network::None | Network::Attached => Ok(()),
        };
    }
    match name {
        HOST_NAME => refused("is not allowed as it conflicts with the OCI \"hostname\" field"),
        DOMAIN_NAME if namespaces.uts.is_empty() => Ok(()),
        _ => refused("is not in a separate kernel namespace"),
    }
}

/// `net/ipv4/ip_forward` and `net.ipv4.ip_forward` are the same.
fn dotted(name: &str) -> Result<String> {
    let bad = |why: &str| Err(Error::invalid_argument(format!("sysctl {name:?}: {why}")));
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':');
    if name.is_empty() || !name.chars().all(known) {
        return bad("that is no name of a kernel parameter");
    }
    let name = if name.contains('.') { name.to_owned() } else { name.replace('/', ".") };
    if name.contains('/') {
        // Of a device with a dot in its name.
        return bad("names with dots and slashes are not supported");
    }
    if name.split('.').any(str::is_empty) {
        return bad("that is no name of a kernel parameter");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, namespaces: &Namespaces, network: Network) -> Result<Labels> {
        let mut sysctls = Labels::from([(name.to_owned(), "1".to_owned())]);
        check(&mut sysctls, namespaces, network).map(|()| sysctls)
    }

    #[test]
    fn namespaced_ones() {
        let own = Namespaces::default();
        for name in ["net.ipv4.ip_forward", "kernel.shmmax", "fs.mqueue.msg_max"] {
            assert!(ask(name, &own, Network::None).unwrap().contains_key(name), "{name}");
        }
        assert!(ask("kernel.domainname", &own, Network::Host).is_ok());
        let made = ask("net/core/somaxconn", &own, Network::None).unwrap();
        assert_eq!(made.keys().collect::<Vec<_>>(), ["net.core.somaxconn"]);
    }

    #[test]
    fn the_hosts_are_refused() {
        let own = Namespaces::default();
        let said = |name: &str, namespaces: &Namespaces, network| {
            ask(name, namespaces, network).unwrap_err().to_string()
        };
        assert_eq!(
            said("kernel.panic", &own, Network::None),
            "sysctl \"kernel.panic\" is not in a separate kernel namespace"
        );
        assert_eq!(
            said("net.core.somaxconn", &own, Network::Host),
            "sysctl \"net.core.somaxconn\" not allowed in host network namespace"
        );
        let host = Namespaces { ipc: "host".into(), uts: "host".into(), ..own.clone() };
        assert!(said("net.core.somaxconn", &own, Network::Container).contains("another container"));
        assert!(ask("net.core.somaxconn", &own, Network::Attached).is_ok());
        assert!(said("kernel.sem", &host, Network::None).contains("hosts ipc namespace"));
        assert!(said("kernel.domainname", &host, Network::None).contains("separate"));
        let joined = Namespaces { ipc: "container:c1".into(), ..own.clone() };
        assert!(said("kernel.sem", &joined, Network::None).contains("another container"));
        assert!(said("kernel.hostname", &own, Network::None).contains("conflicts"));
        for bad in ["", "net..x", "net.ipv4/../../kernel", "/net/x", "net.a b", "net.x\0"] {
            assert!(ask(bad, &own, Network::None).is_err(), "{bad:?}");
        }
    }
}
