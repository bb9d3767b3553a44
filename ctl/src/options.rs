//! The options that `run` and `create` share.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::printer::Printer;
use crate::{complete, env};

/// When an image is pulled.
// Comments of the values would make the help of all options long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    // When it is not here
    Missing,
    // Always
    Always,
    // Never
    Never,
}

impl From<Pull> for api::PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Missing => Self::Missing,
            Pull::Always => Self::Always,
            Pull::Never => Self::Never,
        }
    }
}

/// What a container sees of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    // Nothing but itself
    None,
    // What the host sees
    Host,
}

impl Network {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
        }
    }
}

/// What a container is made from.
#[derive(Debug, Args)]
pub(crate) struct Container {
    /// Name of the container; a random one without it
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Keep standard input open
    #[arg(short, long)]
    pub(crate) interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub(crate) tty: bool,
    /// Remove it when it has ended
    #[arg(long)]
    rm: bool,
    /// Set a variable; NAME alone takes your value (several)
    #[arg(short, long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the variables of a file, a line each (several)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    env_file: Vec<PathBuf>,
    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group, by name or ID
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Program in place of the image's entrypoint; "" for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// What it sees of the network
    // Docker's old name is understood as well.
    #[arg(long, alias = "net", value_name = "NETWORK")]
    network: Option<Network>,
    /// Host name; the container's ID without it
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Label it (several)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Option of its log: max-size, max-file (several)
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// Platform of the image: linux/arm64; this machine's without it
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Image, then a command in place of the image's
    // One list, so that nothing behind the image is taken for an option of ours.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_names = ["IMAGE", "COMMAND"],
        num_args = 1..,
        add = ArgValueCandidates::new(complete::images)
    )]
    command_line: Vec<String>,
}

impl Container {
    /// Image and command.
    #[cfg(test)]
    pub(crate) fn command_line(&self) -> &[String] {
        &self.command_line
    }

    /// When to pull the image.
    pub(crate) fn pull(&self) -> api::PullPolicy {
        self.pull.into()
    }

    /// The image's platform; empty for this machine's.
    pub(crate) fn platform(&self) -> String {
        self.platform.clone().unwrap_or_default()
    }

    /// The container as the daemon is asked for it. Tells on the way when
    /// nobody chose its network.
    ///
    /// # Errors
    /// When a variable, a label or an option is malformed.
    pub(crate) fn into_spec(self, printer: &Printer) -> anyhow::Result<api::ContainerSpec> {
        let mut words = self.command_line.into_iter();
        // An empty program clears the image's.
        let entrypoint = self.entrypoint.clone().filter(|program| !program.is_empty());
        let spec = api::ContainerSpec {
            name: self.name.unwrap_or_default(),
            image: words.next().unwrap_or_default(),
            command: words.collect(),
            entrypoint: entrypoint.into_iter().collect(),
            has_entrypoint: self.entrypoint.is_some(),
            env: env::variables(&self.env_file, &self.env)?,
            working_dir: self.workdir.unwrap_or_default(),
            user: self.user.unwrap_or_default(),
            tty: self.tty,
            open_stdin: self.interactive,
            labels: env::pairs("label", &self.label)?,
            hostname: self.hostname.unwrap_or_default(),
            network: self.network.unwrap_or(Network::None).name().to_owned(),
            auto_remove: self.rm,
            stop_signal: self.stop_signal.unwrap_or_default(),
            log_options: env::pairs("log option", &self.log_opt)?,
        };
        if self.network.is_none() {
            printer.note(
                "note: no network (published networks are not there yet); \
                 use --network host to share the host's",
            );
        }
        Ok(spec)
    }
}
