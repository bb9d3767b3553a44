//! Volumes: directories that outlive the containers that use them.

mod options;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use async_trait::async_trait;

use crate::{Context, Error, Labels, Mount, Result, Timestamp};

pub use options::device_mount;

/// Table of the volumes. Key: name.
pub const TABLE: &str = "volumes";

/// The one driver.
pub const DRIVER: &str = "local";

/// Label of a volume that was made without a name, for one container.
pub const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Longest name, in bytes: that of a file.
const LONGEST_NAME: usize = 255;

/// Options of the driver: `type`, `device` and `o`, as Docker's driver `local` has them.
pub type Options = BTreeMap<String, String>;

/// A volume as one namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name, unique in its namespace.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Options of the driver; none for a plain directory.
    pub options: Options,
    /// When it was made.
    pub created_at: Timestamp,
    /// The directory that containers see, an absolute path.
    pub mountpoint: PathBuf,
    /// The volume that it is a snapshot of, by its present or last name. Who mounts a snapshot
    /// mounts it read-only.
    pub snapshot_of: Option<String>,
}

impl Volume {
    /// Its driver: always [`DRIVER`].
    pub fn driver(&self) -> &'static str {
        DRIVER
    }

    /// Whether it was made without a name.
    pub fn is_anonymous(&self) -> bool {
        self.labels.contains_key(ANONYMOUS)
    }

    /// Whether nobody may write to it.
    pub fn is_read_only(&self) -> bool {
        self.snapshot_of.is_some()
    }

    /// What is to be mounted at its mountpoint while it is used; `None` for a plain directory.
    ///
    /// # Errors
    /// `InvalidArgument` for options that are not supported, which no volume is made with.
    pub fn device_mount(&self) -> Result<Option<Mount>> {
        device_mount(&self.options)
    }
}

/// A volume to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name; empty for an anonymous one, which gets a random name and the label
    /// [`ANONYMOUS`].
    pub name: String,
    /// [`DRIVER`], which the empty name stands for.
    pub driver: String,
    /// Labels.
    pub labels: Labels,
    /// Options of the driver.
    pub options: Options,
}

/// What a copy of a volume is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyKind {
    /// A volume of its own.
    Clone,
    /// A state to go back to: nobody writes to it.
    Snapshot,
}

