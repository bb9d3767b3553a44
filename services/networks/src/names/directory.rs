//! Where the files lie. Each is replaced as a whole, by a new one that takes its name.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use gantry_core::{Error, Result};

use crate::addresses::Key;

/// The directory of the files.
#[derive(Debug)]
pub(crate) struct NameDirectory {
    root: PathBuf,
    /// For each network the version of its names that its file has. The outer lock is held to
    /// look, the inner one by who writes that file.
    written: Mutex<HashMap<String, Arc<Mutex<u64>>>>,
}

impl NameDirectory {
    /// Makes the directory where it is missing.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn open(root: PathBuf) -> Result<Self> {
        let directory = Self { root, written: Mutex::default() };
        for name in ["names", "resolvers"] {
            make(&directory.root.join(name))?;
        }
        // What was being written when the daemon ended.
        let fresh = directory.root.join("new");
        match fs::remove_dir_all(&fresh) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &fresh, err));
            }
            _ => make(&fresh)?,
        }
        Ok(directory)
    }

    /// The file of a network's names.
    pub(crate) fn names(&self, network: &str) -> PathBuf {
        self.root.join("names").join(network)
    }

    /// The settings of a container's resolver.
    pub(crate) fn resolver(&self, (namespace, container): &Key) -> PathBuf {
        self.root.join("resolvers").join(namespace.as_str()).join(container)
    }

    /// Writes a network's names unless somebody has written them since. `current` tells the
    /// version of the names and their text, or nothing when the network has gone: then its file
    /// goes. Of many who come at once one writes for all.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write_names(
        &self,
        network: &str,
        wanted: u64,
        current: impl FnOnce() -> Option<(u64, String)>,
    ) -> Result<()> {
        let lock = {
            let mut all = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(network.to_owned()).or_default())
        };
        let mut written = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if *written >= wanted {
            return Ok(());
        }
        let path = self.names(network);
        match current() {
            Some((version, text)) => {
                self.replace(&path, &text)?;
                *written = version;
            }
            None => {
                remove(&path)?;
                self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(network);
            }
        }
        Ok(())
    }

    /// Writes the settings of a container's resolver.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn write_resolver(&self, key: &Key, text: &str) -> Result<()> {
        let path = self.resolver(key);
        match self.replace(&path, text) {
            Err(err) if err.is_not_found() => {
                make(path.parent().unwrap_or(&self.root))?;
                self.replace(&path, text)
            }
            done => done,
        }
    }

    /// Removes the settings of a container's resolver; it is no error that there are none.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn remove_resolver(&self, key: &Key) -> Result<()> {
        remove(&self.resolver(key))
    }

    /// Removes the files of all others than these.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) fn sweep(&self, networks: &BTreeSet<String>, members: &BTreeSet<Key>) -> Result<()> {
        let names = self.root.join("names");
        for name in entries(&names)? {
            if !networks.contains(&name) {
                remove(&names.join(name))?;
            }
        }
        let known: BTreeSet<_> =
            members.iter().map(|(namespace, id)| (namespace.as_str(), id.as_str())).collect();
        let resolvers = self.root.join("resolvers");
        for namespace in entries(&resolvers)? {
            let directory = resolvers.join(&namespace);
            for container in entries(&directory)? {
                if !known.contains(&(namespace.as_str(), container.as_str())) {
                    remove(&directory.join(container))?;
                }
            }
        }
        Ok(())
    }

    fn replace(&self, path: &Path, text: &str) -> Result<()> {
        let fresh = self.root.join("new").join(format!("{:032x}", rand::random::<u128>()));
        let done = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, path));
        done.map_err(|err| {
            // It may not be there.
            let _ = fs::remove_file(&fresh);
            failed("write", path, err)
        })
    }
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|err| failed("make", path, err))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, err)),
        _ => Ok(()),
    }
}

fn entries(path: &Path) -> Result<Vec<String>> {
    let listed = fs::read_dir(path).map_err(|err| failed("read", path, err))?;
    let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.collect())
}

fn failed(what: &str, path: &Path, err: io::Error) -> Error {
    Error::io(format!("{what} {}", path.display()), err)
}

#[cfg(test)]
mod tests {
    use gantry_core::Namespace;

    use super::*;

    fn key(id: &str) -> Key {
        (Namespace::new("default").unwrap(), id.to_owned())
    }

    #[test]
    fn names_are_written_once_for_each_version() {
        let root = tempfile::tempdir().unwrap();
        let directory = NameDirectory::open(root.path().join("networks")).unwrap();
        let write = |wanted, current: Option<(u64, &str)>| {
            let current = current.map(|(version, text)| (version, text.to_owned()));
            directory.write_names("n", wanted, || current).unwrap();
            fs::read_to_string(directory.names("n")).ok()
        };
        assert_eq!(write(1, Some((3, "three"))).as_deref(), Some("three"));
        assert_eq!(write(2, Some((9, "never"))).as_deref(), Some("three"));
        assert_eq!(write(4, Some((4, "four"))).as_deref(), Some("four"));
        assert_eq!(write(5, None), None);
        assert_eq!(write(1, Some((1, "one"))).as_deref(), Some("one"));
    }

    #[test]
    fn what_nobody_knows_is_swept() {
        let root = tempfile::tempdir().unwrap();
        let directory = NameDirectory::open(root.path().to_owned()).unwrap();
        for id in ["a", "b"] {
            directory.write_resolver(&key(id), "internal\n").unwrap();
            directory.write_names(id, 1, || Some((1, String::new()))).unwrap();
        }
        directory.sweep(&["a".to_owned()].into(), &[key("b")].into()).unwrap();
        assert!(directory.names("a").exists() && !directory.names("b").exists());
        assert!(directory.resolver(&key("b")).exists() && !directory.resolver(&key("a")).exists());
        directory.remove_resolver(&key("b")).unwrap();
        directory.remove_resolver(&key("b")).unwrap();
        let again = NameDirectory::open(root.path().to_owned()).unwrap();
        assert_eq!(entries(&again.root.join("new")).unwrap(), [""; 0]);
    }
}
