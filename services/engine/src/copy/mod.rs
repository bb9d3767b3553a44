//! Files of containers: told of, sent and taken as archives, compared with their image.
//!
//! Every call works on files in a thread of its own, which blocks on what containers may do to
//! them (a FUSE file system whose server is frozen, say) and holds up nobody else. Paths are
//! resolved within the container's root, however it is changed meanwhile: see
//! [`gantry_archive::walk`].

mod mounts;
mod path;
mod view;

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use gantry_archive::Limits;
use gantry_archive::inflate::inflate;
use gantry_archive::input::Input;
use gantry_archive::pack::{PackOptions, Packer, shows_kernel};
use gantry_archive::stream::produce;
use gantry_archive::unpack::{Owner, UnpackOptions, unpack};
use gantry_archive::walk::{Dir, Found, Walker};
use gantry_core::content::BlobStream;
use gantry_core::{Context, Error, FileChange, Kind, Labels, Mount, Result};
use gantry_grpc::gantry::engine::v1::ContainerAction as Action;
use rustix::fs::{AtFlags, StatVfsMountFlags, StatxFlags, fstatvfs, statx};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::lifecycle::Found as Container;
use crate::{Engine, names};

use path::Wanted;
use view::{Access, View};

pub use path::PathStat;

/// How long a thread may take for its next step: longer only if what it reads or writes hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a thread may take for what is left when an archive has been handed over.
const END: Duration = Duration::from_secs(600);
/// Pieces of an archive that wait between two threads.
const QUEUE: usize = 16;
/// What the engine, and whoever starts containers, makes in every container.
const OURS: [&str; 6] =
    ["/dev", "/proc", "/sys", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// Asks for a path's files.
#[derive(Clone, Debug, Default)]
pub struct CopyFrom {
    /// Container: name, ID or prefix.
    pub container: String,
    /// Path in the container; with `/.` at its end what is in the directory.
    pub path: String,
    /// Send what a link leads to in its place.
    pub follow_link: bool,
    /// Leave holes of files out, as GNU tar does.
    pub sparse: bool,
}

/// Where an archive is to go.
#[derive(Clone, Debug, Default)]
pub struct CopyTo {
    /// Container: name, ID or prefix.
    pub container: String,
    /// Directory in the container.
    pub path: String,
    /// Keep owners as the archive has them; root's otherwise.
    pub keep_owner: bool,
    /// Let a directory not take the place of something else, nor the other way round.
    pub no_overwrite: bool,
}

impl Engine {
    /// Tells of a path in a container's file system. A link is told of itself, unless a slash
    /// follows it.
    ///
    /// # Errors
    /// `NotFound` for the container or the path; `InvalidArgument`.
    pub async fn stat_path(&self, ctx: &Context, text: &str, path: &str) -> Result<PathStat> {
        let found = self.find(ctx, text).await?;
        let (view, _) = self.files_view(ctx, &found, Access::Read).await?;
        let wanted = Wanted::new(text, path);
        let told = spawn(move || {
            let entered = view.enter()?;
            let found = wanted.find(&entered.walker, false)?;
            wanted.stat(&entered.walker, &found)
        })?;
        wait(text, told, PATIENCE).await
    }

    /// A path's files as an archive, and what is sent. Names in the archive begin with the
    /// last part of the path. Its failure is the last item.
    ///
    /// # Errors
    /// As [`Engine::stat_path`].
    pub async fn copy_from(
        &self,
        ctx: &Context,
        request: CopyFrom,
    ) -> Result<(PathStat, BlobStream)> {
        let text = request.container.as_str();
        let found = self.find(ctx, text).await?;
        let (view, _) = self.files_view(ctx, &found, Access::Read).await?;
        let wanted = Wanted::new(text, &request.path);
        let (follow, sparse) = (request.follow_link, request.sparse);
        let (tell, told) = oneshot::channel();
        let mut archive = produce("copy-from", move |output| {
            let entered = view.enter()?;
            let found = wanted.find(&entered.walker, follow)?;
            let node = found.node().ok_or_else(|| wanted.missing())?;
            // Nobody waits any more when the call was given up.
            let _ = tell.send(wanted.stat(&entered.walker, &found)?);
            let options = PackOptions { sparse, exact: true, newest: None };
            let mut packer = Packer::new(output, options);
            if shows_kernel(node) {
                // Nothing in it is the container's: it is as empty as without the mount.
                packer.add_node(wanted.top(), node)?;
            } else {
                packer.add_tree(wanted.top(), node)?;
            }
            packer.finish()?;
            Ok(())
        })?;
        match timeout(PATIENCE, told).await {
            Ok(Ok(stat)) => {
                self.tell_of(ctx, Action::CopiedFrom, &found, &[]);
                Ok((stat, patient(archive, text.to_owned())))
            }
            // It did not come so far, and says why.
            Ok(Err(_)) => match archive.next().await {
                Some(Err(err)) => Err(err),
                _ => Err(Error::internal("a path was neither found nor missed")),
            },
            Err(_) => Err(stuck(text)),
        }
    }

    /// Takes an archive, plain or compressed with gzip or zstd, into a directory. A container
    /// that does not run can't be started meanwhile. When it fails, files are whole or not there.
    ///
    /// # Errors
    /// `NotFound` for the container or the directory; `FailedPrecondition` where nothing can be
    /// written; `InvalidArgument` for a broken or hostile archive.
    pub async fn copy_to(&self, ctx: &Context, target: CopyTo, archive: BlobStream) -> Result<()> {
        let text = target.container.as_str();
        let found = self.find(ctx, text).await?;
        let (view, _busy) = self.files_view(ctx, &found, Access::Write).await?;
        let wanted = Wanted::new(text, &target.path);
        let owner = if target.keep_owner { Owner::Kept } else { Owner::Fixed(0, 0) };
        let options = UnpackOptions {
            owner,
            trusted: true,
            replace: !target.no_overwrite,
            expected: None,
            renamed: None,
        };
        let Inflating { feed, pieces, ended } = inflating()?;
        let writes = self.writes_to(ctx, &found.container.id);
        let unpacked = spawn(move || {
            let _writes = writes;
            unpack_into(view, &wanted, options, pieces)
        })?;
        feed_archive(text, archive, feed).await?;
        wait(text, unpacked, END).await?;
        wait(text, ended, END).await?;
        self.tell_of(ctx, Action::CopiedTo, &found, &[]);
        Ok(())
    }

    /// What differs in a container's file system from its image, by path.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a container without a snapshot.
    pub async fn file_changes(&self, ctx: &Context, text: &str) -> Result<Vec<FileChange>> {
        let found = self.find(ctx, text).await?;
        let right = self.root_mounts(ctx, &found).await?;
        if let Some(left) = below(&right) {
            return self.parts.differ.changes(&left, &right, &OURS).await;
        }
        let snapshotter = self.parts.snapshotters.get(&found.container.snapshotter)?;
        let key = &found.container.snapshot_key;
        let Some(parent) = snapshotter.stat(ctx, key).await?.parent else {
            return self.parts.differ.changes(&[], &right, &OURS).await;
        };
        // Nothing references it: what a crash leaves is collected.
        let view = format!("{key}-diff-{}", names::random_id());
        let left = snapshotter.view(ctx, &view, Some(&parent), Labels::new()).await?;
        let changes = self.parts.differ.changes(&left, &right, &OURS).await;
        if let Err(err) = snapshotter.remove(ctx, &view).await {
            tracing::warn!(view, error = %err, "remove the view of an image");
        }
        changes
    }

    /// A container's file system as an archive, without what is mounted in it. Its failure is
    /// the last item.
    ///
    /// # Errors
    /// As [`Engine::file_changes`].
    pub async fn export(&self, ctx: &Context, text: &str) -> Result<BlobStream> {
        let found = self.find(ctx, text).await?;
        let mounts = self.root_mounts(ctx, &found).await?;
        let archive = self.parts.differ.archive(&mounts).await?;
        let whole = self.teller(ctx, Action::Exported, &found);
        Ok(followed(patient(archive, text.to_owned()), whole))
    }

    /// What makes a container's root file system.
    async fn root_mounts(&self, ctx: &Context, found: &Container) -> Result<Vec<Mount>> {
        let container = &found.container;
        if container.snapshot_key.is_empty() {
            return Err(Error::failed_precondition(format!(
                "container {}: another client made it without a snapshot",
                found.meta.name
            ))
            .about("container", &found.meta.name));
        }
        let snapshotter = self.parts.snapshotters.get(&container.snapshotter)?;
        snapshotter.mounts(ctx, &container.snapshot_key).await
    }
}

/// What an overlay shows without its upper directory; `None` for other mounts.
fn below(mounts: &[Mount]) -> Option<Vec<Mount>> {
    let [mount] = mounts else { return None };
    if mount.kind != "overlay" {
        return None;
    }
    let upper = |option: &String| option.starts_with("upperdir=") || option.starts_with("workdir=");
    let options = mount.options.iter().filter(|option| !upper(option)).cloned().collect();
    Some(vec![Mount { options, ..mount.clone() }])
}

/// Unpacks what arrives. Blocks.
fn unpack_into(
    view: View,
    wanted: &Wanted,
    options: UnpackOptions,
    pieces: Receiver<Result<Bytes>>,
) -> Result<()> {
    let entered = view.enter()?;
    let into = match wanted.find(&entered.walker, true)? {
        Found::Directory(into) => into,
        Found::Other { .. } => {
            return Err(Error::invalid_argument("extraction point is not a directory"));
        }
        Found::Nothing { .. } => return Err(wanted.missing()),
    };
    check_writable(&entered.walker, &into)?;
    let input = Input::new(move || pieces.recv().ok());
    unpack(input, entered.walker.clone(), into, options, Limits::default())?;
    Ok(())
}

/// Refuses a directory in which nothing can be written, before anything is.
fn check_writable(walker: &Walker, into: &Dir) -> Result<()> {
    let failed = |err: rustix::io::Errno| Error::io("look at a directory's mount", err.into());
    if !fstatvfs(into).map_err(failed)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = |dir: &Dir| {
        let found = statx(dir, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID);
        found.map(|found| found.stx_mnt_id).ok()
    };
    Err(Error::failed_precondition(if mount(into) == mount(walker.root()) {
        "container rootfs is marked read-only"
    } else {
        "mounted volume is marked read-only"
    }))
}

/// Sends an archive on. Ends early when the threads want no more of it: they say why.
async fn feed_archive(
    text: &str,
    mut archive: BlobStream,
    feed: mpsc::Sender<Option<Result<Bytes>>>,
) -> Result<()> {
    loop {
        let piece = archive.next().await;
        let last = !matches!(piece, Some(Ok(_)));
        match timeout(PATIENCE, feed.send(piece)).await {
            Err(_) => return Err(stuck(text)),
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(())) if last => return Ok(()),
            Ok(Ok(())) => {}
        }
    }
}

