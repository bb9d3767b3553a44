use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap_complete::engine::ArgValueCandidates;
use serde_json::{Value, json};

use crate::cli::{self, Context};
use crate::complete;
use crate::connect::{Address, Target, TlsFiles};
use crate::contexts::{CA, CERT, Choice, Contexts, DEFAULT, ENDPOINT, KEY, Stored, Wishes};
use crate::exit::{FAILURE, Outcome, SUCCESS, describe};
use crate::format::{Columns, Field, Format, Row};

const FIELDS: [Field; 4] = [
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
];
/// What stands behind the name of the context in use.
const MARK: &str = " *";
/// Of the context that is there without being made.
const DESCRIPTION: &str = "Current GANTRY_HOST based configuration";
/// Where Docker says that it keeps that one.
const NOWHERE: &str = "<IN MEMORY>";

/// Manage contexts: names for daemons
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    Inspect(Inspect),
    #[command(alias = "list")]
    Ls(List),
    #[command(alias = "remove")]
    Rm(Remove),
    Show(Show),
    Update(Update),
    Use(Use),
}

impl Args {
    pub(crate) fn execute(self, context: Context<'_>) -> Outcome {
        let contexts = Contexts::of(cli::variable)?;
        match self.command {
            Command::Create(args) => args.execute(context, &contexts),
            Command::Inspect(args) => args.execute(context, &contexts),
            Command::Ls(args) => args.execute(context, &contexts),
            Command::Rm(args) => args.execute(context, &contexts),
            Command::Show(args) => args.execute(context),
            Command::Update(args) => args.execute(context, &contexts),
            Command::Use(args) => args.execute(context, &contexts),
        }
    }
}

/// Make a context, for the daemon that --host names
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gantry context create lab --host ssh://me@lab
  gantry context create far --host tcp://far:2376 --tlscacert ca.pem --tlscert cert.pem --tlskey key.pem")]
struct Create {
    /// A word about it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// The daemon as Docker writes it: host=URL,ca=FILE,cert=FILE,key=FILE
    #[arg(long, value_name = "ENDPOINT")]
    docker: Option<String>,
    /// Name
    #[arg(value_name = "CONTEXT")]
    name: String,
}

impl Create {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        let target = match &self.docker {
            Some(endpoint) => endpoint_of(endpoint)?,
            None => context.global.target()?,
        };
        contexts.create(&self.name, &self.description, &target)?;
        context.printer.line(&self.name)?;
        context.printer.note(format_args!("Successfully created context \"{}\"", self.name));
        Ok(SUCCESS)
    }
}

/// Change a context
#[derive(Debug, clap::Args)]
struct Update {
    /// A word about it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// The daemon as Docker writes it: host=URL,ca=FILE,cert=FILE,key=FILE
    #[arg(long, value_name = "ENDPOINT")]
    docker: Option<String>,
    /// Name
    #[arg(value_name = "CONTEXT", add = ArgValueCandidates::new(complete::contexts))]
    name: String,
}

impl Update {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        let target = match &self.docker {
            Some(endpoint) => Some(endpoint_of(endpoint)?),
            None if context.global.names_daemon() => Some(context.global.target()?),
            None => None,
        };
        contexts.update(&self.name, self.description.as_deref(), target.as_ref())?;
        context.printer.line(&self.name)?;
        context.printer.note(format_args!("Successfully updated context \"{}\"", self.name));
        Ok(SUCCESS)
    }
}

/// Use a context from now on
#[derive(Debug, clap::Args)]
struct Use {
    /// Name; default for this machine's daemon
    #[arg(value_name = "CONTEXT", add = ArgValueCandidates::new(complete::contexts))]
    name: String,
}

impl Use {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        if let Some(kept) = contexts.set_current(&self.name)? {
            let kept = kept.display();
            context.printer.warning(format_args!("a damaged config.json is kept as {kept}"));
        }
        context.printer.line(&self.name)?;
        context.printer.note(format_args!("Current context is now \"{}\"", self.name));
        warn(context, Choice::overriding(cli::variable));
        Ok(SUCCESS)
    }
}

/// Says that the context in use does not count.
fn warn(context: Context<'_>, variable: Option<&str>) {
    if let Some(variable) = variable {
        context.printer.warning(format_args!(
            "{variable} environment variable overrides the active context. To use a context, \
             either set the global --context flag, or unset {variable} environment variable."
        ));
    }
}

