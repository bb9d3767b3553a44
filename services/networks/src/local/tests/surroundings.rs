//! What else there is at a host: routes, firewalls of others, files that can't be written.

use super::*;
use crate::netlink::sysctl;

/// Changes the host's network.
#[track_caller]
fn ip(line: &str) {
    let done = Command::new("ip").args(line.split_whitespace()).status().unwrap();
    assert!(done.success(), "ip {line}");
}

/// Changes the host's firewall.
#[track_caller]
fn nft(script: &str) {
    assert!(Command::new("nft").arg(script).status().unwrap().success(), "nft {script}");
}

/// Gives the host a network of its own, 192.0.2.0/24.
fn uplink() {
    ip("link add up0 type bridge");
    ip("address add 192.0.2.1/24 dev up0");
    ip("link set up0 up");
}

/// A network of IPv4, with that subnet if there is one.
fn of_ipv4(name: &str, subnet: Option<&str>) -> NewNetwork {
    let subnet = subnet
        .map(|subnet| NewSubnet { subnet: Some(subnet.parse().unwrap()), ..NewSubnet::default() });
    NewNetwork {
        name: name.to_owned(),
        ipv6: Some(false),
        subnets: subnet.into_iter().collect(),
        ..NewNetwork::default()
    }
}

#[test]
fn a_vpn_leaves_subnets() {
    on_host(|host| async move {
        let create = |new: NewNetwork| host.networks.create(&host.ctx, new);
        uplink();
        // What stands for the default route says nothing.
        ip("route add 0.0.0.0/1 via 192.0.2.2");
        ip("route add 128.0.0.0/1 dev up0");
        let (network, warnings) = create(of_ipv4("one", None)).await.unwrap();
        assert_eq!(network.subnets[0].subnet, "172.18.0.0/24".parse().unwrap());
        assert!(warnings.is_empty(), "{warnings:?}");
        // Every private address is routed there.
        ip("route add 172.16.0.0/12 via 192.0.2.2");
        ip("route add 192.168.0.0/16 dev up0");
        ip("route add unreachable 10.0.0.0/8");
        let (network, warnings) = create(of_ipv4("two", None)).await.unwrap();
        assert_eq!(network.subnets[0].subnet, "172.18.1.0/24".parse().unwrap());
        assert!(warnings[0].contains("172.16.0.0/12"), "{warnings:?}");
        for (name, subnet) in [("a", "10.1.0.0/24"), ("b", "192.168.7.0/24")] {
            let (_, warnings) = create(of_ipv4(name, Some(subnet))).await.unwrap();
            assert_eq!(warnings.len(), 1, "{warnings:?}");
        }
        let own = create(of_ipv4("own", Some("192.0.2.128/25"))).await;
        refused(own, Kind::FailedPrecondition);
        let all = create(of_ipv4("all", Some("172.16.0.0/12"))).await;
        refused(all, Kind::FailedPrecondition);
        let bridge = host.network("bridge").await;
        host.start(&host.member("web", &[&bridge])).await;
    });
}

