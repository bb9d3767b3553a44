//! The command line: global options, and what command is meant.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCandidates;
use gantry_core::Namespace;

use crate::client::Client;
use crate::commands::{
    attach, completion, container, context, cp, create, diff, events, exec, export, image, images,
    info, inspect, kill, logs, man, network, pause, port, ps, pull, rename, restart, rm, rmi, run,
    start, stats, stop, system, top, unpause, update, version, volume, wait,
};
use crate::connect::{Address, Target};
use crate::contexts::{Choice, Wishes};
use crate::exit::Outcome;
use crate::printer::Printer;
use crate::{complete, groups, switches};

/// Where the daemon listens unless one says otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/gantry/gantry.sock";
/// The namespace unless one says otherwise.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// Commands as the help shows them; each visible one stands in one group.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "Containers",
        &[
            "run",
            "create",
            "start",
            "stop",
            "restart",
            "pause",
            "unpause",
            "kill",
            "rm",
            "wait",
            "rename",
            "update",
            "container",
        ],
    ),
    (
        "Look inside",
        &["ps", "logs", "exec", "attach", "cp", "diff", "export", "inspect", "top", "stats"],
    ),
    ("Images", &["pull", "images", "rmi", "image"]),
    ("Networks", &["network", "port"]),
    ("Volumes", &["volume"]),
    ("About", &["version", "info", "events", "system", "context", "completion"]),
];

/// Makes the definition of a command.
type Augment = fn(clap::Command) -> clap::Command;

/// Commands that scripts call again and again.
const COMMON: [(&str, Augment); 9] = [
    ("create", create::Args::augment_args),
    ("exec", exec::Args::augment_args),
    ("inspect", inspect::Args::augment_args),
    ("ps", ps::Args::augment_args),
    ("rm", rm::Args::augment_args),
    ("run", run::Args::augment_args),
    ("start", start::Args::augment_args),
    ("stats", stats::Args::augment_args),
    ("stop", stop::Args::augment_args),
];

/// Run containers
#[derive(Debug, Parser)]
#[command(name = "gantry", version, arg_required_else_help = true, args_override_self = true)]
struct Arguments {
    /// Docker's letter for --version, which means volumes behind some commands.
    #[arg(short = 'v', action = clap::ArgAction::Version, hide = true)]
    _version: Option<bool>,
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where gantryd is.
    #[arg(
        short = 'H',
        long = "host",
        global = true,
        value_name = "HOST",
        help = "Where gantryd is: unix://PATH, tcp://HOST[:PORT] or ssh://[USER@]HOST[:PORT][/PATH] [env: GANTRY_HOST]"
    )]
    hosts: Vec<String>,
    /// Its socket.
    #[arg(
        long,
        global = true,
        value_parser = Address::socket,
        help = "The path of gantryd's socket, or unix://PATH [env: GANTRY_ADDRESS] [default: /run/gantry/gantry.sock]"
    )]
    address: Option<Address>,
    /// A name for it.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        add = ArgValueCandidates::new(complete::contexts),
        help = "The context that says where gantryd is [env: GANTRY_CONTEXT]"
    )]
    context: Option<String>,
    /// Who may have signed its certificate.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "For tcp://: certificates of those who may sign gantryd's [default: ca.pem in GANTRY_CERT_PATH or ~/.gantry]"
    )]
    tlscacert: Option<PathBuf>,
    /// What is shown to it.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "For tcp://: the certificate to show [default: cert.pem, likewise]"
    )]
    tlscert: Option<PathBuf>,
    /// The key of that.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help = "For tcp://: its key [default: key.pem, likewise]"
    )]
    tlskey: Option<PathBuf>,
    /// Namespace of containers and images
    #[arg(
        long,
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
        Client::connect(&self.target()?, &self.namespace).await
    }

    /// The daemon that is meant.
    ///
    /// # Errors
    /// When several are, or the context is not there.
    pub(crate) fn target(&self) -> anyhow::Result<Target> {
        self.choice()?.target(self.wishes(), variable)
    }

    /// By which name or address it is meant.
    ///
    /// # Errors
    /// As [`Global::target`].
    pub(crate) fn choice(&self) -> anyhow::Result<Choice> {
        Choice::of(self.wishes(), variable)
    }

    /// What `--host` gave, as often as it was given.
    pub(crate) fn hosts(&self) -> &[String] {
        &self.hosts
    }

    /// Whether the command line says where the daemon is.
    pub(crate) fn names_daemon(&self) -> bool {
        let Wishes { hosts, address, context, tls } = self.wishes();
        let places = !hosts.is_empty() || address.is_some() || context.is_some();
        places || tls.iter().any(Option::is_some)
    }

    fn wishes(&self) -> Wishes<'_> {
        Wishes {
            hosts: &self.hosts,
            address: self.address.as_ref(),
            context: self.context.as_deref(),
            tls: [&self.tlscacert, &self.tlscert, &self.tlskey].map(Option::as_ref),
        }
    }
}