/// Remove contexts
#[derive(Debug, clap::Args)]
struct Remove {
    /// Also the one in use
    #[arg(short, long)]
    force: bool,
    /// Names
    #[arg(required = true, value_name = "CONTEXT", add = ArgValueCandidates::new(complete::contexts))]
    names: Vec<String>,
}

impl Remove {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        let mut code = SUCCESS;
        for name in &self.names {
            match contexts.remove(name, self.force) {
                Ok(()) => context.printer.line(name)?,
                Err(error) => {
                    context.printer.error(describe(&error));
                    code = FAILURE;
                }
            }
        }
        Ok(code)
    }
}

/// Show the name of the context in use
#[derive(Debug, clap::Args)]
struct Show {}

impl Show {
    fn execute(self, context: Context<'_>) -> Outcome {
        context.printer.line(context.global.choice()?.name())?;
        Ok(SUCCESS)
    }
}

/// List contexts
#[derive(Debug, clap::Args)]
struct List {
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: Format,
}

impl List {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        let all = contexts.list()?;
        if self.quiet {
            let names = [DEFAULT.to_owned()].into_iter().chain(all.into_keys());
            let text: String = names.map(|name| name + "\n").collect();
            context.printer.data(text.as_bytes())?;
            return Ok(SUCCESS);
        }
        let choice = context.global.choice()?;
        let text = self.show(&rows(all, choice.name()))?;
        context.printer.data(text.as_bytes())?;
        warn(context, Choice::overriding(cli::variable));
        Ok(SUCCESS)
    }

    fn show(&self, rows: &[Line]) -> anyhow::Result<String> {
        let row = |line: &Line| {
            let mut row = Row::default();
            let mark = if line.current && !self.format.is_given() { MARK } else { "" };
            row.set("Name", format!("{}{mark}", line.name));
            row.set("Description", line.description.as_str());
            row.set("DockerEndpoint", line.endpoint.as_str());
            row.set("Current", line.current);
            row.set("Error", line.error.as_str());
            row
        };
        let usual = FIELDS.map(|(name, _)| name);
        let columns = Columns { fields: &FIELDS, usual: &usual };
        self.format.rows(columns, &rows.iter().map(row).collect::<Vec<_>>())
    }
}

/// A context in a listing.
#[derive(Debug, Default)]
struct Line {
    name: String,
    description: String,
    endpoint: String,
    current: bool,
    error: String,
}

fn rows(all: BTreeMap<String, anyhow::Result<Stored>>, current: &str) -> Vec<Line> {
    let (endpoint, error) = match default_address() {
        Ok(address) => (address.to_string(), String::new()),
        Err(error) => (String::new(), describe(&error)),
    };
    let (name, description) = (DEFAULT.to_owned(), DESCRIPTION.to_owned());
    let default = Line { name, description, endpoint, error, current: false };
    let others = all.into_iter().map(|(name, stored)| match stored {
        Ok(Stored { description, address, .. }) => {
            let endpoint = address.to_string();
            Line { name, description, endpoint, ..Line::default() }
        }
        Err(error) => Line { name, error: describe(&error), ..Line::default() },
    });
    let mark = |line: Line| Line { current: line.name == current, ..line };
    [default].into_iter().chain(others).map(mark).collect()
}

/// Where the daemon is of those who use no context.
fn default_address() -> anyhow::Result<Address> {
    let wishes = Wishes { context: Some(DEFAULT), ..Wishes::default() };
    match Choice::of(wishes, cli::variable)? {
        Choice::Address(address) => Ok(address),
        Choice::Context(name) => Err(anyhow!("context {name:?} is not the default")),
    }
}

/// Show all that is known of contexts, as JSON
#[derive(Debug, clap::Args)]
struct Inspect {
    /// Print each with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Names; the one in use when there are none
    #[arg(value_name = "CONTEXT", add = ArgValueCandidates::new(complete::contexts))]
    names: Vec<String>,
}

impl Inspect {
    fn execute(self, context: Context<'_>, contexts: &Contexts) -> Outcome {
        let mut names = self.names;
        if names.is_empty() {
            names.push(context.global.choice()?.name().to_owned());
        }
        let mut found = Vec::new();
        let mut missed = Vec::new();
        for name in &names {
            match inspect(contexts, name) {
                Ok(object) => found.push(object.to_string()),
                Err(error) => missed.push(error),
            }
        }
        Format::of(self.format).inspected(context.printer, &found, missed)
    }
}

