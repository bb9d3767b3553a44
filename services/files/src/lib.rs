//! What several services do with trees of files.
//!
//! All of it blocks. Whoever changes a tree meanwhile, such as a container, changes what is
//! found, but leads nobody outside: directories are opened one below the other, never through
//! a link, and what is read or changed is what was opened.
#![forbid(unsafe_code)]

mod attributes;
mod copy;
mod data;
mod flush;
mod mounted;
mod remove;
mod shelf;
mod size;
mod trash;
mod walk;

pub use attributes::copy_attributes;
pub use copy::{CopyOptions, copy_tree, copy_tree_while};
pub use flush::Flush;
pub use mounted::is_mount_point;
pub use remove::remove_tree;
pub use shelf::Shelf;
pub use size::tree_size;
pub use trash::{TRASH_PREFIX, Trash};
