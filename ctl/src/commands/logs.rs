use std::str::FromStr;

use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};
use crate::{complete, human};

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry logs web                 All that a container has said
  gantry logs -f --tail 20 web    The last 20 lines, and what comes
  gantry logs -t web 2>/dev/null  Its standard output, with times";

/// Show the output of a container
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// Go on with output as it comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines: a number, or all
    #[arg(long, value_name = "LINES", default_value = "all", allow_negative_numbers = true)]
    tail: Tail,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

/// How many of the last lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail(i64);

impl FromStr for Tail {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse::<i64>() {
            _ if text == "all" => Ok(Self(-1)),
            Ok(lines) => Ok(Self(lines.max(-1))),
            Err(_) => Err("write a number, or all".to_owned()),
        }
    }
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request =
            api::LogsRequest { container: self.container, follow: self.follow, tail: self.tail.0 };
        let mut entries = client.answer(client.containers().logs(request).await)?;
        let mut stamps = self.timestamps.then(Stamps::default);
        while let Some(entry) = client.taken(entries.message().await)? {
            if entry.gap {
                context.printer.note("gantry: output was rotated away before it could be read");
                continue;
            }
            let data = match &mut stamps {
                Some(stamps) => stamps.stamped(&entry),
                None => entry.data.to_vec(),
            };
            match entry.stderr {
                true => context.printer.error_data(&data)?,
                false => context.printer.data(&data)?,
            }
        }
        Ok(SUCCESS)
    }
}

/// Puts times before lines, and not into long ones that come in parts.
#[derive(Debug, Default)]
struct Stamps {
    /// Whether standard output and standard error are within a line.
    within: [bool; 2],
}

impl Stamps {
    fn stamped(&mut self, entry: &api::LogEntry) -> Vec<u8> {
        let within = &mut self.within[usize::from(entry.stderr)];
        let mut data = Vec::new();
        if !*within {
            let time = human::time(entry.time).unwrap_or_default();
            data.extend_from_slice(human::rfc3339(time).as_bytes());
            data.push(b' ');
        }
        data.extend_from_slice(&entry.data);
        *within = entry.partial;
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_numbers_or_all() {
        assert_eq!("all".parse(), Ok(Tail(-1)));
        assert_eq!("20".parse(), Ok(Tail(20)));
        assert_eq!("-5".parse(), Ok(Tail(-1)));
        assert!("x".parse::<Tail>().is_err());
    }

    #[test]
    fn each_line_has_one_time() {
        let entry = |stderr, data: &str, partial| api::LogEntry {
            stderr,
            data: data.to_owned().into(),
            time: Some(prost_types::Timestamp { seconds: 0, nanos: 5 }),
            partial,
            gap: false,
        };
        let mut stamps = Stamps::default();
        let mut shown = Vec::new();
        for entry in [
            entry(false, "long", true),
            entry(true, "other\n", false),
            entry(false, " line\n", false),
            entry(false, "next\n", false),
        ] {
            shown.extend(stamps.stamped(&entry));
        }
        let time = "1970-01-01T00:00:00.000000005Z";
        let expected = format!("{time} long{time} other\n line\n{time} next\n");
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }
}
