//! The program as a container's first process.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::SHIM;

fn init(words: &[&str]) -> Child {
    let mut command = Command::new(SHIM);
    command.arg0("/sbin/docker-init").args(words).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn it_ends_as_its_command_does() {
    let code = |words: &[&str]| init(words).wait().unwrap().code();
    assert_eq!(code(&["--", "sh", "-c", "exit 3"]), Some(3));
    assert_eq!(code(&["true"]), Some(0));
    assert_eq!(code(&["--", "sh", "-c", "kill -KILL $$"]), Some(137));
}

#[test]
fn commands_that_can_not_be_run() {
    for (word, code) in [("/nope", 127), ("/etc/passwd", 126)] {
        let mut child = init(&["--", word]);
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{said}");
        assert!(said.starts_with(&format!("docker-init: exec {word} failed: ")), "{said}");
    }
}

#[test]
fn signals_are_handed_on() {
    let script = "trap 'exit 7' TERM; trap 'echo usr; exit 8' USR1; echo ready; \
                  while :; do sleep 0.05; done";
    for (signal, code) in [(Signal::SIGTERM, 7), (Signal::SIGUSR1, 8)] {
        let mut child = init(&["--", "sh", "-c", script]);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert_eq!((status.code(), status.signal()), (Some(code), None));
    }
}

#[test]
fn its_command_has_the_usual_signals() {
    let mut child = init(&["--", "grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status"]);
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    let masks: Vec<u64> = said
        .lines()
        .map(|line| u64::from_str_radix(line.split('\t').nth(1).unwrap(), 16).unwrap())
        .collect();
    assert_eq!(masks.len(), 2, "{said}");
    // Who runs the tests may ignore others.
    for signal in [Signal::SIGPIPE, Signal::SIGTTIN, Signal::SIGTTOU, Signal::SIGCHLD] {
        let bit = 1 << (signal as u64 - 1);
        assert!(masks.iter().all(|mask| mask & bit == 0), "{signal}: {said}");
    }
}
