use std::path::{Path, PathBuf};

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
        write(&self.dir)?;
        Ok(SUCCESS)
    }
}

/// Writes a page for each command that help shows.
fn write(dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    clap_mangen::generate_to(cli::definition(), dir)
        .with_context(|| format!("write manual pages into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(command: &clap::Command, name: &str, all: &mut Vec<String>) {
        all.push(format!("{name}.1"));
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            pages(sub, &format!("{name}-{}", sub.get_name()), all);
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let mut expected = Vec::new();
        pages(&cli::definition(), "gantry", &mut expected);
        for page in &expected {
            let text = std::fs::read_to_string(dir.path().join(page));
            let text = text.unwrap_or_else(|err| panic!("{page}: {err}"));
            assert!(text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"), "{page}");
        }
        for page in ["gantry-run.1", "gantry-container-ls.1", "gantry-volume-prune.1"] {
            assert!(expected.iter().any(|name| name == page), "{page}");
        }
        assert!(!dir.path().join("gantry-man.1").exists());
    }
}
