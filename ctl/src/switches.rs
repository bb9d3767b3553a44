//! Switches with values: `--rm=true`, `-i=0`.

use std::any::TypeId;

use clap::{Arg, ArgAction, Command};

/// Lets all switches of a command and of its subcommands have a value. Their
/// help says so; a definition that help is made from goes without.
pub(crate) fn with_values(command: Command) -> Command {
    command.mut_args(with_value).mut_subcommands(with_values)
}

fn with_value(arg: Arg) -> Arg {
    let is_help = matches!(arg.get_action(), ArgAction::Help);
    if is_help || arg.get_value_parser().type_id() != TypeId::of::<bool>() {
        return arg;
    }
    let has_default = !arg.get_default_values().is_empty();
    let arg = if has_default { arg } else { arg.default_value("false") };
    // Without an equals sign the next word, or the next letter, is no value.
    arg.action(ArgAction::Set)
        .num_args(0..=1)
        .require_equals(true)
        .value_name("BOOL")
        .default_missing_value("true")
        .value_parser(truth)
}

/// What Go takes for true and false, and so Docker.
///
/// # Errors
/// For anything else.
pub(crate) fn truth(text: &str) -> Result<bool, &'static str> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_as_in_go() {
        for (texts, value) in [
            (["1", "t", "T", "true", "TRUE", "True"], true),
            (["0", "f", "F", "false", "FALSE", "False"], false),
        ] {
            assert!(texts.iter().all(|text| truth(text) == Ok(value)));
        }
        assert!(["", "yes", "tRUE", " true"].iter().all(|text| truth(text).is_err()));
    }
}
