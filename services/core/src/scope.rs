//! What a client may do that came in by a door which does not let everybody do everything.

use std::fmt;

use crate::{Error, Labels, Namespace};

/// The label by which a client is limited to some containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelScope {
    /// Its key.
    pub key: String,
    /// Its value.
    pub value: String,
    /// The only namespace in which the client acts.
    pub namespace: Namespace,
}

impl LabelScope {
    /// Whether something with these labels is within it.
    pub fn covers(&self, labels: &Labels) -> bool {
        labels.get(&self.key) == Some(&self.value)
    }
}

/// How far one client may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// What limits it, as refusals name it: `socket /run/gantry/ci.sock`, `certificate "ci"`.
    pub door: String,
    /// Who it is, for logs: `uid=1000 pid=77`, `certificate "ci" from 192.0.2.1:4711`.
    pub peer: String,
    /// It looks, and changes nothing.
    pub read_only: bool,
    /// Only containers with this label are there for it.
    pub label: Option<LabelScope>,
}

impl Scope {
    /// Whether a container with these labels is there for the client.
    pub fn covers(&self, labels: &Labels) -> bool {
        self.label.as_ref().is_none_or(|label| label.covers(labels))
    }

    /// What the client is told that wants more.
    pub fn refusal(&self, what: impl fmt::Display) -> Error {
        Error::permission_denied(format!("{what} is beyond the scope of {}: {self}", self.door))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read_only = if self.read_only { "read-only" } else { "" };
        match &self.label {
            None => f.write_str(read_only),
            Some(label) => {
                let and = if self.read_only { " and " } else { "" };
                let LabelScope { key, value, namespace } = label;
                write!(f, "{read_only}{and}limited to containers with the label {key}={value}")?;
                write!(f, " in the namespace {namespace}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(read_only: bool, label: bool) -> Scope {
        let namespace = Namespace::new("default").unwrap();
        let label = label.then(|| LabelScope { key: "ci".into(), value: "true".into(), namespace });
        Scope { door: "socket /s".into(), peer: "uid=1".into(), read_only, label }
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let of = |key: &str, value: &str| Labels::from([(key.to_owned(), value.to_owned())]);
        let by_label = scope(false, true);
        assert!(by_label.covers(&of("ci", "true")));
        for other in [of("ci", ""), of("ci", "false"), of("CI", "true"), Labels::new()] {
            assert!(!by_label.covers(&other), "{other:?}");
        }
        assert!(scope(true, false).covers(&Labels::new()));
    }

    #[test]
    fn a_refusal_says_what_limits() {
        let said = scope(true, false).refusal("Containers/Stop").to_string();
        assert_eq!(said, "Containers/Stop is beyond the scope of socket /s: read-only");
        let said = scope(true, true).refusal("container web");
        assert_eq!(said.kind(), crate::Kind::PermissionDenied);
        let said = said.to_string();
        assert!(said.ends_with(
            "socket /s: read-only and limited to containers with the label ci=true in the \
             namespace default"
        ));
    }
}
