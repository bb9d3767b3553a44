//! The commands that Docker's users know by heart, as one script that is run through `gantry`
//! against gantryd, and through Debian's `docker` against its dockerd. What both print has to agree
//! in shape: columns, fields, exit codes, and what errors say.
//!
//! Neither side touches the host's network: each has a machine of its own in network namespaces.
//! Containers have a network where that is what a row is about; images come from a registry on
//! loopback.

mod networks;
mod shape;
mod table;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gantry_tests::{
    Daemon, Dockerd, Host, Options, Output, Registry, Terminal, run, run_within, wait_for,
};
use tempfile::TempDir;

use shape::{differences, shape};
use table::{Differs, Row, SCRIPT, Wanted};

/// The images, by what rows call them.
const IMAGES: [&str; 6] = ["busybox", "debian", "nginx", "postgres", "python", "redis"];
/// How long an image may take to come.
const PULL: Duration = Duration::from_secs(300);

/// An engine with its command line.
struct Side<'a> {
    command: &'a dyn Fn(&[&str]) -> Command,
    /// Files of the host that rows use.
    dir: TempDir,
}

impl<'a> Side<'a> {
    /// Brings all images here.
    fn new(command: &'a dyn Fn(&[&str]) -> Command) -> Self {
        for image in IMAGES {
            run_within(&mut command(&["pull", "-q", &reference(image)]), PULL).ok();
        }
        let dir = tempfile::tempdir().expect("tempdir");
        fs::write(dir.path().join("file"), "from the host\n").expect("write a file");
        fs::write(dir.path().join("env"), "# a comment\nFILE=from-file\n").expect("write a file");
        Self { command, dir }
    }

    fn command(&self, line: &str) -> Command {
        let words = words(line, self.dir.path());
        let mut command = (self.command)(&words.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("ROWS_CALLER", "mine");
        command
    }

    /// Does what a row says, and sees what comes of it.
    fn play(&self, line: &str, wanted: Wanted) -> Output {
        match wanted {
            Wanted::Until(text) => wait_for(line, || {
                let output = run(&mut self.command(line));
                (output.code == 0 && output.text() == text).then_some(output)
            }),
            Wanted::Typed { prompt, typed, shown, .. } => {
                let mut terminal = Terminal::start(self.command(line));
                terminal.expect(prompt);
                terminal.send(typed);
                terminal.expect(shown);
                let code = terminal.wait();
                Output { code, stdout: String::new(), stderr: String::new() }
            }
            _ => run(&mut self.command(line)),
        }
    }
}

/// An image in the registry that all tests share.
fn reference(image: &str) -> String {
    Registry::shared().reference(&format!("{image}:latest"))
}

/// The words of a line: what stands between single quotes is one. Containers get no network, unless
/// it says which.
fn words(line: &str, dir: &Path) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    for word in &mut words {
        *word = word.replace("{dir}", &dir.to_string_lossy());
        if let Some(image) = IMAGES.iter().find(|image| *word == format!("{{{image}}}")) {
            *word = reference(image);
        }
    }
    let says = words.iter().any(|word| word == "--network");
    if matches!(words[0].as_str(), "run" | "create") && !says {
        for word in ["none", "--network"] {
            words.insert(1, word.to_owned());
        }
    }
    words
}

/// What is wrong with a row; nothing when both agree.
fn judge(row: &Row, gantry: &Side<'_>, docker: &Side<'_>) -> Option<String> {
    let (wanted, known) = match row.differs {
        Some(Differs::Instead(wanted, why)) => (wanted, why),
        Some(Differs::Fields { why, .. }) => (row.wanted, why),
        None => (row.wanted, "nothing"),
    };
    let ours = gantry.play(row.line, row.wanted);
    let theirs = docker.play(row.line, wanted);
    let why = match (shape(row.wanted, &ours), shape(wanted, &theirs)) {
        (Err(why), _) => format!("gantry: {why}"),
        (_, Err(why)) => format!("docker: {why}"),
        (Ok(own), Ok(other)) => differences(&own, &other, row.differs)?,
    };
    let line = row.line;
    let outputs = format!("gantry: {ours:?}\n  docker: {theirs:?}");
    Some(format!("{line}\n  {why}\n  known to differ: {known}\n  {outputs}"))
}

#[test]
fn every_row_is_as_dockers() {
    for image in IMAGES {
        Registry::shared().push(image, &format!("{image}:latest"));
    }
    let host = Some(Host::with_registry());
    let daemon = Daemon::with(Options { host, ..Options::default() });
    let dockerd = Dockerd::on(&Host::with_registry());
    let (ours, theirs) =
        (|args: &[&str]| daemon.gantry_command(args), |args: &[&str]| dockerd.command(args));
    let (gantry, docker) = (Side::new(&ours), Side::new(&theirs));
    let mut wrong = Vec::new();
    for (group, rows) in SCRIPT {
        let found = rows.iter().filter_map(|row| judge(row, &gantry, &docker));
        wrong.extend(found.map(|why| format!("{group}: {why}")));
    }
    assert!(wrong.is_empty(), "{} rows:\n\n{}", wrong.len(), wrong.join("\n\n"));
    drop((gantry, docker));
    drop(dockerd);
    daemon.assert_nothing_left();
}

#[test]
fn lines_have_words() {
    let dir = Path::new("/d");
    assert_eq!(words("ps -a", dir), ["ps", "-a"]);
    assert_eq!(
        words("run -v {dir}:/in x sh -c 'echo a b'", dir),
        ["run", "--network", "none", "-v", "/d:/in", "x", "sh", "-c", "echo a b"]
    );
    assert_eq!(words("run --network x y", dir), ["run", "--network", "x", "y"]);
    assert_eq!(words("inspect --format '{{.A}}' x", dir)[2], "{{.A}}");
}
