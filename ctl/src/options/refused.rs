//! What Docker has and Gantry has not, refused by name.

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches};

/// What other systems have.
const WINDOWS: &str = "it is for containers of Windows";

/// An option that is not there.
struct Missing {
    name: &'static str,
    has_value: bool,
    why: &'static str,
}

const fn missing(name: &'static str, why: &'static str) -> Missing {
    Missing { name, has_value: true, why }
}

/// All of them.
const MISSING: [Missing; 12] = [
    missing("cpu-count", WINDOWS),
    missing("cpu-percent", WINDOWS),
    Missing {
        has_value: false,
        ..missing("disable-content-trust", "signatures of images are not checked")
    },
    missing("io-maxbandwidth", WINDOWS),
    missing("io-maxiops", WINDOWS),
    missing("isolation", WINDOWS),
    missing("kernel-memory", "the kernel has no such limit any more: use --memory"),
    missing("link", "containers of one network find each other by name: use --network"),
    missing("runtime", "containers run with Gantry's own runtime"),
    missing("storage-opt", "file systems of containers have no limits of their own"),
    Missing {
        has_value: false,
        ..missing("use-api-socket", "mount the socket: -v /run/gantry/gantry.sock:/run/gantry.sock")
    },
    missing("volume-driver", "use --mount type=volume,volume-driver=DRIVER,target=PATH"),
];

/// Takes all of them, hidden from help, so that each is refused with a reason.
#[derive(Debug)]
pub(crate) struct Refused;

impl Args for Refused {
    fn augment_args(command: Command) -> Command {
        command.args(MISSING.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Refused {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let Some(found) = MISSING.iter().find(|missing| matches.contains_id(missing.name)) else {
            return Ok(Self);
        };
        let message = format!("--{} is not supported: {}\n", found.name, found.why);
        Err(Error::raw(ErrorKind::UnknownArgument, message))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(missing: &Missing) -> Arg {
    let arg = Arg::new(missing.name).long(missing.name).hide(true).action(ArgAction::Append);
    match missing.has_value {
        true => arg.allow_hyphen_values(true),
        false => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> Result<Refused, Error> {
        let command = Refused::augment_args(Command::new("x").no_binary_name(true));
        Refused::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    #[test]
    fn each_is_refused_by_name() {
        assert!(read(&[]).is_ok());
        for missing in &MISSING {
            let option = format!("--{}", missing.name);
            let line = if missing.has_value { vec![&*option, "1"] } else { vec![&*option] };
            let error = read(&line).unwrap_err().to_string();
            let said = format!("error: {option} is not supported: {}\n", missing.why);
            assert_eq!(error, said);
        }
        for line in [&["--link=a:b"][..], &["--use-api-socket=true"]] {
            assert!(read(line).unwrap_err().to_string().contains("is not supported: "), "{line:?}");
        }
    }
}