#[test]
fn a_bridge_that_stays_keeps_its_own_addresses() {
    on_host(|host| async move {
        ip("link add mybr type bridge");
        ip("address add 10.66.0.2/24 dev mybr");
        let mut before = vec!["10.66.0.2/24"];
        if has_ipv6() {
            ip("address add 2001:db8::2/64 dev mybr nodad");
            before.push("2001:db8::2/64");
        }
        ip("link set mybr up");
        let own = || {
            let netlink = Netlink::open().unwrap();
            let index = netlink.link("mybr").unwrap().unwrap().index;
            let all = netlink.addresses().unwrap().into_iter();
            let own = all.filter(|(of, _)| *of == index).map(|(_, address)| address);
            let own = own.map(|address| address.to_string());
            own.filter(|address| !address.starts_with("fe80:")).collect::<Vec<_>>()
        };
        let new = |subnet| {
            let mut new = of_ipv4("lan", Some(subnet));
            new.options.insert("name".to_owned(), "mybr".to_owned());
            new
        };
        let lan = host.networks.create(&host.ctx, new("10.66.0.0/24")).await.unwrap().0;
        let mut all = before.clone();
        all.insert(1, "10.66.0.1/24");
        assert_eq!(own(), all);
        assert!(sysctl::has_localnet("mybr").unwrap());
        let web = host.member("web", &[&lan]);
        let (_process, joined) = host.start(&web).await;
        assert_eq!(ipv4(&joined, 0), IpAddr::from([10, 66, 0, 3]));
        let mut other = host.member("other", &[&lan]);
        other.attachments[0].ipv4 = Some([10, 66, 0, 2].into());
        let why = host.networks.reserve(&host.ctx, &other).await;
        assert!(refused(why, Kind::FailedPrecondition).ends_with("the host has it"));
        host.networks.leave(&host.ctx, &web.id).await.unwrap();
        host.networks.remove(&host.ctx, "lan").await.unwrap();
        assert_eq!(own(), before);
        assert!(!sysctl::has_localnet("mybr").unwrap());

        // An address that came later goes with the first one of its subnet if nobody cares.
        host.networks.create(&host.ctx, new("10.68.0.0/24")).await.unwrap();
        ip("address add 10.68.0.5/24 dev mybr");
        host.networks.remove(&host.ctx, "lan").await.unwrap();
        before.insert(1, "10.68.0.5/24");
        assert_eq!(own(), before);
    });
}

#[test]
fn a_macvlan_container_is_not_taken_for_the_host() {
    on_host(|host| async move {
        if !Netlink::open().unwrap().has_kind("macvlan").unwrap() {
            return;
        }
        uplink();
        let of = |parent: &str| NewNetwork {
            driver: "macvlan".to_owned(),
            options: [("parent".to_owned(), parent.to_owned())].into(),
            ..of_ipv4("lan", Some("192.0.2.0/24"))
        };
        let loopback = host.networks.create(&host.ctx, of("lo")).await;
        let why = refused(loopback, Kind::FailedPrecondition);
        assert!(why.contains("loopback interface lo"), "{why}");
        let lan = host.networks.create(&host.ctx, of("up0")).await.unwrap().0;
        assert_eq!(lan.subnets[0].gateway, Some([192, 0, 2, 2].into()));
        let (_process, joined) = host.start(&host.member("web", &[&lan])).await;
        assert_eq!(ipv4(&joined, 0), IpAddr::from([192, 0, 2, 3]));
        let mut other = host.member("other", &[&lan]);
        other.attachments[0].ipv4 = Some([192, 0, 2, 1].into());
        let why = host.networks.reserve(&host.ctx, &other).await;
        assert!(refused(why, Kind::FailedPrecondition).ends_with("the host has it"));
        other.attachments[0].ipv4 = None;
        other.attachments[0].mac = Some(joined.endpoints[0].mac);
        let why = host.networks.reserve(&host.ctx, &other).await;
        let why = refused(why, Kind::FailedPrecondition);
        assert!(why.ends_with("02:42:c0:00:02:03 of network lan: container web has it"), "{why}");
        ip("address add 192.0.2.4/24 dev up0");
        other.attachments[0].mac = None;
        let (_process, joined) = host.start(&other).await;
        assert_eq!(ipv4(&joined, 0), IpAddr::from([192, 0, 2, 5]));
    });
}

#[test]
fn a_range_without_a_free_address_is_named() {
    on_host(|host| async move {
        let mut new = of_ipv4("tiny", Some("10.63.0.0/24"));
        new.subnets[0].ip_range = Some("10.63.0.4/31".parse().unwrap());
        let tiny = host.networks.create(&host.ctx, new).await.unwrap().0;
        let _web = host.start(&host.member("web", &[&tiny])).await;
        let other = host.networks.reserve(&host.ctx, &host.member("other", &[&tiny])).await;
        let why = refused(other, Kind::ResourceExhausted);
        assert!(why.ends_with("all of its ip-range 10.63.0.4/31 are taken"), "{why}");
    });
}

#[test]
fn forwarding_is_repaired() {
    on_host(|host| async move {
        host.networks.create(&host.ctx, of_ipv4("app-net", None)).await.unwrap();
        let forward = "net/ipv4/ip_forward";
        sysctl::set_sysctl(forward, "0").unwrap();
        host.networks.inner.repair().await.unwrap();
        assert_eq!(sysctl::sysctl(forward).unwrap().as_deref(), Some("1"));
    });
}

