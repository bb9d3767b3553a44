//! Paths on this machine.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use gantry_archive::walk::Node;
use gantry_core::paths;

use super::{There, asks_for_directory, split};

/// Links that are followed to a destination that is not there.
const MAX_LINKS: usize = 10;

/// What is to be copied from here.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) node: Node,
    /// What it is called in an archive; `.` for what is in a directory.
    pub(super) name: String,
}

impl Source {
    /// Finds it. A link is copied itself, unless it is to be followed or a slash is behind it.
    ///
    /// # Errors
    /// It is not there, or no directory where it has to be one.
    pub(super) fn find(path: &str, follow: bool) -> anyhow::Result<Self> {
        let directory = asks_for_directory(path);
        let absolute = absolute(path)?;
        let node = Node::local(Path::new(&absolute), follow || directory);
        let node = node.map_err(|err| looked(path, &err))?;
        if directory && !node.is_directory() {
            bail!("lstat {path}: not a directory");
        }
        let (_, name) = split(&absolute);
        Ok(Self { node, name: if name == "/" { ".".to_owned() } else { name } })
    }

    /// Bytes of a file.
    pub(super) fn size(&self) -> Option<u64> {
        let regular = self.node.stat().st_mode & super::TYPE == 0o100_000;
        regular.then(|| u64::try_from(self.node.stat().st_size).unwrap_or(0))
    }
}

/// A path from the root on, clean but for a slash or a dot at its end.
pub(super) fn absolute(path: &str) -> anyhow::Result<String> {
    let here = if path.starts_with('/') {
        PathBuf::from("/")
    } else {
        std::env::current_dir().context("find the working directory")?
    };
    let clean = paths::clean(here.join(path));
    let mut text =
        clean.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", clean.display()))?.to_owned();
    if asks_for_directory(path) && text != "/" {
        text.push('/');
    }
    if path.rsplit('/').next() == Some(".") {
        text.push('.');
    }
    Ok(text)
}

/// Refuses what can't be written to.
///
/// # Errors
/// In Docker's words.
pub(crate) fn check_output(path: &str) -> anyhow::Result<()> {
    let clean = absolute(path)?;
    let above = split(clean.trim_end_matches(['/', '.'])).0;
    if fs::metadata(&above).is_err_and(|err| err.kind() == ErrorKind::NotFound) {
        bail!("invalid output path: directory {above:?} does not exist");
    }
    let kind = match fs::metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(looked(path, &err)),
    };
    if kind.is_char_device() || kind.is_block_device() {
        bail!("invalid output path: {path:?} must be a directory or a regular file: got a device");
    }
    Ok(())
}

/// What a destination is, with links to it followed.
///
/// # Errors
/// The directory that it is to be in is not there.
pub(super) fn destination(path: &str) -> anyhow::Result<(String, There)> {
    let mut path = absolute(path)?;
    for _ in 0..MAX_LINKS {
        match fs::metadata(&path) {
            Ok(meta) => {
                let there = if meta.is_dir() { There::Directory } else { There::Other };
                if there == There::Other {
                    // The file that a link leads to is replaced, not the link.
                    path = text(&fs::canonicalize(&path).map_err(|err| looked(&path, &err))?)?;
                }
                return Ok((path, there));
            }
            Err(err) if err.kind() != ErrorKind::NotFound => return Err(looked(&path, &err)),
            Err(_) => {}
        }
        let (above, name) = split(&path);
        // Without the slash at its end.
        let itself = Path::new(&above).join(&name);
        let Ok(target) = fs::read_link(itself) else {
            let parent = fs::metadata(&above).map_err(|err| looked(&above, &err))?;
            if !parent.is_dir() {
                bail!("not a directory");
            }
            return Ok((path, There::Nothing));
        };
        path = text(&paths::clean(Path::new(&above).join(target)))?;
    }
    bail!("too many symlinks in {path}")
}

fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))?.to_owned())
}

fn looked(path: &str, err: &io::Error) -> anyhow::Error {
    match err.kind() {
        ErrorKind::NotFound => anyhow!("lstat {path}: no such file or directory"),
        ErrorKind::NotADirectory => anyhow!("lstat {path}: not a directory"),
        _ => anyhow!("lstat {path}: {err}"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn sources_have_names() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_str().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("f"), "abc").unwrap();
        symlink("d", dir.path().join("link")).unwrap();
        let find = |path: &str, follow| Source::find(&format!("{top}/{path}"), follow);
        for (path, follow, name, directory) in [
            ("d", false, "d", true),
            ("d/", false, "d", true),
            ("d/.", false, ".", true),
            ("d/../f", false, "f", false),
            ("link", false, "link", false),
            ("link/", false, "link", true),
            ("link", true, "link", true),
        ] {
            let found = find(path, follow).unwrap();
            assert_eq!((found.name.as_str(), found.node.is_directory()), (name, directory));
        }
        assert_eq!(find("f", false).unwrap().size(), Some(3));
        assert_eq!(find("d", false).unwrap().size(), None);
        assert_eq!(Source::find("/", false).unwrap().name, ".");
        let failed = |path: &str| find(path, false).unwrap_err().to_string();
        assert!(failed("f/").ends_with("/f/: not a directory"), "{}", failed("f/"));
        assert!(failed("none").ends_with("/none: no such file or directory"));
    }

    #[test]
    fn destinations_are_found_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let top = real.to_str().unwrap();
        fs::create_dir(real.join("d")).unwrap();
        fs::write(real.join("f"), "").unwrap();
        symlink("d/new", real.join("dangling")).unwrap();
        symlink("f", real.join("to-f")).unwrap();
        symlink("loop", real.join("loop")).unwrap();
        let find = |path: &str| destination(&format!("{top}/{path}"));
        let found = |path: &str| find(path).map(|(at, there)| (at[top.len()..].to_owned(), there));
        let is = |path: &str, there| (path.to_owned(), there);
        assert_eq!(found("d").unwrap(), is("/d", There::Directory));
        assert_eq!(found("to-f").unwrap(), is("/f", There::Other));
        assert_eq!(found("dangling").unwrap(), is("/d/new", There::Nothing));
        assert_eq!(found("new/").unwrap(), is("/new/", There::Nothing));
        for bad in ["no/new", "f/new", "loop"] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn outputs_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().to_str().unwrap();
        check_output(&format!("{top}/new")).unwrap();
        check_output(&format!("{top}/new/")).unwrap();
        check_output(top).unwrap();
        let device = check_output("/dev/null").unwrap_err().to_string();
        assert!(device.contains("\"/dev/null\" must be a directory or a regular file"), "{device}");
        let missing = check_output(&format!("{top}/no/new")).unwrap_err().to_string();
        assert_eq!(missing, format!("invalid output path: directory \"{top}/no\" does not exist"));
    }
}
