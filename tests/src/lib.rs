//! What integration tests and benchmarks stand on: the built binaries, real
//! images made from Debian's packages, a real registry on loopback, and a
//! daemon of one's own with root, state and cgroups apart from everything
//! else. Where networks are concerned it has a machine of its own as well, made
//! of network namespaces: see [`Host`].

mod command;
mod containerd;
mod daemon;
mod dockerd;
mod endpoint;
mod guest;
mod host;
mod images;
pub mod leftovers;
pub mod names;
mod namespace;
mod odd;
pub mod paths;
pub mod peers;
mod processes;
mod registry;
mod terminal;
mod valve;

pub use command::{Output, run, run_within, wait_for};
pub use containerd::Containerd;
pub use daemon::{Daemon, Options, in_memory};
pub use dockerd::Dockerd;
pub use endpoint::endpoint;
pub use guest::Guest;
pub use host::Host;
pub use images::image;
pub use namespace::Namespace;
pub use odd::odd_image;
pub use processes::{Owned, adopt_orphans, start};
pub use registry::{CREDENTIALS, Registry};
pub use terminal::Terminal;
pub use valve::Valve;
