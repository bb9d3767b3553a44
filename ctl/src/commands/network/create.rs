use std::net::IpAddr;

use anyhow::{anyhow, bail};
use gantry_grpc::gantry::engine::v1 as api;
use ipnet::IpNet;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::{env, switches};

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry network create app-net             A bridge with addresses that are free
  gantry network create --subnet 10.9.0.0/24 --gateway 10.9.0.254 lab
  gantry network create --internal backend  Nothing leaves it
  gantry network create -d macvlan -o parent=eth0 --subnet 192.0.2.0/24 --gateway 192.0.2.1 lan
                                            Containers beside the host in its network

Containers in one network find each other by name.";

/// Make a network
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Create {
    /// Driver: bridge, macvlan
    #[arg(short, long, default_value = "bridge", hide_default_value = true)]
    driver: String,
    /// Option of the driver: mtu=1400, name=BRIDGE, isolation=true, parent=INTERFACE (several)
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Label it (several)
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Nothing leaves it, names included
    #[arg(long)]
    internal: bool,
    /// Whether it has IPv4 [default: true]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = said,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    ipv4: Option<Said>,
    /// Whether it has IPv6 [default: true where the kernel has it]
    #[arg(
        long,
        value_name = "BOOL",
        value_parser = said,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    ipv6: Option<Said>,
    /// Its addresses, one subnet for IPv4 and one for IPv6; free ones without it (several)
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    subnet: Vec<String>,
    /// Address of its router; the first of the subnet without it (several)
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Part of a subnet that containers get their addresses from (several)
    #[arg(long, value_name = "SUBNET", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// Address that no container gets, and what has it (several)
    #[arg(long, value_name = "NAME=ADDRESS")]
    aux_address: Vec<String>,
    #[command(flatten)]
    clusters: Clusters,
    /// Name
    #[arg(value_name = "NAME")]
    name: String,
}

/// What Docker has for clusters.
#[derive(Debug, clap::Args)]
struct Clusters {
    /// Containers may be connected by hand, which holds for all networks.
    #[arg(long = "attachable", hide = true)]
    _attachable: bool,
    /// A mesh.
    #[arg(long, hide = true)]
    ingress: bool,
    /// Options for others.
    #[arg(long, hide = true)]
    config_only: bool,
    /// Options of another one.
    #[arg(long, hide = true, value_name = "NAME")]
    config_from: Option<String>,
    /// Where it is.
    #[arg(long, hide = true, value_name = "SCOPE")]
    scope: Option<String>,
    /// Who chooses addresses.
    #[arg(long, hide = true, value_name = "DRIVER")]
    ipam_driver: Option<String>,
    /// How.
    #[arg(long, hide = true, value_name = "KEY=VALUE")]
    ipam_opt: Vec<String>,
}

/// A switch that was given.
// Not the bare type, which all switches have that are off unless they are given.
#[derive(Clone, Copy, Debug)]
struct Said(bool);

fn said(text: &str) -> Result<Said, &'static str> {
    switches::truth(text).map(Said)
}

impl Create {
    pub(super) async fn execute(self, context: Context<'_>) -> Outcome {
        let request = self.into_request()?;
        let client = context.connect().await?;
        let made = client.answer(client.networks().create(request).await)?;
        for warning in &made.warnings {
            context.printer.warning(warning);
        }
        context.printer.line(made.network.unwrap_or_default().id)?;
        Ok(SUCCESS)
    }

    fn into_request(self) -> anyhow::Result<api::CreateNetworkRequest> {
        self.clusters.check()?;
        let subnets = self.subnets()?;
        Ok(api::CreateNetworkRequest {
            labels: env::labels(&[""; 0], &self.label)?,
            options: env::pairs("option", &self.opt)?,
            name: self.name,
            driver: self.driver,
            internal: self.internal,
            ipv4: self.ipv4.map(|said| said.0),
            ipv6: self.ipv6.map(|said| said.0),
            subnets,
        })
    }

