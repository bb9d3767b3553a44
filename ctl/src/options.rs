//! The options that `run` and `create` share.

mod csv;
mod devices;
mod health;
pub(crate) mod id_file;
mod kernel;
pub(crate) mod limits;
mod mounts;
mod names;
pub(crate) mod network;
pub(crate) mod ports;
mod refused;
pub(crate) mod restart;
mod security;

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::bail;
use clap::{ArgAction, Args, ValueEnum, ValueHint};
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use self::devices::Devices;
use self::health::Health;
use self::id_file::IdFile;
use self::kernel::Kernel;
use self::limits::Limits;
use self::mounts::Mounts;
use self::network::Network;
use self::refused::Refused;
use self::security::Security;
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

/// What a client joins of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Standard input.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl FromStr for Stream {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "stdin" => Ok(Self::Stdin),
            "stdout" => Ok(Self::Stdout),
            "stderr" => Ok(Self::Stderr),
            _ => Err("valid streams are STDIN, STDOUT and STDERR"),
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
    /// Remove it, and its volumes without names, when it has ended
    #[arg(long)]
    rm: bool,
    /// Set a variable; NAME alone takes your value (several)
    #[arg(
        short,
        long = "env",
        value_name = "NAME[=VALUE]",
        add = ArgValueCandidates::new(complete::variables)
    )]
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
    /// First process that reaps orphans and hands signals on
    #[arg(long)]
    init: bool,
    /// Host name; the container's ID without it
    // Help has no short name where this is.
    #[arg(short = 'h', long, value_name = "NAME")]
    hostname: Option<String>,
    /// Domain name
    #[arg(long, value_name = "NAME")]
    domainname: Option<String>,
    /// Label it (several)
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Label it as a file says, a line each (several)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    label_file: Vec<PathBuf>,
    /// Annotate its specification (several)
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// When to start it again: no, always, unless-stopped, on-failure:3
    #[arg(
        long,
        value_name = "POLICY",
        value_parser = restart::policy,
        add = ArgValueCandidates::new(complete::restart_policies)
    )]
    restart: Option<api::RestartPolicy>,
    /// When the daemon starts, wait for NAME, or until it is NAME:healthy (several)
    #[arg(
        long,
        value_name = "NAME[:healthy]",
        value_parser = restart::dependency,
        add = ArgValueCandidates::new(complete::containers)
    )]
    after: Vec<api::Dependency>,
    /// Signal that asks it to end
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds until it is killed then; -1 for never [default: 10]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    stop_timeout: Option<i32>,
    /// What takes its output: json-file, local, none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Option of its log: max-size, max-file, max-age, compress, … (several)
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: Pull,
    /// Don't show how the image is pulled
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Platform of the image: linux/arm64; this machine's without it
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Write its ID into a file that is not there yet
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    cidfile: Option<OsString>,
    /// Join only STDIN, STDOUT or STDERR (several)
    #[arg(short, long, value_name = "STREAM")]
    pub(crate) attach: Vec<Stream>,
    /// Print help
    #[arg(id = "help", long = "help", action = ArgAction::Help)]
    _help: Option<bool>,
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
    // What has a heading of its own comes last: headings hold for all that follows.
    #[command(flatten)]
    network: Network,
    #[command(flatten)]
    mounts: Mounts,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    kernel: Kernel,
    #[command(flatten)]
    devices: Devices,
    #[command(flatten)]
    security: Security,
    #[command(flatten)]
    health: Health,
    #[command(flatten)]
    _refused: Refused,
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

    /// Whether a client joins standard output or standard error.
    pub(crate) fn shows(&self, stream: Stream) -> bool {
        self.attach.is_empty() || self.attach.contains(&stream)
    }

    /// The file that gets the ID.
    ///
    /// # Errors
    /// When there is one, or none can be made.
    pub(crate) fn id_file(&self) -> anyhow::Result<Option<IdFile>> {
        // As for Docker, an empty one is none.
        let path = self.cidfile.clone().filter(|path| !path.is_empty());
        path.map(|path| IdFile::reserve(path.into())).transpose()
    }

    /// The container as the daemon is asked for it.
    ///
    /// # Errors
    /// When a variable, a label or an option is malformed, or two contradict each other.
    pub(crate) fn into_spec(self) -> anyhow::Result<api::ContainerSpec> {
        self.check()?;
        let mut words = self.command_line.into_iter();
        // An empty program clears the image's.
        let entrypoint = self.entrypoint.clone().filter(|program| !program.is_empty());
        let mut spec = api::ContainerSpec {
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
            labels: env::labels(&self.label_file, &self.label)?,
            hostname: self.hostname.unwrap_or_default(),
            domainname: self.domainname.unwrap_or_default(),
            auto_remove: self.rm,
            stop_signal: self.stop_signal.unwrap_or_default(),
            stop_timeout: self.stop_timeout,
            log_driver: self.log_driver.unwrap_or_default(),
            log_options: env::pairs("log option", &self.log_opt)?,
            annotations: env::pairs("annotation", &self.annotation)?,
            resources: Some(self.limits.into_resources()),
            restart: self.restart,
            health: self.health.into_check()?,
            init: self.init,
            after: self.after,
            ..Default::default()
        };
        self.kernel.add_to(&mut spec)?;
        self.security.add_to(&mut spec)?;
        self.mounts.add_to(&mut spec)?;
        self.devices.add_to(&mut spec);
        self.network.add_to(&mut spec)?;
        Ok(spec)
    }

    /// Refuses options that contradict each other.
    fn check(&self) -> anyhow::Result<()> {
        let restarts = self.restart.as_ref().is_some_and(|r| r.mode() != api::RestartMode::No);
        if self.rm && restarts {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        if self.log_driver.as_deref() == Some("none") && !self.log_opt.is_empty() {
            bail!("invalid logging opts for driver none");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn container(line: &[&str]) -> Result<Container, clap::Error> {
        let command = clap::Command::new("x").no_binary_name(true).disable_help_flag(true);
        let command = Container::augment_args(command.args_override_self(true));
        Container::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    fn refused(line: &[&str]) -> String {
        container(line).unwrap_err().to_string()
    }

    fn spec(line: &[&str]) -> anyhow::Result<api::ContainerSpec> {
        container(line)?.into_spec()
    }

    #[test]
    fn an_image_alone_asks_for_nothing_else() {
        let wanted = api::ContainerSpec {
            image: "nginx".to_owned(),
            network: "host".to_owned(),
            resources: Some(api::Resources::default()),
            security: Some(api::Security::default()),
            namespaces: Some(api::Namespaces::default()),
            ..Default::default()
        };
        assert_eq!(spec(&["--net", "host", "nginx"]).unwrap(), wanted);
    }

    #[test]
    fn empty_values_ask_for_nothing() {
        let line = ["--cidfile=", "--entrypoint=", "x"];
        assert!(container(&line).unwrap().id_file().unwrap().is_none());
        let made = spec(&line).unwrap();
        assert!(made.has_entrypoint && made.entrypoint.is_empty());
    }

    #[test]
    fn names_and_times() {
        let made = spec(&[
            "-h",
            "web",
            "--domainname=example.org",
            "--stop-timeout",
            "-1",
            "--restart=on-failure:3",
            "--after",
            "db:healthy",
            "--annotation",
            "a.b/c=d",
            "--init",
            "--network=host",
            "--entrypoint=",
            "nginx",
            "-h",
        ]);
        let made = made.unwrap();
        assert_eq!((made.hostname.as_str(), made.domainname.as_str()), ("web", "example.org"));
        assert_eq!((made.stop_timeout, made.init), (Some(-1), true));
        assert_eq!(made.restart.map(|policy| policy.maximum_retries), Some(3));
        assert!(made.after[0].healthy && made.annotations.contains_key("a.b/c"));
        assert_eq!((made.network.as_str(), made.command), ("host", vec!["-h".to_owned()]));
        assert!(made.has_entrypoint && made.entrypoint.is_empty());
    }

    #[test]
    fn streams_are_chosen() {
        let all = container(&["x"]).unwrap();
        assert!(all.shows(Stream::Stdout) && all.shows(Stream::Stderr));
        let one = container(&["-a", "stdin", "-a", "STDERR", "x"]).unwrap();
        assert!(!one.shows(Stream::Stdout) && one.shows(Stream::Stderr));
        assert!(refused(&["-a", "x", "y"]).contains("valid streams are STDIN, STDOUT and STDERR"));
    }

    #[test]
    fn contradictions_are_refused_in_dockers_words() {
        for (line, said) in [
            (
                ["--rm", "--restart=always", "x"],
                "conflicting options: cannot specify both --restart and --rm",
            ),
            (["--log-driver=none", "--log-opt=a=b", "x"], "invalid logging opts for driver none"),
        ] {
            assert_eq!(spec(&line).unwrap_err().to_string(), said);
        }
        assert!(spec(&["--rm", "--restart=no", "x"]).is_ok());
    }

    #[test]
    fn networks_are_handed_on() {
        let made = spec(&["--rm", "-p", "8080:80", "--network", "app-net", "x"]).unwrap();
        assert_eq!((made.network.as_str(), made.ports.len()), ("app-net", 1));
        // Which one it gets then is the daemon's to say.
        assert_eq!(spec(&["x"]).unwrap().network, "");
        let said = spec(&["--network=", "x"]).unwrap_err().to_string();
        assert_eq!(said, "no name set for network");
        let said = refused(&["--link", "a:b", "x"]);
        assert!(said.starts_with("error: --link is not supported: "), "{said}");
    }
}
