use std::collections::BTreeMap;
use std::fs::File;
use std::future::pending;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap_complete::engine::ArgValueCandidates;
use gantry_archive::stream::produce;
use gantry_core::Error;
use gantry_core::content::BlobStream;
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::import_volume_request::Part;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::cli::Context;
use crate::client::Client;
use crate::client::is_not_found;
use crate::copy::Ends;
use crate::exit::{Outcome, SUCCESS, of_signal};
use crate::format::{Columns, Field, Format, Row};
use crate::save::Saved;
use crate::{complete, confirm, human, many, zone};

/// Messages that wait to be sent.
const QUEUE: usize = 4;

/// Docker's fields, of which clusters have some, and our own.
const FIELDS: [Field; 11] = [
    ("Driver", "DRIVER"),
    ("Name", "VOLUME NAME"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Scope", "SCOPE"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Size", "SIZE"),
    ("Group", "GROUP"),
    ("Availability", "AVAILABILITY"),
    ("Status", "STATUS"),
    ("SnapshotOf", "SNAPSHOT OF"),
];

/// Manage volumes
#[derive(Debug, clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Create(Create),
    #[command(alias = "list")]
    Ls(List),
    Inspect(Inspect),
    #[command(alias = "remove")]
    Rm(Remove),
    Prune(Prune),
    Rename(Rename),
    Clone(Copy),
    Snapshot(Copy),
    Export(Export),
    Import(Import),
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        match self.command {
            Command::Create(args) => args.execute(context).await,
            Command::Ls(args) => args.execute(context).await,
            Command::Inspect(args) => args.execute(context).await,
            Command::Rm(args) => args.execute(context).await,
            Command::Prune(args) => args.execute(context).await,
            Command::Rename(args) => args.execute(context).await,
            Command::Clone(args) => args.execute(context, false).await,
            Command::Snapshot(args) => args.execute(context, true).await,
            Command::Export(args) => args.execute(context).await,
            Command::Import(args) => args.execute(context).await,
        }
    }
}

/// `KEY=VALUE`, or `KEY` for an empty value.
fn pairs(texts: &[String]) -> BTreeMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    texts.iter().map(pair).collect()
}

/// Make a volume
#[derive(Debug, clap::Args)]
struct Create {
    /// Driver
    #[arg(short, long, default_value = "local", hide_default_value = true)]
    driver: String,
    /// Label of the volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Option of the driver: type, device and o
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Name; a random one when there is none
    name: Option<String>,
}

impl Create {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::CreateVolumeRequest {
            name: self.name.unwrap_or_default(),
            driver: self.driver,
            options: pairs(&self.opt),
            labels: pairs(&self.label),
        };
        let made = client.answer(client.volumes().create(request).await)?;
        context.printer.line(made.volume.unwrap_or_default().name)?;
        Ok(SUCCESS)
    }
}

/// List volumes
#[derive(Debug, clap::Args)]
struct List {
    /// Only those that match: KEY=VALUE, such as dangling=true or label=env
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Show names only
    #[arg(short, long)]
    quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
    #[command(flatten)]
    format: Format,
}

impl List {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let size = !self.quiet && (self.size || self.format.wants("Size"));
        let request = api::ListVolumesRequest { filters: self.filter.clone(), size };
        let listed = client.answer(client.volumes().list(request).await)?;
        let text = self.show(&listed.volumes)?;
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }

    fn show(&self, volumes: &[api::Volume]) -> anyhow::Result<String> {
        if self.quiet && !self.format.is_given() {
            return Ok(volumes.iter().map(|volume| format!("{}\n", volume.name)).collect());
        }
        let usual: &[&str] =
            if self.size { &["Driver", "Name", "Links", "Size"] } else { &["Driver", "Name"] };
        let rows: Vec<_> = volumes.iter().map(row).collect();
        self.format.rows(Columns { fields: &FIELDS, usual }, &rows)
    }
}

fn row(volume: &api::Volume) -> Row {
    let mut row = Row::default();
    row.set("Driver", volume.driver.as_str());
    row.set("Name", volume.name.as_str());
    row.set("Mountpoint", volume.mountpoint.as_str());
    row.set("Scope", "local");
    row.set("Links", volume.references.to_string());
    row.set("Size", volume.size.map_or_else(|| "N/A".to_owned(), human::space));
    for none in ["Group", "Availability", "Status"] {
        row.set(none, "N/A");
    }
    row.set("SnapshotOf", volume.snapshot_of.as_str());
    row.set_labels(&volume.labels);
    row
}