/// An archive that is uncompressed as it arrives, by a thread of its own.
pub(crate) struct Inflating {
    /// Takes its pieces, and `None` behind the last one.
    pub(crate) feed: mpsc::Sender<Option<Result<Bytes>>>,
    /// Gives them out, to a thread that unpacks them.
    pub(crate) pieces: Receiver<Result<Bytes>>,
    /// Tells that the thread has ended.
    pub(crate) ended: oneshot::Receiver<Result<()>>,
}

/// Begins to uncompress an archive: plain, gzip or zstd.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn inflating() -> Result<Inflating> {
    let (feed, fed) = mpsc::channel(QUEUE);
    let (emit, pieces) = sync_channel(QUEUE);
    let ended = spawn(move || {
        let done = inflate(fed, "archive", |piece| Ok(emit.send(Ok(piece)).is_ok()));
        if let Err(err) = done {
            // The other side is gone only when it has an error of its own.
            let _ = emit.send(Err(err));
        }
        Ok(())
    })?;
    Ok(Inflating { feed, pieces, ended })
}

/// Works in a thread of its own.
///
/// # Errors
/// When none can be started.
pub(crate) fn spawn<R: Send + 'static>(
    work: impl FnOnce() -> Result<R> + Send + 'static,
) -> Result<oneshot::Receiver<Result<R>>> {
    let (tell, told) = oneshot::channel();
    let body = move || {
        // Nobody waits any more when the call was given up.
        let _ = tell.send(work());
    };
    thread::Builder::new()
        .name("copy".into())
        .spawn(body)
        .map_err(|err| Error::io("start a thread to work on files", err))?;
    Ok(told)
}

