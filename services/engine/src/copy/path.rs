//! Paths in containers, as callers write them.

use gantry_archive::walk::{Found, Walker, asks_for_directory};
use gantry_core::{Error, Result, Timestamp, paths};
use rustix::fs::FileType;
use rustix::io::Errno;

/// What a path is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathStat {
    /// Last part of the path.
    pub name: String,
    /// Absolute path in the container, with links followed but for the last.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Type and permissions as stat(2) has them.
    pub mode: u32,
    /// When its content changed last.
    pub modified_at: Timestamp,
    /// Where a link leads, in the container, as far as that is there; empty for others.
    pub link_target: String,
    /// Whether it is a directory, or a link that leads to one.
    pub directory: bool,
}

/// A path in a container.
pub(super) struct Wanted {
    /// The container as it was named.
    container: String,
    /// Absolute and clean; with the slash or the dot at its end that it had.
    path: String,
}

impl Wanted {
    pub(super) fn new(container: &str, path: &str) -> Self {
        let mut absolute = paths::clean(path).to_string_lossy().into_owned();
        if absolute != "/" && asks_for_directory(path.as_bytes()) {
            absolute.push('/');
        }
        if path.rsplit('/').next() == Some(".") {
            absolute.push('.');
        }
        Self { container: container.to_owned(), path: absolute }
    }

    /// Its last part: `/` for the root, `.` for what is in a directory.
    fn name(&self) -> &str {
        let path = self.path.trim_end_matches('/');
        path.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or("/")
    }

    /// What names in an archive of it begin with.
    pub(super) fn top(&self) -> &[u8] {
        match self.name() {
            "/" => b".",
            name => name.as_bytes(),
        }
    }

    pub(super) fn missing(&self) -> Error {
        let Self { container, path } = self;
        Error::not_found(format!("Could not find the file {path} in container {container}"))
    }

    /// Finds it.
    pub(super) fn find(&self, walker: &Walker, follow: bool) -> Result<Found> {
        let found = walker.walk(walker.root(), self.path.as_bytes(), follow);
        let Self { container, path } = self;
        let why = match found {
            Ok(Found::Nothing { .. }) | Err(Errno::NOENT) => return Err(self.missing()),
            Ok(found) => return Ok(found),
            Err(Errno::NOTDIR) => "not a directory",
            Err(Errno::LOOP) => "too many levels of symbolic links",
            Err(Errno::NAMETOOLONG) => "file name too long",
            Err(Errno::INVAL) => "invalid argument",
            Err(err) => {
                let what = format!("look at {path} in container {container}");
                return Err(Error::io(what, err.into()));
            }
        };
        Err(Error::invalid_argument(format!("lstat {path} in container {container}: {why}")))
    }

    /// Tells of what was found.
    pub(super) fn stat(&self, walker: &Walker, found: &Found) -> Result<PathStat> {
        let node = found.node().ok_or_else(|| self.missing())?;
        let stat = node.stat();
        let mut directory = node.kind() == FileType::Directory;
        let mut link_target = String::new();
        if node.kind() == FileType::Symlink {
            let path = found.path();
            let target = match walker.walk(walker.root(), &path, true) {
                Ok(target) => {
                    directory = matches!(target, Found::Directory(_));
                    target.path()
                }
                // As far as its text says.
                Err(_) => textual(&path, &node.target().unwrap_or_default()),
            };
            link_target = text(&target);
        }
        Ok(PathStat {
            name: self.name().to_owned(),
            path: text(&found.path()),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mode: stat.st_mode,
            modified_at: Timestamp {
                seconds: stat.st_mtime,
                nanos: i32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            link_target,
            directory,
        })
    }
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Where the link at a path leads by its text alone.
fn textual(link: &[u8], target: &[u8]) -> Vec<u8> {
    let (link, target) = (text(link), text(target));
    let above = link.rsplit_once('/').map_or("", |(above, _)| above);
    let joined = if target.starts_with('/') { target } else { format!("{above}/{target}") };
    paths::clean(joined).to_string_lossy().into_owned().into_bytes()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use gantry_archive::walk::{Dir, Links, Node};

    use super::*;

    fn wanted(path: &str) -> (String, String) {
        let wanted = Wanted::new("web", path);
        (wanted.path.clone(), wanted.name().to_owned())
    }

    #[test]
    fn paths_are_absolute_and_keep_their_ends() {
        for (path, absolute, name) in [
            ("etc/hosts", "/etc/hosts", "hosts"),
            ("/a/../b//c", "/b/c", "c"),
            ("/a/b/", "/a/b/", "b"),
            ("/a/b/.", "/a/b/.", "."),
            ("/a/b/..", "/a", "a"),
            ("../../x", "/x", "x"),
            ("/", "/", "/"),
            ("/.", "/.", "."),
            ("", "/", "/"),
        ] {
            assert_eq!(wanted(path), (absolute.to_owned(), name.to_owned()), "{path}");
        }
        assert_eq!(Wanted::new("web", "/").top(), b".");
        assert_eq!(Wanted::new("web", "a/b/").top(), b"b");
    }

    #[test]
    fn what_is_told_of_paths() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("usr/lib")).unwrap();
        std::fs::write(top.path().join("usr/file"), "abc").unwrap();
        symlink("usr/lib", top.path().join("lib")).unwrap();
        symlink("/lib/none", top.path().join("broken")).unwrap();
        symlink("far/../away", top.path().join("lost")).unwrap();
        let opened = std::fs::File::open(top.path()).unwrap();
        let root = Dir::root(Node::of(opened.into()).unwrap());
        let walker = Walker::new(root, Links::Follow);
        let stat = |path: &str| {
            let wanted = Wanted::new("web", path);
            wanted.find(&walker, false).and_then(|found| wanted.stat(&walker, &found))
        };
        let lib = stat("lib").unwrap();
        assert_eq!((lib.path.as_str(), lib.link_target.as_str()), ("/lib", "/usr/lib"));
        assert!(lib.directory && lib.mode & 0o170_000 == 0o120_000);
        let inside = stat("lib/").unwrap();
        assert_eq!((inside.name.as_str(), inside.path.as_str()), ("lib", "/usr/lib"));
        assert!(inside.link_target.is_empty());
        let file = stat("/lib/../usr/file").unwrap();
        assert_eq!((file.size, file.directory), (3, false));
        assert_eq!(stat("broken").unwrap().link_target, "/usr/lib/none");
        assert_eq!(stat("lost").unwrap().link_target, "/away");
        let missing = stat("usr/none").unwrap_err();
        assert_eq!(missing.to_string(), "Could not find the file /usr/none in container web");
        assert!(missing.is_not_found());
        assert!(stat("usr/file/").unwrap_err().to_string().contains("not a directory"));
    }
}
