//! The files that shims answer names from (see [`gantry_core::sockets`]), and the text of
//! containers' resolv.conf.
//!
//! ```text
//! names/NETWORK                 who is in a network
//! resolvers/NAMESPACE/CONTAINER which of these a container sees, and who else is asked
//! ```

mod directory;
mod resolv;
mod text;

pub(crate) use directory::NameDirectory;
pub(crate) use resolv::{HostResolver, Servers, resolv_conf};
pub(crate) use text::{Named, Upstream, check_name, hosts_name, names_text, settings_text};
