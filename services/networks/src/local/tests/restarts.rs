//! The daemon is killed in the middle of something, and another one goes on.

use super::*;

/// Messages that a shim is to be handed.
fn handed(recovered: &[Recovered]) -> Vec<&str> {
    let all = recovered.iter().flat_map(|one| &one.handovers);
    all.map(|handover| handover.message.as_str()).collect()
}

#[test]
fn what_shims_are_to_relay_is_told() {
    on_host(|host| async move {
        let (first, second) = (host.create("first").await, host.create("second").await);
        let mut web = host.member("web", &[&first]);
        web.ports.extend([port(80), port(81)]);
        // Its shim has the sockets from now on.
        let (process, shim) = host.start(&web).await;
        let all = shim.ports.iter().cloned();
        let (gone, kept): (Vec<_>, Vec<_>) = all.partition(|port| port.container_port == 81);
        host.networks.unpublish(&host.ctx, &web.id, &gone).await.unwrap();
        web.attachments.push(Attachment { network: second.id.clone(), ..Attachment::default() });
        host.networks.connect(&host.ctx, &web, process.pid()).await.unwrap();
        web.attachments.remove(0);
        let pid = process.pid();
        host.networks.disconnect(&host.ctx, &web, &first.id, pid).await.unwrap();

        let living = host.living(&web, &process);
        let (host, recovered) = host.restarted(&[living]).await;
        assert!(handed(&recovered).is_empty(), "{recovered:?}");
        let endpoint = host.networks.of(&host.ctx, &web.id).0.remove(0);
        let v4 = IpAddr::from(endpoint.ipv4.unwrap().addr());
        let relays = &recovered[0].relays;
        assert_eq!(relays.len(), kept.len());
        let number = kept[0].host_port;
        assert_eq!(relays[0], format!("relay tcp 0.0.0.0:{number} {v4}:80"));
        let own: Vec<_> = recovered[0].files.hosts.iter().map(|(address, _)| *address).collect();
        assert!(own.contains(&v4) && own.len() == kept.len(), "{own:?}");
    });
}

#[test]
fn a_connect_that_was_cut_off_is_brought_to_its_end() {
    on_host(|host| async move {
        let bridge = host.network("bridge").await;
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&bridge]);
        let (process, joined) = host.start(&web).await;
        assert!(joined.handovers.is_empty());
        web.attachments.push(Attachment { network: network.id.clone(), ..Attachment::default() });
        drop(host.networks.connect(&host.ctx, &web, process.pid()).await.unwrap());
        // As it is after the reservation.
        let key = key(&host.ctx, &web.id);
        let (mut record, _) = host.networks.inner.present(&key).unwrap();
        record.resolver = None;
        host.networks.inner.put(&key, &record).unwrap();
        let end = record.endpoints[1].host_interface.clone();
        Netlink::open().unwrap().delete_link(&end).unwrap();

        let living = host.living(&web, &process);
        let (host, recovered) = host.restarted(std::slice::from_ref(&living)).await;
        assert!(Netlink::open().unwrap().link(&end).unwrap().is_some());
        assert_eq!(handed(&recovered)[1..], ["names udp", "names tcp"]);
        assert!(recovered[0].files.resolv_conf.contains("nameserver 127.0.0.11\n"));
        let settings = host.root.path().join("networks/resolvers/testing").join(&web.id);
        assert!(fs::read_to_string(settings).unwrap().contains(&network.id));
        // It knows where they are, and that the shim has them.
        let (_host, again) = host.restarted(&[living]).await;
        assert!(handed(&again).is_empty(), "{again:?}");
    });
}

#[test]
fn a_firewall_that_can_t_be_made_is_made_later() {
    on_host(|host| async move {
        let network = host.create("app-net").await;
        let mut web = host.member("web", &[&network]);
        web.ports.push(port(80));
        let (process, joined) = host.start(&web).await;
        let to = SocketAddr::from(([127, 0, 0, 1], joined.ports[0].host_port));
        let living = host.living(&web, &process);
        let Host { root, db, networks, .. } = host;
        // Nothing listens on the host: who gets through was led there by a rule.
        drop((joined, networks));
        let nft = |script: &str| {
            assert!(Command::new("nft").arg(script).status().unwrap().success(), "{script}");
        };
        nft("delete table inet gantry; add table inet gantry; \
             add set inet gantry bridges { type mark; }; add chain inet gantry theirs; \
             add rule inet gantry theirs meta mark @bridges accept");
        let networks = Host::open(&root, &db);
        drop(networks.recover(&[living]).await.unwrap());
        let served = serve(&process, 80).await;
        until("nobody is there", || !connects(to)).await;
        nft("delete table inet gantry");
        until("the rules are there", || reaches(&served, to)).await;
    });
}
