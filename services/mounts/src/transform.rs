//! What is made before a mount: images of file systems, and directories.

use std::fs::{self, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gantry_core::mounts::ActiveMount;
use gantry_core::{Error, Mount, Result, faults};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, fchmod, fchown,
    mkdirat, openat, openat2, renameat_with, statat,
};
use rustix::io::Errno;

/// Begins the options that are for [`make_image`].
const MKFS: &str = "X-containerd.mkfs.";
/// Begins the options that are for [`make_directories`].
const MKDIR: &str = "X-containerd.mkdir.";

/// An image to make.
#[derive(Debug, PartialEq, Eq)]
struct Image {
    size: u64,
    system: String,
    uuid: Option<String>,
}

/// A directory to make.
#[derive(Debug, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    mode: u32,
    owner: Option<(u32, u32)>,
}

/// Takes the options that begin so out of a mount.
fn take(mount: &mut Mount, prefix: &str) -> Vec<String> {
    let is_ours = |option: &String| option.starts_with(prefix);
    let ours = mount.options.iter().filter(|option| is_ours(option));
    let ours = ours.map(|option| option[prefix.len()..].to_owned()).collect();
    mount.options.retain(|option| !is_ours(option));
    ours
}

fn invalid(what: impl std::fmt::Display) -> Error {
    Error::invalid_argument(format!("{what}: invalid argument"))
}

impl Image {
    fn parse(options: &[String]) -> Result<Self> {
        let mut image = Self { size: 0, system: "ext4".into(), uuid: None };
        for option in options {
            let known = match option.split_once('=') {
                Some(("size", size)) => bytes(size).map(|size| image.size = size),
                Some(("fs", fs)) => matches!(fs, "ext2" | "ext3" | "ext4" | "xfs")
                    .then(|| image.system = fs.to_owned()),
                Some(("uuid", uuid)) => is_uuid(uuid).then(|| image.uuid = Some(uuid.to_owned())),
                _ => None,
            };
            known.ok_or_else(|| invalid(format_args!("mount option {MKFS}{option}")))?;
        }
        if image.size == 0 {
            return Err(invalid(format_args!("mkfs needs the option {MKFS}size")));
        }
        Ok(image)
    }

    fn command(&self, path: &Path) -> Command {
        let mut command = Command::new(format!("mkfs.{}", self.system));
        command.arg("-q");
        match &self.uuid {
            Some(uuid) if self.system == "xfs" => command.arg("-m").arg(format!("uuid={uuid}")),
            Some(uuid) => command.arg("-U").arg(uuid),
            None => &mut command,
        };
        command.arg(path).stdin(Stdio::null());
        command
    }
}

/// `1048576`, `512KiB`, `100M`: powers of 1024, whatever the unit is called.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|n| i64::try_from(*n).is_ok())
}

fn is_uuid(text: &str) -> bool {
    let parts: Vec<usize> = text.split('-').map(str::len).collect();
    parts == [8, 4, 4, 4, 12] && text.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit())
}

/// `mkfs/`: makes the image file that the source names, unless it is there.
///
/// # Errors
/// `InvalidArgument` for options; `FailedPrecondition` when something else has the
/// source's name or the program that makes the file system is missing.
pub(crate) fn make_image(mount: &mut Mount) -> Result<()> {
    let image = Image::parse(&take(mount, MKFS))?;
    let path = absolute(&mount.source)?;
    match fs::metadata(&path) {
        Ok(found) if found.is_file() => return Ok(()),
        Ok(_) => {
            return Err(Error::failed_precondition(format!(
                "image {path:?} is there and no regular file: failed precondition"
            )));
        }
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
        Err(err) => return Err(Error::io(format!("look for image {path:?}"), err)),
    }
    // Under its name once it is whole: one that is there is taken as it is.
    let mut making = path.clone().into_os_string();
    making.push(".making");
    let making = PathBuf::from(making);
    let failed = |err| Error::io(format!("make image {making:?}"), err);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o640);
    let open = || options.open(&making);
    let file = faults::around("make the file of an image", open).map_err(failed)?;
    let made = file.set_len(image.size).map_err(failed).and_then(|()| {
        faults::around("make a file system", || run(image.command(&making)))?;
        file.sync_all().map_err(failed)?;
        let rename = || renameat_with(CWD, &making, CWD, &path, RenameFlags::NOREPLACE);
        let renamed = faults::around("name the file of an image", rename);
        renamed.map_err(|err| Error::io(format!("name image {path:?}"), err.into()))
    });
    if made.is_err() {
        // The next attempt overwrites it otherwise.
        let _ = fs::remove_file(&making);
    }
    made
}

