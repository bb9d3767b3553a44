//! Binds whose mounts are to reach the host, or to come from it: that needs a mount of the host
//! that shares them.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use gantry_core::{Error, Result};

use crate::model::MountSetting;

/// The mounts that this process sees.
const TABLE: &str = "/proc/self/mountinfo";

/// Whether a bind takes part in what is mounted elsewhere.
pub(super) fn takes_part(mount: &MountSetting) -> bool {
    wanted(mount).is_some()
}

/// What the mount of the source has to be, and how the table says so.
fn wanted(mount: &MountSetting) -> Option<(&'static str, &'static [&'static str])> {
    match mount.propagation.as_str() {
        "shared" | "rshared" => Some(("shared", &["shared:"][..])),
        "slave" | "rslave" => Some(("shared or slave", &["shared:", "master:"][..])),
        _ => None,
    }
}

/// Refuses binds that the mounts of their sources can't serve.
///
/// # Errors
/// `FailedPrecondition`, in Docker's words; the system's for the table.
pub(super) fn check(binds: &[MountSetting]) -> Result<()> {
    let table = fs::read(TABLE).map_err(|err| Error::io(format!("read {TABLE}"), err))?;
    let table = String::from_utf8_lossy(&table);
    binds.iter().try_for_each(|mount| fits(mount, &resolved(Path::new(&mount.source)), &table))
}

fn fits(mount: &MountSetting, source: &Path, table: &str) -> Result<()> {
    let Some((kind, marks)) = wanted(mount) else { return Ok(()) };
    let path = &mount.source;
    let Some((at, options)) = on(source, table) else {
        return Err(Error::failed_precondition(format!("Can't find mount point of {path}")));
    };
    if options.iter().any(|option| marks.iter().any(|mark| option.starts_with(mark))) {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "path {path} is mounted on {} but it is not a {kind} mount",
        at.display()
    )))
}

/// Where a path leads; for one that is still to be made, where it will be.
fn resolved(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|path| path.canonicalize().ok());
    found.unwrap_or_else(|| PathBuf::from("/"))
}

/// The mount that a path lies on, and the options of it that concern others: of several at one
/// place the last, which lies over the rest.
fn on<'a>(path: &Path, table: &'a str) -> Option<(PathBuf, Vec<&'a str>)> {
    let mounts = table.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(4);
        let at = unescaped(fields.next()?);
        let options: Vec<_> = fields.skip(1).take_while(|field| *field != "-").collect();
        path.starts_with(&at).then_some((at, options))
    });
    mounts.max_by_key(|(at, _)| at.components().count())
}

/// A path as the table has it, where some characters are octal numbers: `\040`.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let number = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match number.filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
23 22 0:5 / /srv rw shared:7 - tmpfs tmpfs rw
24 23 0:6 / /srv/with\\040space rw master:7 propagate_from:2 - tmpfs tmpfs rw
25 22 0:7 / /twice rw shared:8 - tmpfs tmpfs rw
26 25 0:8 / /twice rw - tmpfs tmpfs rw
";

    fn said(propagation: &str, source: &str) -> Result<(), String> {
        let mount = MountSetting {
            source: source.into(),
            propagation: propagation.into(),
            ..MountSetting::default()
        };
        fits(&mount, Path::new(source), MOUNTS).map_err(|err| err.to_string())
    }

    #[test]
    fn mounts_that_share_nothing_are_told() {
        for shared in ["shared", "rshared"] {
            assert_eq!(said(shared, "/srv/data"), Ok(()));
            let words = "path /home/x is mounted on / but it is not a shared mount";
            assert_eq!(said(shared, "/home/x"), Err(words.to_owned()));
            let words = "path /srv/with space/x is mounted on /srv/with space but it is not a \
                         shared mount";
            assert_eq!(said(shared, "/srv/with space/x"), Err(words.to_owned()));
        }
        for slave in ["slave", "rslave"] {
            assert_eq!(said(slave, "/srv"), Ok(()));
            assert_eq!(said(slave, "/srv/with space"), Ok(()));
            let words = "path /srvx is mounted on / but it is not a shared or slave mount";
            assert_eq!(said(slave, "/srvx"), Err(words.to_owned()));
            assert!(said(slave, "/twice/x").is_err());
        }
        for own in ["", "private", "rprivate"] {
            assert_eq!(said(own, "/home"), Ok(()));
        }
    }

    #[test]
    fn sources_that_are_still_to_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(resolved(&real.join("link/no/such")), real);
        let plain = MountSetting { source: "/".into(), ..MountSetting::default() };
        check(&[plain]).unwrap();
    }
}
