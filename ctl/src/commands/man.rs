use std::path::PathBuf;

use anyhow::Context as _;
use clap::ValueHint;

use crate::cli;
use crate::exit::{Outcome, SUCCESS};

/// Write manual pages into a directory
#[derive(Debug, clap::Args)]
#[command(hide = true)]
pub(crate) struct Args {
    /// Directory
    #[arg(value_hint = ValueHint::DirPath)]
    dir: PathBuf,
}

impl Args {
    pub(crate) fn execute(self) -> Outcome {
        let dir = self.dir;
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        clap_mangen::generate_to(cli::definition(), &dir)
            .with_context(|| format!("write manual pages into {}", dir.display()))?;
        Ok(SUCCESS)
    }
}
