//! Requests that may be repeated: by their key they get what they made before.

use gantry_core::containers::Container;
use gantry_core::db::Durability;
use gantry_core::locks::{KeyGuard, KeyLocks};
use gantry_core::{Context, Digest, Error, Namespace, Result};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::model::{Meta, Phase};
use crate::scope;

/// Longest key, in characters.
const LONGEST: usize = 255;

/// Names a request, so that repeating it makes nothing twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// Chosen by the caller.
    pub key: String,
    /// Of the whole request: another one must not use the key.
    pub request: Digest,
}

/// An idempotency key in its namespace.
pub(crate) type Key = (Namespace, String);

/// Keys whose requests are being served: of several with the same key, one at a time.
pub(crate) type Keys = KeyLocks<Key>;

impl Engine {
    /// Waits until no other request with this key is being served; none is
    /// while the answer lives.
    ///
    /// # Errors
    /// `InvalidArgument` for the key.
    pub(crate) async fn once(
        &self,
        ctx: &Context,
        once: Option<&Idempotency>,
    ) -> Result<Option<KeyGuard<Key>>> {
        let Some(once) = once else { return Ok(None) };
        if once.key.chars().count() > LONGEST || once.key.chars().any(char::is_control) {
            return Err(Error::invalid_argument(format!(
                "idempotency key {:?}: at most {LONGEST} characters are allowed, none of them a \
                 control character: invalid argument",
                once.key
            )));
        }
        Ok(Some(self.keys.lock((ctx.namespace.clone(), once.key.clone())).await))
    }

    /// The container that the same request has made, while nobody else serves one with
    /// this key.
    ///
    /// # Errors
    /// `FailedPrecondition` when another request used the key.
    pub(crate) async fn repeated(
        &self,
        ctx: &Context,
        once: Option<&Idempotency>,
    ) -> Result<Option<(Container, Meta)>> {
        let Some(once) = once else { return Ok(None) };
        let Some((container, meta)) = self.store.by_key(ctx, &once.key).await? else {
            return Ok(None);
        };
        // What another's request has made is not told.
        scope::check(ctx.scope.as_deref(), "idempotency key", &once.key, &meta.labels)?;
        if matches!(meta.state.phase, Phase::Creating | Phase::Dead) {
            // It failed or was to go, and its removal failed.
            self.dispose(ctx, &container, &meta, Durability::Buffered, true).await?;
            return Ok(None);
        }
        check(once, &container.id, &meta)?;
        Ok(Some((container, meta)))
    }
}

fn check(once: &Idempotency, id: &str, meta: &Meta) -> Result<()> {
    if meta.idempotency.as_ref().is_some_and(|made| made.request == once.request) {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "idempotency key {:?} belongs to another request, which made container {id} ({}): choose \
         another key, or repeat that request as it was: failed precondition",
        once.key, meta.name
    ))
    .about("container", id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_core::Kind;

    #[test]
    fn another_request_is_refused() {
        let once =
            |text: &str| Idempotency { key: "k".into(), request: Digest::of(text.as_bytes()) };
        let meta = Meta { idempotency: Some(once("a")), ..Meta::default() };
        check(&once("a"), "c1", &meta).unwrap();
        let refused = check(&once("b"), "c1", &meta).unwrap_err();
        assert_eq!(refused.kind(), Kind::FailedPrecondition);
        assert_eq!(refused.subject(), Some(("container", "c1")));
    }
}
