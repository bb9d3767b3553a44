//! The event exchange: services and shims publish, clients subscribe.
//!
//! [`Exchange`] is the implementation of [`gantry_core::events::Events`],
//! [`grpc`] serves it to clients and [`ttrpc`] takes the events of shims.
#![forbid(unsafe_code)]

mod exchange;
pub mod grpc;
pub mod ttrpc;

pub use exchange::{Exchange, QUEUE_LIMIT};
