use clap::{FromArgMatches, Parser};

use super::*;

#[derive(Debug, Parser)]
#[command(no_binary_name = true, args_override_self = true)]
struct Line {
    #[command(flatten)]
    network: Network,
}

fn read(line: &[&str]) -> anyhow::Result<api::ContainerSpec> {
    let command = <Line as clap::CommandFactory>::command();
    let line = Line::from_arg_matches(&command.try_get_matches_from(line)?)?;
    let mut spec = api::ContainerSpec::default();
    line.network.add_to(&mut spec)?;
    Ok(spec)
}

fn refused(line: &[&str]) -> String {
    read(line).unwrap_err().to_string()
}

#[test]
fn a_network_that_is_only_named_is_told_in_short() {
    assert_eq!(read(&[]).unwrap(), api::ContainerSpec::default());
    for (name, wanted) in [
        ("app", "app"),
        ("host", "host"),
        ("none", "none"),
        ("default", "bridge"),
        ("container:web", "container:web"),
        ("name=app", "app"),
    ] {
        let spec = read(&["--network", name]).unwrap();
        assert_eq!((spec.network.as_str(), spec.networks.len()), (wanted, 0));
    }
    assert_eq!(read(&["--net=app"]).unwrap().network, "app");
}

#[test]
fn a_network_has_fields() {
    let long = "name=app,alias=db,Alias=sql,ip=10.0.0.9,ip6=fd00::9,link-local-ip=169.254.1.9,\
                mac-address=02-42-AC-11-00-09,driver-opt=a=b,\"driver-opt=c=d,e\",gw-priority=-2";
    let spec = read(&["--network", long, "--network", "other"]).unwrap();
    assert_eq!(spec.network, "");
    let wanted = api::NetworkAttachment {
        network: "app".to_owned(),
        aliases: ["db", "sql"].map(str::to_owned).to_vec(),
        ipv4_address: "10.0.0.9".to_owned(),
        ipv6_address: "fd00::9".to_owned(),
        mac_address: "02:42:ac:11:00:09".to_owned(),
        driver_options: [("a", "b"), ("c", "d,e")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        gateway_priority: -2,
        link_local_addresses: vec!["169.254.1.9".to_owned()],
    };
    assert_eq!(spec.networks, [wanted, named("other")]);
}

#[test]
fn options_of_their_own_are_the_first_networks() {
    let line = ["--network=a", "--network=b", "--network-alias=x", "--net-alias=y", "--ip=1.2.3.4"];
    let networks = read(&line).unwrap().networks;
    let [first, second] = &networks[..] else { panic!("two networks") };
    assert_eq!((first.aliases.len(), first.ipv4_address.as_str()), (2, "1.2.3.4"));
    assert_eq!(*second, named("b"));
    let spec = read(&["--mac-address", "02:42:ac:11:00:09"]).unwrap();
    let wanted =
        api::NetworkAttachment { mac_address: "02:42:ac:11:00:09".to_owned(), ..named("bridge") };
    assert_eq!(spec.networks, [wanted]);
}

#[test]
fn contradictions_are_refused_in_dockers_words() {
    let both = |option: &str, field: &str| {
        format!("conflicting options: cannot specify both --{option} and per-network {field}")
    };
    let modes = "conflicting options: cannot attach both user-defined and non-user-defined \
                 network-modes";
    let aliases = "network-scoped aliases are only supported for user-defined networks";
    for (line, said) in [
        (&["--network="][..], "no name set for network".to_owned()),
        (&["--network=a", "--network=a"], "network \"a\" is specified multiple times".to_owned()),
        (&["--network=a", "--network=bridge"], modes.to_owned()),
        (&["--network=host", "--network=a"], modes.to_owned()),
        (&["--network-alias=x"], aliases.to_owned()),
        (&["--network=name=host,alias=x"], aliases.to_owned()),
        (&["--network=container:a", "--network-alias=x"], aliases.to_owned()),
        (&["--network=name=a,alias=x", "--network-alias=y"], both("network-alias", "alias")),
        (&["--network=name=a,ip=1.2.3.4", "--ip=1.2.3.5"], both("ip", "IPv4 address")),
        (&["--network=name=a,ip6=::1", "--ip6=::2"], both("ip6", "IPv6 address")),
        (
            &["--network=name=a,mac-address=02:00:00:00:00:01", "--mac-address=x"],
            both("mac-address", "MAC address"),
        ),
        (
            &["--network=name=a,link-local-ip=169.254.1.1", "--link-local-ip=169.254.1.2"],
            both("link-local-ip", "link-local IP addresses"),
        ),
        (&["--mac-address=x"], "x is not a valid mac address".to_owned()),
    ] {
        assert_eq!(refused(line), said, "{line:?}");
    }
}

#[test]
fn malformed_networks_are_refused_in_dockers_words() {
    for (text, said) in [
        ("alias=a", "network name/id is not specified"),
        ("name=app,foo=bar", "invalid field key foo"),
        ("name=app,nope", "invalid field nope"),
        ("name=app,driver-opt=x", "invalid key value pair format in driver options"),
        ("name=app,gw-priority=x", "invalid gw-priority (x): invalid syntax"),
    ] {
        assert_eq!(attachment(text).unwrap_err(), said);
        assert!(refused(&["--network", text]).contains(said), "{text}");
    }
}

#[test]
fn mac_addresses_have_one_form() {
    for text in ["92:d0:c6:0a:29:33", "92-D0-C6-0A-29-33", "92d0.c60a.2933"] {
        assert_eq!(mac(text).unwrap(), "92:d0:c6:0a:29:33");
    }
    assert_eq!(mac("").unwrap(), "");
    for text in
        ["x", "92:d0:c6:0a:29", "92:d0:c6:0a:29:3g", "92:d0:c6:0a:29:33:00:00", "92d0c60a2933"]
    {
        assert_eq!(
            mac(text).unwrap_err().to_string(),
            format!("{text} is not a valid mac address")
        );
    }
}

#[test]
fn ports_and_names() {
    let spec = read(&[
        "-p",
        "8080:80",
        "-p53:53/udp",
        "--publish=80-81",
        "-P",
        "--expose=9000",
        "--dns=1.1.1.1",
        "--dns-search=example.org",
        "--dns-opt=timeout:3",
        "--dns-option",
        "rotate",
        "--add-host=db=10.0.0.1",
    ]);
    let spec = spec.unwrap();
    let ports: Vec<_> =
        spec.ports.iter().map(|port| (port.host_port, port.container_port)).collect();
    assert_eq!(ports, [(8080, 80), (53, 53), (0, 80), (0, 81)]);
    assert_eq!(spec.ports[1].protocol(), api::PortProtocol::Udp);
    assert!(spec.publish_all);
    assert_eq!(spec.expose, ["9000/tcp"]);
    assert_eq!(spec.dns, ["1.1.1.1"]);
    assert_eq!(spec.dns_search, ["example.org"]);
    assert_eq!(spec.dns_options, ["timeout:3", "rotate"]);
    assert_eq!(spec.extra_hosts, ["db:10.0.0.1"]);
    assert!(refused(&["-p", "x"]).contains("invalid containerPort: x"));
    assert!(refused(&["--dns", "x"]).contains("IP address is not correctly formatted: x"));
}
