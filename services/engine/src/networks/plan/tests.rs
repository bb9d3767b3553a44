use gantry_core::Timestamp;
use gantry_core::networks::Subnet;

use super::*;

fn network(predefined: bool) -> Found {
    Found {
        id: "n1".into(),
        name: "app".into(),
        driver: Driver::Bridge,
        labels: Default::default(),
        options: Default::default(),
        internal: false,
        subnets: vec![Subnet {
            subnet: "172.18.0.0/24".parse().unwrap(),
            gateway: Some("172.18.0.1".parse().unwrap()),
            ip_range: None,
            reserved: Default::default(),
        }],
        created_at: Timestamp::default(),
        interface: "br-1".into(),
        predefined,
    }
}

fn options(change: impl FnOnce(&mut ContainerOptions)) -> ContainerOptions {
    let mut options = ContainerOptions::default();
    change(&mut options);
    options
}

#[test]
fn which_networks() {
    let names = |options: &ContainerOptions| -> Result<Vec<String>> {
        Ok(wishes(options)?.into_iter().map(|wish| wish.network).collect())
    };
    let named = |name: &str| Attachment { network: name.into(), ..Attachment::default() };
    assert_eq!(names(&ContainerOptions::default()).unwrap(), ["bridge"]);
    assert_eq!(names(&options(|o| o.network = "default".into())).unwrap(), ["bridge"]);
    let both = options(|o| {
        o.network = "app".into();
        o.networks = vec![named("app"), named("db")];
    });
    assert_eq!(names(&both).unwrap(), ["app", "db"]);
    let more = options(|o| {
        o.network = "web".into();
        o.networks = vec![named("app")];
    });
    assert_eq!(names(&more).unwrap(), ["web", "app"]);
    assert!(names(&options(|o| o.networks = vec![named("")])).is_err());
    assert_eq!(mode("container:web"), Some(Mode::Container("web")));
    assert_eq!((mode("none"), mode("bridge")), (Some(Mode::None), None));
}

#[test]
fn ports_that_nobody_publishes_are_told() {
    let internal = Found { internal: true, ..network(false) };
    let macvlan = Found { driver: Driver::Macvlan, ..network(false) };
    let said = |networks: &[&Found]| {
        let wish = || Attachment { network: "app".into(), ..Attachment::default() };
        let attached = networks.iter().map(|network| attached(network, wish()).unwrap());
        let networking = Networking {
            ports: vec![PortWish { container_port: 80, ..PortWish::default() }],
            attached: attached.collect(),
            ..Networking::default()
        };
        let closed: Vec<_> = networks.iter().filter_map(|one| closed_to_ports(one)).collect();
        discarded(&networking, &closed)
    };
    assert_eq!(
        said(&[&internal, &macvlan]).unwrap(),
        "Ports are not published: network app is internal, network app is of the driver macvlan"
    );
    assert_eq!(said(&[&internal, &network(false)]), None);
    assert_eq!(discarded(&Networking::default(), &[]), None);
}

#[test]
fn what_a_network_gives() {
    let asked = |change: fn(&mut Attachment), predefined| {
        let mut wish = Attachment { network: "app".into(), ..Attachment::default() };
        change(&mut wish);
        attached(&network(predefined), wish).map_err(|err| err.to_string())
    };
    let fixed = |a: &mut Attachment| a.ipv4 = Some([172, 18, 0, 9].into());
    let made = asked(fixed, false).unwrap();
    assert_eq!((made.name.as_str(), made.attachment.network.as_str()), ("app", "n1"));
    assert!(asked(fixed, true).unwrap_err().contains("user defined networks only"));
    let said = asked(|a| a.ipv4 = Some([10, 0, 0, 1].into()), false).unwrap_err();
    assert!(said.contains("no configured subnet contains IP address 10.0.0.1"), "{said}");
    assert!(asked(|a| a.ipv6 = Some("fd00::1".parse().unwrap()), false).is_err());
    assert!(asked(|a| a.aliases = vec!["db".into()], false).is_ok());
    assert!(asked(|a| a.aliases = vec!["db".into()], true).is_err());
    assert!(asked(|a| a.aliases = vec!["a b".into()], false).is_err());
    assert!(asked(|a| a.mac = Some([2, 0, 0, 0, 0, 1]), true).is_ok());
    assert!(asked(|a| a.mac = Some([1, 0, 0, 0, 0, 1]), false).is_err());
    assert!(asked(|a| a.link_local = vec![[169, 254, 3, 3].into()], false).is_ok());
    assert!(asked(|a| a.link_local = vec![[10, 0, 0, 1].into()], false).is_err());
}

