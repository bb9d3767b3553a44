//! Exit records in the bundle: what a shim that is killed has learnt already.
//!
//! `exits/init` and `exits/EXEC_ID` hold one JSON object each, with `pid`,
//! `status` and the time as `seconds` and `nanos`; an exec'd process that is
//! itself called `init` has `exits/exec:init`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{self, Error};
use crate::launch::write_atomically;
use crate::reaper::Exit;

/// One exit, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Host pid.
    pub pid: i32,
    /// Exit code, or 128 plus the signal.
    pub status: u32,
    /// When: seconds since 1970.
    pub seconds: u64,
    /// And nanoseconds.
    pub nanos: u32,
}

impl Record {
    /// What is stored of an exit.
    pub fn new(pid: i32, exit: Exit) -> Self {
        Self { pid, status: exit.status, seconds: exit.at.as_secs(), nanos: exit.at.subsec_nanos() }
    }

    /// The exit.
    pub fn exit(&self) -> Exit {
        Exit { status: self.status, at: Duration::new(self.seconds, self.nanos.min(999_999_999)) }
    }
}

/// Where the record of a process lies; `exec_id` is empty for init.
fn path(bundle: &Path, exec_id: &str) -> PathBuf {
    bundle.join("exits").join(match exec_id {
        "" => "init".to_owned(),
        "init" => "exec:init".to_owned(),
        id => id.to_owned(),
    })
}

/// Makes the place for exits.
///
/// # Errors
/// The bundle cannot be written.
pub fn prepare(bundle: &Path) -> Result<(), Error> {
    let dir = bundle.join("exits");
    match fs::create_dir(&dir) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error::io(format!("make {}", dir.display()), e))
        }
        _ => Ok(()),
    }
}

/// Stores an exit, whole or not at all.
///
/// # Errors
/// The bundle cannot be written.
pub fn write(bundle: &Path, exec_id: &str, record: &Record) -> Result<(), Error> {
    prepare(bundle)?;
    let path = path(bundle, exec_id);
    // A record of four numbers always has a JSON form.
    write_atomically(&path, &serde_json::to_vec(record).unwrap_or_default())
}

/// Reads an exit, if one is known.
pub fn read(bundle: &Path, exec_id: &str) -> Option<Record> {
    serde_json::from_slice(&fs::read(path(bundle, exec_id)).ok()?).ok()
}

/// Forgets an exit.
pub fn remove(bundle: &Path, exec_id: &str) {
    // It was written in vain, or goes with the bundle.
    let _ = fs::remove_file(path(bundle, exec_id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive() {
        let dir = tempfile::tempdir().unwrap();
        let exit = Exit { status: 137, at: Duration::new(5, 6) };
        prepare(dir.path()).unwrap();
        for (n, id) in ["", "init", "e1"].into_iter().enumerate() {
            write(dir.path(), id, &Record::new(n as i32, exit)).unwrap();
        }
        for (n, id) in ["", "init", "e1"].into_iter().enumerate() {
            let record = read(dir.path(), id).unwrap();
            assert_eq!((record.pid, record.exit()), (n as i32, exit));
        }
        remove(dir.path(), "e1");
        assert_eq!(read(dir.path(), "e1"), None);
    }
}
