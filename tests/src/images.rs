use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::{paths, run_within};

/// The OCI layout of an image made from Debian's packages (`busybox`,
/// `debian` or `layers`, …), with one tag `latest`. Made once and kept, until it is to
/// be made otherwise.
pub fn image(kind: &str) -> PathBuf {
    let layout = paths::fixtures().join(kind);
    let lock = File::create(paths::fixtures().join(format!("{kind}.lock"))).expect("make a lock");
    // Several test binaries may want it at once.
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, e)| e).expect("lock");
    let script = paths::source().join("tests/fixtures/image");
    run_within(Command::new(script).arg(kind).arg(&layout), Duration::from_secs(900)).ok();
    layout
}
