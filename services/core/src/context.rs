use std::sync::Arc;

use crate::{Namespace, Scope};

/// What travels with every request: in which namespace it acts, which lease
/// holds what it makes, how far its client may go, and the ID that its log lines carry.
#[derive(Clone, Debug)]
pub struct Context {
    /// The namespace from the `containerd-namespace` header.
    pub namespace: Namespace,
    /// The lease from the `containerd-lease` header: what the request
    /// creates becomes a resource of it.
    pub lease: Option<String>,
    /// How far the client may go; everywhere when there is none.
    pub scope: Option<Arc<Scope>>,
    /// Names the request in logs.
    pub request_id: String,
}

impl Context {
    /// A context without a lease or request ID.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace, lease: None, scope: None, request_id: String::new() }
    }

    /// The same, holding what it makes by this lease.
    #[must_use]
    pub fn with_lease(mut self, lease: impl Into<String>) -> Self {
        self.lease = Some(lease.into());
        self
    }

    /// The same for what the daemon does by itself, on whoever's behalf: without a lease and
    /// without limits.
    #[must_use]
    pub fn of_daemon(&self) -> Self {
        Self { lease: None, scope: None, ..self.clone() }
    }
}
