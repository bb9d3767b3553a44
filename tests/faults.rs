//! The daemon dies before and after everything that outlives it; then the second try
//! succeeds, and nothing is left over.

use std::collections::BTreeMap;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use gantry_tests::{Daemon, Host, Options, Output, Registry, paths, wait_for};

/// Daemons at a time.
const PARALLEL: usize = 4;

/// What changes files, mounts or processes.
const EFFECTS: [&str; 22] = [
    "fs::rename(",
    "fs::write(",
    "fs::remove_file(",
    "fs::remove_dir(",
    "fs::remove_dir_all(",
    "fs::create_dir(",
    "fs::create_dir_all(",
    "fs::hard_link(",
    "fs::copy(",
    "symlink(",
    "DirBuilder::new()",
    "File::create(",
    ".create_new(",
    ".create(true)",
    ".sync_all()",
    "mkfifo(",
    "renameat_with(",
    " mount(",
    " umount2(",
    "move_mount(",
    ".spawn()",
    "UnixListener::bind(",
];

/// Files whose effects have no points, and why.
const WITHOUT: [(&str, &str); 16] = [
    ("diff/src/", "a layer is written below a snapshot that nobody sees until it is committed"),
    ("images/src/credentials.rs", "a credential helper changes nothing of ours"),
    ("metadata/src/database.rs", "RocksDB's own directory is made when it is opened"),
    ("metadata/src/database/options.rs", "RocksDB's own options"),
    ("daemon/src/faults.rs", "the points themselves"),
    ("files/src/copy.rs", "copies below what nobody sees yet"),
    ("snapshots/src/testsuite", "a test suite"),
    ("engine/src/spec/", "mounts are described here, not made"),
    ("diff/src/target.rs", "mounts are described here, not made"),
    ("engine/src/grpc/", "mounts are described here, not made"),
    ("engine/src/rootfs.rs", "mounts that go with the thread that makes them"),
    ("engine/src/copy/", "mounts that go with the thread that makes them"),
    ("archive/src/", "files of a container: what was copied of them until then stays"),
    ("networks/src/names/directory.rs", "files that those who have them written pass points for"),
    ("networks/src/netlink/sysctl.rs", "parameters that are set with each bridge and link"),
    ("networks/src/netlink.rs", "processes of its tests"),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// Functions of a file outside of tests: their first lines and their texts.
fn functions(text: &str) -> Vec<(usize, String)> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let mut functions = vec![(1, String::new())];
    for (n, line) in code.lines().enumerate() {
        let words = line.trim_start();
        if words.starts_with("//") {
            continue;
        }
        let starts = ["fn ", "pub fn ", "pub(", "async fn ", "pub async fn "];
        if starts.iter().any(|s| words.starts_with(s)) && words.contains("fn ") {
            functions.push((n + 1, String::new()));
        }
        let last = functions.last_mut().expect("one at least");
        last.1 += line;
        last.1.push('\n');
    }
    functions
}

