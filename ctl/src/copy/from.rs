//! From a container to this machine.

use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use gantry_archive::input::Input;
use gantry_archive::unpack::{Owner, UnpackOptions, Unpacked, unpack};
use gantry_archive::walk::{Dir, Links, Node, Walker};
use gantry_archive::{Limits, is_root, own_umask};
use gantry_core::{Error, Kind};
use gantry_grpc::gantry::engine::v1 as api;
use gantry_grpc::gantry::engine::v1::copy_from_response::Part;
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot};
use tonic::Streaming;

use super::progress::Progress;
use super::{Ends, Goal, LINK, Options, TYPE, local};
use crate::cli::Context;
use crate::client::{Client, filled};
use crate::exit::{self, Outcome, SUCCESS};

/// Pieces that wait to be unpacked.
const QUEUE: usize = 4;

type Answers = Streaming<api::CopyFromResponse>;
type Piece = Result<Bytes, Error>;

/// Copies a path of a container to a path here, or as an archive to standard output.
///
/// # Errors
/// The daemon's; what is wrong with the destination.
pub(crate) async fn copy(
    context: Context<'_>,
    (container, path): (&str, &str),
    destination: &str,
    options: Options,
) -> Outcome {
    let stream = destination == "-";
    if !stream {
        local::check_output(destination)?;
    }
    let client = context.connect().await?;
    let request = api::CopyFromRequest {
        container: container.to_owned(),
        path: path.to_owned(),
        follow_link: options.follow,
        sparse: !stream,
    };
    let mut answers = client.answer(client.containers().copy_from(request).await)?;
    let first = client.taken(answers.message().await)?.and_then(|answer| answer.part);
    let stat = match first {
        Some(Part::Stat(stat)) => stat,
        _ => filled(None, "path")?,
    };
    if stream {
        while let Some(answer) = client.taken(answers.message().await)? {
            if let Some(Part::Data(data)) = answer.part {
                context.printer.data(&data)?;
            }
        }
        return Ok(SUCCESS);
    }
    let directory = stat.directory && stat.mode & TYPE != LINK;
    let (to, there) = local::destination(destination)?;
    let goal = Goal::of(directory, &to, there)?;
    let quiet = options.quiet;
    let mut progress = Progress::new(context.printer, "Copying from container -", quiet);
    let unpacking = unpacking(&stat.name, goal, options.archive);
    let done = receive(&client, answers, unpacking, &mut progress).await;
    progress.clear();
    let unpacked = match done? {
        Done::Unpacked(unpacked) => unpacked,
        Done::Interrupted(signal) => return Ok(exit::of_signal(signal as i32)),
    };
    progress.finish((!directory).then_some(stat.size), &to);
    if unpacked.left_out > 0 {
        context.printer.warning(format_args!(
            "left out {} devices, which only root can make, and only with --archive",
            unpacked.left_out
        ));
    }
    Ok(SUCCESS)
}

/// Where an archive goes, and how.
struct Unpacking {
    directory: String,
    options: UnpackOptions,
}

/// `name`: what the names in the archive begin with.
fn unpacking(name: &str, goal: Goal, archive: bool) -> Unpacking {
    // Nobody else can give files away.
    let keeps = archive && is_root();
    let options = UnpackOptions {
        owner: if keeps { Owner::Kept } else { Owner::Ours },
        // What is in the container is not to be trusted by more than one asks for.
        trusted: keeps,
        replace: false,
        expected: (!matches!(name, "." | "/")).then(|| name.as_bytes().to_vec()),
        renamed: goal.renamed.map(String::into_bytes),
    };
    Unpacking { directory: goal.directory, options }
}

/// How a copy ended that did not fail.
enum Done {
    Unpacked(Unpacked),
    Interrupted(Signal),
}

