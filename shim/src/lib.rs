//! The shim: one small process per container (or per group of containers).
//!
//! Two halves: [`runtime`] makes containers, in throw-away worker processes;
//! everything else serves them: the command line and the ways to start
//! ([`launch`]), the task service ([`service`]), standard streams ([`stdio`])
//! with logs ([`log`]) and attached clients ([`attach`]), published ports and
//! names ([`network`]), exits ([`reaper`], [`exits`]) and events ([`events`]).
//!
//! Under another name the same program is a container's first process ([`init`]).
//!
//! Architecture invariant: the resident process has one thread, for its whole
//! life. Workers are forked from it without exec.

pub mod attach;
pub mod clock;
pub mod error;
pub mod events;
pub mod exits;
pub mod init;
pub mod launch;
pub mod log;
pub mod network;
pub mod reaper;
pub mod report;
pub mod runtime;
pub mod server;
pub mod service;
pub mod stdio;
