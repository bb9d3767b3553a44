//! Snapshots as full copies, for file systems that overlay can't use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use gantry_core::snapshots::Kind;
use gantry_core::{Error, Mount, Result, faults};
use gantry_files::{CopyOptions, copy_tree};

use crate::backend::{Backend, CONTENT, Place};

pub(crate) const NAME: &str = "native";

/// The copying snapshotter: a snapshot holds all of its file system.
pub(crate) struct Native;

impl Backend for Native {
    const NAME: &'static str = NAME;
    // The parent's files would have to be merged below a finished layer.
    const LATE_PARENT: bool = false;

    fn furnish(dir: &Path, _: Kind) -> Result<()> {
        let content = dir.join(CONTENT);
        let make = || {
            fs::create_dir(&content)?;
            fs::set_permissions(&content, fs::Permissions::from_mode(0o755))
        };
        faults::around("make the files' directory of a snapshot", make)
            .map_err(|err| Error::io(format!("make snapshot directory {content:?}"), err))
    }

    fn create(&self, place: &Place<'_>) -> Result<()> {
        match place.below.first() {
            Some(parent) if place.kind == Kind::Active => {
                copy_tree(parent, &place.content(), CopyOptions::default())
            }
            _ => Ok(()),
        }
    }

    fn mounts(&self, place: &Place<'_>) -> Vec<Mount> {
        vec![match place.below.first() {
            Some(parent) if place.kind == Kind::View => place.bind(parent),
            _ => place.bind(&place.content()),
        }]
    }
}
