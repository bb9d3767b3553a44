//! The script: rows in the order in which they are played, since one needs what the one before it
//! made.

use super::networks::{NETWORKS, PORTS, STORY};
use Wanted::{
    Code, Fields, Ids, Json, Lines, Refused, Same, Says, Stamped, Table, Text, Typed, Until,
};

/// What a row is to come to, on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// The same output, errors and exit code.
    Same,
    /// This output.
    Text(&'static str),
    /// This output by and by.
    Until(&'static str),
    /// The same lines in any order.
    Lines,
    /// Output with these words.
    Says(&'static [&'static str]),
    /// A table with these columns and as many rows.
    Table(&'static [&'static str]),
    /// As many IDs of so many digits.
    Ids(usize),
    /// The same JSON.
    Json,
    /// A JSON object with the same fields.
    Fields,
    /// The same lines, each behind a time.
    Stamped,
    /// One of these exit codes, and an error with these words.
    Refused(&'static [i32], &'static str),
    /// This exit code.
    Code(i32),
    /// A terminal, at which somebody waits for a prompt, types, and sees something.
    Typed { prompt: &'static str, typed: &'static str, shown: &'static str, code: i32 },
}

/// How the old Docker differs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Differs {
    /// It comes to something else, for this reason.
    Instead(Wanted, &'static str),
    /// Fields that one of them has alone, with what is below them.
    Fields { ours: &'static [&'static str], docker: &'static [&'static str], why: &'static str },
}

/// A command, and what it comes to.
pub(super) struct Row {
    /// `{nginx}` and the like stand for images, `{dir}` for a directory of the host.
    pub(super) line: &'static str,
    pub(super) wanted: Wanted,
    pub(super) differs: Option<Differs>,
}

pub(super) const fn row(line: &'static str, wanted: Wanted) -> Row {
    Row { line, wanted, differs: None }
}

impl Row {
    pub(super) const fn but(self, differs: Differs) -> Self {
        Self { differs: Some(differs), ..self }
    }
}

/// All rows, by the groups of the table of commands.
pub(super) const SCRIPT: [(&str, &[Row]); 11] = [
    ("about", &ABOUT),
    ("run", &RUN),
    ("life", &LIFE),
    ("look", &LOOK),
    ("inspect", &INSPECT),
    ("inside", &INSIDE),
    ("volumes", &VOLUMES),
    ("networks", &NETWORKS),
    ("ports", &PORTS),
    ("story", &STORY),
    ("cleanup", &CLEANUP),
];

const DISK: &[&str] = &["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"];
pub(super) const PS: &[&str] =
    &["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES"];