/// Show all that is known of volumes, as JSON
#[derive(Debug, clap::Args)]
struct Inspect {
    /// Print each with a Go template, or 'json'
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCandidates::new(complete::volumes))]
    names: Vec<String>,
}

impl Inspect {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let mut found = Vec::new();
        let mut missed = Vec::new();
        for name in self.names {
            let request = api::InspectVolumeRequest { name };
            match client.answer(client.volumes().inspect(request).await) {
                Ok(answer) => found.push(zone::localized(answer.json)),
                Err(error) => missed.push(error),
            }
        }
        Format::of(self.format).inspected(context.printer, &found, missed)
    }
}

/// Remove volumes that no container has
#[derive(Debug, clap::Args)]
struct Remove {
    /// Those that don't exist are no failure
    #[arg(short, long)]
    force: bool,
    /// Volumes
    #[arg(required = true, value_name = "VOLUME", add = ArgValueCandidates::new(complete::volumes))]
    names: Vec<String>,
}

impl Remove {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let accept = |error: &anyhow::Error| self.force && is_not_found(error);
        many::at_once_but(context.printer, self.names, accept, |name| {
            let client = client.clone();
            let request = api::RemoveVolumeRequest { name, force: self.force };
            async move { client.answer(client.volumes().remove(request).await).map(drop) }
        })
        .await
    }
}

/// Remove the volumes that no container has
#[derive(Debug, clap::Args)]
struct Prune {
    /// Also those with names, not anonymous ones only
    #[arg(short, long)]
    all: bool,
    /// Only those that match: label=KEY or label!=KEY
    #[arg(long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let which = if self.all { "all" } else { "anonymous" };
        let warning =
            format!("This will remove {which} local volumes not used by at least one container.");
        if !confirm::ask(context.printer, &warning, self.force)? {
            return Ok(SUCCESS);
        }
        let client = context.connect().await?;
        let mut filters = self.filter;
        if self.all {
            filters.push("all=true".to_owned());
        }
        let request = api::PruneVolumesRequest { filters };
        let pruned = client.answer(client.volumes().prune(request).await)?;
        let mut text = String::new();
        if !pruned.removed.is_empty() {
            text = format!("Deleted Volumes:\n{}\n\n", pruned.removed.join("\n"));
        }
        text += &format!("Total reclaimed space: {}\n", human::space(pruned.reclaimed));
        context.printer.data(text.as_bytes())?;
        Ok(SUCCESS)
    }
}

/// Give a volume that no container has another name
#[derive(Debug, clap::Args)]
struct Rename {
    /// The volume
    #[arg(value_name = "VOLUME", add = ArgValueCandidates::new(complete::volumes))]
    name: String,
    /// Its new name
    new_name: String,
}

impl Rename {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let client = context.connect().await?;
        let request = api::RenameVolumeRequest { name: self.name, new_name: self.new_name };
        client.answer(client.volumes().rename(request).await)?;
        Ok(SUCCESS)
    }
}

/// Make a volume with what another one holds
///
/// Blocks are shared where the file system can, so that it takes no room. 'clone' makes a volume
/// like any other; to what 'snapshot' makes nothing can be written.
#[derive(Debug, clap::Args)]
struct Copy {
    /// Label of the new volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// The volume that is there
    #[arg(value_name = "VOLUME", add = ArgValueCandidates::new(complete::volumes))]
    source: String,
    /// Name of the new one
    name: String,
}

impl Copy {
    async fn execute(self, context: Context<'_>, snapshot: bool) -> Outcome {
        let client = context.connect().await?;
        let labels = pairs(&self.label);
        let request =
            api::CopyVolumeRequest { source: self.source, name: self.name, labels, snapshot };
        let made = client.answer(client.volumes().copy(request).await)?;
        context.printer.line(made.volume.unwrap_or_default().name)?;
        Ok(SUCCESS)
    }
}

/// Write what a volume holds to a tar archive
#[derive(Debug, clap::Args)]
struct Export {
    /// Write to a file, not to standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The volume
    #[arg(value_name = "VOLUME", add = ArgValueCandidates::new(complete::volumes))]
    name: String,
}

