//! From this machine to a container.

use std::future::pending;
use std::io;

use anyhow::{anyhow, bail};
use gantry_archive::pack::{PackOptions, Packer};
use gantry_archive::stream::produce;
use gantry_core::content::BlobStream;
use gantry_core::{Error, Kind};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::copy_to_request::Part;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::local::Source;
use super::progress::Progress;
use super::{DEVICES, Goal, LINK, Options, TYPE, There};
use crate::cli::Context;
use crate::client::Client;
use crate::exit::{Outcome, SUCCESS};

/// Messages that wait to be sent.
const QUEUE: usize = 4;

/// Copies a path here, or an archive from standard input, to a path of a container.
///
/// # Errors
/// The daemon's; what is wrong with source or destination.
pub(crate) async fn copy(
    context: Context<'_>,
    source: &str,
    (container, path): (&str, &str),
    options: Options,
) -> Outcome {
    let source = match source {
        "-" => None,
        path => Some(Source::find(path, options.follow)?),
    };
    let client = context.connect().await?;
    let (destination, there) = destination(&client, container, path).await?;
    let goal = match &source {
        Some(source) => Goal::of(source.node.is_directory(), &destination, there)?,
        None if there == There::Directory => Goal { directory: destination.clone(), renamed: None },
        None => bail!("destination \"{container}:{path}\" must be a directory"),
    };
    let content = source.as_ref().and_then(Source::size);
    let archive = match source {
        Some(source) => packed(source, goal.renamed)?,
        None => standard_input()?,
    };
    let target = api::CopyToTarget {
        container: container.to_owned(),
        path: goal.directory,
        keep_owner: options.archive,
        no_overwrite_dir_non_dir: true,
    };
    let quiet = options.quiet;
    let mut progress = Progress::new(context.printer, "Copying to container -", quiet);
    let sent = send(&client, target, archive, &mut progress).await;
    progress.clear();
    sent?;
    progress.finish(content, &format!("{container}:{destination}"));
    Ok(SUCCESS)
}

/// The destination with a link to it followed, and what is there.
async fn destination(
    client: &Client,
    container: &str,
    path: &str,
) -> anyhow::Result<(String, There)> {
    let mut path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let mut found = stat(client, container, &path).await?;
    if let Some(link) = found.as_ref().filter(|stat| stat.mode & TYPE == LINK) {
        path.clone_from(&link.link_target);
        found = stat(client, container, &path).await?;
    }
    let Some(found) = found else { return Ok((path, There::Nothing)) };
    if DEVICES.contains(&(found.mode & TYPE)) {
        bail!(
            "destination \"{container}:{path}\" must be a directory or a regular file: got a device"
        );
    }
    Ok((path, if found.directory { There::Directory } else { There::Other }))
}

/// What a path of a container is, if anything is there.
async fn stat(
    client: &Client,
    container: &str,
    path: &str,
) -> anyhow::Result<Option<api::PathStat>> {
    let request = api::StatPathRequest { container: container.to_owned(), path: path.to_owned() };
    match client.answer(client.containers().stat(request).await) {
        Ok(answer) => Ok(answer.stat),
        Err(error) if is_about_path(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the path is what the daemon does not find: a file in place of a directory, say.
fn is_about_path(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| {
        matches!(error.kind(), Kind::NotFound | Kind::InvalidArgument) && error.subject().is_none()
    })
}

fn packed(source: Source, renamed: Option<String>) -> anyhow::Result<BlobStream> {
    let Source { node, name } = source;
    let name = renamed.unwrap_or(name);
    let archive = produce("pack", move |output| {
        let options = PackOptions { sparse: true, exact: true, newest: None };
        let mut packer = Packer::new(output, options);
        packer.add_tree(name.as_bytes(), &node)?;
        packer.finish()?;
        Ok(())
    });
    Ok(archive?)
}

fn standard_input() -> anyhow::Result<BlobStream> {
    let archive = produce("stdin", |output| {
        let read = io::copy(&mut io::stdin().lock(), output);
        read.map(|_| ()).map_err(|err| Error::io("read standard input", err))
    });
    Ok(archive?)
}

/// Sends an archive, and waits until it is unpacked.
async fn send(
    client: &Client,
    target: api::CopyToTarget,
    archive: BlobStream,
    progress: &mut Progress<'_>,
) -> anyhow::Result<()> {
    let (requests, queue) = mpsc::channel(QUEUE);
    let first = api::CopyToRequest { part: Some(Part::Target(target)) };
    requests.try_send(first).map_err(|_| anyhow!("a queue without room"))?;
    let call = async {
        let requests = ReceiverStream::new(queue);
        client.answer(client.containers().copy_to(requests).await)
    };
    let failed = async {
        match feed(requests, archive, progress).await {
            Err(error) => error,
            // The daemon has the last word.
            Ok(()) => pending().await,
        }
    };
    tokio::select! {
        answer = call => answer.map(drop),
        error = failed => Err(error),
    }
}

/// Hands an archive on until there is no more of it, or the daemon wants no more.
async fn feed(
    requests: mpsc::Sender<api::CopyToRequest>,
    mut archive: BlobStream,
    progress: &mut Progress<'_>,
) -> anyhow::Result<()> {
    while let Some(piece) = archive.next().await {
        let data = match piece {
            Ok(data) => data,
            Err(error) => {
                // The end of the requests would tell the daemon that this was all.
                std::mem::forget(requests);
                return Err(error.into());
            }
        };
        progress.add(data.len());
        let request = api::CopyToRequest { part: Some(Part::Data(data)) };
        if requests.send(request).await.is_err() {
            break;
        }
    }
    Ok(())
}
