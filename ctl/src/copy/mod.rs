//! Copies between containers and this machine, with Docker's rules of what goes where.

pub(crate) mod from;
mod local;
mod progress;
pub(crate) mod to;

use anyhow::bail;
use gantry_core::paths;
use nix::sys::signal::Signal;

use crate::session::signals::{self, Signals, Wanted};

pub(crate) use local::check_output;

/// Type of a file, in its mode.
const TYPE: u32 = 0o170_000;
/// A symbolic link.
const LINK: u32 = 0o120_000;
/// A character and a block device.
const DEVICES: [u32; 2] = [0o020_000, 0o060_000];

/// What a copy is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Copy what a link leads to in its place.
    pub(crate) follow: bool,
    /// Keep owners.
    pub(crate) archive: bool,
    /// Say nothing.
    pub(crate) quiet: bool,
}

/// One end of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End<'a> {
    /// `CONTAINER:PATH`.
    Container(&'a str, &'a str),
    /// A path here; `-` for a stream.
    Local(&'a str),
}

impl<'a> End<'a> {
    /// A path here may have a colon behind a slash or a dot.
    pub(crate) fn of(text: &'a str) -> Self {
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !text.starts_with(['/', '.']) => {
                Self::Container(name, path)
            }
            _ => Self::Local(text),
        }
    }
}

/// What a destination is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum There {
    Nothing,
    Directory,
    Other,
}

/// Where an archive is to go.
#[derive(Debug, PartialEq, Eq)]
struct Goal {
    /// The directory that it goes into.
    directory: String,
    /// What its top is called there; as it is when `None`.
    renamed: Option<String>,
}

impl Goal {
    /// `destination`: an absolute path.
    ///
    /// # Errors
    /// In Docker's words, when a directory and something else would get in each other's place.
    fn of(directory: bool, destination: &str, there: There) -> anyhow::Result<Self> {
        match there {
            There::Directory => return Ok(Self { directory: destination.into(), renamed: None }),
            There::Other if directory => bail!("cannot copy directory"),
            There::Nothing if !directory && asks_for_directory(destination) => {
                bail!("no such directory")
            }
            There::Other | There::Nothing => {}
        }
        let (above, name) = split(destination);
        Ok(Self { directory: above, renamed: Some(name) })
    }
}

/// Whether a path can only mean a directory.
fn asks_for_directory(path: &str) -> bool {
    matches!(path.rsplit('/').next(), Some("" | "."))
}

/// The directory and the name of an absolute path; a dot at its end is the name.
fn split(path: &str) -> (String, String) {
    let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let clean = paths::clean(path);
    if path.rsplit('/').next() == Some(".") {
        return (text(&clean), ".".to_owned());
    }
    match (clean.parent(), clean.file_name()) {
        (Some(above), Some(name)) => (text(above), name.to_string_lossy().into_owned()),
        _ => ("/".to_owned(), "/".to_owned()),
    }
}

/// The signals that end a copy: what was begun is to be taken away first.
pub(crate) struct Ends(Signals);

impl Ends {
    /// Takes them from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn take() -> anyhow::Result<Self> {
        Signals::take(Wanted { proxy: false, terminal: true, size: false }).map(Self)
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Signal {
        loop {
            let signal = self.0.next().await;
            if signals::ends(signal) {
                return signal;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart_as_docker_does() {
        for (text, end) in [
            ("/abs/path:withcolon", End::Local("/abs/path:withcolon")),
            ("./relative:path", End::Local("./relative:path")),
            ("../up:path", End::Local("../up:path")),
            ("relative/path", End::Local("relative/path")),
            ("-", End::Local("-")),
            (":/x", End::Local(":/x")),
            ("web:/opt/foo", End::Container("web", "/opt/foo")),
            ("web:opt:foo", End::Container("web", "opt:foo")),
            ("web:", End::Container("web", "")),
        ] {
            assert_eq!(End::of(text), end);
        }
    }

    #[test]
    fn paths_are_split() {
        for (path, above, name) in [
            ("/a/b", "/a", "b"),
            ("/a/b/", "/a", "b"),
            ("/a/b/.", "/a/b", "."),
            ("/a/../b", "/", "b"),
            ("/", "/", "/"),
            ("/.", "/", "."),
        ] {
            assert_eq!(split(path), (above.to_owned(), name.to_owned()), "{path}");
        }
    }

    #[test]
    fn where_things_go() {
        let goal = |directory, destination: &str, there| {
            let goal = Goal::of(directory, destination, there);
            goal.map(|goal| (goal.directory, goal.renamed)).map_err(|err| err.to_string())
        };
        let at = |directory: &str, renamed: Option<&str>| {
            Ok((directory.to_owned(), renamed.map(str::to_owned)))
        };
        use There::{Directory, Nothing, Other};
        assert_eq!(goal(false, "/d", Directory), at("/d", None));
        assert_eq!(goal(true, "/d/", Directory), at("/d/", None));
        assert_eq!(goal(false, "/d/new", Nothing), at("/d", Some("new")));
        assert_eq!(goal(true, "/d/new/", Nothing), at("/d", Some("new")));
        assert_eq!(goal(false, "/d/old", Other), at("/d", Some("old")));
        assert_eq!(goal(true, "/d/old", Other), Err("cannot copy directory".to_owned()));
        for missing in ["/d/new/", "/d/new/."] {
            assert_eq!(goal(false, missing, Nothing), Err("no such directory".to_owned()));
        }
    }
}
