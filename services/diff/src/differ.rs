//! Makes layers of what is different between two snapshots.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use flate2::write::GzEncoder;
use gantry_archive::stream::{Output, produce};
use gantry_core::content::{BlobStream, ContentStore, Writer};
use gantry_core::db::blocking;
use gantry_core::{
    Algorithm, Context, Descriptor, DiffOptions, Differ, Digest, Error, FileChange, FileChangeKind,
    Hasher, LabelMask, Labels, Mount, Result, labels, media_type,
};
use tokio::sync::{mpsc, oneshot};

use crate::compare::{Changes, How, compare};
use crate::layer::LayerWriter;
use crate::merged::{Directory, Entry};

/// Pieces that wait for the store.
const QUEUE: usize = 4;
/// As the `zstd` program.
const ZSTD_LEVEL: i32 = 3;

/// Compares snapshots without mounting them, and writes the layer into the content
/// store.
pub struct LayerDiffer {
    content: Arc<dyn ContentStore>,
}

impl LayerDiffer {
    /// Writes layers into this store.
    pub fn new(content: Arc<dyn ContentStore>) -> Self {
        Self { content }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    fn of(kind: &str) -> Result<Self> {
        match kind {
            media_type::OCI_LAYER | media_type::DOCKER_LAYER => Ok(Self::None),
            media_type::OCI_LAYER_GZIP | media_type::DOCKER_LAYER_GZIP => Ok(Self::Gzip),
            media_type::OCI_LAYER_ZSTD => Ok(Self::Zstd),
            other => Err(Error::unimplemented(format!(
                "unsupported diff media type: {other}: not implemented"
            ))),
        }
    }
}

#[async_trait]
impl Differ for LayerDiffer {
    async fn diff(
        &self,
        ctx: &Context,
        left: &[Mount],
        right: &[Mount],
        options: DiffOptions,
    ) -> Result<Descriptor> {
        let kind = match options.media_type.as_str() {
            "" => media_type::OCI_LAYER_GZIP,
            given => given,
        };
        let compression = Compression::of(kind)?;
        let (left, right) = (Directory::of_mounts(left)?, Directory::of_mounts(right)?);
        let reference = match options.reference.as_str() {
            "" => format!("diff-{:016x}", rand::random::<u64>()),
            given => given.to_owned(),
        };
        let mut writer = self.content.writer(ctx, &reference, 0, None).await?;
        let newest = options.newest.map(|time| time.seconds);
        let made = self.make((left, right), compression, newest, &mut *writer).await;
        let done = match made {
            Ok(diff_id) => {
                self.commit(ctx, &mut *writer, diff_id, compression, options.labels).await
            }
            Err(err) => Err(err),
        };
        if done.is_err() {
            drop(writer);
            if let Err(err) = self.content.abort(ctx, &reference).await
                && !err.is_not_found()
            {
                tracing::warn!(error = %err, reference, "an unfinished layer stays");
            }
        }
        let (digest, size) = done?;
        Ok(Descriptor {
            media_type: kind.to_owned(),
            digest,
            size,
            annotations: Labels::new(),
            platform: None,
            urls: Vec::new(),
        })
    }

    async fn changes(
        &self,
        left: &[Mount],
        right: &[Mount],
        hidden: &[&str],
    ) -> Result<Vec<FileChange>> {
        let (left, right) = (Directory::of_mounts(left)?, Directory::of_mounts(right)?);
        let hidden: Vec<Vec<u8>> =
            hidden.iter().map(|path| path.trim_matches('/').into()).collect();
        blocking(move || {
            let mut list = List { hidden, changes: Vec::new() };
            compare(&left, &right, &mut list)?;
            list.changes.sort_by(|a, b| a.path.cmp(&b.path));
            Ok(list.changes)
        })
        .await
    }

