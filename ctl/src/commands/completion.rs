use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap_complete::env::Shells;

use crate::cli::Context;
use crate::complete::VARIABLE;
use crate::exit::{Outcome, SUCCESS};

/// Print what makes a shell complete commands, containers and images
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  source <(gantry completion bash)                               For this shell
  gantry completion bash > /etc/bash_completion.d/gantry         For all to come
  gantry completion zsh > \"${fpath[1]}/_gantry\"
  gantry completion fish > ~/.config/fish/completions/gantry.fish")]
pub(crate) struct Args {
    /// Shell
    #[arg(value_parser = PossibleValuesParser::new(["bash", "elvish", "fish", "powershell", "zsh"]))]
    shell: String,
}

impl Args {
    pub(crate) fn execute(self, context: Context<'_>) -> Outcome {
        let shells = Shells::builtins();
        let shell = shells.completer(&self.shell).context("no completions for this shell")?;
        let mut script = Vec::new();
        shell
            .write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script)
            .context("write the completions")?;
        context.printer.data(&script)?;
        Ok(SUCCESS)
    }
}