#[test]
fn every_effect_lies_between_points() {
    let services = paths::source().join("services");
    let mut files = Vec::new();
    sources(&services, &mut files);
    let mut bare = Vec::new();
    let mut checked = 0;
    for path in files {
        let name = path.strip_prefix(&services).expect("below it").display().to_string();
        let test = name.contains("/tests") || !name.contains("/src/");
        if test || WITHOUT.iter().any(|(part, _)| name.contains(part)) {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source");
        for (line, text) in functions(&text) {
            let effects: Vec<_> = EFFECTS.iter().filter(|e| text.contains(**e)).collect();
            checked += effects.len();
            if !effects.is_empty() && !text.contains("faults::around") {
                bare.push(format!("{name}:{line}: {effects:?}"));
            }
        }
    }
    assert!(checked > 20, "the effects were found");
    assert!(bare.is_empty(), "effects without `faults::around`:\n{}", bare.join("\n"));
}

/// One life of a daemon and its clients.
struct Life {
    daemon: Daemon,
    host: Arc<Host>,
    image: String,
}

impl Life {
    fn new() -> Self {
        let program = Some("gantryd-failpoints".to_owned());
        let host = Host::with_registry();
        let options = Options { program, host: Some(Arc::clone(&host)), ..Options::default() };
        let image = Registry::shared().reference("busybox:latest");
        Self { daemon: Daemon::unstarted(options), host, image }
    }

    /// Some of its commands would try for ever to go on where the daemon went.
    fn ctr(&self, args: &[&str]) -> Output {
        self.daemon.ctr(&[&["--timeout", "8s", "-n", self.daemon.name()], args].concat())
    }

    /// What clients do; the first failure ends it.
    fn work(&self) -> Result<(), Output> {
        let image = self.image.as_str();
        let check = |output: Output| if output.code == 0 { Ok(()) } else { Err(output) };
        let gantry = |args: &[&str]| check(self.daemon.gantry(args));
        let ctr = |args: &[&str]| check(self.ctr(args));
        gantry(&["pull", "-q", image])?;
        let none = ["--network", "none"];
        let kept = [&["create", "--rm", "--name", "x2"], &none[..], &[image, "sleep", "600"]];
        gantry(&kept.concat())?;
        gantry(&["start", "x2"])?;
        gantry(&["rm", "-f", "x2"])?;
        let flags = ["--name", "x1", "-v", "/data"];
        gantry(&[&["run", "-d"], &flags[..], &none, &[image, "sleep", "600"]].concat())?;
        gantry(&["exec", "x1", "true"])?;
        gantry(&["stop", "-t", "0", "x1"])?;
        gantry(&["start", "x1"])?;
        gantry(&["rm", "-f", "-v", "x1"])?;
        gantry(&[&["run", "--rm"], &none[..], &[image, "true"]].concat())?;
        self.networks()?;
        ctr(&["images", "pull", "--plain-http", image])?;
        ctr(&["run", "-d", image, "t", "sleep", "600"])?;
        ctr(&["tasks", "exec", "--exec-id", "e", "t", "true"])?;
        ctr(&["tasks", "rm", "-f", "t"])
            .or_else(|end| if end.code == 137 { Ok(()) } else { Err(end) })?;
        ctr(&["containers", "rm", "t"])?;
        ctr(&["images", "rm", "--sync", image])?;
        gantry(&["rmi", image])
    }

    /// What clients do with networks.
    fn networks(&self) -> Result<(), Output> {
        for line in [
            "network create one",
            "network create two",
            "run -d --name x3 --network one -p 8080:80 {image} sleep 600",
            "port add x3 8081:81",
            "network connect two x3",
            "restart -t 0 x3",
            "network disconnect one x3",
            "port rm x3 8081:81",
            "rm -f x3",
            "network rm one two",
        ] {
            let line = line.replace("{image}", &self.image);
            let output = self.daemon.gantry(&line.split(' ').collect::<Vec<_>>());
            if output.code != 0 {
                return Err(output);
            }
        }
        Ok(())
    }

    /// What is left of networks on the host.
    fn network_traces(&self) -> Vec<String> {
        let ours = ["link veth", "link br-", "map \"ports4\" has", "map \"ports6\" has"];
        let is_ours = |line: &String| ours.iter().any(|begin| line.starts_with(begin));
        self.host.traces().into_iter().filter(is_ours).collect()
    }

    /// Takes away what a first try may have made.
    fn tidy(&self) {
        self.daemon.gantry(&["rm", "-f", "-v", "x1", "x2", "x3"]);
        self.daemon.gantry(&["network", "rm", "one", "two"]);
        self.ctr(&["tasks", "rm", "-f", "t"]);
        self.ctr(&["containers", "rm", "t"]);
        // It made that first.
        self.ctr(&["snapshots", "rm", "t"]);
        // What a client had fetched stays until its lease expires, if it lost the daemon.
        for lease in self.ctr(&["leases", "ls", "-q"]).lines() {
            self.ctr(&["leases", "rm", lease]);
        }
    }

    /// Dies at a pass of a point, and lives on. Whether it came to that.
    fn survive(&mut self, point: &str, pass: usize) -> Result<bool, String> {
        let set = |name: &str, value: String| (name.to_owned(), value);
        let env = [set("GANTRY_FAULT", point.into()), set("GANTRY_FAULT_PASS", pass.to_string())];
        self.daemon.set_env(env.into());
        let started = self.daemon.try_restart();
        let worked = started.is_ok() && self.work().is_ok();
        // What goes on behind the last reply may be where it dies.
        let died = if worked { self.daemon.ends_soon() } else { true };
        self.daemon.kill();
        self.daemon.set_env(Vec::new());
        self.daemon.try_restart()?;
        if self.daemon.gantry(&["inspect", "x2"]).code == 0 {
            // It is the same container that the second try is about.
            let started = self.daemon.gantry(&["start", "x2"]);
            if started.code != 0 {
                return Err(format!("the second start: {started:?}"));
            }
        }
        self.tidy();
        self.work().map_err(|output| format!("the second try: {output:?}"))?;
        let volumes = self.daemon.gantry(&["volume", "ls", "-q"]);
        if volumes.code != 0 || !volumes.text().is_empty() {
            return Err(format!("volumes: {volumes:?}"));
        }
        wait_for("the content to go", || (self.files() == [0, 0, 0]).then_some(()));
        wait_for("networks to go", || self.network_traces().is_empty().then_some(()));
        self.daemon.assert_nothing_left();
        Ok(died)
    }

    /// Blobs, ingests and snapshots, as files.
    fn files(&self) -> [usize; 3] {
        let root = self.daemon.root();
        let count = |dir: &str| std::fs::read_dir(root.join(dir)).map_or(0, Iterator::count);
        [
            count("io.containerd.content.v1.content/blobs/sha256"),
            count("io.containerd.content.v1.content/ingest"),
            count("io.containerd.snapshotter.v1.overlayfs/snapshots"),
        ]
    }
}

/// Points in the order of their first pass, with how often each was passed.
fn record() -> Vec<(String, usize)> {
    let mut life = Life::new();
    let list = life.daemon.scratch().join("passed");
    life.daemon.set_env(vec![("GANTRY_FAULTS_PASSED".to_owned(), list.display().to_string())]);
    life.daemon.try_restart().expect("the daemon starts");
    life.work().expect("all goes well");
    life.daemon.stop();
    let text = std::fs::read_to_string(&list).expect("a list");
    let mut counts = BTreeMap::new();
    let mut order = Vec::new();
    for point in text.lines() {
        let count = counts.entry(point.to_owned()).or_insert(0);
        *count += 1;
        if *count == 1 {
            order.push(point.to_owned());
        }
    }
    order.into_iter().map(|point| (point.clone(), counts[&point])).collect()
}

#[test]
fn what_goes_with_its_end_and_never_ran_is_undone() {
    let mut life = Life::new();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let point = "ask a shim to start, before";
    life.daemon.set_env(vec![set("GANTRY_FAULT", point), set("GANTRY_FAULT_PASS", "1")]);
    life.daemon.try_restart().expect("the daemon starts");
    let image = life.image.as_str();
    life.daemon.gantry(&["pull", "-q", image]).ok();
    let line = ["--network", "none", image, "sleep", "600"];
    life.daemon.gantry(&[&["create", "--rm", "--name", "made"], &line[..]].concat()).ok();
    let run = [&["run", "-d", "--rm", "--name", "cut", "-v", "/data"], &line[..]].concat();
    assert_ne!(life.daemon.gantry(&run).code, 0, "the daemon dies");
    life.daemon.kill();
    life.daemon.set_env(Vec::new());
    life.daemon.try_restart().expect("the daemon starts again");
    let all = life.daemon.gantry(&["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok();
    assert_eq!(all.text(), "made created", "that one was asked for");
    assert_eq!(life.daemon.gantry(&["volume", "ls", "-q"]).ok().text(), "");
    life.daemon.gantry(&["rm", "made"]).ok();
    life.daemon.assert_nothing_left();
}

#[test]
fn a_removal_that_was_cut_behind_its_kill_is_finished() {
    let mut life = Life::new();
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let point = "ask a shim to kill, after";
    life.daemon.set_env(vec![set("GANTRY_FAULT", point), set("GANTRY_FAULT_PASS", "1")]);
    life.daemon.try_restart().expect("the daemon starts");
    let image = life.image.as_str();
    life.daemon.gantry(&["pull", "-q", image]).ok();
    let line = ["--restart", "always", "-v", "/data", "--network", "none", image, "sleep", "600"];
    life.daemon.gantry(&[&["run", "-d", "--name", "cut"], &line[..]].concat()).ok();
    assert_ne!(life.daemon.gantry(&["rm", "-f", "-v", "cut"]).code, 0, "the daemon dies");
    life.daemon.kill();
    life.daemon.set_env(Vec::new());
    life.daemon.try_restart().expect("the daemon starts again");
    assert_eq!(life.daemon.gantry(&["ps", "-a", "-q"]).ok().text(), "");
    assert_eq!(life.daemon.gantry(&["volume", "ls", "-q"]).ok().text(), "");
    life.daemon.assert_nothing_left();
}

#[test]
#[expect(clippy::print_stdout, reason = "how much was swept is a figure of interest")]
fn the_second_try_succeeds_wherever_the_daemon_dies() {
    let points = record();
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let mut todo: Vec<(String, usize)> = Vec::new();
    for (point, count) in &points {
        todo.push((point.clone(), 1));
        if *count > 1 && long {
            todo.push((point.clone(), *count));
        }
    }
    let total = todo.len();
    let (todo, failed) = (Mutex::new(todo), Mutex::new(Vec::new()));
    let died = Mutex::new(0);
    thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().expect("no panic while held").pop();
                    let Some((point, pass)) = next else { break };
                    let mut life = Life::new();
                    // A client that hangs is told of by a panic.
                    let lived = AssertUnwindSafe(|| life.survive(&point, pass));
                    let lived = panic::catch_unwind(lived).unwrap_or_else(|panic| {
                        Err(panic.downcast_ref::<String>().cloned().unwrap_or_default())
                    });
                    match lived {
                        Ok(true) => *died.lock().expect("no panic while held") += 1,
                        Ok(false) => {}
                        Err(why) => {
                            let log = life.daemon.log();
                            let why = format!("{point}, pass {pass}: {why}\n{log}");
                            failed.lock().expect("no panic while held").push(why);
                        }
                    }
                }
            });
        }
    });
    let (failed, died) =
        (failed.into_inner().expect("all ended"), died.into_inner().expect("all ended"));
    println!("{} points; died at {died} of {total} passes", points.len());
    assert!(failed.is_empty(), "{} failed\n{}", failed.len(), failed.join("\n\n"));
    assert!(died * 10 >= total * 9, "died at {died} of {total} only");
}