#[test]
fn what_one_that_shares_can_not_have() {
    type Wish = fn(&mut ContainerOptions);
    let wishes: [(Wish, &str); 5] = [
        (|o| o.hostname = "x".into(), "hostname and"),
        (|o| o.dns = vec!["1.1.1.1".into()], "dns and"),
        (|o| o.extra_hosts = vec!["a:1.1.1.1".into()], "custom host-to-IP"),
        (|o| o.ports = vec![PortWish::default()], "port publishing"),
        (|o| o.expose = vec!["80".into()], "port exposing"),
    ];
    for (wish, what) in wishes {
        let said = sharing(&options(wish)).unwrap_err().to_string();
        assert!(said.starts_with("conflicting options: ") && said.contains(what), "{said}");
    }
    sharing(&ContainerOptions::default()).unwrap();
    let wish = Attachment { mac: Some([2; 6]), ..Attachment::default() };
    assert!(without_network(&wish).unwrap_err().to_string().contains("mac-address"));
}

#[test]
fn ports_that_are_wished_twice() {
    let wish = |host_port, address: &str| PortWish {
        host_ip: address.parse().ok(),
        host_port,
        container_port: 80,
        ..PortWish::default()
    };
    let all = [wish(0, ""), wish(8080, "::1"), wish(0, ""), wish(8080, "")];
    assert_eq!(distinct(&all), [wish(0, ""), wish(8080, "::1"), wish(8080, "")]);
}

#[test]
fn ports_names_and_servers() {
    let image = ImageRuntime {
        exposed_ports: Some(
            ["80/tcp", "7-8/udp", "junk"].map(|p| (p.to_owned(), Default::default())).into(),
        ),
        ..ImageRuntime::default()
    };
    let all = exposed(&options(|o| o.expose = vec!["80".into(), "9".into()]), &image).unwrap();
    let all: Vec<String> = all.into_iter().map(String::from).collect();
    assert_eq!(all, ["7/udp", "8/udp", "9/tcp", "80/tcp"]);
    assert!(exposed(&options(|o| o.expose = vec!["x".into()]), &image).is_err());
    let good = options(|o| {
        o.dns = vec!["fd00::53".into()];
        o.dns_search = vec![".".into(), "example.com.".into()];
        o.dns_options = vec!["ndots:2".into()];
    });
    assert_eq!(dns(&good).unwrap().servers.len(), 1);
    assert!(dns(&options(|o| o.dns = vec!["x".into()])).is_err());
    for bad in ["", "a b", "a..b", "x\nnameserver 1.1.1.1"] {
        assert!(dns(&options(|o| o.dns_search = vec![bad.into()])).is_err(), "{bad:?}");
    }
    assert!(dns(&options(|o| o.dns_options = vec!["a\nb".into()])).is_err());
    for (text, kept) in [
        ("db:10.0.0.1", "db:10.0.0.1"),
        ("v6:[::1]", "v6:::1"),
        ("h:host-gateway", "h:host-gateway"),
    ] {
        assert_eq!(extra_host(text).unwrap(), kept);
    }
    for bad in ["db", ":1.1.1.1", "a b:1.1.1.1", "db:x", "db:"] {
        assert!(extra_host(bad).is_err(), "{bad}");
    }
}