/// Unpacks the archive as it arrives, in a thread of its own. Whatever ends it early, what
/// was begun is taken away before this returns.
async fn receive(
    client: &Client,
    mut answers: Answers,
    unpacking: Unpacking,
    progress: &mut Progress<'_>,
) -> anyhow::Result<Done> {
    let mut ends = Ends::take()?;
    let (feed, pieces) = mpsc::channel(QUEUE);
    let (tell, told) = oneshot::channel();
    let work = move || {
        // The receiver waits as long as this runs.
        let _ = tell.send(unpack_here(&unpacking, pieces));
    };
    let thread = std::thread::Builder::new().name("unpack".to_owned()).spawn(work);
    thread.context("start a thread to unpack")?;
    let carried = tokio::select! {
        carried = carry(client, &mut answers, &feed, progress) => carried.map(|()| None),
        signal = ends.next() => Ok(Some(signal)),
    };
    if !matches!(carried, Ok(None)) {
        // One that has ended has an error of its own.
        let _ = feed.send(Err(Error::new(Kind::Cancelled, "the copy was given up"))).await;
    }
    drop(feed);
    let unpacked = told.await.context("the thread that unpacks panicked")?;
    match carried? {
        Some(signal) => Ok(Done::Interrupted(signal)),
        None => Ok(Done::Unpacked(unpacked?)),
    }
}

/// Hands pieces on until there are no more, or nobody wants them.
async fn carry(
    client: &Client,
    answers: &mut Answers,
    feed: &mpsc::Sender<Piece>,
    progress: &mut Progress<'_>,
) -> anyhow::Result<()> {
    while let Some(answer) = client.taken(answers.message().await)? {
        if let Some(Part::Data(data)) = answer.part {
            progress.add(data.len());
            if feed.send(Ok(data)).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn unpack_here(
    unpacking: &Unpacking,
    mut pieces: mpsc::Receiver<Piece>,
) -> anyhow::Result<Unpacked> {
    own_umask()?;
    let Unpacking { directory, options } = unpacking;
    let root = Node::local(Path::new(directory), true);
    let root = root.with_context(|| format!("open {directory}"))?;
    if !root.is_directory() {
        return Err(anyhow!("{directory}: not a directory"));
    }
    let root = Dir::root(root);
    // No link leads out, neither one of the archive nor one that is there.
    let walker = Walker::new(Rc::clone(&root), Links::Refuse);
    let input = Input::new(move || pieces.blocking_recv());
    Ok(unpack(input, walker, root, options.clone(), Limits::default())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use gantry_archive::pack::{PackOptions, Packer};

    use super::*;

    fn feed(archive: Vec<u8>) -> mpsc::Receiver<Piece> {
        let (feed, pieces) = mpsc::channel(1);
        feed.try_send(Ok(archive.into())).unwrap();
        pieces
    }

    fn packed(dir: &Path, name: &str) -> Vec<u8> {
        let mut packer = Packer::new(Vec::new(), PackOptions::default());
        packer.add_tree(name.as_bytes(), &Node::local(dir, true).unwrap()).unwrap();
        packer.finish().unwrap()
    }

    fn into(directory: &Path, renamed: Option<&str>) -> Unpacking {
        let directory = directory.to_str().unwrap().to_owned();
        let goal = Goal { directory, renamed: renamed.map(str::to_owned) };
        unpacking("app", goal, false)
    }

    #[test]
    fn only_what_was_asked_for_is_made() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("f"), "x").unwrap();
        let archive = packed(from.path(), "app");
        unpack_here(&into(to.path(), None), feed(archive.clone())).unwrap();
        unpack_here(&into(to.path(), Some("new")), feed(archive)).unwrap();
        assert!(to.path().join("app/f").is_file() && to.path().join("new/f").is_file());
        let other = unpack_here(&into(to.path(), None), feed(packed(from.path(), ".ssh")));
        assert!(other.unwrap_err().to_string().contains("nobody asked for it"));
        assert!(!to.path().join(".ssh").exists());
    }

    #[test]
    fn no_link_leads_out() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let outside = tempfile::tempdir().unwrap();
        std::fs::create_dir(from.path().join("logs")).unwrap();
        std::fs::write(from.path().join("logs/f"), "x").unwrap();
        std::fs::create_dir(to.path().join("app")).unwrap();
        symlink(outside.path(), to.path().join("app/logs")).unwrap();
        let refused = unpack_here(&into(to.path(), None), feed(packed(from.path(), "app")));
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("cannot overwrite non-directory"), "{text}");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_given_up_is_not_there() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(from.path().join("f"), vec![1; 100_000]).unwrap();
        let mut archive = packed(from.path(), "app");
        archive.truncate(50_000);
        unpack_here(&into(to.path(), None), feed(archive)).unwrap_err();
        assert_eq!(std::fs::read_dir(to.path().join("app")).unwrap().count(), 0);
    }
}