async fn wait<R>(text: &str, told: oneshot::Receiver<Result<R>>, limit: Duration) -> Result<R> {
    match timeout(limit, told).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Error::internal("a thread that works on files panicked")),
        Err(_) => Err(stuck(text)),
    }
}

/// A stream that fails when nothing comes for too long.
fn patient(archive: BlobStream, text: String) -> BlobStream {
    let next = |(archive, text): (Option<BlobStream>, String)| async move {
        let mut archive = archive?;
        match timeout(PATIENCE, archive.next()).await {
            Ok(piece) => Some((piece?, (Some(archive), text))),
            Err(_) => Some((Err(stuck(&text)), (None, text))),
        }
    };
    Box::pin(stream::unfold((Some(archive), text), next))
}

/// An archive behind which, if it is whole, something is done.
fn followed<F>(archive: BlobStream, whole: F) -> BlobStream
where
    F: FnOnce() + Send + 'static,
{
    let next = |(mut archive, whole): (BlobStream, Option<F>)| async move {
        match archive.next().await {
            Some(Ok(piece)) => Some((Ok(piece), (archive, whole))),
            Some(Err(err)) => Some((Err(err), (archive, None))),
            None => {
                if let Some(whole) = whole {
                    whole();
                }
                None
            }
        }
    };
    Box::pin(stream::unfold((archive, Some(whole)), next))
}

