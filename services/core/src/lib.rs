//! What every service of Gantry shares: value types, one [`Error`], and the
//! traits in which services meet. No I/O happens here.
//!
//! Services never import each other. A service that needs another takes the
//! trait defined here (`Arc<dyn …>`), and only the daemon names
//! implementations.
#![forbid(unsafe_code)]

pub mod any;
pub mod attach;
pub mod collector;
pub mod containers;
pub mod content;
mod context;
pub mod db;
mod descriptor;
mod diff;
mod digest;
mod error;
pub mod events;
pub mod faults;
pub mod filter;
pub mod history;
pub mod images;
pub mod labels;
pub mod leases;
pub mod local_log;
pub mod locks;
mod moment;
mod mount;
pub mod mounts;
mod names;
pub mod namespaces;
pub mod networks;
pub mod paths;
pub mod sandboxes;
mod scope;
pub mod snapshots;
pub mod sockets;
pub mod tasks;
mod timestamp;
pub mod volumes;

pub use any::Any;
pub use context::Context;
pub use descriptor::{Descriptor, Platform, architecture, go_arch, media_type};
pub use diff::{Applied, Applier, DiffOptions, Differ, FileChange, FileChangeKind, NeedsParent};
pub use digest::{Algorithm, Digest, Hasher, chain_id};
pub use error::{Error, Kind, Result};
pub use labels::{LabelMask, Labels};
pub use mount::Mount;
pub use names::{Namespace, validate_identifier};
pub use scope::{LabelScope, Scope};
pub use timestamp::Timestamp;
