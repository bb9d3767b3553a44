//! Writes archives.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use gantry_core::{Error, Result};
use rustix::fs::{FileType, Stat, fstatfs, getxattr, listxattr, major, minor};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::attributes::is_overlay;
use crate::bad::show;
use crate::holes::{Parts, data_parts, sparse_map};
use crate::names::{MAX_PATH, join};
use crate::walk::{MAX_DEPTH, Node};

/// Longest name in a header itself.
const NAME: usize = 100;
/// Longest list of names, and longest value, of extended attributes.
const MAX_XATTR: usize = 1 << 16;
/// Who does not know of files with holes finds one under this name.
const SPARSE_NAME: &[u8] = b"./GNUSparseFile.0/";
/// Where the kernel shows itself: proc, sysfs, both cgroups, devpts, mqueue, debugfs, tracefs,
/// securityfs, bpf, configfs, pstore, binfmt_misc, selinuxfs.
const PSEUDO: [u64; 14] = [
    0x9fa0,
    0x6265_6572,
    0x0027_e0eb,
    0x6367_7270,
    0x1cd1,
    0x1980_0202,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xcafe_4a11,
    0x6265_6570,
    0x6165_676c,
    0x4249_4e4d,
    0xf97c_ff8c,
];

/// Name and value of extended attributes, by name.
pub type Attributes = BTreeMap<Vec<u8>, Vec<u8>>;

/// Something to be written into an archive.
pub trait Source {
    /// Its attributes.
    fn stat(&self) -> &Stat;

    /// Its extended attributes.
    ///
    /// # Errors
    /// The system's.
    fn xattrs(&self) -> Result<Attributes>;

    /// What a symbolic link says.
    ///
    /// # Errors
    /// The system's.
    fn link(&self) -> Result<Vec<u8>>;

    /// A regular file, open for reading.
    ///
    /// # Errors
    /// The system's.
    fn open(&self) -> Result<OwnedFd>;
}

/// How archives are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// Later times are written as this one; seconds since 1970.
    pub newest: Option<i64>,
    /// Write times to the nanosecond, not only in whole seconds.
    pub exact: bool,
    /// Leave holes of files out, in the form 1.0 of GNU tar, which not everybody understands.
    pub sparse: bool,
}

/// Makes an archive: GNU headers, and PAX records for what does not fit into them.
pub struct Packer<W: Write> {
    archive: Builder<W>,
    options: PackOptions,
    /// Files with several names, by device and inode, and the name each has here.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

/// Records of a PAX header.
type Records = Vec<(String, Vec<u8>)>;

impl<W: Write> Packer<W> {
    /// Writes to this.
    pub fn new(to: W, options: PackOptions) -> Self {
        Self { archive: Builder::new(to), options, linked: HashMap::new() }
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What writing said.
    pub fn finish(self) -> Result<W> {
        self.archive.into_inner().map_err(|err| Error::io("end the archive", err))
    }

    /// Writes something. A file that was written under another name becomes a link to that;
    /// sockets, which live as long as who listens, are left out.
    ///
    /// # Errors
    /// What reading it or writing said.
    pub fn add(&mut self, path: &[u8], source: &dyn Source) -> Result<()> {
        let stat = source.stat();
        let Some(kind) = entry_type(FileType::from_raw_mode(stat.st_mode)) else { return Ok(()) };
        let mut header = self.header(kind, stat);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header
                .set_device_major(major(stat.st_rdev))
                .and_then(|()| header.set_device_minor(minor(stat.st_rdev)))
                .map_err(|err| failed(path, err))?;
        }
        if kind == EntryType::Regular && stat.st_nlink > 1 {
            let id = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&id).cloned() {
                header.set_entry_type(EntryType::Link);
                return self.append(header, path, Some(&first), Vec::new(), io::empty());
            }
            self.linked.insert(id, path.to_vec());
        }
        let mut records = records(path, source.xattrs()?);
        if self.options.exact && stat.st_mtime >= 0 && stat.st_mtime_nsec != 0 {
            let time = format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            records.push(("mtime".to_owned(), time.into_bytes()));
        }
        match kind {
            EntryType::Directory => {
                let path = [path, b"/"].concat();
                self.append(header, &path, None, records, io::empty())
            }
            EntryType::Symlink => {
                let link = source.link()?;
                self.append(header, path, Some(&link), records, io::empty())
            }
            EntryType::Regular => self.file(header, path, records, source.open()?.into()),
            _ => self.append(header, path, None, records, io::empty()),
        }
    }

