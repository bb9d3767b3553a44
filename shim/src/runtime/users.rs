//! Users and groups as the container's own files name them.

use super::sys;
use super::types::Error;
use oci_spec::runtime::{LinuxIdMapping, Process, Spec};
use std::io::Read;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

/// Files in an image are input from outside: more than this of one is not read.
const MAX_FILE: u64 = 16 << 20;

/// Reads a file under a root that nothing in it can leave; empty when it is not there.
fn read(root: BorrowedFd<'_>, path: &str) -> String {
    let open = || {
        // Looked at before it is opened, which does things to a device.
        let found = sys::openat2(root, &sys::cstr(path)?, libc::O_PATH, 0, sys::IN_ROOT)?;
        let found = std::fs::File::from(found);
        if !found.metadata()?.is_file() {
            return Ok(Vec::new());
        }
        let file = std::fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        std::io::Result::Ok(bytes)
    };
    String::from_utf8_lossy(&open().unwrap_or_default()).into_owned()
}

/// Ids above this are refused: the last of them stands for "leave as it is".
const MAX_ID: u32 = i32::MAX as u32;

fn id(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// An id given as a number, or nothing for what is none.
fn number(text: &str) -> Result<Option<u32>, Error> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    match id(text) {
        None => Err(Error::Invalid(format!("uids and gids must be in range 0-{MAX_ID}"))),
        some => Ok(some),
    }
}

/// One line of /etc/passwd.
struct Account {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

fn accounts(text: &str) -> impl Iterator<Item = Account> + '_ {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (f.first()?, id(f.get(2)?)?, id(f.get(3)?)?);
        Some(Account {
            name: (*name).to_owned(),
            uid,
            gid,
            home: f.get(5).copied().unwrap_or("").to_owned(),
        })
    })
}

/// Lines of /etc/group: name, id, members.
fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut f = line.split(':');
        let (name, gid) = (f.next()?, id(f.nth(1)?)?);
        Some((name, gid, f.next().unwrap_or("")))
    })
}

/// Replaces a user given by name (`name`, `uid`, `name:group`, `uid:gid`, …) by
/// numbers, and gives the process a HOME when it has none.
pub(crate) fn resolve(process: &mut Process, root: BorrowedFd<'_>) -> Result<(), Error> {
    let named = process.user().username().clone().filter(|n| !n.is_empty());
    let has_home = process.env().iter().flatten().any(|e| e.starts_with("HOME="));
    if named.is_none() && has_home {
        return Ok(());
    }
    let passwd = read(root, "etc/passwd");
    if let Some(named) = named {
        by_name(process, &named, &passwd, root)?;
    }
    if !has_home {
        let uid = process.user().uid();
        let home =
            accounts(&passwd).find(|a| a.uid == uid).map(|a| a.home).filter(|h| !h.is_empty());
        let mut env = process.env().clone().unwrap_or_default();
        env.push(format!("HOME={}", home.as_deref().unwrap_or("/")));
        process.set_env(Some(env));
    }
    Ok(())
}

/// Annotation with the names of further groups of a container's users, by commas.
const GROUPS: &str = "io.gantry.groups";

/// Gives the process the further groups that the spec names.
pub(crate) fn add_groups(
    process: &mut Process,
    spec: &Spec,
    root: BorrowedFd<'_>,
) -> Result<(), Error> {
    let names = spec.annotations().as_ref().and_then(|all| all.get(GROUPS));
    let Some(names) = names.filter(|names| !names.is_empty()) else { return Ok(()) };
    let text = read(root, "etc/group");
    let mut more = process.user().additional_gids().clone().unwrap_or_default();
    for name in names.split(',') {
        let found = groups(&text).find(|group| group.0 == name).map(|group| group.1);
        more.push(found.ok_or_else(|| {
            Error::Invalid(format!(
                "Unable to find group {name}: no matching entries in group file"
            ))
        })?);
    }
    more.sort_unstable();
    more.dedup();
    process.user_mut().set_additional_gids(Some(more));
    Ok(())
}

/// Gives the process the pipes it was given as streams, so that it can open
/// them again as `/dev/stdout` without being root. Streams of other kinds are
/// not its own.
pub(crate) fn own_streams(streams: Option<&[OwnedFd; 3]>, process: &Process, spec: &Spec) {
    let inside = process.user().uid();
    let mappings = spec.linux().as_ref().and_then(|l| l.uid_mappings().clone()).unwrap_or_default();
    let outside = |m: &LinuxIdMapping| {
        let offset = inside.checked_sub(m.container_id()).filter(|offset| *offset < m.size())?;
        m.host_id().checked_add(offset)
    };
    let uid = match mappings.is_empty() {
        true => Some(inside),
        false => mappings.iter().find_map(outside),
    };
    for stream in streams.into_iter().flatten() {
        let pipe = stream.try_clone().and_then(|fd| std::fs::File::from(fd).metadata());
        if pipe.is_ok_and(|m| m.file_type().is_fifo()) {
            // Without it the stream works as it was passed: nothing fails for this.
            let _ = std::os::unix::fs::fchown(stream, uid, None);
        }
    }
}

