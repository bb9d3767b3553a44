//! Text of the files that shims answer names from.

use std::fmt::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};

/// Longest name, in bytes.
const LONGEST: usize = 253;

/// A container in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// Its names, the first of which stands for its addresses.
    pub(crate) names: Vec<String>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Who else is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// These servers.
    Servers(Vec<IpAddr>),
    /// The servers of that resolv.conf(5).
    File(PathBuf),
    /// Nobody.
    Nobody,
}

/// Checks a name that others are to find a container by.
///
/// # Errors
/// `InvalidArgument`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if fits(name) {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::invalid_argument(format!(
        "invalid network alias {shown:?}: at most {LONGEST} characters without white space are a \
         name"
    )))
}

fn fits(name: &str) -> bool {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    !name.is_empty() && name.len() <= LONGEST && !name.contains(bad)
}

/// The names of a network, each also as `NAME.NETWORK`.
pub(crate) fn names_text(network: &str, members: &[Named]) -> String {
    let network = network.to_lowercase();
    let mut text = String::new();
    for member in members {
        let names = member.names.iter().filter(|name| fits(name));
        let names: Vec<_> = names.map(|name| name.trim_end_matches('.').to_lowercase()).collect();
        for address in &member.addresses {
            for name in &names {
                line(&mut text, format_args!("host {name} {address}"));
                line(&mut text, format_args!("host {name}.{network} {address}"));
            }
            if let Some(first) = names.first() {
                line(&mut text, format_args!("pointer {address} {first}.{network}"));
            }
        }
    }
    text
}

/// The settings of a resolver, for a container with these options of resolv.conf(5).
pub(crate) fn settings_text<'a>(
    names: impl IntoIterator<Item = &'a Path>,
    upstream: &Upstream,
    options: &[String],
) -> String {
    let mut text = String::new();
    for path in names {
        line(&mut text, format_args!("names {}", path.display()));
    }
    match upstream {
        Upstream::Servers(servers) => {
            for server in servers {
                line(&mut text, format_args!("upstream {server}"));
            }
        }
        Upstream::File(path) => line(&mut text, format_args!("upstreams {}", path.display())),
        Upstream::Nobody => line(&mut text, format_args!("internal")),
    }
    if searches_first(options) {
        line(&mut text, format_args!("ndots"));
    }
    text
}

/// Whether names without a dot are looked for in search domains. Of several the last one counts.
fn searches_first(options: &[String]) -> bool {
    let dots = options.iter().rev().find_map(|option| option.strip_prefix("ndots:"));
    dots.and_then(|dots| dots.parse::<u32>().ok()).is_some_and(|dots| dots > 0)
}

/// What stands behind an address in a hosts file: a name with a domain also in short.
pub(crate) fn hosts_name(hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    }
}

fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a text does not fail.
    let _ = writeln!(text, "{arguments}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_has_each_address() {
        let web = Named {
            names: vec!["Web".into(), "0123456789ab".into(), "with space".into()],
            addresses: vec!["172.18.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        };
        let text = names_text("App-net", &[web]);
        let expected = "host web 172.18.0.2\n\
                        host web.app-net 172.18.0.2\n\
                        host 0123456789ab 172.18.0.2\n\
                        host 0123456789ab.app-net 172.18.0.2\n\
                        pointer 172.18.0.2 web.app-net\n\
                        host web fd00::2\n\
                        host web.app-net fd00::2\n\
                        host 0123456789ab fd00::2\n\
                        host 0123456789ab.app-net fd00::2\n\
                        pointer fd00::2 web.app-net\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn settings_say_who_is_asked() {
        let names = [Path::new("/s/names/1"), Path::new("/s/names/2")];
        let servers = Upstream::Servers(vec!["192.0.2.1".parse().unwrap()]);
        assert_eq!(
            settings_text(names, &servers, &[]),
            "names /s/names/1\nnames /s/names/2\nupstream 192.0.2.1\n"
        );
        let file = Upstream::File("/etc/resolv.conf".into());
        assert_eq!(settings_text([], &file, &[]), "upstreams /etc/resolv.conf\n");
        assert_eq!(settings_text([], &Upstream::Nobody, &[]), "internal\n");
    }

    #[test]
    fn settings_say_whether_there_is_an_ndots() {
        for (options, there) in [
            (&["ndots:0", "timeout:1", "ndots:2"][..], true),
            (&["ndots:2", "ndots:0"][..], false),
            (&["timeout:1"][..], false),
        ] {
            let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
            let text = settings_text([], &Upstream::Nobody, &options);
            let expected = if there { "internal\nndots\n" } else { "internal\n" };
            assert_eq!(text, expected, "{options:?}");
        }
    }

    #[test]
    fn aliases_are_names() {
        for good in ["web", "_svc.tcp", "ä", "a-b"] {
            check_name(good).unwrap();
        }
        for bad in ["", "a b", "a\nhost evil 1.2.3.4", "a\0", &"x".repeat(254)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(hosts_name("web"), "web");
        assert_eq!(hosts_name("web.example.org"), "web.example.org web");
    }
}
