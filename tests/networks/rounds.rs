//! Containers come, go, and change their networks and ports, while the daemon is killed again and
//! again. In the end nothing is left.

use std::thread;
use std::time::Duration;

use gantry_tests::{Host, leftovers, start, wait_for};

use super::{Place, reached};

/// Rounds when the long sweeps are asked for, and otherwise.
const ROUNDS: [usize; 2] = [2_000, 60];
/// Of so many rounds the daemon is killed in one.
const KILLED: u64 = 8;

/// Numbers that look random and are the same for the same seed (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What is done in a round. It may fail: somebody may have done it before, or the daemon dies.
fn line(dice: &mut Dice) -> String {
    let (name, other) = (dice.roll(4), dice.roll(4));
    let (network, port) = (dice.roll(2), 8080 + dice.roll(4));
    match dice.roll(12) {
        0..=2 => format!("run --rm --network n{network} -p {port}:80 {{image}} true"),
        3 | 4 => format!(
            "run -d --name c{name} --network n{network} --network-alias a{other} -p 80 \
             {{image}} sleep 3600"
        ),
        5 => format!("network connect --alias x{other} n{network} c{name}"),
        6 => format!("network disconnect n{network} c{name}"),
        7 => format!("port add c{name} {port}:80 {port}:80/udp"),
        8 => format!("port rm c{name} {port}:80"),
        9 => format!("restart -t 0 c{name}"),
        10 => format!("rm -f c{name}"),
        _ => format!("run --rm -p {port}:80 {{image}} true"),
    }
}

fn round(place: &mut Place, dice: &mut Dice) {
    let line = line(dice);
    if dice.roll(KILLED) != 0 {
        place.gantry(&line);
        return;
    }
    let words: Vec<_> = line
        .split_whitespace()
        .map(|word| if word == "{image}" { place.image.as_str() } else { word })
        .collect();
    let mut client = start(&mut place.daemon.gantry_command(&words));
    thread::sleep(Duration::from_millis(dice.roll(40)));
    place.daemon.kill();
    let _ = client.wait_within(Duration::from_secs(20));
    place.daemon.restart();
}

/// Network namespaces that the daemon holds open, its own aside.
fn held(place: &Place) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", place.daemon.pid())).expect("it runs");
    let links = files.flatten().filter_map(|file| std::fs::read_link(file.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("net:[")).count()
}

/// Files of names that are kept.
fn names(place: &Place) -> usize {
    fn count(dir: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
    }
    count(&place.daemon.state().join("networks"))
}

#[test]
#[expect(clippy::print_stdout, reason = "with its seed a failure can be had again")]
fn rounds_with_kills_leave_nothing_behind() {
    let long = std::env::var_os("GANTRY_TEST_LONG").is_some();
    let rounds = ROUNDS[usize::from(!long)];
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut place = Place::new();
    let before = place.traces();
    let files = leftovers::open_files(place.daemon.pid());
    let (namespaces, kept) = (held(&place), names(&place));
    place.ok("network create n0");
    place.ok("network create --ipv4=false n1");
    for _ in 0..rounds {
        round(&mut place, &mut dice);
    }
    // Nobody who is left is in the way of others.
    let left = place.ok("ps -aq").replace('\n', " ");
    if !left.is_empty() {
        place.ok(&format!("rm -f {left}"));
    }
    let last = place.server("last", 80, "--network n0 -p 8080:80 -p 8080:80/udp");
    reached(place.host.outside(), (Host::V4, 8080), "last");
    drop(last);
    place.ok("rm -f last");
    place.ok("network rm n0 n1");
    place.assert_only(&before);
    wait_for("files of names to go", || (names(&place) <= kept).then_some(()));
    wait_for("namespaces to be let go", || (held(&place) <= namespaces).then_some(()));
    wait_for("the open files to be as few as before", || {
        (leftovers::open_files(place.daemon.pid()) <= files + 8).then_some(())
    });
}
