//! What else there is at a host: routes, firewalls of others, files that can't be written.

use super::*;

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
        assert!(connects(to));
        served.join().unwrap();
    });
}
