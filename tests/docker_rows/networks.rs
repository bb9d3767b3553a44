//! Rows about networks and published ports, and the story that ties all of it together. They leave
//! nothing to those that come behind them.

use super::table::Wanted::{
    Code, Fields, Ids, Json, Lines, Refused, Same, Says, Table, Text, Typed, Until,
};
use super::table::{Differs, MEMORY, PS, Row, row};

const LS: &[&str] = &["NETWORK ID", "NAME", "DRIVER", "SCOPE"];

/// Whether there is IPv4 was no question before Docker 28.
const FAMILIES: Differs = Differs::Fields {
    ours: &["EnableIPv4"],
    docker: &[],
    why: "networks without IPv4 came with Docker 28",
};

/// What clients said of a network that is not there.
const fn no_such(said: &'static str) -> Differs {
    Differs::Instead(Refused(&[1], said), "clients had words of their own before Docker 25")
}

pub(super) const NETWORKS: [Row; 32] = [
    row("network ls", Table(LS)),
    row("network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'", Same),
    row("network create app-net", Ids(64)),
    row("network create app-net", Refused(&[1], "network with name app-net already exists")),
    row("network ls", Table(LS)),
    row("network ls -q --no-trunc --filter name=app-net", Ids(64)),
    row("network inspect app-net", Fields).but(FAMILIES),
    row("network inspect --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Internal}}' app-net", Same),
    row("network inspect nope", Refused(&[1], "network nope not found"))
        .but(no_such("No such network: nope")),
    row("run -d --name store --network app-net --network-alias alias {busybox} sleep 600", Ids(64)),
    row("run --rm --network app-net {debian} getent ahostsv4 store", Says(&["STREAM store"])),
    row("run --rm --network app-net {debian} getent ahostsv4 alias", Says(&["STREAM"])),
    row("run --rm --network app-net {debian} getent ahostsv4 nope", Code(2)),
    row("network inspect --format '{{len .Containers}}' app-net", Text("1")),
    row("inspect --format '{{.HostConfig.NetworkMode}}' store", Text("app-net")),
    row("network rm app-net", Refused(&[1], "has active endpoints")),
    row("network rm bridge", Refused(&[1], "is a pre-defined network and cannot be removed")),
    row("network create --subnet 10.66.0.0/24 other", Ids(64)),
    row("network connect --ip 10.66.0.9 other store", Text("")),
    row(
        "inspect --format '{{.NetworkSettings.Networks.other.IPAddress}}' store",
        Text("10.66.0.9"),
    ),
    row("exec store ip address show eth1", Says(&["10.66.0.9/24"])),
    row("network connect other store", Refused(&[1], "already")),
    row("network disconnect other store", Text("")),
    row("network disconnect other store", Refused(&[1], "is not connected to")),
    row("run --rm --network container:store {busybox} ip address show eth0", Says(&["inet "])),
    row("run --rm --network nope {busybox} true", Refused(&[125], "network nope not found")),
    row("network disconnect app-net store", Text("")),
    row("inspect --format '{{.HostConfig.NetworkMode}}' store", Text("app-net")),
    row("rm -f store", Text("store")),
    row("network rm other", Text("other")),
    row("network prune -f", Says(&["Deleted Networks:", "app-net"])),
    row("network rm app-net", Refused(&[1], "network app-net not found"))
        .but(no_such("No such network: app-net")),
];

/// What nginx' first page ends with.
const THANKS: &str = "Thank you for using nginx";

pub(super) const PORTS: [Row; 20] = [
    row(
        "run -d --name pub --network bridge -p 8080:80 -p 127.0.0.1:8081:80 -p 80 -p 5353:53/udp \
         {nginx}",
        Ids(64),
    ),
    row(
        "run --rm --network host {busybox} \
         sh -c 'wget -qO- http://127.0.0.1:8080/ | grep -o \"Thank you for using nginx\"'",
        Until(THANKS),
    ),
    row(
        "run --rm --network host {busybox} \
         sh -c 'wget -qO- http://127.0.0.1:8081/ | grep -o \"Thank you for using nginx\"'",
        Until(THANKS),
    ),
    // Over the host's address, from a container.
    row(
        "run --rm --network bridge {busybox} \
         sh -c 'wget -qO- http://192.0.2.1:8080/ | grep -o \"Thank you for using nginx\"'",
        Until(THANKS),
    ),
    row(
        "port pub",
        Says(&["80/tcp -> 0.0.0.0:8080", "80/tcp -> 127.0.0.1:8081", "53/udp -> 0.0.0.0:5353"]),
    ),
    row("port pub 53/udp", Says(&["0.0.0.0:5353"])),
    row("port pub 9999", Refused(&[1], "no public port '9999")),
    row("port nope", Refused(&[1], "No such container: nope")),
    row(
        "ps --filter name=pub --format '{{.Ports}}'",
        Says(&["0.0.0.0:8080->80/tcp", "127.0.0.1:8081->80/tcp", "0.0.0.0:5353->53/udp"]),
    ),
    row("inspect --format '{{json .HostConfig.PortBindings}}' pub", Json),
    row("inspect --format '{{json .Config.ExposedPorts}}' pub", Json),
    row("inspect --format '{{.NetworkSettings.IPAddress}}' pub", Says(&["172.17.0."])),
    row("inspect pub", Fields).but(MEMORY),
    row(
        "run --rm --network bridge -p 8080:81 {busybox} true",
        Refused(&[125], "port is already allocated"),
    ),
    row("run -d --name all --network bridge -P {nginx}", Ids(64)),
    row("port all 80", Says(&["0.0.0.0:"])),
    row("run -d --name shown --network bridge {nginx}", Ids(64)),
    row("port shown", Text("")),
    row("ps --filter name=shown --format '{{.Ports}}'", Text("80/tcp")),
    row("rm -f pub all shown", Lines),
];

pub(super) const STORY: [Row; 11] = [
    row("network create story-net", Ids(64)),
    row(
        "run -d --name db --network story-net -p 5432:5432 -e POSTGRES_USER=admin \
         -e POSTGRES_PASSWORD=secret -e POSTGRES_DB=myapp -v pgdata:/var/lib/postgresql/data \
         {postgres}",
        Ids(64),
    ),
    row(
        "run --rm --network story-net -e PGPASSWORD=secret --entrypoint psql {postgres} \
         -h db -U admin -d myapp -Atc 'SELECT 6 * 7'",
        Until("42"),
    ),
    row("ps", Table(PS)),
    row("port db", Says(&["5432/tcp -> 0.0.0.0:5432"])),
    row("logs --tail 20 db", Code(0)),
    row(
        "exec -it db psql -U admin -d myapp -c 'SELECT version();'",
        Typed { prompt: "PostgreSQL 15", typed: "q", shown: "row", code: 0 },
    ),
    row("stop db", Text("db")),
    row("rm db", Text("db")),
    row("network rm story-net", Text("story-net")),
    row("volume rm pgdata", Text("pgdata")),
];
