//! The gRPC contracts: containerd's services and Gantry's own, with what
//! every server and client of them needs.
//!
//! - [`containerd`] and [`gantry`] hold the generated clients and servers, with
//!   modules that follow the packages of the `.proto` files. Messages shared
//!   with shims are those of the crate `gantry-ttrpc`.
//! - [`status`] maps errors to gRPC's status and back.
//! - [`context`] takes namespace and lease out of a request's metadata, and
//!   puts them in on the client's side.
//! - [`listing`] is for answers of thousands of items.
//! - [`layer`] gives each request of a server an ID, a span and its deadline.
//! - [`scope`] is what limited clients may call.
//! - [`unknown`] names calls that a server does not know.
#![forbid(unsafe_code)]

pub mod context;
mod generated;
pub mod layer;
pub mod listing;
pub mod scope;
pub mod status;
pub mod unknown;

pub use gantry_ttrpc::{any, convert};
pub use gantry_ttrpc::{google, io, runtimeoptions};
pub use generated::{containerd, gantry};

/// Largest message that servers and clients send and take: the largest piece
/// of a blob is far smaller, but lists are not bounded otherwise.
pub const MAX_MESSAGE: usize = 16 << 20;

/// The `FileDescriptorSet` of every package here and of what these import, as
/// gRPC reflection wants it.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
