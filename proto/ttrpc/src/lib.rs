//! The protocol between the daemon and its shims: containerd's messages and
//! task service, and ttrpc, the small RPC protocol that carries them over a
//! unix socket.
//!
//! - [`containerd`], [`gantry`] and the other packages hold the generated
//!   messages, with modules that follow the packages of the `.proto` files. A
//!   service `Task` comes as a trait `Task` to implement, a `TaskServer` that
//!   dispatches to it, and a `TaskClient`.
//! - [`Client`] and [`serve`] are the transport. Frames and limits are in
//!   [`frame`].
//! - [`Status`] is how a call fails, with the mapping to and from
//!   [`gantry_core::Error`].
//! - [`any`] packs messages as containerd's clients expect it.
//!
//! Only what a shim needs is here, since there is a shim per container: the
//! gRPC services are in the crate `gantry-grpc`.
#![forbid(unsafe_code)]

pub mod any;
mod client;
pub mod convert;
pub mod frame;
mod generated;
mod server;
mod status;

pub use client::{CallOptions, Client};
pub use generated::{containerd, gantry, google, io, runtimeoptions};
pub use server::{Call, Context, Reply, Service, serve, serve_connection};
pub use status::{Code, Status};

/// The `FileDescriptorSet` of every package here and of what these import.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Metadata key under which the namespace travels.
pub const NAMESPACE_KEY: &str = "containerd-namespace-ttrpc";