    /// Subnets, each with what belongs to it.
    fn subnets(&self) -> anyhow::Result<Vec<api::Subnet>> {
        if self.subnet.len() < self.ip_range.len().max(self.gateway.len()) {
            bail!("every ip-range or gateway must have a corresponding subnet");
        }
        let mut all: Vec<(IpNet, api::Subnet)> = Vec::new();
        for text in &self.subnet {
            let subnet = cidr(text)?;
            let overlaps = |other: &IpNet| other.contains(&subnet) || subnet.contains(other);
            if all.iter().any(|(other, _)| overlaps(other)) {
                bail!("multiple overlapping subnet configuration is not supported");
            }
            all.push((subnet, api::Subnet { subnet: text.clone(), ..Default::default() }));
        }
        for text in &self.ip_range {
            let range = cidr(text)?;
            let Some((_, subnet)) = all.iter_mut().find(|(subnet, _)| subnet.contains(&range))
            else {
                bail!("no matching subnet for range {text}");
            };
            set(&mut subnet.ip_range, text, "ranges", &subnet.subnet)?;
        }
        for text in &self.gateway {
            let subnet = with(&mut all, text);
            let subnet = subnet.ok_or_else(|| anyhow!("no matching subnet for gateway {text}"))?;
            set(&mut subnet.gateway, text, "gateways", &subnet.subnet)?;
        }
        if let Some(text) = self.aux_address.iter().find(|text| !text.contains('=')) {
            bail!("invalid aux-address {text}: it must be NAME=ADDRESS");
        }
        for (name, address) in env::pairs("auxiliary address", &self.aux_address)? {
            let Some(subnet) = with(&mut all, &address) else {
                bail!("no matching subnet for aux-address {address}");
            };
            subnet.reserved.insert(name, address);
        }
        Ok(all.into_iter().map(|(_, subnet)| subnet).collect())
    }
}

/// A subnet with the length of its prefix.
fn cidr(text: &str) -> anyhow::Result<IpNet> {
    text.parse().map_err(|_| anyhow!("invalid CIDR address: {text}"))
}

/// The subnet that an address is in.
fn with<'a>(all: &'a mut [(IpNet, api::Subnet)], address: &str) -> Option<&'a mut api::Subnet> {
    let address: IpAddr = address.parse().ok()?;
    all.iter_mut().find(|(subnet, _)| subnet.contains(&address)).map(|(_, subnet)| subnet)
}

/// Sets what a subnet has once.
fn set(field: &mut String, value: &str, what: &str, subnet: &str) -> anyhow::Result<()> {
    if !field.is_empty() {
        bail!("cannot configure multiple {what} ({value}, {field}) on the same subnet ({subnet})");
    }
    *field = value.to_owned();
    Ok(())
}

