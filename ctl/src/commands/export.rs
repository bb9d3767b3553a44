use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{Context as _, bail};
use clap::ValueHint;
use clap_complete::engine::ArgValueCandidates;
use gantry_grpc::gantry::engine::v1 as api;

use crate::cli::Context;
use crate::complete;
use crate::copy::{Ends, check_output};
use crate::exit::{self, Outcome, SUCCESS};
use crate::save::Saved;

/// Export the file system of a container as a tar archive
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write to a file in place of standard output
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    output: Option<String>,
    /// Container, by name or ID
    #[arg(add = ArgValueCandidates::new(complete::containers))]
    container: String,
}

impl Args {
    pub(crate) async fn execute(self, context: Context<'_>) -> Outcome {
        let output = self.output.filter(|output| !output.is_empty());
        if let Some(path) = &output {
            check_output(path).context("failed to export container")?;
            if Path::new(path).is_dir() {
                bail!("failed to export container: {path} is a directory");
            }
        } else if io::stdout().is_terminal() {
            bail!("cowardly refusing to save to a terminal. Use the -o flag or redirect");
        }
        let client = context.connect().await?;
        let request = api::ExportContainerRequest { container: self.container };
        let mut chunks = client.answer(client.containers().export(request).await)?;
        let Some(path) = output else {
            while let Some(chunk) = client.taken(chunks.message().await)? {
                context.printer.data(&chunk.data)?;
            }
            return Ok(SUCCESS);
        };
        let mut ends = Ends::take()?;
        let mut file = Saved::create(Path::new(&path))?;
        loop {
            let chunk = tokio::select! {
                chunk = chunks.message() => client.taken(chunk)?,
                // What was begun goes with the file.
                signal = ends.next() => return Ok(exit::of_signal(signal as i32)),
            };
            let Some(chunk) = chunk else { break };
            file.write(&chunk.data)?;
        }
        file.finish()?;
        Ok(SUCCESS)
    }
}
