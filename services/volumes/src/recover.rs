//! What is done when the daemon starts.

use gantry_core::{Namespace, Result};
use gantry_files::remove_tree;

use crate::inner::Inner;
use crate::places::{Key, names};
use crate::records::VOLUMES;

impl Inner {
    /// Brings records and directories together after a crash. Nobody else is at work.
    pub(crate) fn recover(&self) -> Result<()> {
        for namespace in self.db.namespaces(VOLUMES.name())? {
            let rows = VOLUMES.list(&*self.db, &namespace)?;
            let namespace = Namespace::new(namespace)?;
            for (name, _) in rows {
                let key = (namespace.clone(), name);
                if let Err(err) = self.recover_one(&key) {
                    tracing::error!(error = %err, volume = %key.1, "recover a volume");
                }
            }
        }
        let removed = self.places.removed();
        for name in names(&removed)? {
            self.trash.delete(removed.join(name));
        }
        Ok(())
    }

    fn recover_one(&self, key: &Key) -> Result<()> {
        if self.settled(key)?.is_none() {
            return Ok(());
        }
        if self.places.make(key)? {
            tracing::info!(volume = %key.1, "made the directory of a volume");
        }
        remove_tree(&self.places.filling(key))?;
        self.finish_fill(key)?;
        Ok(())
    }
}