/// The one place where a program is run: nothing else knows how to make these file
/// systems, and only who asks for a new one waits for it.
fn run(mut command: Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|err| match err.kind() {
        std::io::ErrorKind::NotFound => Error::failed_precondition(format!(
            "{program} is not installed on this host: failed precondition"
        )),
        _ => Error::io(format!("start {program}"), err),
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: String = said.trim().chars().take(1024).collect();
    Err(Error::internal(format!("{program} failed ({}): {said}", output.status)))
}

impl Directory {
    /// `path=DIR`, `path=DIR:MODE` or `path=DIR:MODE:UID:GID`.
    fn parse(option: &str) -> Result<Self> {
        let bad = || invalid(format_args!("mount option {MKDIR}{option}"));
        let value = option.strip_prefix("path=").ok_or_else(bad)?;
        let parts: Vec<&str> = value.split(':').collect();
        let mode = |text: &str| {
            let mode = u32::from_str_radix(text, 8).ok();
            mode.filter(|mode| *mode <= 0o777).ok_or_else(bad)
        };
        let id = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let (path, mode, owner) = match parts.as_slice() {
            [path] => (path, 0o700, None),
            [path, octal] => (path, mode(octal)?, None),
            [path, octal, uid, gid] => (path, mode(octal)?, Some((id(uid)?, id(gid)?))),
            _ => return Err(bad()),
        };
        Ok(Self { path: absolute(path)?, mode, owner })
    }

    fn make(&self, active: &[ActiveMount]) -> Result<()> {
        let path = &self.path;
        let failed = |err: Errno| Error::io(format!("make directory {path:?}"), err.into());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(invalid(format_args!("directory {path:?} has no parent")));
        };
        let parent = open_parent(parent, active).map_err(failed)?;
        match mkdirat(&parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {
                let found = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)?;
                let is_dir = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
                if is_dir && found.st_mode & 0o777 == self.mode {
                    return Ok(());
                }
                return Err(Error::failed_precondition(format!(
                    "{path:?} is there and no directory of mode {:04o}: failed precondition",
                    self.mode
                )));
            }
            made => made.map_err(failed)?,
        }
        let dir = openat(&parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty());
        let dir = dir.map_err(failed)?;
        if let Some((uid, gid)) = self.owner {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchown(&dir, Some(uid), Some(gid)).map_err(failed)?;
        }
        fchmod(&dir, Mode::from_raw_mode(self.mode)).map_err(failed)
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens a directory. Within a mount of this activation no link is followed: what it
/// holds may be anybody's.
fn open_parent(parent: &Path, active: &[ActiveMount]) -> Result<OwnedFd, Errno> {
    let within = active
        .iter()
        .find_map(|m| Some((&m.mount_point, parent.strip_prefix(&m.mount_point).ok()?)));
    let Some((mount_point, rest)) = within else {
        return openat(CWD, parent, DIRECTORY, Mode::empty());
    };
    let top = openat(CWD, mount_point.as_str(), DIRECTORY, Mode::empty())?;
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(top, rest, DIRECTORY, Mode::empty(), resolve)
}

/// `mkdir/`: makes the directories that options name, in order. One that is there as it
/// is wanted is fine.
///
/// # Errors
/// `InvalidArgument` for options; `FailedPrecondition` for something else in its place.
pub(crate) fn make_directories(mount: &mut Mount, active: &[ActiveMount]) -> Result<()> {
    let options = take(mount, MKDIR);
    let all: Vec<Directory> =
        options.iter().map(|option| Directory::parse(option)).collect::<Result<_>>()?;
    all.iter().try_for_each(|directory| directory.make(active))
}

fn absolute(text: &str) -> Result<PathBuf> {
    let path = Path::new(text);
    let upwards = path.components().any(|part| part == std::path::Component::ParentDir);
    if !path.is_absolute() || upwards || text.contains('\0') {
        return Err(invalid(format_args!("{text:?} is no absolute path without `..`")));
    }
    Ok(path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use gantry_core::{Kind, Timestamp};

    use super::*;

    fn kind<T: std::fmt::Debug>(result: Result<T>) -> Kind {
        result.unwrap_err().kind()
    }

    fn mount(source: &str, options: &[&str]) -> Mount {
        let options = options.iter().map(|o| (*o).to_owned()).collect();
        Mount { kind: "x".into(), source: source.into(), target: String::new(), options }
    }

    #[test]
    fn sizes() {
        let table = [
            ("7", Some(7)),
            ("1k", Some(1024)),
            ("2KiB", Some(2048)),
            ("3MB", Some(3 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("", None),
            ("k", None),
            ("1x", None),
            ("9999999PiB", None),
            ("-1", None),
        ];
        for (text, want) in table {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }

    #[test]
    fn bad_options_are_refused() {
        for options in [
            &[][..],
            &["X-containerd.mkfs.size=x"],
            &["X-containerd.mkfs.size=1M", "X-containerd.mkfs.fs=ntfs"],
            &["X-containerd.mkfs.size=1M", "X-containerd.mkfs.uuid=1"],
            &["X-containerd.mkfs.size=1M", "X-containerd.mkfs.label=1"],
        ] {
            let made = make_image(&mut mount("/nowhere/x", options));
            assert_eq!(kind(made), Kind::InvalidArgument, "{options:?}");
        }
        for option in ["path=", "path=x", "path=/a/../b", "path=/a:9", "path=/a:0755:1", "mode=1"] {
            let made = make_directories(&mut mount("", &[&format!("{MKDIR}{option}")]), &[]);
            assert_eq!(kind(made), Kind::InvalidArgument, "{option}");
        }
    }

    #[test]
    fn directories_are_made_within_the_mount() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("mounted");
        fs::create_dir(&top).unwrap();
        symlink(dir.path(), top.join("out")).unwrap();
        let active = [ActiveMount {
            mount: Mount::default(),
            mounted_at: Timestamp::default(),
            mount_point: top.display().to_string(),
            data: std::collections::BTreeMap::new(),
        }];
        let make = |rest: &str| {
            let option = format!("{MKDIR}path={}/{rest}", top.display());
            let mut mount = mount("", &["ro", &option]);
            make_directories(&mut mount, &active).map(|()| mount.options)
        };
        assert_eq!(make("upper:0751:5:6").unwrap(), ["ro"]);
        let upper = fs::metadata(top.join("upper")).unwrap();
        assert_eq!((upper.mode() & 0o7777, upper.uid(), upper.gid()), (0o751, 5, 6));
        make("upper/deep").unwrap();
        assert_eq!(fs::metadata(top.join("upper/deep")).unwrap().mode() & 0o777, 0o700);
        make("upper:0751").unwrap();
        assert_eq!(kind(make("upper:0755")), Kind::FailedPrecondition);
        make("out/escaped").unwrap_err();
        assert!(!dir.path().join("escaped").exists());
        fs::set_permissions(&top, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn an_image_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let uuid = "550e8400-e29b-41d4-a716-446655440000";
        let mut wanted = mount(
            path.to_str().unwrap(),
            &["ro", "X-containerd.mkfs.size=4MiB", &format!("{MKFS}uuid={uuid}")],
        );
        make_image(&mut wanted.clone()).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4 << 20);
        assert_eq!(bytes[1080..1082], [0x53, 0xef], "ext4's magic number");
        assert_eq!(bytes[1128..1132], [0x55, 0x0e, 0x84, 0x00]);
        fs::write(&path, "mine").unwrap();
        make_image(&mut wanted).unwrap();
        assert_eq!(
            (fs::read(&path).unwrap(), wanted.options),
            (b"mine".to_vec(), vec!["ro".into()])
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mut elsewhere = mount(dir.path().to_str().unwrap(), &["X-containerd.mkfs.size=4MiB"]);
        assert_eq!(kind(make_image(&mut elsewhere)), Kind::FailedPrecondition);
    }
}
