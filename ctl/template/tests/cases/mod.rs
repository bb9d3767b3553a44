//! Cases by subject. Those of `language`, `functions`, `printf`, `failures` and
//! `syntax` have what Go 1.24 says, by way of Docker's command line.

mod bounds;
mod definitions;
mod failures;
mod functions;
mod language;
mod options;
mod printf;
mod syntax;
mod values;
