//! Commands of networks and ports: what they ask for, and what they print.

use super::*;
use crate::fake::Asked;

fn asked(fake: &Fake) -> Asked {
    fake.asked.recv_timeout(PATIENCE).expect("something was asked for")
}

/// What a command prints that succeeds and has nothing to tell beside.
fn printed(fake: &Fake, line: &[&str]) -> String {
    let ended = output(&mut gantry(fake, line));
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""), "{line:?}");
    text(&ended.stdout).to_owned()
}

#[test]
fn a_network_is_made_listed_and_inspected() {
    let fake = Fake::start();
    let made = output(&mut gantry(&fake, &["network", "create", "--internal", "app-net"]));
    assert_eq!(text(&made.stdout), format!("{}\n", fake::id()));
    assert_eq!(text(&made.stderr), "WARNING: IPv6 is off here\n");
    let Asked::Create(request) = asked(&fake) else { panic!("another request") };
    assert!(request.internal && request.name == "app-net" && request.driver == "bridge");
    let names = printed(&fake, &["network", "ls", "-f", "driver=bridge", "--format", "{{.Name}}"]);
    assert_eq!(names, "bridge\nnet9\nnet10\n");
    let Asked::List(request) = asked(&fake) else { panic!("another request") };
    assert_eq!(request.filters, ["driver=bridge"]);
    let shown = printed(&fake, &["network", "inspect", "-f", "{{.Name}} {{len .Options}}", "a"]);
    assert_eq!(shown, "a 0\n");
    let typed = printed(&fake, &["inspect", "--type=network", "--format", "{{.Name}}", "b"]);
    assert_eq!(typed, "b\n");
    let missing = output(&mut gantry(&fake, &["network", "inspect", "a", "no-a"]));
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stdout).contains("\"Name\": \"a\""), "{}", text(&missing.stdout));
    assert_eq!(text(&missing.stderr), "Error: network no-a not found\n");
}

#[test]
fn networks_are_removed_one_by_one() {
    let fake = Fake::start();
    let ended = output(&mut gantry(&fake, &["network", "rm", "a", "no-b", "c"]));
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(text(&ended.stdout), "a\nc\n");
    assert_eq!(text(&ended.stderr), "Error: network no-b not found\n");
    assert_eq!(printed(&fake, &["network", "remove", "-f", "a", "no-b"]), "a\n");
    let pruned = printed(&fake, &["network", "prune", "-f", "--filter", "label=x"]);
    assert_eq!(pruned, "Deleted Networks:\na\nb\n\n");
    let Asked::Prune(request) = asked(&fake) else { panic!("another request") };
    assert_eq!(request.filters, ["label=x"]);
    let warned = printed(&fake, &["network", "prune"]);
    assert!(warned.starts_with("WARNING! This will remove all custom networks not used by "));
    assert!(!warned.contains("Deleted"), "nobody said yes: {warned}");
}

#[test]
fn containers_are_connected_and_disconnected() {
    let fake = Fake::start();
    let line = ["network", "connect", "--alias", "db", "--ip", "10.9.0.7", "app-net", "web"];
    assert_eq!(printed(&fake, &line), "");
    let Asked::Connect(request) = asked(&fake) else { panic!("another request") };
    let attachment = request.attachment.expect("it says which network");
    assert_eq!((request.container.as_str(), attachment.network.as_str()), ("web", "app-net"));
    assert_eq!((attachment.aliases[0].as_str(), &*attachment.ipv4_address), ("db", "10.9.0.7"));
    let refused = output(&mut gantry(&fake, &["network", "connect", "no-net", "web"]));
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(text(&refused.stderr), "Error: network no-net not found\n");
    assert_eq!(printed(&fake, &["network", "disconnect", "-f", "app-net", "web"]), "");
    let Asked::Disconnect(request) = asked(&fake) else { panic!("another request") };
    assert!(request.force && request.network == "app-net" && request.container == "web");
}

#[test]
fn ports_are_shown_added_and_removed() {
    let fake = Fake::start();
    let all = "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n";
    assert_eq!(printed(&fake, &["port", "web"]), all);
    assert_eq!(printed(&fake, &["container", "port", "web"]), all);
    assert_eq!(printed(&fake, &["port", "web", "80/tcp"]), "0.0.0.0:8080\n[::]:8080\n");
    let exposed = output(&mut gantry(&fake, &["port", "web", "443"]));
    assert_eq!(exposed.status.code(), Some(1));
    assert_eq!(text(&exposed.stderr), "Error: No public port '443' published for web\n");
    let added = printed(&fake, &["port", "add", "web", "8443:443", "53/udp"]);
    assert_eq!(added, "53/udp -> 0.0.0.0:32768\n443/tcp -> 0.0.0.0:8443\n");
    let Asked::Publish(request) = asked(&fake) else { panic!("another request") };
    assert_eq!((request.container.as_str(), request.ports.len()), ("web", 2));
    let removed = printed(&fake, &["port", "rm", "web", "8443:443"]);
    assert_eq!(removed, "443/tcp -> 0.0.0.0:8443\n");
    let Asked::Unpublish(request) = asked(&fake) else { panic!("another request") };
    assert_eq!(request.ports[0].host_port, 8443);
    let refused = output(&mut gantry(&fake, &["port", "add", "web", "x"]));
    assert_eq!(refused.status.code(), Some(125));
    assert!(
        text(&refused.stderr).contains("invalid containerPort: x"),
        "{}",
        text(&refused.stderr)
    );
}

#[test]
fn a_port_is_explained() {
    let fake = Fake::start();
    let told = printed(&fake, &["port", "explain", "8080"]);
    let first = "No container has port 8080/tcp: own8080 (pid 7) listens there.\n";
    assert!(told.starts_with(first) && told.ends_with("Packets from outside get in.\n"), "{told}");
    let shown = ["port", "explain", "53/udp", "--format", "{{.Port}}/{{.Protocol}} {{.Reachable}}"];
    assert_eq!(printed(&fake, &shown), "53/udp true\n");
}

#[test]
fn a_container_asks_for_networks_and_ports() {
    let fake = Fake::start();
    let line = ["run", "-p", "8080:80", "--network", "app-net", "--dns", "1.1.1.1", "exit", "0"];
    let ended = output(&mut gantry(&fake, &line));
    assert_eq!((ended.status.code(), text(&ended.stderr)), (Some(0), ""));
    let Input::Run(RunContainer { spec: Some(spec), .. }) = next(&fake) else {
        panic!("another input")
    };
    assert_eq!((spec.network.as_str(), spec.ports.len(), spec.dns.len()), ("app-net", 1, 1));
    let ended = output(&mut gantry(&fake, &["run", "--ip", "10.9.0.7", "exit", "0"]));
    assert_eq!(ended.status.code(), Some(0));
    let Input::Run(RunContainer { spec: Some(spec), .. }) = next(&fake) else {
        panic!("another input")
    };
    let [bridge] = &spec.networks[..] else { panic!("one network") };
    assert_eq!((bridge.network.as_str(), bridge.ipv4_address.as_str()), ("bridge", "10.9.0.7"));
    let clash = ["run", "--network", "host", "--network", "app-net", "exit", "0"];
    let refused = output(&mut gantry(&fake, &clash));
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("conflicting options: cannot attach both"));
}
