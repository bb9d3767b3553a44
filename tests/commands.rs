//! All commands of Debian's `ctr`, in one order, against gantryd and against Debian's
//! containerd: exit codes, and the shape of what they print.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use gantry_tests::{
    Containerd, Daemon, Output, Registry, Terminal, image, run, run_within, start, wait_for,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const TABLE: &str = include_str!("wire/ctr-1.6-commands.tsv");

/// Where the output has another shape than Debian's containerd gives it, and why.
const DIFFERENCES: [(&str, &str); 8] = [
    ("version", "it is our version"),
    ("plugins ls", "they are our parts"),
    ("plugins ls -d id==overlayfs", "the capabilities of later versions are told"),
    ("tasks metrics --format json xd", "counters of zero are left out, and they are others"),
    ("tasks checkpoint xd", "it says itself that CRIU is missing"),
    ("snapshots diff com1", "another compressor"),
    (
        "snapshots diff --keep --label a=b --media-type \
         application/vnd.oci.image.layer.v1.tar+gzip v1",
        "the view, which nothing holds, is collected at another time",
    ),
    (
        "run --rm --runtime io.containerd.nope.v1 localhost/bb:latest xnope echo x",
        "the error has a kind",
    ),
];
/// What is collected, and when, shows here.
const TIMES: [&str; 2] = ["snapshots rm v1 act2 com1", "content ls"];

/// A line of the table.
struct Line {
    code: i32,
    text: &'static str,
}

fn table() -> Vec<Line> {
    let lines = TABLE.lines().filter(|l| !l.starts_with('#'));
    let parse = |line: &'static str| {
        let mut fields = line.split('\t');
        let code = fields.next().and_then(|c| c.parse().ok()).expect("an exit code");
        Line { code, text: fields.next().expect("arguments") }
    };
    lines.map(parse).collect()
}

/// Words as a shell would split them; only single quotes are known.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in text.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().expect("one at least").push(c),
        }
    }
    words
}

/// A server, and what the table's variables stand for on it.
struct Side<'a> {
    ctr: &'a (dyn Fn(&[&str]) -> Command + Sync),
    dir: PathBuf,
    namespace: String,
    registry: String,
    digests: [String; 3],
}

