use std::path::{Path, PathBuf};

use gantry_core::snapshots::Kind;
use gantry_core::{Mount, Result};

use crate::idmap::IdMap;

/// What distinguishes one snapshotter from another: how a directory becomes
/// a file system over its parents. Everything else is
/// [`Directories`](crate::directories::Directories).
pub(crate) trait Backend: Send + Sync + 'static {
    /// The snapshotter's name.
    const NAME: &'static str;

    /// Whether a snapshot without parent can be given one at commit.
    const LATE_PARENT: bool;

    /// Makes what the new, empty directory of every snapshot of this kind has.
    fn furnish(dir: &Path, kind: Kind) -> Result<()>;

    /// Fills the furnished directory of a snapshot.
    fn create(&self, place: &Place<'_>) -> Result<()>;

    /// What to mount for a view or an active snapshot.
    fn mounts(&self, place: &Place<'_>) -> Vec<Mount>;

    /// Fits a finished snapshot onto the parent it was prepared without.
    /// Called for [`Backend::LATE_PARENT`] only.
    fn adopt(&self, _place: &Place<'_>) -> Result<()> {
        Ok(())
    }
}

/// Where a snapshot lies.
pub(crate) struct Place<'a> {
    /// View or active.
    pub(crate) kind: Kind,
    /// Its own directory, `snapshots/N`.
    pub(crate) dir: &'a Path,
    /// Content directories (`snapshots/N/fs`) of what lies below, the
    /// nearest first.
    pub(crate) below: &'a [PathBuf],
    /// How its container's owners are shifted.
    pub(crate) ids: Option<&'a IdMap>,
}

impl Place<'_> {
    /// The directory of its content.
    pub(crate) fn content(&self) -> PathBuf {
        self.dir.join(CONTENT)
    }

    /// A bind mount of a content directory, writable for active snapshots.
    pub(crate) fn bind(&self, source: &Path) -> Mount {
        let access = if self.kind == Kind::Active { "rw" } else { "ro" };
        Mount {
            kind: "bind".into(),
            source: source.to_string_lossy().into_owned(),
            target: String::new(),
            options: vec![access.into(), "rbind".into()],
        }
    }
}

/// Name of the directory with a snapshot's content.
pub(crate) const CONTENT: &str = "fs";