/// The daemon that the environment means.
///
/// # Errors
/// As [`Global::target`].
pub(crate) fn usual_target() -> anyhow::Result<Target> {
    Choice::of(Wishes::default(), variable)?.target(Wishes::default(), variable)
}

/// A variable of the environment; one that is not text counts for nothing.
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
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
    Container(container::Args),
    Context(context::Args),
    Cp(cp::Args),
    Create(create::Args),
    Diff(diff::Args),
    Events(events::Args),
    Exec(exec::Args),
    Export(export::Args),
    Image(image::Args),
    Images(images::Args),
    Info(info::Args),
    Inspect(inspect::Args),
    Kill(kill::Args),
    Logs(logs::Args),
    Man(man::Args),
    Network(network::Args),
    Pause(pause::Args),
    Port(port::Args),
    Ps(ps::Args),
    Pull(pull::Args),
    Rename(rename::Args),
    Restart(restart::Args),
    Rm(rm::Args),
    Rmi(rmi::Args),
    Run(run::Args),
    Start(start::Args),
    Stats(stats::Args),
    Stop(stop::Args),
    System(system::Args),
    Top(top::Args),
    Unpause(unpause::Args),
    Update(update::Args),
    Version(version::Args),
    Volume(volume::Args),
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
    // What only the help and other commands need takes longer to make than the rest.
    let own = groups::rewritten(line, || Global::augment_args(clap::Command::new("gantry")));
    let plain = common(&own).unwrap_or_else(Arguments::command);
    let plain = switches::with_values(plain).try_get_matches_from(&*own);
    let matches = plain.map_err(|error| told(error, line))?;
    Arguments::from_arg_matches(&matches)
}

