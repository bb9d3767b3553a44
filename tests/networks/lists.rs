//! What is told of networks: listings, inspect, events, prunes.

use std::process::Stdio;

use gantry_tests::{start, wait_for};

use super::Place;

#[test]
fn networks_are_listed_and_filtered() {
    let place = Place::new();
    place.ok("network create --label tier=back --label x app-net");
    place.ok("network create --internal closed");
    let listed = place.ok("network ls");
    let header: Vec<_> = listed.lines().next().expect("a header").split_whitespace().collect();
    assert_eq!(header, ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]);
    let names = |filter: &str| place.ok(&format!("network ls --format {{{{.Name}}}} {filter}"));
    assert_eq!(names(""), "app-net\nbridge\nclosed\nhost\nnone");
    assert_eq!(names("--filter label=tier"), "app-net");
    assert_eq!(names("--filter label=tier=back"), "app-net");
    assert_eq!(names("--filter label=tier=front"), "");
    assert_eq!(names("--filter driver=bridge"), "app-net\nbridge\nclosed");
    assert_eq!(names("--filter type=custom"), "app-net\nclosed");
    assert_eq!(names("--filter type=builtin"), "bridge\nhost\nnone");
    assert_eq!(names("--filter name=pp"), "app-net");
    place.sleeper("web", "--network app-net");
    assert_eq!(names("--filter dangling=true"), "closed");
    let id = place.ok("network ls -q --no-trunc --filter name=app-net");
    assert_eq!(names(&format!("--filter id={}", &id[..12])), "app-net");
    assert_ne!(place.gantry("network ls --filter nope=1").code, 0);
    // Containers by what they have.
    let containers = |filter: &str| place.ok(&format!("ps -a --format {{{{.Names}}}} {filter}"));
    place.sleeper("plain", "-p 8080:80 --expose 90");
    assert_eq!(containers("--filter network=app-net"), "web");
    assert_eq!(containers("--filter publish=8080"), "plain");
    assert_eq!(containers("--filter publish=80/tcp"), "");
    assert_eq!(containers("--filter expose=90"), "plain");
    assert_eq!(place.ok("ps --filter name=web --format {{.Networks}}"), "app-net");
}

#[test]
fn inspect_has_dockers_fields() {
    let place = Place::new();
    let id = place.ok("network create --label a=b -o com.docker.network.driver.mtu=1450 app-net");
    place.sleeper("web", "--network app-net --network-alias www");
    let known = place.inspect("network inspect app-net");
    for field in ["Name", "Id", "Created", "Scope", "Driver", "EnableIPv6", "IPAM", "Internal"] {
        assert!(!known[field].is_null(), "{field}: {known}");
    }
    assert_eq!(known["Id"], id);
    assert_eq!(known["Scope"], "local");
    assert_eq!(known["Driver"], "bridge");
    assert_eq!(known["Labels"]["a"], "b");
    assert_eq!(known["Options"]["com.docker.network.driver.mtu"], "1450");
    let container = place.asked("{{.Id}}", "web");
    let member = &known["Containers"][&container];
    assert_eq!(member["Name"], "web");
    let address = member["IPv4Address"].as_str().expect("an address");
    assert_eq!(address, format!("{}/24", place.v4("web", "app-net")));
    let of = place.inspect("container inspect web");
    let endpoint = &of["NetworkSettings"]["Networks"]["app-net"];
    assert_eq!(endpoint["NetworkID"], id);
    assert_eq!(endpoint["EndpointID"], member["EndpointID"]);
    assert_eq!(endpoint["IPPrefixLen"], 24);
    assert_eq!(endpoint["Aliases"].as_array().expect("aliases")[0], "www");
    assert_eq!(of["HostConfig"]["NetworkMode"], "app-net");
    place.ok("stop -t 0 web");
    let of = place.inspect("container inspect web");
    assert_eq!(of["NetworkSettings"]["Networks"]["app-net"]["IPAddress"], "");
    // Several at once, and who is not there is told of.
    let output = place.gantry("network inspect app-net nope bridge").exits(1);
    assert!(output.stderr.contains("network nope not found"), "{}", output.stderr);
    assert_eq!(output.stdout.matches("\"EnableIPv6\"").count(), 2);
}

#[test]
fn what_happens_is_told() {
    let place = Place::new();
    let mut command = place.daemon.gantry_command(&["events", "--filter", "type=network"]);
    let log = place.daemon.scratch().join("events");
    let file = std::fs::File::create(&log).expect("make a file");
    let mut client = start(command.stdin(Stdio::null()).stdout(file));
    let told = || std::fs::read_to_string(&log).expect("the events");
    // It listens once it tells the first.
    let mut n = 0;
    wait_for("the first event", || {
        n += 1;
        place.ok(&format!("network create probe{n}"));
        (!told().is_empty()).then_some(())
    });
    place.ok("network create app-net");
    place.sleeper("web", "--network app-net");
    place.ok("network create other");
    place.ok("network connect other web");
    place.ok("network disconnect other web");
    place.ok("rm -f web");
    place.ok("network rm app-net");
    let id = |text: &str| text.contains("container=");
    wait_for("all events", || {
        let text = told();
        let is_there = |action: &str, name: &str| {
            text.lines().any(|line| {
                line.contains(&format!(" network {action} "))
                    && line.contains(&format!("name={name}"))
            })
        };
        let all = [
            ("create", "app-net"),
            ("connect", "app-net"),
            ("connect", "other"),
            ("disconnect", "other"),
            ("disconnect", "app-net"),
            ("destroy", "app-net"),
        ];
        all.iter().all(|(action, name)| is_there(action, name)).then_some(())
    });
    assert!(told().lines().filter(|line| line.contains(" connect ")).all(id), "{}", told());
    client.kill();
}

#[test]
fn prunes_spare_what_is_used() {
    let place = Place::new();
    place.ok("network create used");
    place.ok("network create --label keep=yes labelled");
    place.ok("network create idle");
    place.sleeper("web", "--network used");
    let told = place.ok("network prune -f --filter label!=keep=yes");
    assert!(told.starts_with("Deleted Networks:"), "{told}");
    assert_eq!(told.lines().skip(1).collect::<Vec<_>>(), ["idle"]);
    let format = "{{.Action}} {{.Actor.Attributes.name}} {{.Actor.Attributes.reclaimed}}";
    let events = ["events", "--since", "1h", "--until", "0s", "--filter", "type=network"];
    let events = place.daemon.gantry(&[&events[..], &["--format", format]].concat()).ok().stdout;
    assert!(events.ends_with("destroy idle <no value>\nprune <no value> 0\n"), "{events}");
    assert_eq!(place.ok("network ls --format {{.Name}} --filter type=custom"), "labelled\nused");
    place.ok("rm -f web");
    let told = place.ok("system prune -f");
    assert!(told.contains("Deleted Networks:") && told.contains("used"), "{told}");
    assert_eq!(place.ok("network ls --format {{.Name}} --filter type=custom"), "");
}
