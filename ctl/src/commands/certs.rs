use std::path::PathBuf;

use clap::ValueHint;

use crate::certs::{Plan, make};
use crate::cli::Context;
use crate::exit::{Outcome, SUCCESS};

/// Make certificates for gantryd on TCP and for its clients
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --host the server's pair is made for these names and IP addresses, and without --host and
--client for those of this machine. The first time there is an authority, ca.pem and ca-key.pem, and
a client's pair as well. Later pairs are of the same authority. No file is ever overwritten.

Examples:
  gantry system certs --dir certs --host db.example --host 192.0.2.7
  gantry system certs --dir certs --client ci        # one more client, ci-cert.pem and ci-key.pem

gantryd gets ca.pem, server-cert.pem and server-key.pem as ca, cert and key of [[listen]]; clients
ca.pem, cert.pem and key.pem, in ~/.gantry or with `gantry context create`. ca-key.pem is for nobody:
whoever has it makes clients.")]
pub(crate) struct Args {
    /// Directory for the files
    #[arg(long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    dir: PathBuf,
    /// A client, whose name gantryd's configuration and log know it by (several)
    #[arg(long, value_name = "NAME")]
    client: Vec<String>,
    /// The pairs are good for so many days
    #[arg(long, value_name = "DAYS", default_value_t = 825)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

impl Args {
    pub(crate) fn execute(self, context: Context<'_>) -> Outcome {
        let hosts = context.global.hosts().to_vec();
        let Self { dir, client: clients, days } = self;
        for path in make(&Plan { dir, hosts, clients, days })? {
            context.printer.line(path.display())?;
        }
        Ok(SUCCESS)
    }
}