/// The volumes of the driver `local`.
///
/// Vocabulary: a *volume* is a directory with a name; its *mountpoint* is that directory on the
/// host. A *snapshot* is a volume that was copied from another one and is not written to since;
/// it does not depend on what it was copied from. A volume with *options* stands for something
/// that is to be mounted at its mountpoint while it is used. To *fill* a volume is to give it
/// its first content, from an image. Nobody counts here who uses a volume, nor mounts anything:
/// the engine does, and asks for what is right.
///
/// A container gets its volume so:
/// ```text
/// let (volume, newly) = v.create(ctx, NewVolume { name: "data".into(), .. })?;
/// v.fill(ctx, "data", "…/rootfs/var/lib/data")?;   // does nothing unless it is empty
/// // … bind volume.mountpoint into the container, ro when volume.is_read_only() …
/// v.remove(ctx, "data")?;                          // once no container has it
/// ```
/// A name can be used again as soon as `remove` returned.
///
/// A volume is there if its record is. The record is written before anything is done to files,
/// and what is half-done when the daemon dies is finished or undone by `recover`: a creation
/// and a removal are finished, a copy that is not complete goes, a renaming is finished or
/// undone. What was begun goes on when the caller goes away. Calls about one volume wait for
/// each other, calls about different volumes don't.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Makes a volume, and its directory. One that is there is returned as it is, with
    /// `false`, unless the request has other options.
    ///
    /// # Errors
    /// `InvalidArgument` for the name, the options or a label; `NotFound` for another driver;
    /// `AlreadyExists` when it is there with other options.
    async fn create(&self, ctx: &Context, new: NewVolume) -> Result<(Volume, bool)>;

    /// What is known of a volume.
    ///
    /// # Errors
    /// `NotFound`: `get NAME: no such volume`.
    async fn get(&self, ctx: &Context, name: &str) -> Result<Volume>;

    /// Where a volume of this name lies or would lie: its mountpoint. The name is one that
    /// [`validate_name`] accepts.
    fn place(&self, ctx: &Context, name: &str) -> PathBuf;

    /// All volumes of the namespace, by name.
    ///
    /// # Errors
    /// The store's.
    async fn list(&self, ctx: &Context) -> Result<Vec<Volume>>;

    /// Removes a volume with all that is in it. The files go behind the reply.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` while it is being copied, or while something is
    /// mounted at its mountpoint.
    async fn remove(&self, ctx: &Context, name: &str) -> Result<()>;

    /// Gives a volume another name, and thereby another mountpoint. Nobody may use it.
    ///
    /// # Errors
    /// `NotFound`; `AlreadyExists` when `to` is taken; `InvalidArgument` for `to`;
    /// `FailedPrecondition` as for [`Volumes::remove`].
    async fn rename(&self, ctx: &Context, name: &str, to: &str) -> Result<Volume>;

    /// Makes a volume with what the volume `from` holds, sharing its blocks where the file system
    /// can. Of one that is written to meanwhile, each file is taken as it is when its turn
    /// comes. When the caller goes away it is given up, and nothing of it remains.
    ///
    /// # Errors
    /// `NotFound` for `from`; `AlreadyExists` and `InvalidArgument` for the new one, which has
    /// no options; `FailedPrecondition` when `from` has options.
    async fn copy(
        &self,
        ctx: &Context,
        from: &str,
        new: NewVolume,
        kind: CopyKind,
    ) -> Result<Volume>;

    /// Gives an empty volume the content of the directory `source`, with owner, mode and
    /// attributes of that directory itself, once and completely: who asks for the same
    /// meanwhile waits for it, and after a crash a copy that was complete is put in its place,
    /// while another one is made again from the beginning. It leaves a volume alone that has
    /// content, that has options or is a snapshot. A `source` that is not there is like an
    /// empty one; a link in its last part is not followed, so `/proc/self/fd/N/.` is a way to
    /// name one that is open.
    ///
    /// Says whether the volume got any files.
    ///
    /// # Errors
    /// `NotFound` for the volume; what the file system reports, and then the volume is empty
    /// and will be filled the next time.
    async fn fill(&self, ctx: &Context, name: &str, source: &Path) -> Result<bool>;

    /// Bytes on the disk by name of the volume, for those without options. Volumes that take
    /// long to measure are measured the more seldom.
    ///
    /// # Errors
    /// The store's and the file system's.
    async fn sizes(&self, ctx: &Context) -> Result<BTreeMap<String, u64>>;

    /// Finishes or undoes what was half-done when the daemon ended. Called once, before
    /// anything else. What can't be brought in order is logged, and stays as it is.
    ///
    /// # Errors
    /// The store's.
    async fn recover(&self) -> Result<()>;
}

/// Checks a volume's name by Docker's rule: at least two ASCII letters, digits, `_`, `.` and
/// `-`, of which the first is a letter or a digit; at most 255.
///
/// # Errors
/// `InvalidArgument`, in Docker's words.
pub fn validate_name(name: &str) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid_argument(why).about("volume", name));
    if name.len() == 1 {
        return refuse(
            "volume name is too short, names should be at least two alphanumeric characters".into(),
        );
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first || !name.bytes().all(allowed) {
        return refuse(format!(
            "{name:?} includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host \
             directory, use absolute path"
        ));
    }
    if name.len() > LONGEST_NAME {
        let shown = &name[..64];
        return refuse(format!(
            "volume name {shown:?}… is too long: at most {LONGEST_NAME} characters are allowed"
        ));
    }
    Ok(())
}

/// What a client is told that asks for a volume that is not there.
pub fn no_such_volume(name: &str) -> Error {
    Error::not_found(format!("get {name}: no such volume")).about("volume", name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn names() {
        let longest = "a".repeat(255);
        for good in ["ab", "a.", "0_-.", "data", "my-app_data.1", &longest] {
            assert!(validate_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "a", "_a", ".a", "-a", "a/b", "../a", "a b", "ä1", "a\0", "a\n", &long] {
            let err = validate_name(bad).unwrap_err();
            assert_eq!(err.kind(), Kind::InvalidArgument, "{bad:?}");
        }
        assert_eq!(
            validate_name("x/y").unwrap_err().to_string(),
            "\"x/y\" includes invalid characters for a local volume name, only \
             \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host \
             directory, use absolute path"
        );
        let err = no_such_volume("gone");
        assert_eq!(err.to_string(), "get gone: no such volume");
        assert_eq!(err.subject(), Some(("volume", "gone")));
    }
}
