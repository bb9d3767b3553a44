//! Each flag of `run` and `create`: what it does, seen from inside a container, or that it is
//! refused by name.

mod files;
mod life;
mod limits;
mod network;
mod security;

use std::process::Command;

use gantry_tests::{Daemon, Output, run};

/// All tests of flags.
const SOURCES: [&str; 6] = [
    include_str!("mod.rs"),
    include_str!("files.rs"),
    include_str!("life.rs"),
    include_str!("limits.rs"),
    include_str!("network.rs"),
    include_str!("security.rs"),
];

/// A daemon and an image.
struct Place {
    daemon: Daemon,
    image: String,
}

impl Place {
    fn new() -> Self {
        let daemon = Daemon::start();
        let image = daemon.busybox();
        Self { daemon, image }
    }

    /// `gantry run` with flags, without a network unless they name one.
    fn command(&self, flags: &[&str], words: &[&str]) -> Command {
        let named = flags.iter().any(|flag| flag.starts_with("--net"));
        let none: &[&str] = if named { &[] } else { &["--network", "none"] };
        let line = [&["run"][..], none, flags, &[self.image.as_str()], words].concat();
        self.daemon.gantry_command(&line)
    }

    fn run(&self, flags: &[&str], words: &[&str]) -> Output {
        run(&mut self.command(flags, words))
    }

    /// What a shell in a container with these flags prints.
    #[track_caller]
    fn inside(&self, flags: &[&str], script: &str) -> String {
        let line = [&["--rm"][..], flags].concat();
        self.run(&line, &["sh", "-c", script]).ok().text().to_owned()
    }

    /// A container that sleeps.
    #[track_caller]
    fn sleeping(&self, name: &str, flags: &[&str]) {
        let line = [&["--detach", "--name", name][..], flags].concat();
        self.run(&line, &["sleep", "600"]).ok();
    }

    /// What a shell in that container prints.
    #[track_caller]
    fn exec(&self, name: &str, script: &str) -> String {
        self.daemon.gantry(&["exec", name, "sh", "-c", script]).ok().text().to_owned()
    }

    /// What is known of a container, by a template.
    #[track_caller]
    fn asked(&self, format: &str, name: &str) -> String {
        self.daemon.gantry(&["inspect", "--format", format, name]).ok().text().to_owned()
    }

    /// Sees that these flags are refused, and no container is left.
    #[track_caller]
    fn refused(&self, flags: &[&str], said: &str) {
        let line = [&["--name", "refused"][..], flags].concat();
        let output = self.run(&line, &["true"]).exits(125);
        assert!(output.stderr.contains(said), "{flags:?}: {:?} lacks {said:?}", output.stderr);
        assert_eq!(self.daemon.gantry(&["ps", "-aq", "--filter", "name=refused"]).text(), "");
    }
}

/// The long flags that the help of a command lists under its own headings.
fn listed(daemon: &Daemon, command: &str) -> Vec<String> {
    let help = daemon.gantry(&[command, "--help"]).ok().stdout;
    let mut own = true;
    let mut flags = Vec::new();
    for line in help.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            own = !matches!(heading, "Global options" | "Examples" | "Exit code");
        }
        if own && line.trim_start().starts_with('-') {
            let long = line.split_whitespace().find(|word| word.starts_with("--"));
            let long = long.and_then(|word| word.split(['[', '=', '<']).next());
            flags.extend(long.map(str::to_owned));
        }
    }
    flags
}

#[test]
fn every_flag_has_a_test() {
    let daemon = Daemon::start();
    let flags = listed(&daemon, "run");
    assert!(flags.len() > 80, "{flags:?}");
    let untested: Vec<_> = flags
        .iter()
        .filter(|flag| {
            let said = [format!("\"{flag}\""), format!("\"{flag}=")];
            !SOURCES.iter().any(|source| said.iter().any(|said| source.contains(said)))
        })
        .collect();
    assert!(untested.is_empty(), "no test has {untested:?}");
    let other = listed(&daemon, "create");
    let only_run = ["--detach", "--sig-proxy", "--detach-keys"];
    let mut missing = flags;
    missing.retain(|flag| !only_run.contains(&flag.as_str()) && !other.contains(flag));
    assert!(missing.is_empty(), "create lacks {missing:?}");
}

#[test]
fn what_docker_has_and_gantry_has_not_is_refused_by_name() {
    let daemon = Daemon::start();
    let with_value = [
        "--cpu-count",
        "--cpu-percent",
        "--io-maxbandwidth",
        "--io-maxiops",
        "--isolation",
        "--kernel-memory",
        "--link",
        "--runtime",
        "--storage-opt",
        "--volume-driver",
    ];
    let switches = ["--disable-content-trust", "--use-api-socket"];
    for command in ["run", "create"] {
        for flag in with_value {
            let refused = daemon.gantry(&[command, flag, "1", "busybox"]).exits(125);
            assert!(refused.stderr.contains(&format!("{flag} is not supported: ")), "{refused:?}");
        }
        for flag in switches {
            let refused = daemon.gantry(&[command, flag, "busybox"]).exits(125);
            assert!(refused.stderr.contains(&format!("{flag} is not supported: ")), "{refused:?}");
        }
    }
}

#[test]
fn a_container_that_was_made_first_has_its_flags() {
    let place = Place::new();
    let words = ["sh", "-c", "echo $A; ulimit -n; cat /proc/self/oom_score_adj; pwd"];
    let flags = ["create", "--name", "c", "--network", "none", "-e", "A=b", "--ulimit"];
    let more = ["nofile=99", "--oom-score-adj", "300", "-w", "/srv/x", &place.image];
    place.daemon.gantry(&[&flags[..], &more, &words].concat()).ok();
    let out = place.daemon.gantry(&["start", "-a", "c"]).ok();
    assert_eq!(out.lines(), ["b", "99", "300", "/srv/x"]);
    place.daemon.gantry(&["rm", "c"]).ok();
    place.daemon.assert_nothing_left();
}
