//! Further names of files.

use gantry_archive::bad;
use gantry_archive::names::{c_name, join, parts};
use gantry_core::{NeedsParent, Result};
use rustix::fs::{AtFlags, FileType, linkat, statat};
use rustix::io::Errno;

use crate::copy_up::{Origin, copy_up};
use crate::lower::is_whiteout;
use crate::tree::Missing;
use crate::unpack::{Place, Unpacker};

impl Unpacker {
    /// Gives a file a further name. Its first one is found beneath the root
    /// like any path; if only lower layers have it, it is copied up.
    pub(crate) fn hard_link(&mut self, place: &Place<'_>) -> Result<()> {
        let entry = place.entry;
        let missing = || {
            let why = format!("the target of its link, {}, does not exist", bad::show(&entry.link));
            bad::entry(&entry.path, why)
        };
        let failed = |err| bad::system("link it", &entry.path, err);
        let target = parts(&entry.link)?;
        let Some((name, above)) = target.split_last() else {
            return Err(bad::entry(&entry.path, "it links to the root directory"));
        };
        let name = c_name(&entry.path, name)?;
        let dir = self.tree.dir(&entry.path, above, Missing::Refuse)?;
        let found = match statat(&dir.fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if self.tree.marks && is_whiteout(&stat) => return Err(missing()),
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(err) => return Err(failed(err)),
        };
        let path = join(&dir.path, name.to_bytes());
        match found {
            Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(bad::entry(&entry.path, "it links to a directory"));
            }
            // A second name that is the first one.
            Some(_) if path == place.path => return Ok(()),
            Some(_) => {}
            None if self.tree.detached => {
                return Err(NeedsParent::error(String::from_utf8_lossy(&entry.path)));
            }
            None if !self.tree.shows_lower(&dir) => return Err(missing()),
            None => {
                let lower = self.tree.lower.entry(&dir.path, &name)?;
                let (from, stat) = lower.ok_or_else(missing)?;
                let from = Origin { dir: &from[0], opaque: self.tree.opaque_attribute };
                copy_up(&from, &name, &stat, &dir, &path)?;
                self.tree.note_made(&path)?;
                if path == place.path {
                    return Ok(());
                }
            }
        }
        self.replace(place, "link it", || {
            linkat(&dir.fd, &name, &place.dir.fd, place.name, AtFlags::empty())
        })
    }
}