#[test]
fn bridges_of_short_packets_have_no_ipv6() {
    on_host(|host| async move {
        let options = [("mtu".to_owned(), "1200".to_owned())];
        let new = NewNetwork { ipv6: None, options: options.into(), ..of_ipv4("short", None) };
        let (short, warnings) = host.networks.create(&host.ctx, new).await.unwrap();
        assert_eq!((short.subnets.len(), warnings.len()), (1, usize::from(has_ipv6())));
        host.start(&host.member("web", &[&short])).await;
    });
}

#[test]
fn a_bridge_that_is_too_short_for_ipv6_is_refused() {
    on_host(|host| async move {
        if !has_ipv6() {
            return;
        }
        ip("link add short0 mtu 1200 type bridge");
        let options = [("name".to_owned(), "short0".to_owned())];
        let new = NewNetwork { ipv6: None, options: options.into(), ..of_ipv4("short", None) };
        let why = refused(host.networks.create(&host.ctx, new).await, Kind::FailedPrecondition);
        assert!(why.contains("IPv6 needs an MTU of 1280 or more"), "{why}");
    });
}

#[test]
fn the_default_network_on_a_bridge_of_others_leaves_it_alone() {
    on_host(|host| async move {
        ip("link add gantry0 type bridge");
        ip("address add 192.0.2.9/24 dev gantry0");
        ip("link set gantry0 up");
        let web = host.member("web", &[&host.network("bridge").await]);
        let _web = host.start(&web).await;
        let netlink = Netlink::open().unwrap();
        let kept = netlink.addresses().unwrap().into_iter();
        let mut kept = kept.map(|(_, address)| address.to_string());
        assert!(kept.any(|address| address == "192.0.2.9/24"));
    });
}

#[test]
fn the_default_network_keeps_its_subnet() {
    on_host(|host| async move {
        let web = host.member("web", &[&host.network("bridge").await]);
        drop(host.start(&web).await);
        host.networks.leave(&host.ctx, &web.id).await.unwrap();
        let before = host.network("bridge").await.subnets;
        // As it is after a reboot, with a VPN that is there first.
        uplink();
        ip("route add 172.16.0.0/12 via 192.0.2.2");
        Netlink::open().unwrap().delete_link("gantry0").unwrap();
        let (host, _) = host.restarted(&[]).await;
        drop(host.start(&web).await);
        assert_eq!(host.network("bridge").await.subnets, before);
    });
}

#[test]
fn a_network_without_names_is_none() {
    on_host(|host| async move {
        let names = host.root.path().join("networks/names");
        fs::remove_dir_all(&names).unwrap();
        fs::write(&names, "").unwrap();
        host.networks.create(&host.ctx, of_ipv4("app-net", None)).await.unwrap_err();
        refused(host.networks.get(&host.ctx, "app-net").await, Kind::NotFound);
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| link.kind != "bridge"), "{links:?}");
        fs::remove_file(&names).unwrap();
        fs::create_dir(&names).unwrap();
        host.create("app-net").await;
    });
}

#[test]
fn whoever_starts_first_has_the_rules_of_all_made() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&network]);
        web.ports.push(port(80));
        let (process, joined) = host.start(&web).await;
        let to = SocketAddr::from(([127, 0, 0, 1], joined.ports[0].host_port));
        let living = host.living(&web, &process);
        let Host { root, db, networks, ctx } = host;
        // Nothing listens on the host: who gets through was led there by a rule.
        drop((joined, networks));
        nft("delete table inet gantry; add table inet gantry; \
             add set inet gantry bridges { type mark; }; add chain inet gantry theirs; \
             add rule inet gantry theirs meta mark @bridges accept");
        let networks = Host::open(&root, &db);
        drop(networks.recover(&[living]).await.unwrap());
        let host = Host { root, db, networks, ctx };
        let mut other = host.member("other", &[&network]);
        other.ports.push(port(80));
        let early = host.networks.reserve(&host.ctx, &other).await;
        refused(early, Kind::FailedPrecondition);
        nft("delete table inet gantry");
        let _other = host.start(&other).await;
        let served = serve(&process, 80).await;
        assert!(reaches(&served, to));
    });
}