fn stuck(text: &str) -> Error {
    let why = format!("a file system of container {text} does not answer: something hangs in it");
    Error::new(Kind::DeadlineExceeded, why).about("container", text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn an_overlay_without_its_upper_directory() {
        let options = ["index=off", "upperdir=/u", "workdir=/w", "lowerdir=/a:/b"];
        let overlay = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: options.map(str::to_owned).into(),
        };
        let made = below(std::slice::from_ref(&overlay)).unwrap();
        assert_eq!(made[0].options, ["index=off", "lowerdir=/a:/b"]);
        let bind = Mount { kind: "bind".into(), ..overlay };
        assert_eq!(below(&[bind]), None);
        assert_eq!(below(&[]), None);
    }

    #[tokio::test]
    async fn only_a_whole_archive_is_followed() {
        for (pieces, wanted) in [
            (vec![Ok(Bytes::from("a")), Ok(Bytes::from("b"))], true),
            (vec![Ok(Bytes::from("a")), Err(Error::data_loss("gone"))], false),
        ] {
            let done = Arc::new(AtomicBool::new(false));
            let whole = Arc::clone(&done);
            let archive: BlobStream = Box::pin(stream::iter(pieces));
            let mut archive = followed(archive, move || whole.store(true, Ordering::Relaxed));
            while archive.next().await.is_some() {
                assert!(!done.load(Ordering::Relaxed), "something may be to come");
            }
            assert_eq!(done.load(Ordering::Relaxed), wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_hangs_is_given_up() {
        let forever: BlobStream = Box::pin(stream::pending());
        let items: Vec<_> = patient(forever, "web".into()).collect().await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].as_ref().unwrap_err().kind(), Kind::DeadlineExceeded);
        let (_tell, told) = oneshot::channel::<Result<()>>();
        assert_eq!(wait("web", told, PATIENCE).await.unwrap_err().kind(), Kind::DeadlineExceeded);
    }
}
