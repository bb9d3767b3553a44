//! What a runtime says of itself.

use std::time::Duration;

use gantry_core::{Any, Error, Kind, Result};
use gantry_ttrpc::containerd::types::RuntimeInfo;
use gantry_ttrpc::{any, convert};
use prost::Message;
use tokio::process::Command;

use crate::manager::TaskManager;
use crate::{launch, runtime};

/// A program that has not answered by then is no shim.
const LIMIT: Duration = Duration::from_secs(10);

impl TaskManager {
    /// Asks a runtime for its version and features: `SHIM -info`, with the options on
    /// its standard input. The answer is a `containerd.types.RuntimeInfo`.
    ///
    /// # Errors
    /// As for a task with this runtime; `FailedPrecondition` when its shim is too old
    /// to be asked.
    pub async fn runtime_info(&self, runtime: &str, options: Option<Any>) -> Result<Any> {
        let program = runtime::choose(&self.inner.config, runtime, options.as_ref())?;
        let mut command = Command::new(&program.path);
        launch::environment(&self.inner.config, &mut command);
        command.arg("-info").current_dir("/");
        let options = options.map(|o| convert::any(o).encode_to_vec()).unwrap_or_default();
        let refused = |err: Error| {
            err.with_kind(Kind::FailedPrecondition)
                .context(format!("runtime {runtime:?} says nothing of itself"))
        };
        let said = launch::run(&self.inner.config, command, &options, LIMIT).await;
        let said = said.map_err(refused)?;
        let info = RuntimeInfo::decode(said.as_slice()).map_err(|err| {
            refused(Error::internal("its answer is no RuntimeInfo").with_source(err))
        })?;
        Ok(convert::from_any(any::pack(&info)))
    }
}
