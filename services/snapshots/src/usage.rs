use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_core::snapshots::Usage;
use gantry_core::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, openat, statat};
use rustix::io::Errno;

/// Directories inside each other that are followed: each holds a descriptor.
const MAX_DEPTH: usize = 400;

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Space that a directory and everything in it take. Files that vanish on
/// the way are left out: a container may be at work in there.
pub(crate) fn measure(dir: &Path) -> Result<Usage> {
    let failed = |err: Errno| Error::io(format!("measure {dir:?}"), err.into());
    let mut count = Count::default();
    let root = openat(CWD, dir, OPEN, Mode::empty()).map_err(failed)?;
    count.add(&fstat(&root).map_err(failed)?);
    count.walk(root, MAX_DEPTH).map_err(failed)?;
    Ok(count.usage)
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Device and inode of files with several names.
    seen: HashSet<(u64, u64)>,
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !directory && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }

    fn walk(&mut self, dir: OwnedFd, depth: usize) -> Result<(), Errno> {
        let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let mut entries = Dir::new(dir)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(entries.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            self.add(&stat);
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                continue;
            }
            match openat(entries.fd()?, name, OPEN, Mode::empty()) {
                // Gone, or something else by now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(err) => return Err(err),
                Ok(below) => self.walk(below, depth)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_hard_linked_file_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("d/b")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("l")).unwrap();
        let usage = measure(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4, "root, d, one file, the link");
        let blocks: u64 = ["", "d", "a", "l"]
            .iter()
            .map(|name| fs::symlink_metadata(dir.path().join(name)).unwrap().blocks() * 512)
            .sum();
        assert_eq!(usage.size, blocks);
        assert!(usage.size >= 100_000);
    }
}