/// The definition with nothing but the command that a line begins with, when that is in haste.
fn common(line: &[OsString]) -> Option<clap::Command> {
    let word = line.get(1)?.to_str()?;
    let (name, augment) = COMMON.iter().find(|(name, _)| *name == word)?;
    let whole = Global::augment_args(clap::Command::new("gantry")).args_override_self(true);
    Some(whole.subcommand(augment(clap::Command::new(*name))))
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
    let mut command = groups::complete(Arguments::command());
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
        let Arguments { global, command, .. } = self.0;
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
            Self::Container(args) => args.execute(context).await,
            Self::Context(args) => args.execute(context),
            Self::Cp(args) => args.execute(context).await,
            Self::Create(args) => args.execute(context).await,
            Self::Diff(args) => args.execute(context).await,
            Self::Events(args) => args.execute(context).await,
            Self::Exec(args) => args.execute(context).await,
            Self::Export(args) => args.execute(context).await,
            Self::Image(args) => args.execute(context).await,
            Self::Images(args) => args.execute(context).await,
            Self::Info(args) => args.execute(context).await,
            Self::Inspect(args) => args.execute(context).await,
            Self::Kill(args) => args.execute(context).await,
            Self::Logs(args) => args.execute(context).await,
            Self::Man(args) => args.execute(),
            Self::Network(args) => args.execute(context).await,
            Self::Pause(args) => args.execute(context).await,
            Self::Port(args) => args.execute(context).await,
            Self::Ps(args) => args.execute(context).await,
            Self::Pull(args) => args.execute(context).await,
            Self::Rename(args) => args.execute(context).await,
            Self::Restart(args) => args.execute(context).await,
            Self::Rm(args) => args.execute(context).await,
            Self::Rmi(args) => args.execute(context).await,
            Self::Run(args) => args.execute(context).await,
            Self::Start(args) => args.execute(context).await,
            Self::Stats(args) => args.execute(context).await,
            Self::Stop(args) => args.execute(context).await,
            Self::System(args) => args.execute(context).await,
            Self::Top(args) => args.execute(context).await,
            Self::Unpause(args) => args.execute(context).await,
            Self::Update(args) => args.execute(context).await,
            Self::Version(args) => args.execute(context).await,
            Self::Volume(args) => args.execute(context).await,
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
        let plain = told(&["gantry", "run", "--help"]);
        assert!(plain.contains("--rm  ") && plain.contains("--tty  "), "{plain}");
        assert!(told(&["gantry", "run", "--rm=0", "--help"]).contains("--tty"));
        assert!(told(&["gantry", "exec", "-h"]).contains("--tty"));
        // The host name's letter.
        assert!(told(&["gantry", "run", "-h"]).contains("--hostname <NAME>"));
        let refused = told(&["gantry", "run", "--rm=maybe", "busybox"]);
        assert!(refused.contains("'maybe' for '--rm[=<BOOL>]': write true or false"), "{refused}");
        let refused = told(&["gantry", "run", "--rm=true", "--no-such-flag", "busybox"]);
        assert!(refused.contains("unexpected argument '--no-such-flag'"), "{refused}");
        assert!(refused.contains("Usage: gantry run [OPTIONS] IMAGE [COMMAND [ARG]...]"));
    }

    #[test]
    fn common_commands_are_as_in_the_whole() {
        let whole = Arguments::command();
        for (name, _) in COMMON {
            let narrow = common(&["gantry".into(), name.into()]).unwrap();
            let commands = [&narrow, &whole].map(|all| all.find_subcommand(name).unwrap());
            let [own, wanted] = commands.map(|command| {
                let options = command.get_arguments().map(|arg| arg.get_id().clone());
                (options.collect::<Vec<_>>(), command.get_about().map(ToString::to_string))
            });
            assert_eq!(own, wanted, "{name}");
        }
        assert!(common(&["gantry".into(), "--address".into()]).is_none());
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
    fn a_small_v_asks_for_the_version_unless_it_is_a_volume() {
        for letter in ["-v", "-V"] {
            let told = parse(&["gantry", letter]).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::DisplayVersion, "{letter}");
        }
        assert!(parse(&["gantry", "run", "-v", "a:/b", "busybox"]).is_ok());
        assert!(parse(&["gantry", "rm", "-v", "c"]).is_ok());
    }

    #[test]
    fn global_options_stand_on_either_side() {
        for line in [
            ["gantry", "--address", "unix:///x", "--namespace", "a", "ps"],
            ["gantry", "ps", "--address", "/x", "--namespace", "a"],
        ] {
            let arguments = parse(&line).unwrap();
            assert_eq!(arguments.global.target().unwrap().address.to_string(), "unix:///x");
            assert_eq!(arguments.global.namespace.as_str(), "a");
        }
        assert!(parse(&["gantry", "--namespace", "a/b", "ps"]).is_err());
        assert!(parse(&["gantry", "--address", "tcp://x", "ps"]).is_err());
        for line in [["gantry", "-H", "ssh://x", "ps"], ["gantry", "ps", "--host", "ssh://x"]] {
            let arguments = parse(&line).unwrap();
            assert_eq!(arguments.global.target().unwrap().address.to_string(), "ssh://x");
            assert!(arguments.global.names_daemon());
        }
        let line = ["gantry", "--namespace", "a", "--namespace", "b", "ps"];
        let arguments = parse(&line).unwrap();
        assert_eq!(arguments.global.namespace.as_str(), "b");
    }
}
