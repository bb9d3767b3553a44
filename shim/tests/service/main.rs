//! The shim as a process, driven over its socket with real containers. Needs
//! root and busybox.

mod first;
mod frozen;
mod full;
mod leaving;
mod network;
mod sandbox;
mod support;
mod tasks;
mod warm;
