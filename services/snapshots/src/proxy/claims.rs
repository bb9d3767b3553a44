//! Who is busy with what the other program keeps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Names in the other program that a request is about to put into a record, or that the
/// sweep is about to remove: never both. Held only to look or change.
#[derive(Clone, Default)]
pub(crate) struct Claims(Arc<Mutex<HashMap<String, Claim>>>);

enum Claim {
    /// So many requests use it.
    Used(usize),
    /// The sweep takes it away.
    Removed,
}

impl Claims {
    /// For a request: nobody removes the name until the result is dropped. `None` while
    /// it is being removed.
    pub(crate) fn using(&self, name: &str) -> Option<Guard> {
        let mut claims = self.lock();
        match claims.entry(name.to_owned()).or_insert(Claim::Used(0)) {
            Claim::Removed => return None,
            Claim::Used(count) => *count += 1,
        }
        Some(Guard { claims: self.clone(), name: name.to_owned() })
    }

    /// For the sweep: `None` while a request uses the name.
    pub(crate) fn removing(&self, name: &str) -> Option<Guard> {
        let mut claims = self.lock();
        if claims.contains_key(name) {
            return None;
        }
        claims.insert(name.to_owned(), Claim::Removed);
        Some(Guard { claims: self.clone(), name: name.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Claim>> {
        // A map is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Claims a name until it is dropped.
pub(crate) struct Guard {
    claims: Claims,
    name: String,
}

impl Guard {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut claims = self.claims.lock();
        match claims.get_mut(&self.name) {
            Some(Claim::Used(count)) if *count > 1 => *count -= 1,
            _ => drop(claims.remove(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_or_removed() {
        let claims = Claims::default();
        let (one, two) = (claims.using("a").unwrap(), claims.using("a").unwrap());
        drop(one);
        assert!(claims.removing("a").is_none());
        drop(two);
        let removing = claims.removing("a").unwrap();
        assert!(claims.using("a").is_none() && claims.removing("a").is_none());
        assert!(claims.using("b").is_some());
        drop(removing);
        assert!(claims.using("a").is_some());
    }
}
