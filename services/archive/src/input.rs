//! The uncompressed archive as it arrives.

use bytes::Bytes;
use gantry_core::Result;

use crate::bad;

/// Bytes in a block of a tar archive.
pub(crate) const BLOCK: usize = 512;

/// Gives the next piece, and `None` at the end.
type Pieces = Box<dyn FnMut() -> Option<Result<Bytes>>>;

/// Pieces of an archive, given out without copying them.
pub struct Input {
    pieces: Pieces,
    current: Bytes,
}

impl Input {
    /// Takes its pieces from here, until there are none.
    pub fn new(pieces: impl FnMut() -> Option<Result<Bytes>> + 'static) -> Self {
        Self { pieces: Box::new(pieces), current: Bytes::new() }
    }

    /// Makes `current` non-empty; false at the end.
    fn fill(&mut self) -> Result<bool> {
        while self.current.is_empty() {
            match (self.pieces)() {
                Some(piece) => self.current = piece?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next bytes, at least one and at most `max`.
    ///
    /// # Errors
    /// `InvalidArgument` at the end of the archive; what the pieces' source says.
    pub fn take(&mut self, max: u64) -> Result<Bytes> {
        if !self.fill()? {
            return Err(bad::archive("it ends in the middle of an entry"));
        }
        let len = usize::try_from(max).unwrap_or(usize::MAX).min(self.current.len());
        Ok(self.current.split_to(len))
    }

    /// The next block; `None` at the end of the archive.
    pub(crate) fn block(&mut self) -> Result<Option<Bytes>> {
        if !self.fill()? {
            return Ok(None);
        }
        if self.current.len() >= BLOCK {
            return Ok(Some(self.current.split_to(BLOCK)));
        }
        let mut block = Vec::with_capacity(BLOCK);
        while block.len() < BLOCK {
            let missing = (BLOCK - block.len()) as u64;
            block.extend_from_slice(&self.take(missing)?);
        }
        Ok(Some(block.into()))
    }

    /// Exactly these many bytes, copied.
    pub(crate) fn read(&mut self, len: usize) -> Result<Vec<u8>> {
        let mut data = Vec::with_capacity(len.min(1 << 20));
        while data.len() < len {
            data.extend_from_slice(&self.take((len - data.len()) as u64)?);
        }
        Ok(data)
    }

    /// Leaves bytes out.
    ///
    /// # Errors
    /// As [`Input::take`].
    pub fn skip(&mut self, mut len: u64) -> Result<()> {
        while len > 0 {
            len -= self.take(len)?.len() as u64;
        }
        Ok(())
    }

    /// Goes to the very end, beyond the last entry.
    ///
    /// # Errors
    /// What the pieces' source says.
    pub fn drain(&mut self) -> Result<()> {
        while self.fill()? {
            self.current.clear();
        }
        Ok(())
    }
}