    /// Writes an empty file of nobody's, which stands for something by its name.
    ///
    /// # Errors
    /// What writing said.
    pub fn add_mark(&mut self, path: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(0);
        self.append(header, path, None, Vec::new(), io::empty())
    }

    fn header(&self, kind: EntryType, stat: &Stat) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(u64::from(stat.st_uid));
        header.set_gid(u64::from(stat.st_gid));
        let seconds = self.options.newest.map_or(stat.st_mtime, |n| stat.st_mtime.min(n));
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        header.set_size(0);
        header
    }

    fn file(
        &mut self,
        mut header: Header,
        path: &[u8],
        mut records: Records,
        file: File,
    ) -> Result<()> {
        let meta = file.metadata();
        let meta = meta.map_err(|err| Error::io(format!("look at {}", show(path)), err))?;
        // As long as it is now, however long it is when it was read.
        let size = meta.len();
        if self.options.sparse
            && let Some(parts) = data_parts(&file, &meta)
        {
            let map = sparse_map(&parts, size);
            let stored: u64 = parts.iter().map(|(_, len)| len).sum();
            records.push(("GNU.sparse.major".to_owned(), b"1".to_vec()));
            records.push(("GNU.sparse.minor".to_owned(), b"0".to_vec()));
            records.push(("GNU.sparse.name".to_owned(), path.to_vec()));
            records.push(("GNU.sparse.realsize".to_owned(), size.to_string().into_bytes()));
            let last = path.rsplit(|b| *b == b'/').next().unwrap_or(path);
            let mut stand_in = [SPARSE_NAME, last].concat();
            stand_in.truncate(NAME);
            header.set_size(map.len() as u64 + stored);
            let data = Parts::new(&file, &parts);
            let data = io::Cursor::new(map).chain(data);
            return self.append(header, &stand_in, None, records, data);
        }
        header.set_size(size);
        let data = file.take(size).chain(io::repeat(0)).take(size);
        self.append(header, path, None, records, data)
    }

    /// Writes one entry; what does not fit into its header goes before it.
    fn append(
        &mut self,
        mut header: Header,
        path: &[u8],
        link: Option<&[u8]>,
        mut records: Records,
        data: impl Read,
    ) -> Result<()> {
        if path.len() > NAME {
            records.push(("path".to_owned(), path.to_vec()));
        }
        if let Some(link) = link.filter(|link| link.len() > NAME) {
            records.push(("linkpath".to_owned(), link.to_vec()));
        }
        if !records.is_empty() {
            let pairs = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
            self.archive.append_pax_extensions(pairs).map_err(|err| failed(path, err))?;
        }
        let fields =
            header.as_gnu_mut().ok_or_else(|| Error::internal("a header of another form"))?;
        let cut = path.len().min(NAME);
        fields.name[..cut].copy_from_slice(&path[..cut]);
        if let Some(link) = link {
            let cut = link.len().min(NAME);
            fields.linkname[..cut].copy_from_slice(&link[..cut]);
        }
        header.set_cksum();
        self.archive.append(&header, data).map_err(|err| failed(path, err))
    }

    /// Writes something with all that is in it under a path, and follows no link. File systems
    /// in which the kernel shows itself are left out where they are mounted in it.
    ///
    /// # Errors
    /// What reading or writing said; `FailedPrecondition` for paths that no archive can hold,
    /// and for too many directories inside each other. What goes away meanwhile is none.
    pub fn add_tree(&mut self, path: &[u8], node: &Node) -> Result<()> {
        self.tree(path, node, 0)
    }

    /// Writes something without what is in it.
    ///
    /// # Errors
    /// What reading or writing said.
    pub fn add_node(&mut self, path: &[u8], node: &Node) -> Result<()> {
        self.add(path, &Found { path, node })
    }

    fn tree(&mut self, path: &[u8], node: &Node, depth: usize) -> Result<()> {
        if path.len() > MAX_PATH || depth > MAX_DEPTH {
            return Err(Error::failed_precondition(format!(
                "{}: it lies more than {MAX_DEPTH} directories deep, or has a path of more than \
                 {MAX_PATH} bytes: move it further up",
                show(path)
            )));
        }
        self.add_node(path, node)?;
        if node.kind() != FileType::Directory {
            return Ok(());
        }
        let names = match node.names() {
            // It was taken away.
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOMEM) => {
                let text = format!("{} has too many names to be packed", show(path));
                return Err(Error::resource_exhausted(text));
            }
            other => other.map_err(|err| looked("list", path, err))?,
        };
        for name in names {
            let below = match Node::at(node, &name) {
                Err(Errno::NOENT) => continue,
                other => other.map_err(|err| looked("look at", path, err))?,
            };
            let path = join(path, name.to_bytes());
            // What is on the same file system need not be asked.
            if below.stat().st_dev != node.stat().st_dev && shows_kernel(&below) {
                self.add_node(&path, &below)?;
            } else {
                self.tree(&path, &below, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Something that was found in a directory.
struct Found<'a> {
    path: &'a [u8],
    node: &'a Node,
}

impl Source for Found<'_> {
    fn stat(&self) -> &Stat {
        self.node.stat()
    }

    fn xattrs(&self) -> Result<Attributes> {
        let at = self.node.path();
        let mut names = vec![0; MAX_XATTR];
        let len = match listxattr(at.as_c_str(), names.as_mut_slice()) {
            Ok(len) => len,
            Err(Errno::NOTSUP) => 0,
            Err(err) => return Err(looked("list the attributes of", self.path, err)),
        };
        let mut all = Attributes::new();
        for name in names[..len].split(|b| *b == 0).filter(|n| !n.is_empty() && !is_overlay(n)) {
            if let Some(value) = self.xattr(&at, name)? {
                all.insert(name.to_vec(), value);
            }
        }
        Ok(all)
    }

    fn link(&self) -> Result<Vec<u8>> {
        self.node.target().map_err(|err| looked("read the link", self.path, err))
    }

    fn open(&self) -> Result<OwnedFd> {
        self.node.open().map_err(|err| looked("open", self.path, err))
    }
}

impl Found<'_> {
    fn xattr(&self, at: &CStr, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let Ok(key) = CString::new(name) else { return Ok(None) };
        let mut value = vec![0; MAX_XATTR];
        match getxattr(at, key.as_c_str(), value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                Ok(Some(value))
            }
            // It went since the listing, or is listed to those who may not read it.
            Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => Ok(None),
            Err(err) => Err(looked("read an attribute of", self.path, err)),
        }
    }
}

