//! Events: services and shims publish, clients subscribe.
//!
//! [`Exchange`] hands events to those who listen. [`Journal`] does so, too, and keeps
//! them, so that a client can go on where it stopped: it is the implementation
//! of [`gantry_core::events::Events`] and [`gantry_core::history::History`] in service.
//! [`grpc`] serves both to clients and [`ttrpc`] takes the events of shims.
#![forbid(unsafe_code)]

mod describe;
mod exchange;
pub mod grpc;
mod journal;
pub mod ttrpc;

pub use exchange::{Exchange, QUEUE_LIMIT};
pub use journal::{Journal, Limits, WAITING_LIMIT};
