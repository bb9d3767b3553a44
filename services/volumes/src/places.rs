//! Where volumes lie, and what is done to their directories.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Namespace, Result, faults};
use gantry_files::{TRASH_PREFIX, remove_tree};
use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Namespace and name of a volume.
pub(crate) type Key = (Namespace, String);

/// Below the daemon's root.
const VOLUMES: &str = "volumes";
/// Below that; no namespace begins with a dot.
const REMOVED: &str = ".removed";

/// Mode of directories on the way to a volume: they may be passed, as user namespaces need it,
/// but not listed.
const PASSABLE: u32 = 0o711;

/// Directories of volumes.
pub(crate) struct Places {
    root: PathBuf,
}

impl Places {
    /// Below this root directory.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        if !root.is_absolute() || root.to_str().is_none() {
            return Err(Error::invalid_argument(format!(
                "volumes can't be kept in {root:?}: use an absolute path in UTF-8"
            )));
        }
        let root = root.join(VOLUMES);
        make_directory(&root, PASSABLE)?;
        make_directory(&root.join(REMOVED), 0o700)?;
        Ok(Self { root })
    }

    /// The directory of them all.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where directories are deleted.
    pub(crate) fn removed(&self) -> PathBuf {
        self.root.join(REMOVED)
    }

    fn namespace(&self, namespace: &Namespace) -> PathBuf {
        self.root.join(namespace.as_str())
    }

    /// All of a volume.
    pub(crate) fn volume(&self, (namespace, name): &Key) -> PathBuf {
        self.namespace(namespace).join(name)
    }

    /// What containers see.
    pub(crate) fn data(&self, key: &Key) -> PathBuf {
        self.volume(key).join("_data")
    }

    /// A first content that is not complete.
    pub(crate) fn filling(&self, key: &Key) -> PathBuf {
        self.volume(key).join("_fill")
    }

    /// A first content that is complete.
    pub(crate) fn filled(&self, key: &Key) -> PathBuf {
        self.volume(key).join("_filled")
    }

    /// What containers are going to see.
    fn fresh(&self, key: &Key) -> PathBuf {
        self.volume(key).join("_new")
    }

    /// Whether there is anything of a volume.
    pub(crate) fn is_there(&self, key: &Key) -> Result<bool> {
        let path = self.volume(key);
        path.try_exists().map_err(|err| Error::io(format!("look for {path:?}"), err))
    }

    /// Makes the directory that containers see, with its mode from the beginning. Says
    /// whether it was missing.
    pub(crate) fn make(&self, key: &Key) -> Result<bool> {
        let data = self.data(key);
        if data.is_dir() {
            return Ok(false);
        }
        let new = self.fresh(key);
        make_directory(&self.namespace(&key.0), PASSABLE)?;
        make_directory(&self.volume(key), PASSABLE)?;
        make_directory(&new, 0o755)?;
        faults::around("show the directory of a volume", || fs::rename(&new, &data))
            .map_err(|err| Error::io(format!("make {data:?}"), err))?;
        Ok(true)
    }

    /// Takes away what [`Places::make`] made when it failed, as far as nothing is in it.
    pub(crate) fn unmake(&self, key: &Key) {
        for path in [self.fresh(key), self.volume(key)] {
            let _ = faults::around("take an empty directory away", || fs::remove_dir(&path));
        }
    }

    /// Takes a volume's directory away from its name, durably. Where it is to be deleted;
    /// `None` when it is not there.
    pub(crate) fn put_away(&self, key: &Key) -> Result<Option<PathBuf>> {
        let from = self.volume(key);
        let to = self.removed().join(format!("{TRASH_PREFIX}{:016x}", rand::random::<u64>()));
        let moved = faults::around("put the directory of a volume away", || fs::rename(&from, &to));
        let there = match moved {
            Ok(()) => true,
            Err(err) if err.kind() == io::ErrorKind::NotFound => false,
            Err(err) => return Err(Error::io(format!("put {from:?} away"), err)),
        };
        // A volume that gets the name must not find these files after a power loss.
        self.flush(&key.0)?;
        Ok(there.then_some(to))
    }

    /// Gives a volume's directory the name of another volume, which has none.
    pub(crate) fn rename(&self, from: &Key, to: &Key) -> Result<()> {
        let (old, new) = (self.volume(from), self.volume(to));
        let rename = || renameat_with(CWD, &old, CWD, &new, RenameFlags::NOREPLACE);
        faults::around("rename the directory of a volume", rename)
            .map_err(|err| Error::io(format!("rename {old:?} to {new:?}"), err.into()))
    }

    /// Brings the names of a namespace's volumes to the disk.
    pub(crate) fn flush(&self, namespace: &Namespace) -> Result<()> {
        flush_directory(&self.namespace(namespace))
    }
}

/// Makes a directory of this mode; one that is there gets the mode.
pub(crate) fn make_directory(dir: &Path, mode: u32) -> Result<()> {
    let make = || {
        match fs::create_dir(dir) {
            Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
            _ => {}
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(mode))
    };
    faults::around("make a directory for volumes", make)
        .map_err(|err| Error::io(format!("make directory {dir:?}"), err))
}

/// Brings the names in a directory to the disk; one that is not there has none.
pub(crate) fn flush_directory(dir: &Path) -> Result<()> {
    let flush = || match fs::File::open(dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened?.sync_all(),
    };
    faults::around("bring a directory of volumes to the disk", flush)
        .map_err(|err| Error::io(format!("bring {dir:?} to the disk"), err))
}

/// The names in a directory.
pub(crate) fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().into());
        }
        Ok(names)
    };
    list().map_err(|err| Error::io(format!("list {dir:?}"), err))
}

/// Whether a directory has nothing in it.
pub(crate) fn is_empty(dir: &Path) -> Result<bool> {
    let entries = fs::read_dir(dir).map_err(|err| Error::io(format!("list {dir:?}"), err))?;
    Ok(entries.take(1).count() == 0)
}

/// Deletes what was left of removed volumes below the daemon's root, for a start on a disk so
/// full that the records can't be opened.
///
/// # Errors
/// The directory can't be read. What can't be deleted is logged, and stays.
pub fn empty_trash(root: &Path) -> Result<()> {
    let removed = root.join(VOLUMES).join(REMOVED);
    let names = match names(&removed) {
        Err(err) if err.is_not_found() => return Ok(()),
        names => names?,
    };
    for name in names {
        if let Err(err) = remove_tree(&removed.join(name)) {
            tracing::warn!(error = %err, "a removed volume stays");
        }
    }
    Ok(())
}