fn entry_type(kind: FileType) -> Option<EntryType> {
    Some(match kind {
        FileType::Directory => EntryType::Directory,
        FileType::Symlink => EntryType::Symlink,
        FileType::Fifo => EntryType::Fifo,
        FileType::CharacterDevice => EntryType::Char,
        FileType::BlockDevice => EntryType::Block,
        FileType::RegularFile => EntryType::Regular,
        _ => return None,
    })
}

/// Extended attributes as records.
fn records(path: &[u8], xattrs: Attributes) -> Records {
    let mut records = Vec::new();
    for (name, value) in xattrs {
        match String::from_utf8(name) {
            // A key ends at the first one: the rest would become part of the value.
            Ok(name) if name.contains('=') => {
                tracing::warn!(path = show(path), "left out an attribute with = in its name");
            }
            Ok(name) => records.push((format!("SCHILY.xattr.{name}"), value)),
            Err(_) => tracing::warn!(path = show(path), "left out an attribute not in UTF-8"),
        }
    }
    records
}

/// Whether something is a directory in which the kernel shows itself.
pub fn shows_kernel(node: &Node) -> bool {
    node.is_directory()
        // A magic number has 32 bits, whatever type it is in.
        && fstatfs(node).is_ok_and(|found| PSEUDO.contains(&(found.f_type as u64 & 0xffff_ffff)))
}

fn failed(path: &[u8], err: io::Error) -> Error {
    Error::io(format!("write {} to the archive", show(path)), err)
}

fn looked(what: &str, path: &[u8], err: Errno) -> Error {
    Error::io(format!("{what} {}", show(path)), err.into())
}
