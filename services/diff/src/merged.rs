//! A snapshot's files as its mounts would show them, without mounting.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use gantry_archive::attributes::{is_overlay, through};
use gantry_archive::bad::show;
use gantry_archive::walk::Node;
use gantry_core::{Error, Mount, Result};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, lgetxattr, llistxattr, openat, statat,
};
use rustix::io::Errno;

use crate::lower::{AT, is_metacopy, is_opaque, is_whiteout};
use crate::target::{layers_of, overlay_option};

/// Longest list of names, and longest value, of extended attributes.
const MAX_XATTR: usize = 1 << 16;

/// A directory that is merged of several: what a nearer one has hides the rest.
pub(crate) struct Directory {
    /// The nearest first; none when there is no such directory.
    layers: Vec<Layer>,
    opaque: &'static CStr,
}

struct Layer {
    fd: OwnedFd,
    /// Device and inode.
    id: (u64, u64),
}

/// Something in a directory.
pub(crate) struct Entry {
    pub(crate) name: CString,
    pub(crate) stat: Stat,
    layer: usize,
}

impl Entry {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(crate) fn id(&self) -> (u64, u64) {
        (self.stat.st_dev, self.stat.st_ino)
    }
}

/// A system call that failed while a snapshot was read.
pub(crate) fn failed(what: &str, path: &[u8], err: Errno) -> Error {
    Error::io(format!("{what} {}", show(path)), err.into())
}

impl Directory {
    /// The root of what these mounts show; nothing for no mounts.
    ///
    /// # Errors
    /// `Unimplemented` for other mounts than one of type bind or overlay.
    pub(crate) fn of_mounts(mounts: &[Mount]) -> Result<Self> {
        let opaque = c"trusted.overlay.opaque";
        let [mount] = mounts else {
            if mounts.is_empty() {
                return Ok(Self { layers: Vec::new(), opaque });
            }
            return Err(Error::unimplemented(format!(
                "compare {} mounts at once: use a snapshotter whose snapshots are one bind or \
                 overlay mount",
                mounts.len()
            )));
        };
        let bind = ["bind", "rbind"];
        let (roots, opaque) = if mount.kind == "overlay" {
            let upper = overlay_option(mount, "upperdir").map(PathBuf::from);
            let lower = layers_of(mount);
            let user = mount.options.iter().any(|o| o == "userxattr");
            let opaque = if user { c"user.overlay.opaque" } else { opaque };
            (upper.into_iter().chain(lower).collect(), opaque)
        } else if mount.kind == "bind" || mount.options.iter().any(|o| bind.contains(&o.as_str())) {
            (vec![PathBuf::from(&mount.source)], opaque)
        } else {
            return Err(Error::unimplemented(format!(
                "compare a mount of type {:?}: only bind and overlay are known",
                mount.kind
            )));
        };
        let open = |root: &PathBuf| {
            let what = |err: Errno| Error::io(format!("open directory {root:?}"), err.into());
            let fd = openat(CWD, root, AT - OFlags::NOFOLLOW, Mode::empty()).map_err(what)?;
            Layer::of(fd).map_err(what)
        };
        Ok(Self { layers: roots.iter().map(open).collect::<Result<_>>()?, opaque })
    }

    /// One that is not there.
    pub(crate) fn none() -> Self {
        Self { layers: Vec::new(), opaque: c"" }
    }

