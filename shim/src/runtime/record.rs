//! What tear-down needs to know, written before it is needed.
//!
//! `<bundle>/shim.json` names the cgroup before it is made and init (with its
//! start time, so that a reused pid is never killed) as soon as it exists.

use super::sys;
use super::types::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The contents of `shim.json`.
#[derive(Debug, Default, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct Record {
    /// The container's id.
    pub(crate) id: String,
    /// Its cgroup, below the root of every hierarchy.
    pub(crate) cgroup: String,
    /// Host pid of init; 0 before it exists.
    #[serde(default)]
    pub(crate) pid: i32,
    /// Its start time in clock ticks after boot.
    #[serde(default)]
    pub(crate) start_time: u64,
    /// Whether poststop hooks are still to be run.
    #[serde(default)]
    pub(crate) poststop: bool,
}

fn path(bundle: &Path) -> PathBuf {
    bundle.join("shim.json")
}

impl Record {
    /// Writes it so that a reader sees the old or the new one, whole.
    pub(crate) fn write(&self, bundle: &Path) -> Result<(), Error> {
        let path = path(bundle);
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::Failed(format!("write the record: {e}")))?;
        replace(&path, &text).map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// Adds what is known of init by now to what was written. Nobody else reads it while this
    /// process lives, and one write is done or not when that ends.
    pub(crate) fn complete(&self, bundle: &Path) -> Result<(), Error> {
        let path = path(bundle);
        let text = serde_json::to_vec(self)
            .map_err(|e| Error::Failed(format!("write the record: {e}")))?;
        // It can only be longer than before: there is nothing to cut off.
        let opened = OpenOptions::new().write(true).open(&path);
        let written = opened.and_then(|mut file| file.write_all(&text));
        written.map_err(|e| Error::io(format!("write {}", path.display()), e))
    }

    /// Reads it; nothing when there is none.
    pub(crate) fn read(bundle: &Path) -> Result<Option<Self>, Error> {
        let path = path(bundle);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| Error::Invalid(format!("{} is unreadable: {e}", path.display()))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format!("read {}", path.display()), e)),
        }
    }

    /// Removes it.
    pub(crate) fn remove(bundle: &Path) {
        // Without it there is nothing to tear down, which is what is wanted.
        let _ = std::fs::remove_file(path(bundle));
    }

    /// Whether init still is the process that was recorded.
    pub(crate) fn alive(&self) -> bool {
        self.pid > 0 && sys::start_time(self.pid) == Some(self.start_time)
    }
}

/// Writes a file beside its place and moves it there.
pub(crate) fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    std::fs::write(&tmp, text)?;
    std::fs::rename(&tmp, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_added_makes_it_longer() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record { id: "c1".into(), poststop: true, ..Record::default() };
        record.write(dir.path()).unwrap();
        for (pid, start_time) in [(7, 0), (4_194_304, u64::MAX)] {
            (record.pid, record.start_time) = (pid, start_time);
            record.complete(dir.path()).unwrap();
            let read = Record::read(dir.path()).unwrap().unwrap();
            assert_eq!((read.pid, read.start_time, read.poststop), (pid, start_time, true));
        }
        Record::remove(dir.path());
        assert!(record.complete(dir.path()).is_err());
    }
}
