//! Volumes as archives.

use std::os::fd::OwnedFd;
use std::path::Path;

use futures::StreamExt;
use gantry_archive::input::Input;
use gantry_archive::pack::{PackOptions, Packer};
use gantry_archive::stream::produce;
use gantry_archive::unpack::{Owner, UnpackOptions, unpack};
use gantry_archive::walk::{Dir, Links, Node, Walker};
use gantry_archive::{Limits, own_umask};
use gantry_core::content::BlobStream;
use gantry_core::volumes::{NewVolume, Volume, validate_name};
use gantry_core::{Context, Error, Result};
use rustix::fs::syncfs;
use tokio::sync::oneshot;

use super::volumes::VolumeSummary;
use crate::copy::{Inflating, inflating, spawn};
use crate::{Engine, names};

/// What a volume is called until its archive is whole: what is called so at the daemon's start
/// never came so far.
const UNFINISHED: &str = "gantry-import-";
/// Digits of the random part behind it.
const ID: usize = 64;

impl Engine {
    /// What a volume holds, as an archive. Its failure is the last item.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a volume that stands for something else.
    pub async fn export_volume(&self, ctx: &Context, name: &str) -> Result<BlobStream> {
        let volume = self.parts.volumes.get(ctx, name).await;
        let volume = self.or_meant(ctx, name, volume).await?;
        plain(&volume)?;
        produce("volume-export", move |output| {
            let top = directory(&volume.mountpoint)?;
            let options = PackOptions { exact: true, ..PackOptions::default() };
            let mut packer = Packer::new(output, options);
            packer.add_tree(b".", &top)?;
            packer.finish()?;
            Ok(())
        })
    }

    /// Makes a volume of an archive, plain or compressed with gzip or zstd. It is there when
    /// all of it is.
    ///
    /// # Errors
    /// `AlreadyExists` and `InvalidArgument` for the volume; `InvalidArgument` for a broken or
    /// hostile archive; `ResourceExhausted` for a full disk.
    pub async fn import_volume(
        &self,
        ctx: &Context,
        new: NewVolume,
        archive: BlobStream,
    ) -> Result<VolumeSummary> {
        validate_name(&new.name)?;
        if !new.options.is_empty() {
            return Err(Error::invalid_argument(
                "a volume that is made of an archive can't have driver options",
            ));
        }
        match self.parts.volumes.get(ctx, &new.name).await {
            Ok(_) => return Err(taken(&new.name)),
            Err(err) if !err.is_not_found() => return Err(err),
            Err(_) => {}
        }
        let unfinished = format!("{UNFINISHED}{}", names::random_id());
        let wanted = NewVolume { name: unfinished.clone(), ..new.clone() };
        let (volume, _) = self.parts.volumes.create(ctx, wanted).await?;
        let made = match fill(&volume, archive).await {
            Ok(()) => self.parts.volumes.rename(ctx, &unfinished, &new.name).await,
            Err(err) => Err(err),
        };
        match made {
            Ok(volume) => {
                self.tell_of_volume(ctx, "create", &volume.name, &volume.labels, "");
                Ok(VolumeSummary { volume, size: None, references: 0 })
            }
            Err(err) => {
                if let Err(left) = self.parts.volumes.remove(ctx, &unfinished).await {
                    tracing::warn!(volume = unfinished, error = %left, "remove a volume");
                }
                Err(err)
            }
        }
    }

    /// Removes volumes whose archives were not whole when the daemon ended.
    pub(crate) async fn sweep_imports(&self, ctx: &Context) -> Result<()> {
        for volume in self.parts.volumes.list(ctx).await? {
            if is_unfinished(&volume.name)
                && let Err(err) = self.parts.volumes.remove(ctx, &volume.name).await
            {
                tracing::warn!(volume = volume.name, error = %err, "remove a volume");
            }
        }
        Ok(())
    }
}

/// Whether a volume has the name of one that was not whole yet: no user chooses such a one.
pub(super) fn is_unfinished(name: &str) -> bool {
    let id = name.strip_prefix(UNFINISHED).unwrap_or_default();
    id.len() == ID && id.bytes().all(|b| b.is_ascii_hexdigit())
}

fn taken(name: &str) -> Error {
    Error::already_exists(format!("volume {name}: already exists")).about("volume", name)
}

/// Refuses a volume whose files are not below its mountpoint.
fn plain(volume: &Volume) -> Result<()> {
    if volume.options.is_empty() {
        return Ok(());
    }
    Err(Error::failed_precondition(format!(
        "volume {}: its driver options make it stand for something else, which can't be exported",
        volume.name
    ))
    .about("volume", &volume.name))
}

fn directory(path: &Path) -> Result<Node> {
    let failed = |err| Error::io(format!("open {}", path.display()), err);
    let opened = std::fs::File::open(path).map_err(failed)?;
    Node::of(OwnedFd::from(opened)).map_err(|err| failed(err.into()))
}

/// Unpacks an archive into an empty volume.
async fn fill(volume: &Volume, mut archive: BlobStream) -> Result<()> {
    let Inflating { feed, pieces, ended } = inflating()?;
    let place = volume.mountpoint.clone();
    let unpacked = spawn(move || {
        own_umask()?;
        let root = Dir::root(directory(&place)?);
        let walker = Walker::new(root.clone(), Links::Refuse);
        let options = UnpackOptions {
            owner: Owner::Kept,
            trusted: true,
            replace: false,
            expected: None,
            renamed: None,
        };
        let input = Input::new(move || pieces.recv().ok());
        unpack(input, walker, root, options, Limits::default())?;
        // Before it gets its name: no power loss leaves half of it.
        syncfs(directory(&place)?)
            .map_err(|err| Error::io(format!("bring {} to the disk", place.display()), err.into()))
    })?;
    loop {
        let piece = archive.next().await;
        let last = !matches!(piece, Some(Ok(_)));
        // Threads that want no more of it say why.
        if feed.send(piece).await.is_err() || last {
            break;
        }
    }
    drop(feed);
    finished(unpacked).await?;
    finished(ended).await
}

async fn finished(told: oneshot::Receiver<Result<()>>) -> Result<()> {
    told.await.unwrap_or_else(|_| Err(Error::internal("a thread that works on a volume panicked")))
}