    /// Whether both are merged of the same directories, and so hold the same.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.layers.iter().map(|l| l.id).eq(other.layers.iter().map(|l| l.id))
    }

    /// What is in it, by name.
    pub(crate) fn entries(&self, path: &[u8]) -> Result<BTreeMap<Vec<u8>, Entry>> {
        let mut found: BTreeMap<Vec<u8>, Option<Entry>> = BTreeMap::new();
        for (layer, Layer { fd, .. }) in self.layers.iter().enumerate() {
            let listed = openat(fd, c".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let mut names = listed.and_then(Dir::new).map_err(|err| failed("list", path, err))?;
            while let Some(name) = names.read() {
                let name = name.map_err(|err| failed("list", path, err))?.file_name().to_owned();
                let bytes = name.to_bytes();
                if bytes == b"." || bytes == b".." || found.contains_key(bytes) {
                    continue;
                }
                let stat = match statat(fd, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    // It went since the listing.
                    Err(Errno::NOENT) => continue,
                    Err(err) => return Err(failed("look at", path, err)),
                };
                let key = bytes.to_vec();
                let entry = (!is_whiteout(&stat)).then_some(Entry { name, stat, layer });
                found.insert(key, entry);
            }
        }
        Ok(found.into_iter().filter_map(|(name, entry)| Some((name, entry?))).collect())
    }

    /// A directory in it.
    pub(crate) fn child(&self, path: &[u8], entry: &Entry) -> Result<Self> {
        let mut layers = Vec::new();
        for Layer { fd, .. } in &self.layers[entry.layer..] {
            match openat(fd, &entry.name, AT, Mode::empty()) {
                Ok(fd) => {
                    self.refuse_redirected(&fd, path)?;
                    let last = is_opaque(&fd, self.opaque);
                    layers.push(Layer::of(fd).map_err(|err| failed("look at", path, err))?);
                    if last {
                        break;
                    }
                }
                Err(Errno::NOENT) => {}
                // Something else, which hides what is below it.
                Err(Errno::NOTDIR | Errno::LOOP) => break,
                Err(err) => return Err(failed("open", path, err)),
            }
        }
        Ok(Self { layers, opaque: self.opaque })
    }

    /// Overlay can note that a directory was moved; who only looks at names finds
    /// the wrong content below it.
    fn refuse_redirected(&self, fd: &OwnedFd, path: &[u8]) -> Result<()> {
        let redirect = if self.opaque.to_bytes().starts_with(b"user.") {
            c"user.overlay.redirect"
        } else {
            c"trusted.overlay.redirect"
        };
        match lgetxattr(through(fd, c"."), redirect, [0u8; 0].as_mut_slice()) {
            Ok(_) => Err(Error::failed_precondition(format!(
                "{} was moved by an overlay mounted with redirect_dir=on: such snapshots can't be \
                 compared",
                show(path)
            ))),
            Err(_) => Ok(()),
        }
    }

    /// Opens a regular file in it for reading.
    pub(crate) fn open(&self, path: &[u8], entry: &Entry) -> Result<OwnedFd> {
        // It may have become a FIFO or a device, which must not be opened.
        let file = Node::at(&self.layers[entry.layer].fd, &entry.name)
            .and_then(|node| node.open())
            .map_err(|err| failed("open", path, err))?;
        if is_metacopy(&file, self.opaque) {
            return Err(Error::failed_precondition(format!(
                "{} was changed in an overlay mounted with metacopy=on, without its data: such \
                 snapshots can't be compared",
                show(path)
            )));
        }
        Ok(file)
    }

    /// What a symbolic link in it says.
    pub(crate) fn link(&self, path: &[u8], entry: &Entry) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(&self.layers[entry.layer].fd, &entry.name, Vec::new())
            .map(CString::into_bytes)
            .map_err(|err| failed("read the link", path, err))
    }

    /// Extended attributes, but for those that are overlay's own.
    pub(crate) fn xattrs(&self, path: &[u8], entry: &Entry) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let at = through(&self.layers[entry.layer].fd, &entry.name);
        let mut names = vec![0; MAX_XATTR];
        let len = match llistxattr(&at, names.as_mut_slice()) {
            Ok(len) => len,
            Err(Errno::NOTSUP | Errno::NOENT) => 0,
            Err(err) => return Err(failed("list the attributes of", path, err)),
        };
        let mut all = BTreeMap::new();
        for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty() && !is_overlay(n)) {
            let Ok(key) = CString::new(name) else { continue };
            let mut value = vec![0; MAX_XATTR];
            match lgetxattr(&at, &key, value.as_mut_slice()) {
                Ok(len) => {
                    value.truncate(len);
                    all.insert(name.to_vec(), value);
                }
                // It went since the listing.
                Err(Errno::NODATA | Errno::NOENT) => {}
                Err(err) => return Err(failed("read an attribute of", path, err)),
            }
        }
        Ok(all)
    }
}

impl Layer {
    fn of(fd: OwnedFd) -> std::result::Result<Self, Errno> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, id: (stat.st_dev, stat.st_ino) })
    }
}
