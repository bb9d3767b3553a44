//! Tasks: the running side of containers.
//!
//! A [`TaskManager`] starts a shim per task and speaks containerd's task
//! service with it over ttrpc. The shim is the owner of the processes; the
//! manager keeps what it was told of them, so that listing asks nobody.
//!
//! | module | what it does |
//! | --- | --- |
//! | `runtime` | runtime name → the shim's program |
//! | `bundle` | the directory that a shim works in |
//! | `launch`, `dialect`, `warm` | getting a shim that listens |
//! | `shim` | calls to a shim, each with its limit of time |
//! | `task` | one task: its connection, what is known of it, who waits for it |
//! | `create`, `manager` | the service itself |
//! | `rootfs` | root file systems that the host has to make a part of |
//! | `sandbox` | sandboxes: shims that several containers share, and their controller |
//! | `options`, `info` | what the daemon reads of a runtime's options; what a runtime says it can do |
//! | `death`, `recover` | shims that were killed, daemons that were restarted |
//!
//! Architecture invariant: nothing here holds a lock across an await, and a
//! shim that does not answer delays calls about its own task only.
#![forbid(unsafe_code)]

mod bundle;
mod config;
mod create;
mod death;
mod dialect;
pub mod grpc;
mod info;
mod launch;
mod manager;
mod options;
mod recover;
mod rootfs;
mod runtime;
pub mod sandbox;
mod shim;
mod task;
mod warm;

pub use config::TaskConfig;
pub use manager::TaskManager;
pub use recover::has_bundles;
