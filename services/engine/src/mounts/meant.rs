//! Volumes that are asked for and not there.

use gantry_core::{Context, Result};

use crate::{Engine, names};

impl Engine {
    /// What came of a call about a volume: where that is not there, with the name that was
    /// probably meant.
    pub(super) async fn or_meant<T: Send>(
        &self,
        ctx: &Context,
        name: &str,
        outcome: Result<T>,
    ) -> Result<T> {
        match outcome {
            // Other names are none of a limited client's business.
            Err(err) if err.is_not_found() && ctx.scope.is_none() => {
                let all = self.parts.volumes.list(ctx).await.unwrap_or_default();
                Err(names::suggest(err, name, all.iter().map(|volume| volume.name.as_str())))
            }
            other => other,
        }
    }
}
