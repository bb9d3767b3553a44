//! Entries of a tar archive: ustar, GNU and PAX.

use gantry_core::{Error, Result};
use tar::Header;

use crate::Limits;
use crate::attributes::check_xattrs;
use crate::bad;
use crate::input::{BLOCK, Input};
use crate::numbers::{Time, field};
use crate::pax::Pax;
use crate::sparse::Sparse;

/// Longest extended header or long name, in bytes.
const MAX_SPECIAL: u64 = 1 << 20;

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A further name of a file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// Name and value of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// What files of all kinds have.
#[derive(Clone, Debug)]
pub struct Meta {
    /// Permissions with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed last.
    pub mtime: Time,
    /// When it was read last.
    pub atime: Time,
    /// Extended attributes.
    pub xattrs: Xattrs,
}

/// An entry; its data follow in the input.
#[derive(Debug)]
pub struct Entry {
    /// As the archive has it.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it makes.
    pub kind: Kind,
    /// Its attributes.
    pub meta: Meta,
    /// Bytes stored.
    pub stored: u64,
    /// Bytes behind those up to the next header.
    pub padding: u64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Where its data lie, if it has holes.
    pub sparse: Option<Sparse>,
}

/// Reads entries one after the other.
pub struct Archive {
    /// What the entries' data are read from.
    pub input: Input,
    limits: Limits,
    entries: u64,
}

impl Archive {
    /// Reads from this, within these bounds.
    pub fn new(input: Input, limits: Limits) -> Self {
        Self { input, limits, entries: 0 }
    }

    /// The next entry. The data of the one before must have been read.
    /// `None` behind the last one; the input then still has the padding.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no archive, or an entry that nothing can be made of;
    /// `ResourceExhausted` for too many entries; the input's.
    pub fn next_entry(&mut self) -> Result<Option<Entry>> {
        let (mut pax, mut long_path, mut long_link) = (Pax::default(), None, None);
        loop {
            let Some(block) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > self.limits.max_entries {
                return Err(Error::resource_exhausted(format!(
                    "archive has more than {} entries: raise the limit or refuse it",
                    self.limits.max_entries
                )));
            }
            let header = Header::from_byte_slice(&block);
            match header.as_old().linkflag[0] {
                b'x' => pax = Pax::parse(&self.special(header)?)?,
                // Defaults for the whole archive, which nobody uses.
                b'g' => drop(self.special(header)?),
                b'L' => long_path = Some(text(self.special(header)?)),
                b'K' => long_link = Some(text(self.special(header)?)),
                flag => {
                    let path = pax.sparse.name.take().or(pax.path.take()).or(long_path);
                    let path = path.unwrap_or_else(|| header.path_bytes().into_owned());
                    let link = pax.link.take().or(long_link);
                    let link = link.unwrap_or_else(|| {
                        header.link_name_bytes().map(|l| l.into_owned()).unwrap_or_default()
                    });
                    return self.entry(header, flag, path, link, pax).map(Some);
                }
            }
        }
    }

    /// The next header that is not the end mark, with a right checksum.
    fn header(&mut self) -> Result<Option<bytes::Bytes>> {
        let Some(block) = self.input.block()? else { return Ok(None) };
        if block.iter().any(|b| *b != 0) {
            check_sum(&block)?;
            return Ok(Some(block));
        }
        // Two empty blocks are the end; tar accepts one at the end of the file.
        match self.input.block()? {
            Some(second) if second.iter().any(|b| *b != 0) => {
                Err(bad::archive("an empty block between entries"))
            }
            _ => Ok(None),
        }
    }

    /// The data of an extended header.
    fn special(&mut self, header: &Header) -> Result<Vec<u8>> {
        let size = size(field(&header.as_old().size)?)?;
        if size > MAX_SPECIAL {
            return Err(bad::archive(format_args!("an extended header of {size} bytes")));
        }
        // Fits: it is at most a MiB.
        let data = self.input.read(size as usize)?;
        self.input.skip(padding(size))?;
        Ok(data)
    }

    fn entry(
        &mut self,
        header: &Header,
        flag: u8,
        path: Vec<u8>,
        link: Vec<u8>,
        pax: Pax,
    ) -> Result<Entry> {
        let old = header.as_old();
        let kind = kind(flag, &path)?;
        let number = |given: Option<i64>, raw: &[u8]| given.map_or_else(|| field(raw), Ok);
        let mut stored = match kind {
            Kind::File => size(number(pax.size, &old.size)?)?,
            // Whatever their headers say, these have no data.
            _ => 0,
        };
        let padding = padding(stored);
        let mut sparse = None;
        if flag == b'S' {
            sparse = Some(Sparse::old_gnu(header, &mut self.input, stored)?);
        } else if kind == Kind::File && pax.sparse.real_size.is_some() {
            let (map, left) = Sparse::pax(&pax.sparse, &mut self.input, stored)?;
            (sparse, stored) = (Some(map), left);
        }
        let mtime = match pax.mtime {
            Some(time) => time,
            None => Time { seconds: field(&old.mtime)?, nanos: 0 },
        };
        check_xattrs(&path, &pax.xattrs)?;
        let raw = header.as_bytes();
        let device = match kind {
            Kind::Char | Kind::Block => (device(&raw[329..337])?, device(&raw[337..345])?),
            _ => (0, 0),
        };
        let meta = Meta {
            // The mask keeps what chmod(2) understands.
            mode: (field(&old.mode)? & 0o7777) as u32,
            uid: owner(&path, "user", number(pax.uid, &old.uid)?)?,
            gid: owner(&path, "group", number(pax.gid, &old.gid)?)?,
            mtime,
            atime: pax.atime.unwrap_or(mtime).max(mtime),
            xattrs: pax.xattrs,
        };
        Ok(Entry { path, link, kind, meta, stored, padding, device, sparse })
    }
}

fn kind(flag: u8, path: &[u8]) -> Result<Kind> {
    Ok(match flag {
        // Before ustar, a slash at the end was what made a directory.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(bad::entry(
                path,
                format_args!("entries of type {:?} are not known", char::from(other)),
            ));
        }
    })
}

fn size(number: i64) -> Result<u64> {
    u64::try_from(number).map_err(|_| bad::archive(format_args!("an entry of {number} bytes")))
}

fn padding(size: u64) -> u64 {
    let block = BLOCK as u64;
    (block - size % block) % block
}

fn device(raw: &[u8]) -> Result<u32> {
    let number = field(raw)?;
    u32::try_from(number).map_err(|_| bad::archive(format_args!("device number {number}")))
}

/// An owner that the kernel can hold: the largest number stands for "none".
fn owner(path: &[u8], what: &str, id: i64) -> Result<u32> {
    u32::try_from(id)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| bad::entry(path, format_args!("{what} {id} is out of range")))
}

fn text(mut data: Vec<u8>) -> Vec<u8> {
    if let Some(end) = data.iter().position(|b| *b == 0) {
        data.truncate(end);
    }
    data
}

/// The sum of all bytes with the field itself blank; old programs added them
/// as signed numbers.
fn check_sum(block: &[u8]) -> Result<()> {
    let stored = field(&block[148..156])?;
    let blank = i64::from(b' ') * 8;
    let outside = || block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = blank + outside().map(|b| i64::from(*b)).sum::<i64>();
    if stored == unsigned {
        return Ok(());
    }
    let signed: i64 = blank + outside().map(|b| i64::from(b.cast_signed())).sum::<i64>();
    if stored == signed {
        return Ok(());
    }
    Err(bad::archive("the checksum of a header is wrong"))
}
