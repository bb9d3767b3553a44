//! Real servers with published ports and names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use gantry_tests::peers::get;
use gantry_tests::{Host, run, wait_for};

use super::{Place, server_image};

/// What nginx says at first.
const WELCOME: &str = "Welcome to nginx!";

#[test]
fn nginx_is_published_as_its_users_do_it() {
    let place = Place::new();
    let image = server_image("nginx");
    let run = |name: &str, ports: &str| {
        place.ok(&format!("run -d --name {name} {ports} {image}"));
    };
    run("chosen", "-p 8080:80");
    run("ephemeral", "-p 80");
    run("local", "-p 127.0.0.1:8081:80");
    run("hidden", "");
    run("all", "-P");
    let (host, outside) = (place.host.inside(), place.host.outside());
    let free = |name: &str| -> u16 {
        let told = place.ok(&format!("port {name} 80"));
        let first = told.lines().next().expect("a port");
        first.parse::<std::net::SocketAddr>().expect("an address").port()
    };
    for port in [8080, free("ephemeral"), free("all")] {
        let page = wait_for("nginx", || get(outside, (Host::V4, port).into(), "/").ok());
        assert!(page.contains("200 OK") && page.contains(WELCOME), "{page}");
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            let page = get(host, (address, port).into(), "/").expect("a page");
            assert!(page.contains(WELCOME), "{page}");
        }
    }
    wait_for("the page on 127.0.0.1", || get(host, ([127, 0, 0, 1], 8081).into(), "/").ok());
    assert!(get(outside, (Host::V4, 8081).into(), "/").is_err(), "it is for the host alone");
    assert_eq!(place.ok("port hidden"), "");
    let logs = place.daemon.gantry(&["logs", "chosen"]).ok().stdout;
    assert!(logs.contains(&format!("{} - - ", Host::OUTSIDE_V4)), "the client's address: {logs}");
    let shown = place.ok("ps --format {{.Names}}|{{.Ports}}");
    for line in [
        "chosen|0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
        "local|127.0.0.1:8081->80/tcp",
        "hidden|80/tcp",
    ] {
        assert!(shown.lines().any(|other| other == line), "{shown} lacks {line}");
    }
}

#[test]
fn postgresql_is_found_by_its_name() {
    let place = Place::new();
    let image = server_image("postgres");
    place.ok("network create app-net");
    place.ok(&format!(
        "run -d --name db --network app-net -p 5432:5432 -e POSTGRES_USER=admin \
         -e POSTGRES_PASSWORD=secret -e POSTGRES_DB=myapp \
         -v pgdata:/var/lib/postgresql/data {image}"
    ));
    // Another container asks by name, with the password that is for clients over the network.
    let select = "SELECT inet_server_addr(), 6 * 7";
    let client = |network: &str, host: &str| {
        let url = format!("postgresql://admin:secret@{host}:5432/myapp?connect_timeout=5");
        let words = ["run", "--rm", "--network", network, "--entrypoint", "psql", &image];
        place.daemon.gantry(&[&words[..], &[url.as_str(), "-Atc", select]].concat())
    };
    let told = wait_for("PostgreSQL", || {
        let output = client("app-net", "db");
        (output.code == 0).then_some(output.stdout)
    });
    assert!(told.trim_end().ends_with("|42"), "{told}");
    assert_ne!(client("bridge", "db").code, 0, "elsewhere it has no name");
    // Its users come over the published port as well.
    let told = client("bridge", &Host::V4.to_string()).ok().stdout;
    assert!(told.trim_end().ends_with("|42"), "{told}");
    let mut ready = place.host.outside().command(&["bash", "-c"]);
    let hello = format!("exec 3<>/dev/tcp/{}/5432 && echo open", Host::V4);
    assert_eq!(run(ready.arg(hello)).ok().text(), "open");
    let ps = place.ok("ps");
    assert!(ps.contains("0.0.0.0:5432->5432/tcp"), "{ps}");
    let logs = place.gantry("logs --tail 20 db").ok();
    assert!(logs.stderr.contains("ready to accept connections"), "{}", logs.stderr);
    let version = ["exec", "db", "psql", "-U", "admin", "-d", "myapp", "-c", "SELECT version();"];
    assert!(place.daemon.gantry(&version).ok().stdout.contains("PostgreSQL 15"));
    place.refused("network rm app-net", 1, &["has active endpoints"]);
    place.ok("stop db");
    place.ok("rm db");
    assert_eq!(place.ok("network rm app-net"), "app-net");
    assert_eq!(place.ok("volume rm pgdata"), "pgdata");
    place.daemon.assert_nothing_left();
}