impl Side<'_> {
    fn command(&self, args: &[&str]) -> Command {
        (self.ctr)(&[&["-n", &self.namespace], args].concat())
    }

    fn run(&self, args: &[&str]) -> Output {
        run(&mut self.command(args))
    }

    fn expand(&self, word: &str) -> String {
        let [chain, manifest, blob] = &self.digests;
        let image = format!("{}/busybox:latest", self.registry);
        word.replace("$CHAIN", chain)
            .replace("$MANIFEST", manifest)
            .replace("$BLOB", blob)
            .replace("$REG", &self.registry)
            .replace("$IMG", &image)
            .replace("$NS", &self.namespace)
            .replace("$T", &self.dir.to_string_lossy())
    }

    /// All commands, and what came of each.
    fn play(&mut self) -> Vec<Output> {
        table().iter().map(|line| self.step(line)).collect()
    }

    fn step(&mut self, line: &Line) -> Output {
        let args: Vec<String> = words(line.text).iter().map(|word| self.expand(word)).collect();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let status = |id: &str, wanted: &str| {
            wait_for(&format!("{id} to be {wanted}"), || {
                let tasks = self.run(&["tasks", "ls"]);
                let is = |l: &&str| l.starts_with(&format!("{id} ")) && l.ends_with(wanted);
                tasks.lines().iter().any(is).then_some(())
            });
        };
        match (line.code, args.as_slice()) {
            (-9, _) => self.cut(&args, Signal::SIGKILL, || status("xin", "RUNNING")),
            (-2, _) => {
                self.cut(&args, Signal::SIGINT, || thread::sleep(Duration::from_millis(200)))
            }
            (_, [.., "-t", _, _, "sh"] | ["tasks", "exec", "-t", .., "sh"]) => self.shell(&args),
            _ => {
                if let ["tasks", "rm", id] | ["tasks", "attach", id] = args.as_slice()
                    && self.run(&["tasks", "ls", "-q"]).lines().contains(id)
                {
                    status(id, "STOPPED");
                }
                if args == ["snapshots", "ls"] {
                    self.collected(&["xn", "xrs"]);
                }
                let mut command = self.command(&args);
                if args.last() == Some(&"cat") || args.contains(&"--expected-size") {
                    command = fed(&command);
                }
                let output = run_within(&mut command, Duration::from_secs(60));
                if args.starts_with(&["images", "import"]) && self.digests[0].is_empty() {
                    self.digests = self.look();
                }
                output
            }
        }
    }

    /// Waits until snapshots are gone that no container has kept.
    fn collected(&self, keys: &[&str]) {
        wait_for(&format!("{keys:?} to be collected"), || {
            let all = self.run(&["snapshots", "ls"]);
            let left =
                |line: &&str| line.split_whitespace().next().is_some_and(|k| keys.contains(&k));
            (!all.lines().iter().any(left)).then_some(())
        });
    }

    /// A command that does not end by itself.
    fn cut(&self, args: &[&str], signal: Signal, ready: impl Fn()) -> Output {
        let mut command = self.command(args);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
        let mut child = start(&mut command);
        ready();
        kill(Pid::from_raw(child.id() as i32), signal).expect("it runs");
        let code = child.wait_within(Duration::from_secs(10)).expect("it ends");
        Output { code: 128 - code, stdout: String::new(), stderr: String::new() }
    }

    fn shell(&self, args: &[&str]) -> Output {
        let mut terminal = Terminal::start(self.command(args));
        terminal.expect("# ");
        terminal.send("exit\n");
        Output { code: terminal.wait(), stdout: String::new(), stderr: String::new() }
    }

    /// Chain ID, manifest and layer of the imported image.
    fn look(&self) -> [String; 3] {
        let listed = self.run(&["images", "ls"]).ok();
        let row = listed.stdout.lines().find(|l| l.starts_with("localhost/bb:latest"));
        let manifest = row.and_then(|r| r.split_whitespace().nth(2)).expect("a digest").to_owned();
        let text = self.run(&["content", "get", &manifest]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&text).expect("a manifest");
        let layer = json["layers"][0]["digest"].as_str().expect("a layer").to_owned();
        let config = json["config"]["digest"].as_str().expect("a configuration");
        let text = self.run(&["content", "get", config]).ok().stdout;
        let json: serde_json::Value = serde_json::from_str(&text).expect("a configuration");
        // Of one layer: its chain ID is its diff ID.
        let chain = json["rootfs"]["diff_ids"][0].as_str().expect("a diff ID").to_owned();
        [chain, manifest, layer]
    }

    /// What is left of an output when all that may differ is taken out: numbers, hashes,
    /// names of this side, progress, white space and the order of lines.
    fn shape(&self, output: &Output) -> BTreeSet<String> {
        let text = match output.code {
            0 => output.stdout.clone(),
            _ => format!("{}\n{}", output.stdout, output.stderr),
        };
        let text = text.replace(&*self.dir.to_string_lossy(), "DIR");
        let above = self.dir.parent().unwrap_or(&self.dir);
        let text = text.replace(&*above.to_string_lossy(), "TOP");
        let text = text.replace("Less than a second", "1 seconds");
        let text = text.replace(&self.namespace, "NS").replace('\0', "");
        let moving = |line: &&str| !line.contains("elapsed:") && !line.contains('|');
        let lines = text.lines().flat_map(|l| l.rsplit('\r').next()).filter(moving);
        lines.map(plain).filter(|l| !l.is_empty()).collect()
    }
}

/// A command with two bytes as its input: ctr 1.6 does not tell of an end that comes at once.
fn fed(command: &Command) -> Command {
    let mut fed = Command::new("sh");
    fed.args(["-c", "echo x | \"$@\"", "sh"]).arg(command.get_program());
    fed.args(command.get_args());
    fed
}

