//! The command line: global options, and what command is meant.

use std::ffi::OsString;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use gantry_core::Namespace;

use crate::client::{Address, Client};
use crate::commands::{
    attach, completion, create, exec, images, info, inspect, kill, logs, man, ps, pull, rm, rmi,
    run, start, stop, version, wait,
};
use crate::exit::Outcome;
use crate::printer::Printer;
use crate::switches;

/// Where the daemon listens unless one says otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/gantry/gantry.sock";
/// The namespace unless one says otherwise.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Commands as the help shows them; each visible one stands in one group.
const GROUPS: [(&str, &[&str]); 4] = [
    ("Containers", &["run", "create", "start", "stop", "kill", "rm", "wait"]),
    ("Look inside", &["ps", "logs", "exec", "attach", "inspect"]),
    ("Images", &["pull", "images", "rmi"]),
    ("About", &["version", "info", "completion"]),
];

/// Run containers
#[derive(Debug, Parser)]
#[command(name = "gantry", version, arg_required_else_help = true, args_override_self = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where gantryd listens: the path of its socket, or unix://PATH
    #[arg(
        long,
        global = true,
        env = "GANTRY_ADDRESS",
        hide_env_values = true,
        default_value = DEFAULT_ADDRESS
    )]
    address: Address,
    /// Namespace of containers and images
    #[arg(
        long,
        short,
        global = true,
        env = "GANTRY_NAMESPACE",
        hide_env_values = true,
        default_value = DEFAULT_NAMESPACE,
        value_parser = |name: &str| Namespace::new(name)
    )]
    namespace: Namespace,
}

impl Global {
    /// Connects to the daemon that is meant.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        Client::connect(&self.address, &self.namespace).await
    }
}

/// What a command acts with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    /// Options of every command.
    pub(crate) global: &'a Global,
    /// Prints.
    pub(crate) printer: &'a Printer,
}

impl Context<'_> {
    /// Connects to the daemon that is meant.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.global.connect().await
    }
}

/// The commands, one file each.
#[derive(Debug, Subcommand)]
enum Command {
    Attach(attach::Args),
    #[command(alias = "completions")]
    Completion(completion::Args),
    Create(create::Args),
    Exec(exec::Args),
    Images(images::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Kill(kill::Args),
    Logs(logs::Args),
    Man(man::Args),
    Ps(ps::Args),
    Pull(pull::Args),
    Rm(rm::Args),
    Rmi(rmi::Args),
    Run(run::Args),
    Start(start::Args),
    Stop(stop::Args),
    Version(version::Args),
    Wait(wait::Args),
}

/// A command line that was understood.
#[derive(Debug)]
pub(crate) struct Cli(Arguments);

/// Understands the command line of this process.
///
/// # Errors
/// What clap says about it, or the help that was asked for.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let line: Vec<_> = std::env::args_os().collect();
    understand(&line).map(Cli)
}

fn understand(line: &[OsString]) -> Result<Arguments, clap::Error> {
    // What only the help needs takes longer to make than the rest.
    let plain = switches::with_values(Arguments::command()).try_get_matches_from(line);
    let matches = plain.map_err(|error| told(error, line))?;
    Arguments::from_arg_matches(&matches)
}

/// An error, or the help that was asked for, as users are told it.
fn told(error: clap::Error, line: &[OsString]) -> clap::Error {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(named) = not_text(line)
    {
        return named;
    }
    let again = |definition: clap::Command| definition.try_get_matches_from(line).err();
    // Help does not show that switches have values. This finds none in a line
    // where one has.
    let help = if error.use_stderr() { None } else { again(definition()) };
    help.filter(|help| !help.use_stderr())
        .or_else(|| again(switches::with_values(definition())))
        .unwrap_or(error)
}

/// Names the arguments that are not text. There may be none: what is not text
/// may come from the environment.
fn not_text(line: &[OsString]) -> Option<clap::Error> {
    let words = line.iter().filter(|word| word.to_str().is_none());
    let words: Vec<_> = words.map(|word| format!("{word:?}")).collect();
    let message = format!("arguments must be UTF-8, unlike {}\n", words.join(", "));
    (!words.is_empty()).then(|| clap::Error::raw(ErrorKind::InvalidUtf8, message))
}

/// The definition that help, man pages and completions come from.
pub(crate) fn definition() -> clap::Command {
    let mut command = Arguments::command();
    let template = template(&command);
    // As it stands: with an error clap adds options that the environment sets.
    let mut built = command.clone();
    built.build();
    for sub in built.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        let usage = sub.render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").to_owned();
        command = command.mut_subcommand(sub.get_name(), |sub| sub.override_usage(usage));
    }
    command.help_template(template).override_usage("gantry [OPTIONS] <COMMAND>")
}

/// The help of `gantry` itself, with its commands in groups.
fn template(command: &clap::Command) -> String {
    let mut text = String::from("{about}\n\n{usage-heading} {usage}\n");
    for (title, names) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {name:<12}{about}\n"));
        }
    }
    text.push_str(
        "\nGlobal options:\n{options}\n\nSee 'gantry COMMAND --help' for more about a command.\n",
    );
    text
}

