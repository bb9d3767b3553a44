//! Reading blobs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use gantry_core::content::{BlobStream, Info};
use gantry_core::{Error, Result, db};

/// Bytes per piece.
const PIECE: u64 = 512 << 10;
/// A blob that is no larger is read as it is opened.
const SMALL: u64 = 64 << 10;

/// Opens a blob for reading. The file stays readable when the blob is
/// deleted.
pub(crate) fn open(path: &Path, info: &Info, offset: u64, len: Option<u64>) -> Result<Reader> {
    let digest = &info.digest;
    if offset > info.size {
        return Err(Error::out_of_range(format!(
            "read content {digest} at {offset}, past its {} bytes: out of range",
            info.size
        )));
    }
    let failed = |err| Error::io(format!("open content {digest}"), err);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            return Err(damaged(info, "its file is gone"));
        }
        Err(err) => return Err(failed(err)),
    };
    let found = file.metadata().map_err(failed)?.len();
    if found != info.size {
        return Err(damaged(info, &format!("its file has {found} of {} bytes", info.size)));
    }
    file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    let left = (info.size - offset).min(len.unwrap_or(u64::MAX));
    let mut reader = Reader { file, left, first: None, info: info.clone() };
    if left <= SMALL {
        reader.first = reader.next()?;
    }
    Ok(reader)
}

fn damaged(info: &Info, why: &str) -> Error {
    let digest = &info.digest;
    Error::data_loss(format!("content {digest}: {why}: delete it and fetch it again: data loss"))
}

/// A blob that is being read.
pub(crate) struct Reader {
    file: File,
    left: u64,
    /// What was read already.
    first: Option<Bytes>,
    info: Info,
}

impl Reader {
    /// The next piece; blocks. `None` at the end.
    fn next(&mut self) -> Result<Option<Bytes>> {
        let want = self.left.min(PIECE);
        if want == 0 {
            return Ok(None);
        }
        let mut piece = Vec::with_capacity(want as usize);
        (&mut self.file)
            .take(want)
            .read_to_end(&mut piece)
            .map_err(|err| Error::io(format!("read content {}", self.info.digest), err))?;
        if piece.len() as u64 != want {
            return Err(damaged(&self.info, "its file became shorter"));
        }
        self.left -= want;
        Ok(Some(piece.into()))
    }

    /// The rest of the blob, read off the asynchronous threads.
    pub(crate) fn stream(self) -> BlobStream {
        Box::pin(stream::try_unfold(self, |mut reader| async move {
            match reader.first.take() {
                Some(piece) => Ok(Some((piece, reader))),
                None if reader.left == 0 => Ok(None),
                None => db::blocking(move || Ok(reader.next()?.map(|p| (p, reader)))).await,
            }
        }))
    }
}