fn by_name(
    process: &mut Process,
    named: &str,
    passwd: &str,
    root: BorrowedFd<'_>,
) -> Result<(), Error> {
    let (name, group) = match named.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (named, None),
    };
    let given = number(name)?;
    let account = accounts(passwd).find(|a| a.name == name || given == Some(a.uid));
    let uid = match (&account, given) {
        (Some(a), _) => a.uid,
        (None, Some(uid)) => uid,
        (None, None) if name.is_empty() => process.user().uid(),
        (None, None) => {
            return Err(Error::Invalid(format!(
                "unable to find user {name}: no matching entries in passwd file"
            )));
        }
    };
    let text = read(root, "etc/group");
    let gid = match group.filter(|g| !g.is_empty()) {
        Some(group) => {
            let named = groups(&text).find(|g| g.0 == group).map(|g| g.1);
            let given = if named.is_none() { number(group)? } else { None };
            named.or(given).ok_or_else(|| {
                Error::Invalid(format!(
                    "unable to find group {group}: no matching entries in group file"
                ))
            })?
        }
        None => account.as_ref().map_or(process.user().gid(), |a| a.gid),
    };
    let mut more = process.user().additional_gids().clone().unwrap_or_default();
    if let (Some(a), None) = (&account, group) {
        let member = |m: &str| m.split(',').any(|m| m == a.name);
        more.extend(groups(&text).filter(|g| member(g.2)).map(|g| g.1));
    }
    // Without it here, a set-group-ID program could drop out of its own group.
    more.push(gid);
    more.sort_unstable();
    more.dedup();
    let user = process.user_mut();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(more)).set_username(None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn solve(user: &str) -> Result<(u32, u32, Vec<u32>, String), Error> {
        let dir = std::env::temp_dir().join(format!(
            "gantry-users-{}-{}",
            std::process::id(),
            user.replace(':', "_")
        ));
        let made = std::fs::create_dir_all(dir.join("etc"))
            .and_then(|()| {
                std::fs::write(
                    dir.join("etc/passwd"),
                    "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n",
                )
            })
            .and_then(|()| {
                std::fs::write(dir.join("etc/group"), "root:x:0:\nweb:x:44:\nlogs:x:50:web,root\n")
            });
        assert!(made.is_ok());
        let root = std::fs::File::open(&dir).map_err(|e| Error::io("open", e))?;
        let mut p = Process::default();
        p.set_env(None);
        p.user_mut().set_username(Some(user.into()));
        let r = resolve(&mut p, root.as_fd());
        let _ = std::fs::remove_dir_all(&dir);
        r?;
        let home =
            p.env().iter().flatten().find_map(|e| e.strip_prefix("HOME=")).unwrap_or("").to_owned();
        let u = p.user();
        Ok((u.uid(), u.gid(), u.additional_gids().clone().unwrap_or_default(), home))
    }

    #[test]
    fn names_numbers_and_groups() {
        assert_eq!(solve("web").ok(), Some((33, 44, vec![44, 50], "/srv".into())));
        assert_eq!(solve("33").ok(), Some((33, 44, vec![44, 50], "/srv".into())));
        assert_eq!(solve("web:logs").ok(), Some((33, 50, vec![50], "/srv".into())));
        assert_eq!(solve("1234:7").ok(), Some((1234, 7, vec![7], "/".into())));
        assert_eq!(solve("1234").ok(), Some((1234, 0, vec![0], "/".into())));
    }

    #[test]
    fn groups_that_the_spec_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(dir.path().join("etc/group"), "audio:x:29:\nvideo:x:44:\n").unwrap();
        let root = std::fs::File::open(dir.path()).unwrap();
        let ask = |names: &str| -> Result<Vec<u32>, String> {
            let mut process = Process::default();
            process.user_mut().set_additional_gids(Some(vec![44, 7]));
            let mut spec = Spec::default();
            spec.set_annotations(Some([(GROUPS.to_owned(), names.to_owned())].into()));
            add_groups(&mut process, &spec, root.as_fd()).map_err(|e| e.to_string())?;
            Ok(process.user().additional_gids().clone().unwrap())
        };
        assert_eq!(ask("video,audio"), Ok(vec![7, 29, 44]));
        let refused = "Unable to find group none: no matching entries in group file".to_owned();
        assert_eq!(ask("audio,none"), Err(refused));
    }

    #[test]
    fn unknown_names_say_which_file_lacks_them() {
        let text = |r: Result<_, Error>| r.err().map(|e| e.to_string()).unwrap_or_default();
        assert_eq!(
            text(solve("nobody")),
            "unable to find user nobody: no matching entries in passwd file"
        );
        assert_eq!(
            text(solve("web:none")),
            "unable to find group none: no matching entries in group file"
        );
        for far in ["4294967295", "2147483648", "99999999999", "0:4294967295"] {
            assert_eq!(text(solve(far)), "uids and gids must be in range 0-2147483647");
        }
    }
}
