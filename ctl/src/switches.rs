//! Options as Go's programs take them: switches with values (`--rm=true`, `-i=0`), and any word
//! behind an option that needs one, `--format '- {{.ID}}'` as well.

use std::any::TypeId;

use clap::{Arg, ArgAction, Command};

/// Lets all switches of a command and of its subcommands have a value, and the values of other
/// options begin with a hyphen. Their help says so; a definition that help is made from goes
/// without.
pub(crate) fn with_values(command: Command) -> Command {
    command.mut_args(with_value).mut_subcommands(with_values)
}

fn with_value(arg: Arg) -> Arg {
    if matches!(arg.get_action(), ArgAction::Help | ArgAction::Version) {
        return arg;
    }
    if arg.get_value_parser().type_id() != TypeId::of::<bool>() {
        let has_value = arg.get_action().takes_values() && !arg.is_require_equals_set();
        let is_option = arg.get_long().is_some() || arg.get_short().is_some();
        return if has_value && is_option { arg.allow_hyphen_values(true) } else { arg };
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
    fn values_may_begin_with_hyphens() {
        let format = Arg::new("format").short('f').long("format");
        let all = Arg::new("all").short('a').action(ArgAction::SetTrue);
        let name = Arg::new("name");
        let command = with_values(Command::new("x").arg(format).arg(all).arg(name));
        let parsed = |line: &[&str]| {
            let found = command.clone().try_get_matches_from(line).ok()?;
            let format = found.get_one::<String>("format").cloned();
            Some((format, *found.get_one::<bool>("all").unwrap()))
        };
        for (line, format, all) in [
            (&["x", "--format", "- {{.ID}}", "-a"][..], Some("- {{.ID}}"), true),
            (&["x", "-f", "-a", "n"], Some("-a"), false),
            (&["x", "-af-a"], Some("-a"), true),
            (&["x", "-a", "n"], None, true),
        ] {
            assert_eq!(parsed(line), Some((format.map(str::to_owned), all)), "{line:?}");
        }
        assert_eq!(parsed(&["x", "-b"]), None);
        assert_eq!(parsed(&["x", "-f"]), None);
    }

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
