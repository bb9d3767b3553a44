//! Where things lie below the root.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use gantry_core::{Algorithm, Digest, Error, Namespace, Result, faults};

use crate::ingest;

/// The store's directory below the daemon's root.
const DIRECTORY: &str = "io.containerd.content.v1.content";

/// The directories of a store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    blobs: PathBuf,
    ingests: PathBuf,
}

impl Layout {
    /// Makes the directories that are missing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let store = root.join(DIRECTORY);
        let layout = Self { blobs: store.join("blobs"), ingests: store.join("ingest") };
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            create_durably(&layout.blobs.join(algorithm.as_str()))?;
        }
        create_durably(&layout.ingests)?;
        Ok(layout)
    }

    /// Where the blobs of an algorithm lie.
    fn blobs(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs.join(algorithm.as_str())
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs(digest.algorithm()).join(digest.hex())
    }

    /// Makes names of blobs durable.
    pub(crate) fn sync_blobs(&self, algorithm: Algorithm) -> Result<()> {
        sync_directory(&self.blobs(algorithm))
    }

    /// The directory of all ingests.
    pub(crate) fn ingests(&self) -> &Path {
        &self.ingests
    }

    /// The directory of an ingest.
    pub(crate) fn ingest(&self, id: &str) -> PathBuf {
        self.ingests.join(id)
    }

    /// Whether the file of a blob is there in its full length.
    pub(crate) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        self.blob(digest).metadata().is_ok_and(|meta| meta.len() == size)
    }

    /// Removes what a crash left: files of blobs that no record speaks of, ingests that can't
    /// be told apart any more, and those that had become blobs: `has` tells whether a
    /// namespace has a blob.
    pub(crate) fn sweep(
        &self,
        recorded: &HashSet<Digest>,
        has: impl Fn(&Namespace, &Digest) -> bool,
    ) -> Result<()> {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for path in entries(&self.blobs(algorithm))? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                let digest = Digest::parse(&format!("{}:{name}", algorithm.as_str()));
                if !digest.is_ok_and(|d| recorded.contains(&d)) {
                    tracing::info!(path = %path.display(), "removing a blob that no record names");
                    remove_file(&path)?;
                }
            }
        }
        for path in entries(&self.ingests)? {
            if !ingest::is_whole(&path) {
                tracing::info!(path = %path.display(), "removing an ingest that is not whole");
                remove_tree(&path)?;
            } else if ingest::is_done(&path, &has) {
                tracing::info!(path = %path.display(), "removing an ingest that became a blob");
                remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// Names the directory of an ingest, whatever is in its reference.
pub(crate) fn ingest_id(namespace: &Namespace, reference: &str) -> String {
    // A namespace holds no slash, so no two pairs give the same text.
    Digest::of(format!("{namespace}/{reference}").as_bytes()).hex().to_owned()
}

/// What a directory holds.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let failed = |err| Error::io(format!("read directory {}", dir.display()), err);
    let entries = fs::read_dir(dir).map_err(failed)?;
    entries.map(|entry| entry.map(|e| e.path()).map_err(failed)).collect()
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match faults::around("remove a file of the content store", || fs::remove_file(path)) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove {}", path.display()), err))
        }
        _ => Ok(()),
    }
}

/// Removes a directory with all in it; one that is gone already is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match faults::around("remove an ingest", || fs::remove_dir_all(path)) {
        Err(err) if err.kind() != ErrorKind::NotFound => {
            Err(Error::io(format!("remove directory {}", path.display()), err))
        }
        _ => Ok(()),
    }
}

/// Makes a directory and those above it, so that they survive a power loss.
fn create_durably(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    create_durably(parent)?;
    let make = || DirBuilder::new().mode(0o700).create(path);
    match faults::around("make a directory of the content store", make) {
        Ok(()) => {}
        Err(err) if err.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(err) => return Err(Error::io(format!("create directory {}", path.display()), err)),
    }
    sync_directory(parent)
}

fn sync_directory(path: &Path) -> Result<()> {
    let sync = || File::open(path).and_then(|dir| dir.sync_all());
    faults::around("sync a directory of the content store", sync)
        .map_err(|err| Error::io(format!("sync directory {}", path.display()), err))
}
