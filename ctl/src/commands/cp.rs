use std::io::{self, IsTerminal};

use anyhow::bail;
use clap_complete::engine::ArgValueCompleter;

use crate::cli::Context;
use crate::complete;
use crate::copy::{End, Options, from, to};
use crate::exit::Outcome;

/// Examples, behind the options.
const HELP: &str = "\
Examples:
  gantry cp web:/etc/nginx/nginx.conf .       A file from a container
  gantry cp ./site/. web:/srv/www             What is in a directory, to a container
  gantry cp -L web:/var/log/current log       What a link leads to
  gantry cp web:/srv - | tar t                As an archive to standard output
  tar c site | gantry cp - web:/srv           From an archive on standard input

It does not matter whether the container runs. Files belong to root in the container, and to you
here, unless --archive keeps their owners. Each file is copied whole or not at all.";

/// Copy files between a container and this machine
#[derive(Debug, clap::Args)]
#[command(
    after_help = HELP,
    override_usage = "gantry cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       \
                      gantry cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
)]
pub(crate) struct Args {
    /// Keep users, groups and what gives power over others: set-id bits, devices, capabilities
    #[arg(short, long)]
    archive: bool,
    /// Copy what a link leads to in its place
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing about progress, as without a terminal
    #[arg(short, long)]
    quiet: bool,
    /// CONTAINER:PATH, a path here, or - for an archive on standard input
    #[arg(value_name = "SOURCE", add = ArgValueCompleter::new(complete::copied))]
    source: String,
    /// CONTAINER:PATH, a path here, or - for an archive on standard output
    #[arg(value_name = "DESTINATION", add = ArgValueCompleter::new(complete::copied))]
    destination: String,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let options = Options {
            follow: self.follow_link,
            archive: self.archive,
            quiet: self.quiet || !io::stdout().is_terminal(),
        };
        if self.source.is_empty() {
            bail!("source can not be empty");
        }
        if self.destination.is_empty() {
            bail!("destination can not be empty");
        }
        match (End::of(&self.source), End::of(&self.destination)) {
            (End::Container(name, path), End::Local(local)) => {
                from::copy(context, (name, path), local, options).await
            }
            (End::Local(local), End::Container(name, path)) => {
                to::copy(context, local, (name, path), options).await
            }
            (End::Container(..), End::Container(..)) => {
                bail!("copying between containers is not supported")
            }
            (End::Local(_), End::Local(_)) => bail!("must specify at least one container source"),
        }
    }
}