/// A context with Docker's field names.
fn inspect(contexts: &Contexts, name: &str) -> anyhow::Result<Value> {
    let (description, address) = if name == DEFAULT {
        (String::new(), default_address()?)
    } else {
        let Stored { description, address, .. } = contexts.get(name)?;
        (description, address)
    };
    let (place, tls) = (contexts.place(name), contexts.tls_place(name));
    let is_kept = name != DEFAULT;
    let files: Vec<&str> =
        [CA, CERT, KEY].into_iter().filter(|file| is_kept && tls.join(file).exists()).collect();
    let material = if files.is_empty() { json!({}) } else { json!({ENDPOINT: files}) };
    let shown = |path: &PathBuf| if is_kept { json!(path) } else { json!(NOWHERE) };
    let metadata =
        if description.is_empty() { json!({}) } else { json!({"Description": description}) };
    Ok(json!({
        "Name": name,
        "Metadata": metadata,
        "Endpoints": {ENDPOINT: {"Host": address.to_string(), "SkipTLSVerify": false}},
        "TLSMaterial": material,
        "Storage": {"MetadataPath": shown(&place), "TLSPath": shown(&tls)},
    }))
}

/// A daemon as Docker writes it.
fn endpoint_of(text: &str) -> anyhow::Result<Target> {
    let mut fields = BTreeMap::new();
    for field in text.split(',') {
        let Some((key, value)) = field.split_once('=') else {
            bail!("invalid --docker {text:?}: {field:?} is not KEY=VALUE");
        };
        match key {
            "host" | "ca" | "cert" | "key" => {}
            "skip-tls-verify" => bail!("skip-tls-verify is not supported: give ca"),
            _ => bail!("invalid --docker {text:?}: unrecognized config key: {key}"),
        }
        fields.insert(key, value);
    }
    let host = fields.get("host").copied().unwrap_or_default();
    let address =
        host.parse::<Address>().map_err(|why| anyhow!("invalid --docker {text:?}: {why}"))?;
    let path = |key: &str| PathBuf::from(fields.get(key).copied().unwrap_or_default());
    let tls = TlsFiles { ca: path("ca"), cert: path("cert"), key: path("key") };
    let given = ["ca", "cert", "key"].iter().filter(|key| fields.contains_key(*key)).count();
    let wanted = if matches!(address, Address::Tcp(_)) { 3 } else { 0 };
    if given != wanted {
        bail!("invalid --docker {text:?}: ca, cert and key are for tcp://, which needs them all");
    }
    Ok(Target { address, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_as_docker_writes_them() {
        let target = endpoint_of("host=tcp://db:1,ca=/a,cert=/b,key=/c").unwrap();
        assert_eq!(target.address.to_string(), "tcp://db:1");
        assert_eq!((target.tls.ca, target.tls.key), (PathBuf::from("/a"), PathBuf::from("/c")));
        assert_eq!(endpoint_of("host=unix:///s").unwrap().tls, TlsFiles::default());
        for bad in [
            "",
            "tcp://db",
            "host=tcp://db",
            "host=tcp://db,ca=/a,cert=/b",
            "host=ssh://db,key=/c",
            "host=ssh://db,skip-tls-verify=true",
            "host=ssh://db,x=y",
        ] {
            assert!(endpoint_of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_context_in_use_is_marked() {
        let list = |format: Option<&str>| List {
            quiet: false,
            format: Format::of(format.map(str::to_owned)),
        };
        let line = |name: &str, current| Line {
            name: name.to_owned(),
            endpoint: "ssh://x".to_owned(),
            current,
            ..Line::default()
        };
        let rows = [line("default", false), line("far", true)];
        let usual = list(None).show(&rows).unwrap();
        assert!(usual.starts_with("NAME      DESCRIPTION   DOCKER ENDPOINT   ERROR\n"), "{usual}");
        assert!(usual.contains("\nfar *     "), "{usual}");
        let own = list(Some("{{.Name}} {{.Current}}")).show(&rows).unwrap();
        assert_eq!(own, "default false\nfar true\n");
    }
}