    async fn archive(&self, mounts: &[Mount]) -> Result<BlobStream> {
        let whole = Directory::of_mounts(mounts)?;
        produce("snapshot-archive", move |output| {
            let mut layer = LayerWriter::new(output, None);
            compare(&Directory::none(), &whole, &mut layer)?;
            layer.finish()?;
            Ok(())
        })
    }
}

/// Lists what is different.
struct List {
    /// Paths that nobody wants to know of.
    hidden: Vec<Vec<u8>>,
    changes: Vec<FileChange>,
}

impl List {
    fn add(&mut self, kind: FileChangeKind, path: &[u8]) -> Result<()> {
        self.changes.push(FileChange { kind, path: [b"/".as_slice(), path].concat() });
        Ok(())
    }
}

impl Changes for List {
    fn made(&mut self, path: &[u8], how: How, _: &Directory, _: &Entry) -> Result<()> {
        let kind = match how {
            How::Added => FileChangeKind::Added,
            How::Modified => FileChangeKind::Modified,
        };
        self.add(kind, path)
    }

    fn deleted(&mut self, path: &[u8]) -> Result<()> {
        self.add(FileChangeKind::Deleted, path)
    }

    fn skips(&self, path: &[u8]) -> bool {
        self.hidden.iter().any(|hidden| hidden == path)
    }
}

impl LayerDiffer {
    /// Writes the layer; returns its diff ID.
    async fn make(
        &self,
        (left, right): (Directory, Directory),
        compression: Compression,
        newest: Option<i64>,
        to: &mut dyn Writer,
    ) -> Result<Digest> {
        // What an earlier attempt left is of no use.
        to.truncate(0).await?;
        let (pieces, mut arriving) = mpsc::channel(QUEUE);
        let (done, result) = oneshot::channel();
        let work = move || {
            let out = Output::new(pieces);
            // Nobody waits any more when the call was given up.
            let _ = done.send(write_layer(&left, &right, compression, newest, out));
        };
        thread::Builder::new()
            .name("layer-diff".into())
            .spawn(work)
            .map_err(|err| Error::io("start a thread to compare snapshots", err))?;
        while let Some(piece) = arriving.recv().await {
            to.write(piece).await?;
        }
        result.await.map_err(|_| Error::internal("the thread that compares snapshots panicked"))?
    }

    async fn commit(
        &self,
        ctx: &Context,
        writer: &mut dyn Writer,
        diff_id: Digest,
        compression: Compression,
        mut wanted: Labels,
    ) -> Result<(Digest, u64)> {
        let (digest, size) = (writer.digest(), writer.status().offset);
        if compression != Compression::None {
            wanted.insert(labels::UNCOMPRESSED.to_owned(), diff_id.to_string());
        }
        match writer.commit(Some(size), Some(&digest), wanted.clone()).await {
            Err(err) if err.is_already_exists() => {
                let mask = LabelMask::Keys(wanted.keys().cloned().collect());
                self.content.update(ctx, &digest, wanted, mask).await?;
            }
            done => drop(done?),
        }
        Ok((digest, size))
    }
}

fn write_layer(
    left: &Directory,
    right: &Directory,
    compression: Compression,
    newest: Option<i64>,
    out: Output,
) -> Result<Digest> {
    let failed = |err| Error::io("compress the layer", err);
    let encoder = match compression {
        Compression::None => Encoder::None(out),
        Compression::Gzip => Encoder::Gzip(GzEncoder::new(out, flate2::Compression::default())),
        Compression::Zstd => {
            Encoder::Zstd(zstd::stream::write::Encoder::new(out, ZSTD_LEVEL).map_err(failed)?)
        }
    };
    let hashed = Hashed { hasher: Hasher::new(Algorithm::Sha256), to: encoder };
    let mut layer = LayerWriter::new(hashed, newest);
    compare(left, right, &mut layer)?;
    let Hashed { hasher, to } = layer.finish()?;
    let mut out = match to {
        Encoder::None(out) => out,
        Encoder::Gzip(encoder) => encoder.finish().map_err(failed)?,
        Encoder::Zstd(encoder) => encoder.finish().map_err(failed)?,
    };
    out.flush().map_err(failed)?;
    Ok(hasher.finish())
}

enum Encoder {
    None(Output),
    Gzip(GzEncoder<Output>),
    Zstd(zstd::stream::write::Encoder<'static, Output>),
}

impl Write for Encoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(to) => to.write(bytes),
            Self::Gzip(to) => to.write(bytes),
            Self::Zstd(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The archive on its way to be compressed: its digest is the diff ID.
struct Hashed {
    hasher: Hasher,
    to: Encoder,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.to.write(bytes)?;
        self.hasher.update(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