/// A line without numbers and hashes.
fn plain(line: &str) -> String {
    let mut plain = String::new();
    for word in line.split_whitespace() {
        // Labels come in any order.
        let mut parts: Vec<&str> = word.split(',').collect();
        parts.sort_unstable();
        let word = parts.join(",");
        let mut rest = word.as_str();
        while !rest.is_empty() {
            let hex = rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len());
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let (taken, stands) = match (hex, digits) {
                (12.., _) => (hex, "HEX".to_owned()),
                (_, 1..) => (digits, "N".to_owned()),
                _ => {
                    let c = rest.chars().next().expect("not empty");
                    (c.len_utf8(), c.to_string())
                }
            };
            plain.push_str(&stands);
            rest = &rest[taken..];
        }
        plain.push(' ');
    }
    plain.trim_end().to_owned()
}

/// What the table's files stand for.
fn prepare(dir: &Path) {
    let layout = image("busybox");
    let script = "
        set -e
        mkdir -p \"$1/rootfs\" \"$1/mnt\"
        tar -C \"$0\" -cf \"$1/oci.tar\" .
        layer=$(tar -xOf \"$1/oci.tar\" ./index.json | sed 's/.*\"digest\":\"sha256:\\([0-9a-f]*\\)\".*/\\1/')
        layer=$(sed 's/.*\"layers\":\\[{[^}]*\"digest\":\"sha256:\\([0-9a-f]*\\)\".*/\\1/' \"$0/blobs/sha256/$layer\")
        tar -C \"$1/rootfs\" -xzf \"$0/blobs/sha256/$layer\"";
    run(Command::new("sh").arg("-c").arg(script).arg(layout).arg(dir)).ok();
    assert!(dir.join("rootfs/bin/busybox").exists(), "the root file system was unpacked");
}

#[test]
fn every_command_of_ctr() {
    let registries = [Registry::start(), Registry::start()];
    for registry in &registries {
        for name in ["busybox:latest", "pause:3.9", "wire/o:seed"] {
            registry.push("busybox", name);
        }
    }
    let daemon = Daemon::start();
    let peer = Containerd::start();
    let ours = |args: &[&str]| daemon.ctr_command(args);
    let theirs = |args: &[&str]| peer.ctr_command(args);
    let side = |ctr, dir: PathBuf, namespace: String, registry: &Registry| {
        prepare(&dir);
        Side { ctr, dir, namespace, registry: registry.host(), digests: Default::default() }
    };
    let dir = |of: &Path| of.join("scratch");
    for path in [daemon.scratch(), peer.scratch()] {
        std::fs::create_dir(dir(path)).expect("make a directory");
    }
    let mut ours = side(&ours, dir(daemon.scratch()), daemon.name().to_owned(), &registries[0]);
    let mut theirs =
        side(&theirs, dir(peer.scratch()), format!("p{}", daemon.name()), &registries[1]);
    let (own, other) = thread::scope(|scope| {
        let other = scope.spawn(|| theirs.play());
        (ours.play(), other.join().expect("containerd's side"))
    });
    let mut wrong = Vec::new();
    for ((line, own), other) in table().iter().zip(&own).zip(&other) {
        let text = line.text;
        let timed = TIMES.contains(&text);
        if own.code != line.code && !timed {
            wrong.push(format!(
                "`ctr {text}` ended with {} instead of {} (containerd: {}): {}{}",
                own.code, line.code, other.code, own.stdout, own.stderr
            ));
        }
        let (a, b) = (ours.shape(own), theirs.shape(other));
        let known = timed || DIFFERENCES.iter().any(|(of, _)| *of == text);
        if a != b && !known {
            wrong.push(format!(
                "`ctr {text}` has another shape\n  ours only:   {:#?}\n  theirs only: {:#?}",
                a.difference(&b).collect::<Vec<_>>(),
                b.difference(&a).collect::<Vec<_>>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{} differences\n{}", wrong.len(), wrong.join("\n"));
    daemon.assert_nothing_left();
}
