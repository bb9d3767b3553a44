//! What a container has used.

use super::{Group, Host};
use crate::runtime::types::Error;

/// Readings.
#[derive(Debug)]
pub enum Metrics {
    /// Of version 1 hierarchies.
    V1(Box<gantry_ttrpc::io::containerd::cgroups::v1::Metrics>),
    /// Of the unified hierarchy.
    V2(Box<gantry_ttrpc::io::containerd::cgroups::v2::Metrics>),
}

impl Host {
    /// Reads the cgroup's counters.
    pub(crate) fn stats(&self, group: &Group) -> Result<Metrics, Error> {
        Err(Error::Unsupported(format!("stats of {}", group.path())))
    }
}