impl Cli {
    /// Does what was asked for.
    ///
    /// # Errors
    /// What went wrong, with its exit code.
    pub(crate) fn execute(self, printer: &Printer) -> Outcome {
        let Arguments { global, command } = self.0;
        let context = Context { global: &global, printer };
        // One thread is enough for a client, and is there at once.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the runtime")?;
        runtime.block_on(command.execute(context))
    }
}

impl Command {
    async fn execute(self, context: Context<'_>) -> Outcome {
        match self {
            Self::Attach(args) => args.execute(context).await,
            Self::Completion(args) => args.execute(context),
            Self::Create(args) => args.execute(context).await,
            Self::Exec(args) => args.execute(context).await,
            Self::Images(args) => args.execute(context).await,
            Self::Info(args) => args.execute(context).await,
            Self::Inspect(args) => args.execute(context).await,
            Self::Kill(args) => args.execute(context).await,
            Self::Logs(args) => args.execute(context).await,
            Self::Man(args) => args.execute(),
            Self::Ps(args) => args.execute(context).await,
            Self::Pull(args) => args.execute(context).await,
            Self::Rm(args) => args.execute(context).await,
            Self::Rmi(args) => args.execute(context).await,
            Self::Run(args) => args.execute(context).await,
            Self::Start(args) => args.execute(context).await,
            Self::Stop(args) => args.execute(context).await,
            Self::Version(args) => args.execute(context).await,
            Self::Wait(args) => args.execute(context).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
        let line: Vec<_> = line.iter().map(OsString::from).collect();
        understand(&line)
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
        switches::with_values(definition()).debug_assert();
    }

    #[test]
    fn usage_is_the_same_whatever_was_given() {
        for line in [["gantry", "--address", "/x", "stop"], ["gantry", "--namespace", "x", "stop"]]
        {
            let said = parse(&line).unwrap_err().to_string();
            assert!(said.contains("Usage: gantry stop [OPTIONS] <CONTAINER>..."), "{said}");
        }
        assert!(parse(&["gantry", "completions", "bash"]).is_ok());
        let Command::Logs(_) = parse(&["gantry", "logs", "--tail", "-1", "c"]).unwrap().command
        else {
            panic!("another command")
        };
    }

    #[test]
    fn values_of_switches_are_understood_and_not_shown() {
        let told = |line: &[&str]| parse(line).unwrap_err().to_string();
        for help in ["-h", "--help"] {
            let plain = told(&["gantry", "run", help]);
            assert!(plain.contains("--rm  ") && plain.contains("--tty  "), "{plain}");
            assert!(told(&["gantry", "run", "--rm=0", help]).contains("--tty"));
        }
        let refused = told(&["gantry", "run", "--rm=maybe", "busybox"]);
        assert!(refused.contains("'maybe' for '--rm[=<BOOL>]': write true or false"), "{refused}");
        let refused = told(&["gantry", "run", "--rm=true", "--no-such-flag", "busybox"]);
        assert!(refused.contains("unexpected argument '--no-such-flag'"), "{refused}");
        assert!(refused.contains("Usage: gantry run [OPTIONS] IMAGE [COMMAND [ARG]...]"));
    }

    #[test]
    fn every_visible_command_is_in_one_group_and_says_what_it_does() {
        let command = definition();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name();
            let places = GROUPS.iter().flat_map(|(_, names)| *names).filter(|n| **n == name);
            assert_eq!(places.count(), 1, "{name}");
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty() && !about.contains("Options of"), "{name}: {about:?}");
        }
        for name in GROUPS.iter().flat_map(|(_, names)| *names) {
            assert!(command.find_subcommand(name).is_some(), "{name}");
        }
    }

    #[test]
    fn what_follows_the_image_is_the_containers() {
        let line = ["gantry", "run", "-it", "--rm", "busybox", "ls", "--rm", "-n", "x", "--help"];
        let Command::Run(run) = parse(&line).unwrap().command else { panic!("another command") };
        assert_eq!(run.command_line(), ["busybox", "ls", "--rm", "-n", "x", "--help"]);
        let line = ["gantry", "run", "busybox", "--rm"];
        let Command::Run(run) = parse(&line).unwrap().command else { panic!("another command") };
        assert_eq!(run.command_line(), ["busybox", "--rm"]);
        assert!(parse(&["gantry", "run", "--no-such-flag", "busybox"]).is_err());
        assert!(parse(&["gantry", "run"]).is_err());
        assert!(parse(&["gantry", "exec", "c"]).is_err());
    }

    #[test]
    fn global_options_stand_on_either_side() {
        for line in [
            ["gantry", "--address", "unix:///x", "-n", "a", "ps"],
            ["gantry", "ps", "--address", "/x", "-n", "a"],
        ] {
            let arguments = parse(&line).unwrap();
            assert_eq!(arguments.global.address.to_string(), "unix:///x");
            assert_eq!(arguments.global.namespace.as_str(), "a");
        }
        assert!(parse(&["gantry", "-n", "a/b", "ps"]).is_err());
        let arguments = parse(&["gantry", "-n", "a", "-n", "b", "ps"]).unwrap();
        assert_eq!(arguments.global.namespace.as_str(), "b");
    }
}
