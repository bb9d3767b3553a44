//! hosts and resolv.conf of a container, which are brought to what its networks want. What
//! somebody has changed in them stays.
//!
//! Beside each of them lies what was written last, so that it is told apart from that; beside
//! resolv.conf also what was about to be written. Both are mounted in the container: they are
//! written in place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use gantry_core::networks::DnsWish;
use gantry_core::{Error, Result, faults};

use super::{ContainerFiles, create, own_hosts};

/// A file that has grown beyond so many bytes is the container's own.
const LONGEST: u64 = 1 << 20;
/// Behind the name of a file: what was written into it.
const WRITTEN: &str = "own";
/// The same: what is about to be written into it, or was.
const NEXT: &str = "next";

impl ContainerFiles {
    /// Writes these lines into hosts, in place of those that were written before.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn bring_hosts(&self, lines: &[String]) -> Result<()> {
        let current = read(&self.hosts)?.unwrap_or_else(|| own_hosts().into());
        if current.len() as u64 > LONGEST {
            return Ok(());
        }
        let record = beside(&self.hosts, WRITTEN);
        let before = read(&record)?.unwrap_or_default();
        let before: Vec<String> =
            String::from_utf8_lossy(&before).lines().map(String::from).collect();
        let wanted = with_lines(&current, &before, lines);
        // Before the file: what a daemon that is killed in between has written is known as well.
        let there = |line: &&String| current.split(|b| *b == b'\n').any(|l| l == line.as_bytes());
        let mut known: Vec<String> = before.iter().filter(there).cloned().collect();
        known.extend(lines.iter().filter(|line| !before.contains(line)).cloned());
        if known != before {
            replace(&record, text(&known).as_bytes())?;
        }
        if wanted == current { Ok(()) } else { replace(&self.hosts, &wanted) }
    }

    /// Writes resolv.conf, unless somebody has changed it since it was written.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn bring_resolv_conf(&self, wanted: &str) -> Result<()> {
        let [record, next] = [WRITTEN, NEXT].map(|kind| beside(&self.resolv_conf, kind));
        let wanted = wanted.as_bytes();
        let Some(current) = read(&self.resolv_conf)? else {
            return create(&self.resolv_conf, wanted);
        };
        let written = read(&record)?;
        if current != wanted {
            let was_next = read(&next)?;
            let is_own = |written: &Vec<u8>| is_own(&current, written, was_next.as_deref());
            // Without a record nobody has written it but whoever made the container.
            if !written.as_ref().is_none_or(is_own) {
                return Ok(());
            }
            // Before the file: what a daemon that is killed in between has written is known.
            replace(&next, wanted)?;
            replace(&self.resolv_conf, wanted)?;
        }
        if written.as_deref() != Some(wanted) {
            replace(&record, wanted)?;
        }
        Ok(())
    }
}

/// Whether a file holds what was written into it, or `next`, also when that is not cut off yet.
fn is_own(current: &[u8], written: &[u8], next: Option<&[u8]>) -> bool {
    let is_next = |next: &[u8]| {
        let rest = written.get(next.len()..).unwrap_or_default();
        current == next || current == [next, rest].concat()
    };
    current == written || next.is_some_and(is_next)
}

/// The record of that kind about a file.
fn beside(path: &Path, kind: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".");
    name.push(kind);
    name.into()
}

/// What a file holds, a little more than [`LONGEST`] at most; `None` when it is not there.
fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    match opened {
        Ok(_) => Ok(Some(bytes)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::io(format!("read {}", path.display()), err)),
    }
}

/// Writes a file in place: who has it open or mounted sees that, and never an empty one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return create(path, bytes);
    }
    let write = || {
        let mut file = OpenOptions::new().write(true).truncate(false).open(path)?;
        file.write_all(bytes)?;
        file.set_len(bytes.len() as u64)
    };
    faults::around("write a container's file", write)
        .map_err(|err| Error::io(format!("write {}", path.display()), err))
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// A text with lines at its end, without those of before.
pub(super) fn with_lines(current: &[u8], before: &[String], lines: &[String]) -> Vec<u8> {
    let gone = |line: &[u8]| before.iter().chain(lines).any(|other| other.as_bytes() == line);
    let mut out = Vec::with_capacity(current.len());
    for line in current.split_inclusive(|b| *b == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        if !gone(bare) {
            out.extend_from_slice(line);
        }
    }
    if out.last().is_some_and(|last| *last != b'\n') {
        out.push(b'\n');
    }
    out.extend_from_slice(text(lines).as_bytes());
    out
}