const STATS: &[&str] = &[
    "CONTAINER ID",
    "NAME",
    "CPU %",
    "MEM USAGE / LIMIT",
    "MEM %",
    "NET I/O",
    "BLOCK I/O",
    "PIDS",
];
const TOP: &[&str] = &["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];

const INFO: &[&str] = &[
    "Containers:",
    "Running:",
    "Paused:",
    "Stopped:",
    "Images:",
    "Server Version:",
    "Storage Driver:",
    "Logging Driver: json-file",
    "Cgroup Driver: cgroupfs",
    "Cgroup Version:",
    "Plugins:",
    "Volume: local",
    "Network: bridge host",
    "Runtimes:",
    "Security Options:",
    "seccomp",
    "Kernel Version:",
    "Operating System:",
    "OSType: linux",
    "Architecture:",
    "CPUs:",
    "Total Memory:",
    "Name:",
    "ID:",
];

const ABOUT: [Row; 6] = [
    row(
        "version",
        Says(&["Client:", "Version:", "API version:", "OS/Arch:", "Server:", "Engine:"]),
    ),
    row("version --format '{{.Client.Os}}/{{.Server.Os}}'", Text("linux/linux")),
    row("info", Says(INFO)),
    row(
        "info --format '{{.ContainersRunning}} {{.OSType}} {{.LoggingDriver}} {{.NCPU}} {{.CgroupVersion}}'",
        Same,
    ),
    row("system df", Table(DISK)),
    row("system df --format '{{.Type}}: {{.TotalCount}} {{.Active}}'", Same),
];

const RUN: [Row; 27] = [
    row("run --rm {busybox} echo hi", Same),
    row("run --rm {busybox} sh -c 'echo out; echo err >&2; exit 3'", Same),
    row("run --rm {busybox} nope", Refused(&[127], "executable file not found in $PATH")),
    row("run --rm {busybox} /etc/passwd", Refused(&[126], "permission denied")),
    row("run --rm --pull never nope:1 true", Refused(&[125], "No such image: nope:1")),
    row("run --rm --restart nope {busybox} true", Refused(&[125], "restart")),
    row("run --rm {nginx} nginx -v", Same),
    row("run --rm {python} python3 -c 'print(6 * 7)'", Text("42")),
    row(
        "run -it --rm {debian} bash",
        Typed { prompt: "# ", typed: "tty; exit 5\n", shown: "/dev/pts/0", code: 5 },
    ),
    row("run -d --name web {nginx}", Ids(64)),
    row("run -d --name web {nginx}", Refused(&[125], "already in use")),
    row("run --rm -v {dir}:/in {busybox} cat /in/file", Same),
    row(
        "run --rm -v {dir}:/in:ro {busybox} touch /in/file",
        Refused(&[1], "Read-only file system"),
    ),
    row(
        "run --rm -e A=1 -e B=2 -e ROWS_CALLER --env-file {dir}/env {busybox} \
         sh -c 'echo $A $B $ROWS_CALLER $FILE'",
        Text("1 2 mine from-file"),
    ),
    row(
        "run -d --name db -e POSTGRES_USER=admin -e POSTGRES_PASSWORD=secret -e POSTGRES_DB=myapp \
         -v pgdata:/var/lib/postgresql/data {postgres}",
        Ids(64),
    ),
    row("exec db psql -U admin -d myapp -Atc 'SELECT 1'", Until("1")),
    row(
        "exec db psql -U admin -d myapp -c 'CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)'",
        Same,
    ),
    row("run -d --name cache {redis}", Ids(64)),
    row("exec cache redis-cli ping", Until("PONG")),
    row("run -d --name again --restart on-failure:2 {busybox} sh -c 'exit 3'", Ids(64)),
    row(
        "inspect --format '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' again",
        Until("2 exited 3"),
    ),
    row("create --name always --restart always {busybox} sleep 600", Ids(64)),
    row("inspect --format '{{json .HostConfig.RestartPolicy}}' always", Json),
    row("create --name unless --restart unless-stopped {busybox} sleep 600", Ids(64)),
    row("inspect --format '{{json .HostConfig.RestartPolicy}}' unless", Json),
    row("create --name no --restart no -m 64m {busybox} sleep 600", Ids(64)),
    row("inspect --format '{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Memory}}' no", Same),
];

const STATUS: &str = "inspect --format '{{.State.Status}}' myapp";

const LIFE: [Row; 36] = [
    row("create --name myapp {nginx}", Ids(64)),
    row(STATUS, Text("created")),
    row("pause myapp", Refused(&[1], "is not running")),
    row("start myapp", Text("myapp")),
    row(STATUS, Text("running")),
    row("exec myapp test -s /run/nginx.pid", Until("")),
    row("pause myapp", Text("myapp")),
    row(STATUS, Text("paused")),
    row("pause myapp", Refused(&[1], "already paused")),
    row("exec myapp true", Refused(&[1], "is paused")),
    row("unpause myapp", Text("myapp")),
    row("unpause myapp", Refused(&[1], "is not paused")),
    row("exec myapp sh -c 'echo kept > /kept'", Same),
    // By the signal that the image says, after which nginx ends well.
    row("stop myapp", Text("myapp")),
    row("inspect --format '{{.State.Status}} {{.State.ExitCode}}' myapp", Text("exited 0")),
    row("ps -a --filter name=myapp --format '{{.Names}} {{.State}}'", Text("myapp exited")),
    row("exec myapp true", Refused(&[1], "is not running")),
    row("start myapp", Text("myapp")),
    row("exec myapp cat /kept", Text("kept")),
    row("kill myapp", Text("myapp")),
    row("inspect --format '{{.State.Status}} {{.State.ExitCode}}' myapp", Until("exited 137")),
    row("kill myapp", Refused(&[1], "is not running")),
    row("restart -t 5 myapp", Text("myapp")),
    row(STATUS, Text("running")),
    row("rm myapp", Refused(&[1], "running")),
    row("rm -f myapp", Text("myapp")),
    row("rm myapp", Refused(&[1], "No such container: myapp")),
    row("start myapp", Refused(&[1], "No such container: myapp")),
    row("stop myapp", Refused(&[1], "No such container: myapp")),
    row("create --name second {busybox} true", Ids(64)),
    row("rm second", Text("second")),
    row("create --name missing {busybox} nope", Ids(64)),
    row("start missing", Refused(&[1], "executable file not found in $PATH")),
    row("start -a missing", Refused(&[1], "executable file not found in $PATH")),
    row("inspect --format '{{.State.Status}} {{.State.ExitCode}}' missing", Text("created 127")),
    row("rm missing", Text("missing")),
];

const LOOK: [Row; 24] = [
    row(
        "run -d --name talk {busybox} sh -c 'echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 600'",
        Ids(64),
    ),
    row("logs --tail 1 talk", Until("three")),
    row("logs talk", Same),
    row("logs --tail 2 talk", Same),
    row("logs --since 10m talk", Same),
    row("logs --until 10m talk", Same),
    row("logs -t talk", Stamped),
    row("logs nope", Refused(&[1], "No such container: nope")),
    row(
        "run -d --name short {busybox} sh -c 'for n in 1 2 3; do echo line $n; sleep 0.2; done'",
        Ids(64),
    ),
    row("logs -f short", Same),
    row("logs --tail 50 -f short", Same),
    row("inspect --format '{{.State.Status}}' short", Until("exited")),
    row("ps", Table(PS)),
    row("ps -a", Table(PS)),
    row("ps -q", Ids(12)),
    row("ps -q --no-trunc", Ids(64)),
    row("ps --format '{{.Names}}'", Same),
    row("ps -a --filter status=exited --format '{{.Names}} {{.Command}}'", Same),
    row("stats --no-stream", Table(STATS)),
    row("stats --no-stream talk", Table(STATS)),
    row("stats --no-stream --format '{{.Name}}: {{.PIDs}}' talk", Same),
    row("top talk", Table(TOP)),
    row("top short", Refused(&[1], "is not running")),
    row("top nope", Refused(&[1], "No such container: nope")),
];

/// Docker dropped limits of the kernel's memory in release 23.
pub(super) const MEMORY: Differs = Differs::Fields {
    ours: &[],
    docker: &["HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP"],
    why: "limits of the kernel's memory went with Docker 23",
};

const INSPECT: [Row; 23] = [
    row("inspect web", Fields).but(MEMORY),
    row("inspect -s db", Fields).but(MEMORY),
    row("inspect no", Fields).but(MEMORY),
    row("inspect --format '{{.State.Status}}' web", Text("running")),
    row(
        "inspect --format '{{.Name}} {{.State.Running}} {{.State.Paused}} {{.RestartCount}}' web",
        Text("/web true false 0"),
    ),
    row(
        "inspect --format '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}' web",
        Text("none"),
    ),
    row("inspect --format '{{.NetworkSettings.IPAddress}}' web", Text("")),
    row("inspect --format '{{json .HostConfig.PortBindings}}' web", Json),
    row("inspect --format '{{json .Config.Env}}' web", Json),
    row("inspect --format '{{range .Config.Env}}{{println .}}{{end}}' db", Lines),
    row(
        "inspect --format \
         '{{index .Config.Env 0}} {{index .Config.Env 1}} {{index .Config.Env 2}}' db",
        Text("POSTGRES_USER=admin POSTGRES_PASSWORD=secret POSTGRES_DB=myapp"),
    )
    .but(Differs::Instead(Says(&["POSTGRES_"]), "its client gives variables in any order")),
    row("inspect --format '{{json .Config.Cmd}}' web", Json),
    row("inspect --format '{{json .HostConfig.Binds}}' db", Json),
    row("inspect --format '{{json .Config.Volumes}}' db", Json),
    row("inspect --format '{{.Config.StopSignal}} {{json .Config.ExposedPorts}}' web", Same),
    row(
        "inspect --format '{{range .Mounts}}{{.Type}} {{.Name}} {{.Destination}} {{.Driver}} \
         {{.Mode}} {{.RW}}{{end}}' db",
        Text("volume pgdata /var/lib/postgresql/data local z true"),
    ),
    row("inspect nope", Refused(&[1], "No such object: nope")),
    row("inspect --format '{{.Nope}}' web", Refused(&[1], "Nope")),
    row("inspect --format '{{' web", Refused(&[64], "template")),
    row("image inspect {nginx}", Fields).but(Differs::Fields {
        ours: &[],
        docker: &["Container", "ContainerConfig", "VirtualSize"],
        why: "what tells of the container that an image was built in, and the size under its other \
              name, went with Docker 25 and 26",
    }),
    row("image inspect --format '{{json .Config.Cmd}} {{.Os}}/{{.Architecture}}' {nginx}", Same),
    row("volume inspect pgdata", Fields),
    row("volume inspect nope", Refused(&[1], "no such volume")),
];

const INSIDE: [Row; 17] = [
    row("exec web echo inside", Same),
    row("exec web sh -c 'exit 4'", Code(4)),
    row("exec web nope", Refused(&[127], "executable file not found in $PATH")).but(
        Differs::Instead(
            Refused(&[126, 127], ""),
            "releases before 28 end with 126, and all say why on standard output",
        ),
    ),
    row("exec web /etc/passwd", Refused(&[126], "permission denied"))
        .but(Differs::Instead(Refused(&[126], ""), "it says why on standard output")),
    row("exec -d web nope", Refused(&[1], "executable file not found in $PATH")),
    row("exec nope true", Refused(&[1], "No such container: nope")),
    row(
        "exec -it web bash",
        Typed { prompt: "# ", typed: "tty; exit 6\n", shown: "/dev/pts/", code: 6 },
    ),
    row("exec -e DEBUG=1 web env", Says(&["DEBUG=1\n", "PATH="])),
    row("exec -w /tmp -u nobody web sh -c 'pwd; id -un'", Same),
    row("cp {dir}/file web:/tmp/file", Text("")),
    row("exec web cat /tmp/file", Text("from the host")),
    row("cp web:/tmp/file {dir}/back", Text("")),
    row("run --rm -v {dir}:/in {busybox} cat /in/back", Text("from the host")),
    row("cp web:/nope {dir}/x", Refused(&[1], "/nope")),
    row("exec cache redis-cli set key value", Text("OK")),
    row("restart cache", Text("cache")),
    row("exec cache redis-cli get key", Until("value")),
];

const VOLUMES: [Row; 17] = [
    row("rm -f db", Text("db")),
    row("volume ls -q --filter name=pgdata", Text("pgdata")),
    row("volume ls --filter name=pgdata", Table(&["DRIVER", "VOLUME NAME"])),
    row(
        "run -d --name db -e POSTGRES_USER=admin -e POSTGRES_PASSWORD=secret -e POSTGRES_DB=myapp \
         -v pgdata:/var/lib/postgresql/data {postgres}",
        Ids(64),
    ),
    row("exec db psql -U admin -d myapp -Atc 'SELECT n FROM kept'", Until("42")),
    row("volume rm pgdata", Refused(&[1], "volume is in use")),
    row("stop db", Text("db")),
    row("logs db", Code(0)),
    row("rm db", Text("db")),
    row("volume rm pgdata", Text("pgdata")),
    row("volume rm pgdata", Refused(&[1], "no such volume")),
    row("volume create named", Text("named")),
    row("create --name holder -v /anonymous {busybox} true", Ids(64)),
    row("rm holder", Text("holder")),
    row("volume prune -f", Says(&["Deleted Volumes:", "Total reclaimed space:"])),
    row("volume ls -q --filter name=named", Text("named")).but(NAMED),
    row("volume ls -q --filter dangling=false", Ids(64)),
];

/// What is left of volumes that nobody has.
const NAMED: Differs =
    Differs::Instead(Text(""), "before Docker 23 a prune took volumes with names as well");

const CLEANUP: [Row; 9] = [
    row("container prune -f", Says(&["Deleted Containers:", "Total reclaimed space:"])),
    row("container prune -f", Text("Total reclaimed space: 0B")),
    row("ps -a --format '{{.Names}}'", Same),
    row("rm -f -v cache talk web", Lines),
    row("system prune -f", Text("Total reclaimed space: 0B")),
    row("system prune -a -f --volumes", Says(&["Total reclaimed space:"])),
    row("images -q", Text("")),
    row("ps -aq", Text("")),
    row("volume ls -q", Text("named")).but(NAMED),
];