impl Export {
    async fn execute(self, context: Context<'_>) -> Outcome {
        if self.output.is_none() && io::stdout().is_terminal() {
            bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
        }
        let client = context.connect().await?;
        let request = api::ExportVolumeRequest { name: self.name };
        let mut chunks = client.answer(client.volumes().export(request).await)?;
        let Some(path) = &self.output else {
            while let Some(chunk) = client.taken(chunks.message().await)? {
                context.printer.data(&chunk.data)?;
            }
            return Ok(SUCCESS);
        };
        let mut ends = Ends::take()?;
        let mut file = Saved::create(path)?;
        loop {
            let chunk = tokio::select! {
                chunk = chunks.message() => client.taken(chunk)?,
                // What was begun goes with the file.
                signal = ends.next() => return Ok(of_signal(signal as i32)),
            };
            let Some(chunk) = chunk else { break };
            file.write(&chunk.data)?;
        }
        file.finish()?;
        Ok(SUCCESS)
    }
}

/// Make a volume of a tar archive
#[derive(Debug, clap::Args)]
struct Import {
    /// Label of the volume
    #[arg(short, long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Name of the new volume
    name: String,
    /// The archive, plain or compressed; '-' for standard input
    #[arg(default_value = "-", hide_default_value = true)]
    file: PathBuf,
}

impl Import {
    async fn execute(self, context: Context<'_>) -> Outcome {
        let archive = archive(&self.file)?;
        let client = context.connect().await?;
        let volume = api::CreateVolumeRequest {
            name: self.name,
            labels: pairs(&self.label),
            ..api::CreateVolumeRequest::default()
        };
        let made = import(&client, volume, archive).await?;
        context.printer.line(made.name)?;
        Ok(SUCCESS)
    }
}

/// What a file holds, or standard input. A thread reads it: a read can't be taken back when the
/// daemon refuses the rest.
fn archive(path: &Path) -> anyhow::Result<BlobStream> {
    if path.as_os_str() != "-" {
        let what = format!("read {}", path.display());
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        return Ok(produce("archive", move |output| copied(file, output, what))?);
    }
    if io::stdin().is_terminal() {
        bail!("cowardly refusing to read an archive from a terminal. Name a file or redirect");
    }
    let what = "read standard input".to_owned();
    Ok(produce("stdin", move |output| copied(io::stdin().lock(), output, what))?)
}

fn copied(mut from: impl Read, to: &mut impl Write, what: String) -> Result<(), Error> {
    io::copy(&mut from, to).map(drop).map_err(|err| Error::io(what, err))
}

async fn import(
    client: &Client,
    volume: api::CreateVolumeRequest,
    archive: BlobStream,
) -> anyhow::Result<api::Volume> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let call = async {
        let requests = ReceiverStream::new(queue);
        client.answer(client.volumes().import(requests).await)
    };
    let failed = async {
        match feed(requests, volume, archive).await {
            Err(error) => error,
            // The daemon has the last word.
            Ok(()) => pending().await,
        }
    };
    let made = tokio::select! {
        answer = call => answer?,
        error = failed => return Err(error),
    };
    Ok(made.volume.unwrap_or_default())
}

/// Hands an archive on until there is no more of it, or the daemon wants no more.
async fn feed(
    requests: mpsc::Sender<api::ImportVolumeRequest>,
    volume: api::CreateVolumeRequest,
    mut archive: BlobStream,
) -> anyhow::Result<()> {
    let part = |part| api::ImportVolumeRequest { part: Some(part) };
    let mut wanted = requests.send(part(Part::Volume(volume))).await.is_ok();
    while wanted && let Some(piece) = archive.next().await {
        let data = match piece {
            Ok(data) => data,
            Err(error) => {
                // The end of the requests would tell the daemon that this was all.
                std::mem::forget(requests);
                return Err(error.into());
            }
        };
        wanted = requests.send(part(Part::Data(data))).await.is_ok();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_dockers() {
        let volume = api::Volume {
            name: "data".into(),
            driver: "local".into(),
            size: Some(2048),
            references: 1,
            ..Default::default()
        };
        let args = |size| List { filter: vec![], quiet: false, size, format: Format::default() };
        let text = args(false).show(std::slice::from_ref(&volume)).unwrap();
        assert_eq!(text, "DRIVER    VOLUME NAME\nlocal     data\n");
        let text = args(true).show(std::slice::from_ref(&volume)).unwrap();
        assert_eq!(text.lines().nth(1), Some("local     data          1         2.048kB"));
        let format = Format::of(Some("{{.Group}} {{.Availability}} {{.Status}}".to_owned()));
        let text = List { format, ..args(false) }.show(&[volume]).unwrap();
        assert_eq!(text, "N/A N/A N/A\n");
    }

    #[test]
    fn pairs_of_texts() {
        let made = pairs(&["a=b=c".to_owned(), "d".to_owned()]);
        assert_eq!(made, [("a", "b=c"), ("d", "")].map(|(k, v)| (k.into(), v.into())).into());
    }
}
