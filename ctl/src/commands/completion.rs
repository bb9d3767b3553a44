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

/// Where zsh loads the script when completions are asked for first, it has to answer at once.
const ZSH_LOADED: &str = "
if [[ \"${funcstack[1]}\" == _gantry ]]; then
    _clap_dynamic_completer_gantry
fi
";

impl Args {
    pub(crate) fn execute(self, context: Context<'_>) -> Outcome {
        context.printer.data(&script(&self.shell)?)?;
        Ok(SUCCESS)
    }
}

/// What makes a shell ask `gantry` itself, which is looked for when it is asked.
fn script(shell: &str) -> anyhow::Result<Vec<u8>> {
    let shells = Shells::builtins();
    let completer = shells.completer(shell).context("no completions for this shell")?;
    let mut script = Vec::new();
    completer
        .write_registration(VARIABLE, "gantry", "gantry", "gantry", &mut script)
        .context("write the completions")?;
    if shell == "zsh" {
        script.extend_from_slice(ZSH_LOADED.as_bytes());
    }
    Ok(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_asks_gantry() {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let text = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(text.contains(VARIABLE) && text.contains("gantry"), "{shell}: {text}");
        }
        assert!(script("csh").is_err());
        let zsh = String::from_utf8(script("zsh").unwrap()).unwrap();
        assert!(zsh.starts_with("#compdef gantry\n"), "{zsh}");
        assert!(zsh.contains("function _clap_dynamic_completer_gantry()"), "{zsh}");
    }
}