/// The host's resolv.conf with what a container wants in its place.
pub(super) fn resolv_conf(host: Vec<u8>, wish: &DnsWish) -> Vec<u8> {
    if *wish == DnsWish::default() {
        return host;
    }
    let mut out = String::new();
    for line in String::from_utf8_lossy(&host).lines() {
        let word = line.split_whitespace().next().unwrap_or_default();
        let replaced = match word {
            "nameserver" => !wish.servers.is_empty(),
            "search" | "domain" => !wish.search.is_empty(),
            "options" => !wish.options.is_empty(),
            _ => false,
        };
        if !replaced {
            out.push_str(line);
            out.push('\n');
        }
    }
    for server in &wish.servers {
        out += &format!("nameserver {server}\n");
    }
    let search = wish.search.iter().filter(|domain| *domain != ".").map(String::as_str);
    let search: Vec<&str> = search.collect();
    if !search.is_empty() {
        out += &format!("search {}\n", search.join(" "));
    }
    if !wish.options.is_empty() {
        out += &format!("options {}\n", wish.options.join(" "));
    }
    out.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(list: &[&str]) -> Vec<String> {
        list.iter().map(|line| (*line).to_owned()).collect()
    }

    fn files() -> (tempfile::TempDir, ContainerFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = ContainerFiles::below(dir.path(), "c1");
        (dir, files)
    }

    #[test]
    fn what_users_write_into_hosts_stays() {
        let (_dir, files) = files();
        files.bring_hosts(&lines(&["172.17.0.2\tweb"])).unwrap();
        let shown = || fs::read_to_string(&files.hosts).unwrap();
        assert!(shown().starts_with("127.0.0.1\tlocalhost\n") && shown().ends_with("\tweb\n"));
        files.bring_hosts(&lines(&["172.17.0.2\tweb"])).unwrap();
        let mut file = OpenOptions::new().append(true).open(&files.hosts).unwrap();
        file.write_all(b"10.9.9.9 mine").unwrap();
        files.bring_hosts(&lines(&["172.17.0.9\tweb", "172.18.0.2\tweb"])).unwrap();
        assert!(!shown().contains("172.17.0.2"), "{}", shown());
        assert!(shown().ends_with("10.9.9.9 mine\n172.17.0.9\tweb\n172.18.0.2\tweb\n"));
        files.bring_hosts(&[]).unwrap();
        assert!(shown().ends_with("10.9.9.9 mine\n"));
        // What the daemon could not finish is known by its record.
        fs::write(beside(&files.hosts, WRITTEN), "10.0.0.1\tx\n").unwrap();
        let half = format!("{}10.0.0.1\tx\n", shown());
        fs::write(&files.hosts, half).unwrap();
        files.bring_hosts(&lines(&["10.0.0.2\tx"])).unwrap();
        assert!(shown().ends_with("mine\n10.0.0.2\tx\n"), "{}", shown());
    }

    #[test]
    fn a_resolv_conf_that_was_changed_stays() {
        let (_dir, files) = files();
        let shown = || fs::read_to_string(&files.resolv_conf).unwrap();
        create(&files.resolv_conf, b"nameserver 192.0.2.1\n").unwrap();
        files.bring_resolv_conf("nameserver 127.0.0.11\n").unwrap();
        files.bring_resolv_conf("nameserver 10.0.0.1\n").unwrap();
        assert_eq!(shown(), "nameserver 10.0.0.1\n");
        fs::write(&files.resolv_conf, "nameserver 9.9.9.9\n").unwrap();
        files.bring_resolv_conf("nameserver 127.0.0.11\n").unwrap();
        assert_eq!(shown(), "nameserver 9.9.9.9\n");
        // As it is to be: then it is ours again.
        fs::write(&files.resolv_conf, "nameserver 127.0.0.11\n").unwrap();
        files.bring_resolv_conf("nameserver 127.0.0.11\n").unwrap();
        files.bring_resolv_conf("nameserver 1.1.1.1\n").unwrap();
        assert_eq!(shown(), "nameserver 1.1.1.1\n");
    }

    #[test]
    fn a_resolv_conf_that_a_daemon_was_writing_when_it_was_killed_is_its_own() {
        let (old, new) = ("nameserver 127.0.0.11\noptions ndots:0\n", "nameserver 10.0.0.1\n");
        let half = format!("{new}{}", &old[new.len()..]);
        for left in [old, new, &half] {
            let (_dir, files) = files();
            create(&files.resolv_conf, b"").unwrap();
            files.bring_resolv_conf(old).unwrap();
            fs::write(beside(&files.resolv_conf, NEXT), new).unwrap();
            fs::write(&files.resolv_conf, left).unwrap();
            files.bring_resolv_conf("nameserver 1.1.1.1\n").unwrap();
            let shown = fs::read_to_string(&files.resolv_conf).unwrap();
            assert_eq!(shown, "nameserver 1.1.1.1\n", "{left:?}");
        }
    }

    #[test]
    fn files_are_written_in_place() {
        use std::os::unix::fs::MetadataExt;
        let (_dir, files) = files();
        files.bring_hosts(&lines(&["10.0.0.1\ta-long-name"])).unwrap();
        let inode = || fs::metadata(&files.hosts).unwrap().ino();
        let before = inode();
        files.bring_hosts(&lines(&["10.0.0.2\tb"])).unwrap();
        assert_eq!(inode(), before);
        assert!(fs::read_to_string(&files.hosts).unwrap().ends_with("\n10.0.0.2\tb\n"));
    }

    #[test]
    fn servers_domains_and_options_of_the_caller() {
        let host = b"# by hand\nnameserver 192.0.2.1\nsearch example.com\noptions edns0\n".to_vec();
        assert_eq!(resolv_conf(host.clone(), &DnsWish::default()), host);
        let wish = DnsWish {
            servers: vec!["9.9.9.9".parse().unwrap()],
            search: lines(&["."]),
            ..DnsWish::default()
        };
        let made = resolv_conf(host, &wish);
        assert_eq!(
            String::from_utf8(made).unwrap(),
            "# by hand\noptions edns0\nnameserver 9.9.9.9\n"
        );
    }
}
