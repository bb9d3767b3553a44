use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_core::snapshots::Usage;
use gantry_core::{Error, Result};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, Stat, fstat, openat, statat};
use rustix::io::Errno;

use crate::walk::{DIRECTORY, LEVELS, as_path, beneath, is_dots, is_gone};

/// Space that a directory and everything in it take. Files that vanish on
/// the way are left out: a container may be at work in there.
///
/// # Errors
/// What the file system reports.
pub fn tree_size(dir: &Path) -> Result<Usage> {
    let mut count = Count::default();
    count.run(dir).map_err(|err| Error::io(format!("measure {dir:?}"), err.into()))?;
    Ok(count.usage)
}

#[derive(Default)]
struct Count {
    usage: Usage,
    /// Device and inode of files with several names.
    seen: HashSet<(u64, u64)>,
    /// Directories that are still to be measured.
    deep: Vec<PathBuf>,
    /// The path being measured.
    at: PathBuf,
}

impl Count {
    fn run(&mut self, dir: &Path) -> Result<(), Errno> {
        let root = openat(CWD, dir, DIRECTORY, Mode::empty())?;
        self.add(&fstat(&root)?);
        self.deep.push(PathBuf::new());
        while let Some(path) = self.deep.pop() {
            let below = match beneath(&root, &path) {
                Err(err) if is_gone(err) => continue,
                other => other?,
            };
            self.at = path;
            self.walk(below, LEVELS)?;
        }
        Ok(())
    }

    fn add(&mut self, stat: &Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_nlink > 1 && !directory && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.usage.inodes += 1;
        self.usage.size += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
    }

    fn walk(&mut self, dir: OwnedFd, levels: usize) -> Result<(), Errno> {
        let mut entries = Dir::new(dir)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            let name = entry.file_name();
            if is_dots(name) {
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
            self.at.push(as_path(name));
            if levels <= 1 {
                self.deep.push(self.at.clone());
            } else {
                match openat(entries.fd()?, name, DIRECTORY, Mode::empty()) {
                    Err(err) if is_gone(err) => {}
                    below => self.walk(below?, levels - 1)?,
                }
            }
            self.at.pop();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::mkdirat;

    #[test]
    fn a_hard_linked_file_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(dir.path().join("a"), dir.path().join("d/b")).unwrap();
        std::os::unix::fs::symlink("/nowhere", dir.path().join("l")).unwrap();
        let usage = tree_size(dir.path()).unwrap();
        assert_eq!(usage.inodes, 4, "root, d, one file, the link");
        let blocks: u64 = ["", "d", "a", "l"]
            .iter()
            .map(|name| fs::symlink_metadata(dir.path().join(name)).unwrap().blocks() * 512)
            .sum();
        assert_eq!(usage.size, blocks);
        assert!(usage.size >= 100_000);
    }

    #[test]
    fn deep_trees_are_measured() {
        let root = tempfile::tempdir().unwrap();
        let mut dir = openat(CWD, root.path(), DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..3 * LEVELS {
            mkdirat(&dir, "directory", Mode::RWXU).unwrap();
            dir = openat(&dir, "directory", DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(tree_size(root.path()).unwrap().inodes, 3 * LEVELS as u64 + 1);
    }
}