impl Clusters {
    fn check(&self) -> anyhow::Result<()> {
        let unlike = |value: &Option<String>, known: &[&str]| {
            value.as_deref().is_some_and(|value| !known.contains(&value))
        };
        for (is_given, option, why) in [
            (self.ingress, "ingress", "there are no clusters"),
            (self.config_only, "config-only", "a network is made as it is used"),
            (self.config_from.is_some(), "config-from", "a network is made as it is used"),
            (unlike(&self.scope, &["", "local"]), "scope", "networks are local"),
            (
                unlike(&self.ipam_driver, &["", "default"]),
                "ipam-driver",
                "addresses are chosen by Gantry",
            ),
            (!self.ipam_opt.is_empty(), "ipam-opt", "addresses are chosen by Gantry"),
        ] {
            if is_given {
                bail!("--{option} is not supported: {why}");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};

    use super::*;

    fn read(line: &[&str]) -> anyhow::Result<api::CreateNetworkRequest> {
        let command = clap::Command::new("create").no_binary_name(true);
        // As the whole command line has it.
        let command = switches::with_values(Create::augment_args(command));
        let matches = command.try_get_matches_from([line, &["app-net"]].concat())?;
        Create::from_arg_matches(&matches)?.into_request()
    }

    fn refused(line: &[&str]) -> String {
        read(line).unwrap_err().to_string()
    }

    #[test]
    fn a_name_alone_asks_for_nothing_else() {
        let wanted = api::CreateNetworkRequest {
            name: "app-net".to_owned(),
            driver: "bridge".to_owned(),
            ..Default::default()
        };
        assert_eq!(read(&[]).unwrap(), wanted);
        assert_eq!(read(&["--attachable", "--scope=local"]).unwrap(), wanted);
    }

    #[test]
    fn options_are_handed_on() {
        let line = ["-d", "macvlan", "-o", "parent=eth0", "--label=a=b", "--label", "c"];
        let made = read(&[&line[..], &["--internal", "--ipv4=false", "--ipv6"]].concat()).unwrap();
        assert_eq!((made.driver.as_str(), made.internal), ("macvlan", true));
        assert_eq!((made.ipv4, made.ipv6), (Some(false), Some(true)));
        assert_eq!(made.options.get("parent").map(String::as_str), Some("eth0"));
        assert_eq!(made.labels.get("c").map(String::as_str), Some(""));
    }

    #[test]
    fn what_belongs_together_comes_together() {
        let made = read(&[
            "--subnet=10.9.0.0/24,fd00:9::/64",
            "--gateway=fd00:9::1",
            "--gateway=10.9.0.254",
            "--ip-range=10.9.0.128/25",
            "--aux-address=router=10.9.0.2",
            "--aux-address=printer=10.9.0.3",
        ]);
        let subnets = made.unwrap().subnets;
        let [four, six] = &subnets[..] else { panic!("two subnets") };
        assert_eq!((four.subnet.as_str(), six.subnet.as_str()), ("10.9.0.0/24", "fd00:9::/64"));
        assert_eq!((four.gateway.as_str(), six.gateway.as_str()), ("10.9.0.254", "fd00:9::1"));
        assert_eq!((four.ip_range.as_str(), six.ip_range.as_str()), ("10.9.0.128/25", ""));
        assert_eq!((four.reserved.len(), six.reserved.len()), (2, 0));
    }

    #[test]
    fn what_does_not_is_refused_in_dockers_words() {
        let corresponding = "every ip-range or gateway must have a corresponding subnet";
        let subnet = "--subnet=10.9.0.0/24";
        for (line, said) in [
            (&["--gateway=10.9.0.1"][..], corresponding),
            (&["--ip-range=10.9.0.0/25"], corresponding),
            (&[subnet, "--gateway=10.9.0.1,10.9.0.2"], corresponding),
            (
                &[subnet, "--subnet=10.9.0.0/16"],
                "multiple overlapping subnet configuration is not supported",
            ),
            (&["--subnet=x"], "invalid CIDR address: x"),
            (&[subnet, "--gateway=x"], "no matching subnet for gateway x"),
            (&[subnet, "--gateway=10.8.0.1"], "no matching subnet for gateway 10.8.0.1"),
            (&[subnet, "--ip-range=x"], "invalid CIDR address: x"),
            (&[subnet, "--ip-range=10.8.0.0/25"], "no matching subnet for range 10.8.0.0/25"),
            (&[subnet, "--aux-address=a=x"], "no matching subnet for aux-address x"),
            (
                &[subnet, "--aux-address=10.9.0.5"],
                "invalid aux-address 10.9.0.5: it must be NAME=ADDRESS",
            ),
            (&["--aux-address=a=10.9.0.1"], "no matching subnet for aux-address 10.9.0.1"),
            (&["--label==b"], "invalid label '=b': empty name"),
            (
                &[subnet, "--subnet=10.8.0.0/24", "--gateway=10.9.0.1", "--gateway=10.9.0.2"],
                "cannot configure multiple gateways (10.9.0.2, 10.9.0.1) on the same subnet \
                 (10.9.0.0/24)",
            ),
        ] {
            assert_eq!(refused(line), said, "{line:?}");
        }
        for option in ["--ingress", "--config-only", "--config-from=x", "--scope=swarm"] {
            assert!(refused(&[option]).contains(" is not supported: "), "{option}");
        }
        assert!(refused(&["--ipv6=x"]).contains("write true or false"));
    }
}
