//! Images that are whole, but of no use for what is asked.

use gantry_core::Error;

/// Marks an error that says so: nothing is missing, and trying again changes nothing.
/// It has no words of its own.
#[derive(Debug)]
pub(crate) struct Unfit;

impl Unfit {
    /// Marks an error.
    pub(crate) fn mark(err: Error) -> Error {
        err.with_source(Unfit)
    }

    /// Whether an error is marked.
    pub(crate) fn is(err: &Error) -> bool {
        std::error::Error::source(err).is_some_and(|source| source.is::<Unfit>())
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Ok(())
    }
}

impl std::error::Error for Unfit {}
